//! The decoder against the strict reader, and the strict reader against serde_json's values.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::tests::{batch, field};
use super::*;
use crate::events::{JsonEncoder, Type, parse_time};
use crate::market::decimal::{parse_exact, parse_rounded};

const NAMES: [&str; 8] = [
    "timestamp",
    "pair",
    "price",
    "q",
    "sequence",
    "isBuyerMaker",
    "a name longer than most, with an é",
    "version",
];

/// Number, truth or text of each field that is there.
type Values = Vec<Option<Result<i64, Vec<u8>>>>;
type Answer = Result<(Values, i64), Poison>;

fn values(rows: &Rows, row: usize) -> Values {
    let fields = rows.schema().fields.iter().enumerate();
    fields
        .map(|(slot, field)| match field.ty {
            Type::Text => rows.text(row, slot).map(|text| Err(text.to_vec())),
            _ => rows.number(row, slot).map(Ok),
        })
        .collect()
}

/// What the whole decoder says of a batch, record by record, and whether absent slots hold 0.
fn decoded(decoder: &mut JsonDecoder, batch: &Batch) -> Vec<Answer> {
    let mut refused = BTreeMap::new();
    let rows = decoder.decode(batch, &mut |at, poison| {
        refused.insert(at, poison);
    });
    let mut row = 0;
    let mut answers = Vec::new();
    for at in 0..batch.len() {
        if let Some(poison) = refused.remove(&at) {
            answers.push(Err(poison));
            continue;
        }
        assert_eq!(rows.head(row).record as usize, at);
        for (slot, &value) in rows.slots(row).iter().enumerate() {
            assert!(value == 0 || rows.head(row).present & (1 << slot) != 0);
        }
        answers.push(Ok((values(&rows, row), rows.time(row).0)));
        row += 1;
    }
    assert_eq!(row, rows.len());
    answers
}

/// What the strict reader alone says.
fn strictly(spec: &Spec, batch: &Batch) -> Vec<Answer> {
    let each = (0..batch.len()).map(|at| {
        let mut rows = Rows::over(spec.schema.clone(), batch.clone());
        let mut slots = vec![0; spec.schema.width()];
        let (start, end) = batch.value_range(at).unwrap();
        let payload = &batch.slab()[start as usize..end as usize];
        let read = Strict::read(spec, payload, start, &mut rows, &mut slots)?;
        let time = match spec.schema.time {
            Some(slot) if read.present & (1 << slot) != 0 => slots[slot],
            _ => batch.get(at).timestamp.0,
        };
        let head = RowHead {
            present: read.present,
            time,
            watermark: i64::MIN,
            key: None,
            record: 0,
        };
        rows.push(head, &slots);
        Ok((values(&rows, 0), time))
    });
    each.collect()
}

fn types() -> impl Strategy<Value = Type> {
    prop_oneof![
        Just(Type::Text),
        Just(Type::Int),
        (0u8..=18).prop_map(Type::Decimal),
        Just(Type::Bool),
        Just(Type::Time),
    ]
}

fn decoders() -> impl Strategy<Value = JsonDecoder> {
    let fields = prop::collection::vec((types(), prop::bool::weighted(0.2)), NAMES.len() - 1);
    (
        fields,
        any::<u64>(),
        any::<bool>(),
        any::<bool>(),
        38usize..60,
    )
        .prop_map(|(fields, needed, system, round, string)| {
            let fields: Vec<_> = fields
                .into_iter()
                .zip(NAMES)
                .map(|((ty, required), name)| field(name, ty, required))
                .collect();
            let time = fields.iter().position(|field| field.ty == Type::Time);
            let schema = Schema {
                name: "Tick".into(),
                fields,
                time,
            };
            let limits = Limits {
                string,
                depth: 3,
                array: 3,
                record: 400,
            };
            let mut decoder = JsonDecoder::new(Arc::new(schema), needed, limits);
            if system {
                decoder = decoder.system_event();
            }
            if round {
                decoder = decoder.rounding();
            }
            decoder
        })
}

