//! Decoding and encoding, single-threaded, over the same bytes in the same run.
//!
//! `cargo bench --bench decode` prints, as medians of interleaved rounds:
//!
//! * **decoder**: [`JsonDecoder`] from a batch into rows, four of eleven fields needed;
//! * **all fields**: the same with every field needed;
//! * **poison 1 %**: the same with one record in a hundred refused;
//! * **nested**: the same with an array in each record that nobody reads;
//! * **strict**: the same where no layout can be predicted;
//! * **L1**: serde_json into a borrowed struct of the four fields, numbers as floats;
//! * **L2**: a scanner written by hand for this one layout, which checks nothing;
//! * **encoder**: [`JsonEncoder`] writing a bar of eleven fields.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark reads the clock and prints"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use tidemill::broker::{Batch, BatchBuilder, Offset, Timestamp, Topic, TopicPartition};
use tidemill::events::{
    Field, JsonDecoder, JsonEncoder, Limits, RowHead, Rows, Schema, Type, parse_time, write_time,
};
use tidemill::market::decimal::to_text;

const RECORDS: usize = 400_000;
const PER_BATCH: usize = 256;
const ROUNDS: usize = 9;
const START: i64 = 1_381_152_600_000_000;

fn schema(name: &str, fields: &[(&str, Type)]) -> Arc<Schema> {
    let field = |(name, ty): &(&str, Type)| Field {
        name: (*name).into(),
        ty: *ty,
        required: false,
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

/// Records of one topic, as a market data service writes them.
fn payloads() -> Vec<Vec<u8>> {
    const PAIRS: [&str; 6] = [
        "BTC-USD", "ETH-USD", "SOL-USD", "DOGE-USD", "XRP-EUR", "LTC-USDT",
    ];
    let mut random = SmallRng::seed_from_u64(42);
    let mut time = START;
    let mut price = 943_215_500i64;
    (0..RECORDS)
        .map(|at| {
            time += random.random_range(0..20_000);
            price += random.random_range(-500..=500);
            let mut stamp = Vec::new();
            write_time(time, &mut stamp).expect("a time in range");
            let stamp = String::from_utf8(stamp).expect("ASCII");
            let pair = PAIRS[random.random_range(0..PAIRS.len())];
            let quantity = to_text(random.random_range(1..200_000_000), 8);
            let (current, bid, ask) = (to_text(price, 4), to_text(price - 50, 4), to_text(price + 50, 4));
            let side = if random.random() { "buy" } else { "sell" };
            format!(
                r#"{{"eventType":"MarketDataUpdate","timestamp":"{stamp}","pair":"{pair}","currentPrice":{current},"quantity":{quantity},"side":"{side}","bid":{bid},"ask":{ask},"venue":"paper","sequence":{},"tradeId":"{}"}}"#,
                at + 1_000_000, at + 77_000,
            )
            .into_bytes()
        })
        .collect()
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

#[derive(Deserialize)]
struct Borrowed<'a> {
    timestamp: &'a str,
    pair: &'a str,
    #[serde(rename = "currentPrice")]
    current_price: f64,
    quantity: f64,
}

fn serde_borrowed(batches: &[Batch]) -> usize {
    let mut count = 0;
    for batch in batches {
        for record in batch.iter() {
            let payload = record.value.expect("a payload");
            let update: Borrowed<'_> = serde_json::from_slice(payload).expect("an update");
            let time = parse_time(update.timestamp.as_bytes()).expect("a time");
            black_box((time, update.pair, update.current_price, update.quantity));
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
fn by_hand(batches: &[Batch]) -> usize {
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
            black_box((time, pair, price, quantity));
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

/// Nanoseconds per item of one run.
fn time(run: impl FnOnce() -> usize) -> f64 {
    let start = Instant::now();
    let count = run();
    start.elapsed().as_nanos() as f64 / count as f64
}

fn main() {
    let payloads = payloads();
    let bytes: usize = payloads.iter().map(Vec::len).sum();
    let clean = batches(payloads.iter().map(|payload| &payload[..]));
    let bad = |at: usize, payload: &mut Vec<u8>| {
        if at % 100 == 50 {
            payload.truncate(payload.len() - 1);
        }
    };
    let mut poisoned = payloads.clone();
    poisoned
        .iter_mut()
        .enumerate()
        .for_each(|(at, payload)| bad(at, payload));
    let poisoned = batches(poisoned.iter().map(|payload| &payload[..]));
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
    let bars = bars();
    let encoder = JsonEncoder::new(bars.schema().clone(), Some("Bar"));
    let mut out = Vec::new();

    let names = [
        "decoder, 4 fields",
        "decoder, all fields",
        "decoder, 1 % poison",
        "decoder, nested",
        "decoder, strict",
        "L1 serde_json, 4 fields",
        "L2 by hand, 4 fields",
        "encoder, 11 fields",
    ];
    let mut rounds = vec![Vec::new(); names.len()];
    for _ in 0..ROUNDS {
        rounds[0].push(time(|| decode(&mut four, &clean)));
        rounds[1].push(time(|| decode(&mut all, &clean)));
        rounds[2].push(time(|| {
            decode(&mut four, &poisoned);
            RECORDS
        }));
        rounds[3].push(time(|| decode(&mut four, &nested)));
        rounds[4].push(time(|| decode(&mut four, &unpredicted)));
        rounds[5].push(time(|| serde_borrowed(&clean)));
        rounds[6].push(time(|| by_hand(&clean)));
        rounds[7].push(time(|| {
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
    println!(
        "{RECORDS} records of {} bytes, batches of {PER_BATCH}",
        bytes / RECORDS
    );
    for (name, nanos) in names.iter().zip(&medians) {
        println!("{name:24} {nanos:7.1} ns  {:6.2} M/s", 1_000.0 / nanos);
    }
    println!("decoder / L1 {:.2}", medians[5] / medians[0]);
    println!("decoder / L2 {:.2}", medians[6] / medians[0]);
    println!("1 % poison / clean {:.2}", medians[0] / medians[2]);
}
