//! Decoding and encoding, single-threaded, over the same bytes in the same run.
//!
//! `cargo bench --bench decode` prints, as medians of interleaved rounds:
//!
//! * **decoder**: [`JsonDecoder`] from a batch into rows, four of eleven fields needed;
//! * **all fields**: the same with every field needed;
//! * **1 %**: the same with one record in a hundred refused, for several reasons;
//! * **nested**: the same with an array in each record that nobody reads;
//! * **strict**: the same where no layout can be predicted;
//! * **L1**: serde_json into a borrowed struct of the four fields, numbers as floats;
//! * **L2**: a scanner written by hand for this one layout, which checks nothing;
//! * **encoder**: [`JsonEncoder`] writing a bar of eleven fields.
//!
//! All must read the same values, and refuse the same records, or the bench fails.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark reads the clock and prints"
)]

mod market;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use crc_fast::CrcAlgorithm;
use market::bars::Borrowed;
use market::{Claim, POISONS, START, claim, per_second, poisoned, row, updates, verdict};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill::broker::{Batch, BatchBuilder, Offset, Timestamp, Topic, TopicPartition};
use tidemill::events::{
    Field, JsonDecoder, JsonEncoder, Limits, RowHead, Rows, Schema, Type, parse_time,
};

const RECORDS: usize = 400_000;
const PER_BATCH: usize = 256;
const ROUNDS: usize = 9;

fn schema(name: &str, fields: &[(&str, Type)]) -> Arc<Schema> {
    let field = |(name, ty): &(&str, Type)| Field {
        name: (*name).into(),
        ty: *ty,
        required: *name == "currentPrice",
    };
    Arc::new(Schema {
        name: name.into(),
        fields: fields.iter().map(field).collect(),
        time: Some(0),
    })
}

fn update() -> Arc<Schema> {
    let price = Type::Decimal(8);
    schema(
        "MarketDataUpdate",
        &[
            ("timestamp", Type::Time),
            ("pair", Type::Text),
            ("currentPrice", price),
            ("quantity", price),
            ("side", Type::Text),
            ("bid", price),
            ("ask", price),
            ("venue", Type::Text),
            ("sequence", Type::Int),
            ("tradeId", Type::Text),
        ],
    )
}

fn batches<'a>(payloads: impl Iterator<Item = &'a [u8]>) -> Vec<Batch> {
    let at = TopicPartition::new(Topic::new("market-data-updates").expect("a name"), 0);
    let payloads: Vec<_> = payloads.collect();
    let batch = |payloads: &[&[u8]]| {
        let mut builder = BatchBuilder::default();
        for payload in payloads {
            builder.push(Timestamp(START), Some(b"BTC-USD"), Some(payload), &[]);
        }
        let next = Offset(payloads.len() as u64);
        builder.build(at.clone(), next)
    };
    payloads.chunks(PER_BATCH).map(batch).collect()
}

/// Sums up the rows, so that nothing is optimised away; answers how many there were.
fn decode(decoder: &mut JsonDecoder, batches: &[Batch]) -> usize {
    let mut count = 0;
    for batch in batches {
        let rows = decoder.decode(batch, &mut |_, poison| drop(black_box(poison)));
        count += black_box(&rows).len();
    }
    count
}