/// A value a field of this type can hold.
fn fitting(ty: Type) -> BoxedStrategy<String> {
    match ty {
        Type::Text => "[ -!#-\\[\\]-~]{0,14}".prop_map(|text| format!("\"{text}\"")).boxed(),
        Type::Int => "(\"-?[1-9][0-9]{0,3}\"|-?[1-9][0-9]{0,17}|0)".boxed(),
        Type::Decimal(scale) => {
            let digits = scale.max(1);
            let form = format!("(0|-?[1-9][0-9]{{0,4}})(\\.[0-9]{{1,{digits}}})?0?");
            proptest::string::string_regex(&form).unwrap().boxed()
        }
Type::Bool => select(vec!["true".into(), "false".into()]).boxed(),
        Type::Time => "(\"2013-1[012]-0[1-9]T1[0-9]:0[0-9]:[0-5][0-9](\\.[0-9]{1,6})?Z\"|13[0-9]{11}(\\.[0-9]{3})?)".boxed(),
    }
}

/// Anything, right or wrong.
fn odd() -> BoxedStrategy<String> {
    prop_oneof![
        4 => select(vec![
            "null", "true", "false", "tru", "NaN", "-", "-0", "00", "1.", "1e400", "1e3", "-1E-2", "\"\"",
            "\"1e2\"", "\"NaN\"", "\"\\u0041\"", "\"\\ud800\"", "\"a\u{1}b\"", "\"é and 😀\"", "\"\\\"", "[]", "{}",
            "[1,2,3]", "[1,2,3,4]", "[[1]]", "[[[1]]]", "{\"a\":[{}]}", "{\"a\":{\"b\":{}}}", "[\"]]]]\"]",
            "9223372036854775807", "9223372036854775808", "-9223372036854775808", "1.123456789012345678",
            "0.1234567890123456789000", "\"2013-10-07T13:30:00+02:00\"", "\"2013-10-07T13:30:60Z\"",
            "\"2013-10-07T13:30:00.123456789Z\"", "\"2013-10-07T13:30:00.123456000Z\"", "253402300800000",
            "\"MarketDataUpdate\"", "\"Tick\"", "1", "2", "\"and a string that is longer than most of them are\"",
        ]).prop_map(String::from),
        1 => "[0-9.eE+-]{1,9}",
        1 => "\"[ -~]{0,20}\"",
    ]
    .boxed()
}

/// The records of one topic: one layout, values that change, and now and then a surprise.
#[derive(Debug, Clone)]
enum Surprise {
    Value(Index, String),
    Drop(Index),
    Swap(Index, Index),
    Again(Index, String),
    Unknown(Index, String),
    Byte(Index, u8),
    Cut(Index),
    Insert(Index, u8),
    Space,
}

fn surprises() -> impl Strategy<Value = Surprise> {
    let at = any::<Index>;
    let byte = || {
        prop_oneof![
            select(b" \t\n,:{}[]\"\\0123456789.-eEtfnZ\x01\xff\xc3".to_vec()),
            any::<u8>()
        ]
    };
    prop_oneof![
        4 => (at(), odd()).prop_map(|(at, value)| Surprise::Value(at, value)),
        1 => at().prop_map(Surprise::Drop),
        1 => (at(), at()).prop_map(|(a, b)| Surprise::Swap(a, b)),
        1 => (at(), odd()).prop_map(|(at, value)| Surprise::Again(at, value)),
        1 => (at(), odd()).prop_map(|(at, value)| Surprise::Unknown(at, value)),
        3 => (at(), byte()).prop_map(|(at, byte)| Surprise::Byte(at, byte)),
        1 => at().prop_map(Surprise::Cut),
        2 => (at(), byte()).prop_map(|(at, byte)| Surprise::Insert(at, byte)),
        1 => Just(Surprise::Space),
    ]
}

