//! The decoder of JSON, with its predicted layouts, against [`reference`](super::reference), which
//! reads each record by itself with serde_json: same values, same refusals.
//!
//! The first byte chooses the event and how it is read, the second which fields are needed; then come
//! the records of one batch, each on a line of its own. A line that is `~` is a tombstone.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill::broker::{Batch, BatchBuilder, Offset, Timestamp, Topic, TopicPartition};
use tidemill::events::{Field, JsonDecoder, Limits, Schema, Type};

use super::reference::{Answer, Reference, Value};

/// Bits of the first byte.
const DECLARED: u8 = 1;
const ROUNDING: u8 = 2;
const TIGHT: u8 = 4;
/// Records end at RS, so that they may hold line feeds.
const SEPARATED: u8 = 8;

/// Reads the records in one batch, in halves and one by one, and compares.
///
/// # Panics
///
/// If the decoder answers other than the reference.
pub(crate) fn run(data: &[u8]) {
    let [setting, needed, records @ ..] = data else {
        return;
    };
    let separator = if setting & SEPARATED != 0 {
        0x1e
    } else {
        b'\n'
    };
    let records: Vec<&[u8]> = records.split(|byte| *byte == separator).collect();
    let reference = Reference {
        schema: schema(setting & DECLARED != 0),
        needed: u64::from(*needed) * 0x0101_0101_0101_0101,
        limits: limits(setting & TIGHT != 0),
        system: setting & DECLARED == 0,
        round: setting & ROUNDING != 0,
    };
    let answers: Vec<Answer> = records
        .iter()
        .enumerate()
        .map(|(at, record)| reference.read(payload(record), at as i64))
        .collect();

    let mut decoder = decoder(&reference);
    let mut rounded = 0;
    // The second time each record also meets what was learned from those after it.
    for _ in 0..2 {
        compare(&mut decoder, &batch(&records, 0), &answers, &records);
        rounded += total(&answers);
        assert_eq!(decoder.rounded(), rounded, "numbers rounded");
    }
    // However it is cut into batches: a record may then lie at the end of its slab.
    let half = records.len() / 2;
    for part in [0..half, half..records.len()] {
        let batch = batch(&records[part.clone()], part.start);
        compare(&mut decoder, &batch, &answers[part.clone()], &records[part]);
    }
    for (record, answer) in records.iter().zip(&answers) {
        if let Some(payload) = payload(record) {
            let checked = decoder.check(payload).map_err(|poison| poison.class);
            let is_right = match (&checked, &answer.values) {
                (Ok(()), Ok(_)) => true,
                (Err(class), Err(classes)) => classes.contains(class),
                _ => false,
            };
            assert!(is_right, "checked as {checked:?}, and not {answer:?}");
        }
    }
    for at in 0..records.len().min(8) {
        let mut fresh = self::decoder(&reference);
        let batch = batch(&records[at..=at], at);
        compare(&mut fresh, &batch, &answers[at..=at], &records[at..=at]);
    }
}

fn payload(record: &[u8]) -> Option<&[u8]> {
    (record != b"~").then_some(record)
}

fn total(answers: &[Answer]) -> u64 {
    answers.iter().map(|answer| answer.rounded).sum()
}

fn decoder(reference: &Reference) -> JsonDecoder {
    let schema = Arc::clone(&reference.schema);
    let mut decoder = JsonDecoder::new(schema, reference.needed, reference.limits);
    if reference.system {
        decoder = decoder.system_event();
    }
    if reference.round {
        decoder = decoder.rounding();
    }
    decoder
}

fn limits(tight: bool) -> Limits {
    if tight {
        Limits {
            record: 300,
            string: 44,
            depth: 3,
            array: 3,
        }
    } else {
        Limits::default()
    }
}

/// A declared event that has every type, or the market data of the system.
fn schema(declared: bool) -> Arc<Schema> {
    let required = |name: &str, ty| field(name, ty, true);
    let optional = |name: &str, ty| field(name, ty, false);
    let price = Type::Decimal(8);
    Arc::new(if declared {
        Schema {
            name: "Trade".into(),
            fields: vec![
                required("pair", Type::Text),
                optional("price", Type::Decimal(2)),
                optional("at", Type::Time),
                optional("count", Type::Int),
                optional("buy", Type::Bool),
                optional("fine", Type::Decimal(18)),
                optional("note", Type::Text),
                optional("seen", Type::Time),
                required("whole", Type::Decimal(0)),
                optional("version", Type::Text),
            ],
            time: Some(2),
        }
    } else {
        Schema {
            name: "MarketDataUpdate".into(),
            fields: vec![
                required("pair", Type::Text),
                required("currentPrice", price),
                required("timestamp", Type::Time),
                optional("quantity", price),
                optional("side", Type::Text),
                optional("bid", price),
                optional("ask", price),
                optional("venue", Type::Text),
                optional("sequence", Type::Int),
                optional("tradeId", Type::Text),
            ],
            time: Some(2),
        }
    })
}

fn field(name: &str, ty: Type, required: bool) -> Field {
    Field {
        name: name.into(),
        ty,
        required,
    }
}

/// The records at the offsets `first` and following, each with its offset as its timestamp.
fn batch(records: &[&[u8]], first: usize) -> Batch {
    let mut builder = BatchBuilder::default();
    for (at, record) in records.iter().enumerate() {
        let time = Timestamp((first + at) as i64);
        builder.push(time, None, payload(record), &[]);
    }
    let topic = Topic::new("fuzzed").expect("a name");
    let end = Offset((first + records.len()) as u64);
    builder.build(TopicPartition::new(topic, 0), end)
}

fn compare(decoder: &mut JsonDecoder, batch: &Batch, answers: &[Answer], records: &[&[u8]]) {
    let schema = Arc::clone(decoder.schema());
    let mut refused = BTreeMap::new();
    let rows = decoder.decode(batch, &mut |at, poison| {
        let twice = refused.insert(at, poison);
        assert!(twice.is_none(), "record {at} is refused twice");
    });
    let mut row = 0;
    for (at, answer) in answers.iter().enumerate() {
        let shown = String::from_utf8_lossy(records[at]);
        let values = match (&answer.values, refused.get(&at)) {
            (Ok(values), None) => values,
            (Err(classes), Some(poison)) => {
                assert!(
                    classes.contains(&poison.class),
                    "{poison}, and not one of {classes:?}: {shown}"
                );
                continue;
            }
            (Ok(_), Some(poison)) => panic!("{poison}: {shown}"),
            (Err(classes), None) => panic!("was taken, and not refused as {classes:?}: {shown}"),
        };
        assert_eq!(rows.head(row).record as usize, at, "order: {shown}");
        assert_eq!(rows.time(row).0, answer.time, "event time: {shown}");
        for (slot, field) in schema.fields.iter().enumerate() {
            let found = match field.ty {
                Type::Text => rows.text(row, slot).map(|text| Value::Text(text.to_vec())),
                _ => rows.number(row, slot).map(Value::Number),
            };
            assert_eq!(found, values[slot], "field {}: {shown}", field.name);
            if found.is_none() {
                assert_eq!(rows.slots(row)[slot], 0, "slot of {}: {shown}", field.name);
            }
        }
        row += 1;
    }
    assert_eq!(row, rows.len(), "rows");
}