fn serde_borrowed(batches: &[Batch], mut see: impl FnMut(i64, &Borrowed<'_>)) -> usize {
    let mut count = 0;
    for batch in batches {
        for record in batch.iter() {
            let payload = record.value.expect("a payload");
            let update: Borrowed<'_> = serde_json::from_slice(payload).expect("an update");
            let time = parse_time(update.timestamp.as_bytes()).expect("a time");
            see(time, &update);
            count += 1;
        }
    }
    count
}

fn digits(bytes: &[u8], at: &mut usize) -> i64 {
    let mut value = 0;
    while bytes[*at].is_ascii_digit() {
        value = value * 10 + i64::from(bytes[*at] - b'0');
        *at += 1;
    }
    value
}

fn decimal(bytes: &[u8], at: &mut usize) -> i64 {
    let mut value = digits(bytes, at);
    let mut scale = 8;
    if bytes[*at] == b'.' {
        *at += 1;
        while bytes[*at].is_ascii_digit() {
            value = value * 10 + i64::from(bytes[*at] - b'0');
            *at += 1;
            scale -= 1;
        }
    }
    value * 10i64.pow(scale)
}

/// Reads the first four fields where this layout has them, and looks no further.
fn by_hand(batches: &[Batch], mut see: impl FnMut(i64, &[u8], i64, i64)) -> usize {
    const HEAD: usize = r#"{"eventType":"MarketDataUpdate","timestamp":""#.len();
    let mut count = 0;
    let mut day = (Vec::new(), 0);
    for batch in batches {
        for record in batch.iter() {
            let bytes = record.value.expect("a payload");
            let mut at = HEAD;
            if bytes[at..at + 10] != day.0[..] {
                day.0 = bytes[at..at + 10].to_vec();
                let mut midnight = day.0.clone();
                midnight.extend_from_slice(b"T00:00:00Z");
                day.1 = parse_time(&midnight).expect("a day");
            }
            at += 11;
            let hour = digits(bytes, &mut at);
            at += 1;
            let minute = digits(bytes, &mut at);
            at += 1;
            let second = digits(bytes, &mut at);
            at += 1;
            let micros = digits(bytes, &mut at);
            let time = day.1 + ((hour * 60 + minute) * 60 + second) * 1_000_000 + micros;
            at += r#"Z","pair":""#.len();
            let start = at;
            while bytes[at] != b'"' {
                at += 1;
            }
            let pair = &bytes[start..at];
            at += r#"","currentPrice":"#.len();
            let price = decimal(bytes, &mut at);
            at += r#","quantity":"#.len();
            let quantity = decimal(bytes, &mut at);
            see(time, pair, price, quantity);
            count += 1;
        }
    }
    count
}

fn bars() -> Rows {
    let price = Type::Decimal(8);
    let schema = schema(
        "Bar",
        &[
            ("start", Type::Time),
            ("end", Type::Time),
            ("pair", Type::Text),
            ("open", price),
            ("high", price),
            ("low", price),
            ("close", price),
            ("volume", price),
            ("vwap", price),
            ("count", Type::Int),
            ("final", Type::Bool),
        ],
    );
    let mut rows = Rows::new(schema);
    let mut random = SmallRng::seed_from_u64(1);
    for at in 0..4_096 {
        let pair = rows.add_text(b"BTC-USD").to_slot();
        let start = START + at * 60_000_000;
        let mut near = |scale: i64| 9_432_155_000_000 + random.random_range(0..1_000_000) * scale;
        let slots = [
            start,
            start + 60_000_000,
            pair,
            near(1_000_000),
            near(1_000_000),
            near(1_000_000),
            near(1_000_000),
            near(1_000),
            near(1),
            near(1),
            1,
        ];
        let head = RowHead {
            present: 0x7ff,
            time: start,
            watermark: i64::MIN,
            key: None,
            record: 0,
        };
        rows.push(head, &slots);
    }
    rows
}

/// What was read, added up.
#[derive(Debug, Default, PartialEq)]
struct Sums {
    count: usize,
    sums: [i128; 4],
}

impl Sums {
    fn add(&mut self, time: i64, pair: &[u8], price: i64, quantity: i64) {
        self.count += 1;
        let pair = i64::from(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, pair) as u32);
        // Each at its place, so that none can stand for another.
        let place = self.count as i128;
        for (sum, value) in self.sums.iter_mut().zip([time, pair, price, quantity]) {
            *sum += place * i128::from(value);
        }
    }

    /// Of the first four fields, as the decoder has them.
    fn decoded(decoder: &mut JsonDecoder, batches: &[Batch]) -> Self {
        let mut sums = Self::default();
        for batch in batches {
            let rows = decoder.decode(batch, &mut |_, _| {});
            for row in 0..rows.len() {
                let slots = rows.slots(row);
                let pair = rows.text(row, 1).expect("a pair");
                sums.add(slots[0], pair, slots[2], slots[3]);
            }
        }
        sums
    }
}

/// Fails the bench unless all read the same.
fn all_read_the_same(clean: &[Batch], others: [(JsonDecoder, &[Batch]); 4]) {
    let (mut by_serde, mut hand) = (Sums::default(), Sums::default());
    serde_borrowed(clean, |time, update| {
        let scaled = |value: f64| (value * 1e8).round() as i64;
        let (price, quantity) = (scaled(update.current_price), scaled(update.quantity));
        by_serde.add(time, update.pair.as_bytes(), price, quantity);
    });
    by_hand(clean, |time, pair, price, quantity| {
        hand.add(time, pair, price, quantity);
    });
    assert_eq!(hand, by_serde, "the scanner");
    for (index, (mut decoder, batches)) in others.into_iter().enumerate() {
        assert_eq!(
            Sums::decoded(&mut decoder, batches),
            by_serde,
            "decoder {index}"
        );
    }
}

/// Nanoseconds per item of one run.
fn time(run: impl FnOnce() -> usize) -> f64 {
    let start = Instant::now();
    let count = run();
    start.elapsed().as_nanos() as f64 / count as f64
}