fn write(members: &[(String, String)], space: &str) -> Vec<u8> {
    let members: Vec<_> = members
        .iter()
        .map(|(name, value)| format!("\"{name}\"{space}:{space}{value}"))
        .collect();
    format!(
        "{{{space}{}{space}}}{space}",
        members.join(&format!("{space},{space}"))
    )
    .into_bytes()
}

fn apply(surprise: &Surprise, members: &mut Vec<(String, String)>, space: &mut &str) {
    let count = members.len();
    match surprise {
        Surprise::Value(at, value) if count > 0 => members[at.index(count)].1.clone_from(value),
        Surprise::Drop(at) if count > 0 => {
            members.remove(at.index(count));
        }
        Surprise::Swap(a, b) if count > 0 => members.swap(a.index(count), b.index(count)),
        Surprise::Again(at, value) if count > 0 => {
            members.push((members[at.index(count)].0.clone(), value.clone()));
        }
        Surprise::Unknown(at, value) => {
            members.insert(at.index(count + 1), ("unknown".into(), value.clone()));
        }
        Surprise::Space => *space = if space.is_empty() { " " } else { "" },
        _ => {}
    }
}

fn damage(surprise: &Surprise, payload: &mut Vec<u8>) {
    match surprise {
        Surprise::Byte(at, byte) if !payload.is_empty() => {
            let at = at.index(payload.len());
            payload[at] = *byte;
        }
        Surprise::Cut(at) => payload.truncate(at.index(payload.len() + 1)),
        Surprise::Insert(at, byte) => payload.insert(at.index(payload.len() + 1), *byte),
        _ => {}
    }
}

/// A decoder and the payloads of a topic.
fn topics() -> impl Strategy<Value = (Spec, Vec<Vec<u8>>)> {
    decoders().prop_flat_map(|decoder| {
        let spec = decoder.spec;
        let fitting: Vec<_> = spec
            .schema
            .fields
            .iter()
            .map(|field| fitting(field.ty))
            .collect();
        let nested = select(vec![
            "[]",
            "{}",
            "[ 1,[2]]",
            "{\"a\":[{}]}",
            "[[[]]]",
            "[1,2,3,4]",
            "[1,]",
            "[\"]\",\"\\u00\"]",
            "[\"]\"]",
        ]);
        let record = (fitting, nested, prop::option::weighted(0.25, surprises()));
        let shape = (
            Just((0..NAMES.len()).collect::<Vec<_>>()).prop_shuffle(),
            4..=NAMES.len(),
            select(vec!["", "", " ", "\n  "]),
            any::<bool>(),
        );
        (Just(spec), shape, prop::collection::vec(record, 6..16)).prop_map(
            |(spec, (order, count, space, nests), records)| {
                let payloads = records.into_iter().map(|(values, nested, surprise)| {
                    let mut space = space;
                    let mut members: Vec<_> = order
                        .iter()
                        .take(count)
                        .map(|&at| {
                            (
                                NAMES[at].to_owned(),
                                values.get(at).cloned().unwrap_or("1".into()),
                            )
                        })
                        .collect();
                    if spec.system {
                        members.insert(0, ("eventType".into(), "\"Tick\"".into()));
                    }
                    if nests {
                        members.insert(2, ("nested".into(), nested.into()));
                    }
                    if let Some(surprise) = &surprise {
                        apply(surprise, &mut members, &mut space);
                    }
                    let mut payload = write(&members, space);
                    if let Some(surprise) = &surprise {
                        damage(surprise, &mut payload);
                    }
                    payload
                });
                let payloads = payloads.filter(|payload| payload.len() <= 400).collect();
                (spec, payloads)
            },
        )
    })
}

