//! What several benchmarks share: the same market, and a stopwatch.

#![allow(dead_code, reason = "each benchmark uses its part")]

use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill::broker::{Batch, RecordSet, Timestamp, Topic, TopicPartition};
use tidemill::events::write_time;
use tidemill::market::decimal::to_text;

pub const START: i64 = 1_381_152_600_000_000;
pub const PAIRS: [&str; 6] = [
    "BTC-USD", "ETH-USD", "SOL-USD", "DOGE-USD", "XRP-EUR", "LTC-USDT",
];

/// Market data updates of about 240 bytes, as a market data service writes them: event time, pair,
/// payload. Every `poison`th is cut short.
pub fn updates(count: usize, poison: Option<usize>) -> Vec<(i64, &'static str, Vec<u8>)> {
    let mut random = SmallRng::seed_from_u64(42);
    let mut time = START;
    let mut price = 943_215_500_i64;
    let update = |at: usize| {
        time += random.random_range(0..20_000);
        price += random.random_range(-500..=500);
        let mut stamp = Vec::new();
        write_time(time, &mut stamp).expect("a time in range");
        let stamp = String::from_utf8(stamp).expect("ASCII");
        let pair = PAIRS[random.random_range(0..PAIRS.len())];
        let quantity = to_text(random.random_range(1..200_000_000), 8);
        let (current, bid, ask) = (
            to_text(price, 4),
            to_text(price - 50, 4),
            to_text(price + 50, 4),
        );
        let side = if random.random() { "buy" } else { "sell" };
        let mut payload = format!(
            r#"{{"eventType":"MarketDataUpdate","timestamp":"{stamp}","pair":"{pair}","currentPrice":{current},"quantity":{quantity},"side":"{side}","bid":{bid},"ask":{ask},"venue":"paper","sequence":{},"tradeId":"{}"}}"#,
            at + 1_000_000,
            at + 77_000,
        )
        .into_bytes();
        if poison.is_some_and(|every| at % every == every / 2) {
            payload.pop();
        }
        (time, pair, payload)
    };
    (0..count).map(update).collect()
}

/// The updates as records for one partition, in sets of `per_set`.
pub fn sets(topic: &str, updates: &[(i64, &str, Vec<u8>)], per_set: usize) -> Vec<RecordSet> {
    let at = TopicPartition::new(Topic::new(topic).expect("a name"), 0);
    let set = |updates: &[(i64, &str, Vec<u8>)]| {
        let mut set = RecordSet::new(at.clone());
        for (time, pair, payload) in updates {
            set.push_with(Timestamp(*time), Some(pair.as_bytes()), &[], |slab| {
                slab.extend_from_slice(payload);
            });
        }
        set
    };
    updates.chunks(per_set).map(set).collect()
}

/// Records in batches.
pub fn count(batches: &[Batch]) -> usize {
    batches.iter().map(Batch::len).sum()
}

/// Seconds that `run` takes.
pub fn seconds<T>(run: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let result = run();
    (start.elapsed().as_secs_f64(), result)
}

/// The median of a few figures.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