fn main() -> ExitCode {
    let updates = updates(RECORDS);
    let payloads: Vec<Vec<u8>> = updates.iter().map(|(_, _, bytes)| bytes.clone()).collect();
    let bytes: usize = payloads.iter().map(Vec::len).sum();
    let clean = batches(payloads.iter().map(|payload| &payload[..]));
    let poisons = POISONS.map(|poison| {
        let broken = poisoned(&updates, poison);
        batches(broken.iter().map(|(_, _, payload)| &payload[..]))
    });
    let with = |member: &[u8]| {
        let mut longer = payloads.clone();
        for payload in &mut longer {
            payload.pop();
            payload.extend_from_slice(member);
        }
        batches(longer.iter().map(|payload| &payload[..]))
    };
    let nested = with(br#","levels":[[94321.5,1],[94321.0,2]]}"#);
    // A text with an escape: no layout is learned.
    let unpredicted = with(br#","note":"\/"}"#);
    let decoder = |needed| JsonDecoder::new(update(), needed, Limits::default()).system_event();
    let (mut four, mut all) = (decoder(0b1111), decoder(u64::MAX));
    all_read_the_same(
        &clean,
        [
            (decoder(0b1111), &clean[..]),
            (decoder(u64::MAX), &clean),
            (decoder(0b1111), &nested),
            (decoder(0b1111), &unpredicted),
        ],
    );
    let bars = bars();
    let encoder = JsonEncoder::new(bars.schema().clone(), Some("Bar"));
    let mut out = Vec::new();

    let mut rounds = vec![Vec::new(); 11];
    for _ in 0..ROUNDS {
        let mut rounds = rounds.iter_mut();
        let mut next = |took| rounds.next().expect("one for each").push(took);
        next(time(|| decode(&mut four, &clean)));
        next(time(|| decode(&mut all, &clean)));
        for poisoned in &poisons {
            next(time(|| {
                let refused = RECORDS - decode(&mut four, poisoned);
                assert_eq!(refused, RECORDS / 100, "refused");
                RECORDS
            }));
        }
        next(time(|| decode(&mut four, &nested)));
        next(time(|| decode(&mut four, &unpredicted)));
        next(time(|| {
            serde_borrowed(&clean, |time, update| {
                black_box((time, update.pair, update.current_price, update.quantity));
            })
        }));
        next(time(|| {
            by_hand(&clean, |time, pair, price, quantity| {
                black_box((time, pair, price, quantity));
            })
        }));
        next(time(|| {
            for _ in 0..20 {
                out.clear();
                for row in 0..bars.len() {
                    encoder.write(&bars, row, &mut out);
                }
                black_box(&out);
            }
            20 * bars.len()
        }));
    }
    let medians: Vec<f64> = rounds
        .iter_mut()
        .map(|times| {
            times.sort_by(f64::total_cmp);
            times[ROUNDS / 2]
        })
        .collect();
    let [four, all] = [0, 1].map(|at| medians[at]);
    let [nested, strict, l1, l2, encoder] = [6, 7, 8, 9, 10].map(|at| medians[at]);
    let speed = |nanos: f64, name| per_second(1, nanos / 1e9, name);
    row(
        &format!(
            "JSON of {} bytes to rows, 4 fields of 11 needed",
            bytes / RECORDS
        ),
        speed(four, "records"),
        format!(
            "{:.1} x serde_json, borrowed; {:.2} x a scanner written by hand for this one layout",
            l1 / four,
            l2 / four
        ),
    );
    let against = |nanos: f64| format!("{:.2} x 4 fields", four / nanos);
    row("all fields needed", speed(all, "records"), against(all));
    for ((name, _), nanos) in POISONS.iter().zip(&medians[2..]) {
        let what = format!("one record in a hundred {name}");
        row(&what, speed(*nanos, "records"), against(*nanos));
    }
    let what = "each with an array that nobody reads";
    row(what, speed(nested, "records"), against(nested));
    let what = "no layout to predict, so all by the strict reader";
    row(what, speed(strict, "records"), against(strict));
    row("bars of 11 fields to JSON", speed(encoder, "events"), "");
    claim(
        "four fields against the loop",
        l1 / four,
        Claim::AtLeast(1.0),
    );
    claim("all fields against the loop", l1 / all, Claim::AtLeast(1.0));
    for ((name, _), nanos) in POISONS.iter().zip(&medians[2..]) {
        claim(
            &format!("{name}, against the loop"),
            l1 / nanos,
            Claim::AtLeast(1.0),
        );
    }
    claim(
        "with an array, against the loop",
        l1 / nested,
        Claim::AtLeast(1.0),
    );
    verdict()
}