fn decoder_of(spec: &Spec) -> JsonDecoder {
    let decoder = JsonDecoder::new(spec.schema.clone(), spec.needed, spec.limits);
    JsonDecoder {
        spec: spec.clone(),
        ..decoder
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_500))]

    #[test]
    fn a_predicted_record_is_read_as_the_strict_reader_reads_it((spec, payloads) in topics()) {
        let payloads: Vec<&[u8]> = payloads.iter().map(|payload| &payload[..]).collect();
        let batch = batch(&payloads);
        let mut decoder = decoder_of(&spec);
        let strict = strictly(&spec, &batch);
        // Twice, so that each record also meets what was learned from those after it.
        for _ in 0..2 {
            let answers = decoded(&mut decoder, &batch);
            for (at, (fast, strict)) in answers.iter().zip(&strict).enumerate() {
                prop_assert_eq!(fast, strict, "{}", String::from_utf8_lossy(payloads[at]));
            }
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn the_strict_reader_agrees_with_the_values_of_serde_json((spec, payloads) in topics()) {
        let payloads: Vec<&[u8]> = payloads.iter().map(|payload| &payload[..]).collect();
        let batch = batch(&payloads);
        for (payload, answer) in payloads.iter().zip(strictly(&spec, &batch)) {
            let shown = String::from_utf8_lossy(payload);
            match answer {
                Ok((values, _)) => agrees(&spec, payload, &values),
                Err(poison) if poison.class == class::SYNTAX => {
                    prop_assert!(serde_json::from_slice::<serde_json::Value>(payload).is_err(), "{}", shown);
                }
                Err(_) => {}
            }
        }
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same_row((spec, payloads) in topics()) {
        let payloads: Vec<&[u8]> = payloads.iter().map(|payload| &payload[..]).collect();
        let rows = decoder_of(&spec).decode(&batch(&payloads), &mut |_, _| {});
        let encoder = JsonEncoder::new(spec.schema.clone(), Some("Tick"));
        let mut optional = (*spec.schema).clone();
        for field in &mut optional.fields {
            field.required = false;
        }
        // Unescaping never shortens what escaping then lengthens beyond the limit.
        let mut again = JsonDecoder::new(Arc::new(optional), u64::MAX, Limits::default()).system_event();
        for row in 0..rows.len() {
            let mut out = Vec::new();
            encoder.write(&rows, row, &mut out);
            let shown = String::from_utf8_lossy(&out).into_owned();
            let back = again.decode(&batch(&[&out]), &mut |_, poison| panic!("{poison}: {shown}"));
            prop_assert_eq!(values(&back, 0), values(&rows, row), "{}", shown);
        }
    }
}

/// Holds a row against the object that serde_json makes of the payload.
fn agrees(spec: &Spec, payload: &[u8], values: &Values) {
    let shown = String::from_utf8_lossy(payload);
    // Exact texts, because a `Value` keeps numbers as floats.
    let texts: BTreeMap<String, &serde_json::value::RawValue> =
        serde_json::from_slice(payload).unwrap_or_else(|error| panic!("{error}: {shown}"));
    for (slot, (field, value)) in spec.schema.fields.iter().zip(values).enumerate() {
        let raw = texts
            .get(&*field.name)
            .map(|raw| raw.get())
            .filter(|raw| *raw != "null");
        let wanted = spec.needed & (1 << slot) != 0;
        let expected = raw.filter(|_| wanted).map(|raw| {
            let string = serde_json::from_str::<String>(raw).ok();
            let text = string.as_deref().unwrap_or(raw).as_bytes();
            match field.ty {
                Type::Text => Err(text.to_vec()),
                Type::Bool => Ok(i64::from(raw == "true")),
                Type::Time if string.is_some() => Ok(parse_time(text).unwrap()),
                Type::Time => Ok(parse_exact(text, 3).unwrap()),
                Type::Int | Type::Decimal(_) => {
                    Ok(parse_rounded(text, field.ty.scale()).unwrap().0)
                }
            }
        });
        assert_eq!(*value, expected, "{}: {shown}", field.name);
        assert!(!field.required || raw.is_some(), "{}: {shown}", field.name);
    }
}

const UPDATE: &str = r#"{"eventType":"Tick","timestamp":"2013-10-07T13:30:00.123456Z","pair":"BTC-USD","price":94321.55000000,"q":0.01230000,"sequence":1234567,"isBuyerMaker":true,"venue":"binance","bid":94321.50}"#;

fn update() -> Spec {
    let types = [
        Type::Time,
        Type::Text,
        Type::Decimal(8),
        Type::Decimal(8),
        Type::Int,
        Type::Bool,
    ];
    let fields = types
        .into_iter()
        .zip(NAMES)
        .map(|(ty, name)| field(name, ty, false));
    let schema = Schema {
        name: "Tick".into(),
        fields: fields.collect(),
        time: Some(0),
    };
    JsonDecoder::new(Arc::new(schema), 0b111_1111, Limits::default())
        .system_event()
        .spec
}

#[test]
fn every_single_byte_changed_is_read_as_the_strict_reader_reads_it() {
    let spec = update();
    let mut decoder = decoder_of(&spec);
    for at in 0..UPDATE.len() {
        let changed = (0..=255u8).map(|byte| {
            let mut payload = UPDATE.as_bytes().to_vec();
            payload[at] = byte;
            payload
        });
        let mut payloads: Vec<_> = changed.collect();
        payloads.insert(0, UPDATE.into());
        let payloads: Vec<&[u8]> = payloads.iter().map(|payload| &payload[..]).collect();
        let batch = batch(&payloads);
        assert_eq!(
            decoded(&mut decoder, &batch),
            strictly(&spec, &batch),
            "byte {at}"
        );
    }
}

#[test]
fn many_changes_from_a_seed_are_read_as_the_strict_reader_reads_them() {
    let spec = update();
    let mut decoder = decoder_of(&spec);
    let mut random = SmallRng::seed_from_u64(7);
    let mut taken = 0;
    for _ in 0..400 {
        let payloads: Vec<Vec<u8>> = (0..64)
            .map(|_| {
                let mut payload = UPDATE.as_bytes().to_vec();
                for _ in 0..random.random_range(0..4).min(payload.len() - 1) {
                    let (from, to) = (
                        random.random_range(0..payload.len()),
                        random.random_range(0..payload.len()),
                    );
                    match random.random_range(0..6) {
                        0 => payload[from] = random.random(),
                        1 => payload[from] = payload[to],
                        2 => payload.insert(from, payload[to]),
                        3 => drop(payload.remove(from)),
                        4 => payload[from] = b"0123456789"[to % 10],
                        _ => payload.truncate(from.max(4)),
                    }
                }
                payload
            })
            .collect();
        let payloads: Vec<&[u8]> = payloads.iter().map(|payload| &payload[..]).collect();
        let batch = batch(&payloads);
        let answers = decoded(&mut decoder, &batch);
        taken += answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(answers, strictly(&spec, &batch));
    }
    assert!(taken > 5_000, "{taken}");
    assert!(
        decoder.predicted() > taken as u64 / 2,
        "{} of {taken}",
        decoder.predicted()
    );
}

#[test]
fn records_of_a_few_layouts_are_all_predicted_once_seen() {
    let spec = update();
    let mut decoder = decoder_of(&spec);
    let bare = UPDATE
        .replace(",\"venue\":\"binance\"", "")
        .replace("true", "null");
    let spaced = UPDATE.replace(':', ": ").replace("13: 30: 00", "13:30:00");
    let texts = [UPDATE, &bare, &spaced];
    let payloads: Vec<&[u8]> = (0..300)
        .map(|at| texts[at * at % 7 % 3].as_bytes())
        .collect();
    let batch = batch(&payloads);
    assert_eq!(decoded(&mut decoder, &batch), strictly(&spec, &batch));
    assert_eq!(decoder.predicted(), 297);
}
