//! Bars from market data, end to end, against loops over the same bytes in the same run.
//!
//! `cargo bench --bench bars` prints, as medians of interleaved rounds on one thread:
//!
//! * **L1**: serde_json into a borrowed struct of the four fields, one-minute OHLCV in a `HashMap`;
//! * **L2**: the same with a scanner written by hand for this one layout, which checks nothing;
//! * **mem**: a pipeline file on `mem://`, exactly once, commits each 100 ms;
//! * **file**: the same on `file://` with its state on disk, fsync each 100 ms;
//! * **poison**: the first with one record in a hundred refused;
//! * **long**: the first with ten times the records: the cost per record must stay.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark reads the clock and prints"
)]

mod market;

use std::collections::HashMap;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use market::{median, seconds, sets, updates};
use serde::Deserialize;
use tidemill::broker::{Broker, SystemClock, Topic, TopicSpec};
use tidemill::config;
use tidemill::events::parse_time;
use tidemill::pipeline::{MemoryStores, OpenBroker, Pipeline, RunOptions, SledStores, Stores};
use tokio::sync::watch;

const RECORDS: usize = 1_000_000;
const ROUNDS: usize = 5;
const MINUTE: i64 = 60_000_000;

fn file(url: &str) -> String {
    format!(
        r#"
        [pipeline]
        format = 1
        name = "bars"
        guarantee = "exactly_once"
        commit = "100ms"

        [brokers.main]
        url = "{url}"

        [topics.updates]
        broker = "main"
        event = "MarketDataUpdate"
        key = "pair"
        start = "earliest"

        [topics.bars]
        broker = "main"

        [stages.minute]
        from = "updates"
        op = "tumbling_window"
        size = "1m"
        event = "Bar"

        [stages.minute.aggregate]
        open = "first(currentPrice)"
        high = "max(currentPrice)"
        low = "min(currentPrice)"
        close = "last(currentPrice)"
        volume = "sum(quantity)"

        [sinks.bars]
        from = "minute"
        topic = "bars"
        "#
    )
}

#[derive(Deserialize)]
struct Borrowed<'a> {
    timestamp: &'a str,
    pair: &'a str,
    #[serde(rename = "currentPrice")]
    current_price: f64,
    quantity: f64,
}

#[derive(Default)]
struct Bar {
    open: f64,
    high: f64,
    low: f64,
    close: f64,
    volume: f64,
}

/// Bars by pair, then window: looked up by borrowed text.
type Bars = HashMap<String, HashMap<i64, Bar>>;

fn update(bars: &mut Bars, pair: &str, time: i64, price: f64, quantity: f64) {
    if !bars.contains_key(pair) {
        bars.insert(pair.to_owned(), HashMap::new());
    }
    let of_pair = bars.get_mut(pair).expect("just put there");
    let window = time - time.rem_euclid(MINUTE);
    let bar = of_pair.entry(window).or_insert_with(|| Bar {
        open: price,
        low: f64::MAX,
        ..Bar::default()
    });
    bar.high = bar.high.max(price);
    bar.low = bar.low.min(price);
    bar.close = price;
    bar.volume += quantity;
}

fn l1(payloads: &[Vec<u8>]) -> usize {
    let mut bars = Bars::new();
    for payload in payloads {
        let Ok(one) = serde_json::from_slice::<Borrowed<'_>>(payload) else {
            continue;
        };
        let time = parse_time(one.timestamp.as_bytes()).expect("a time");
        update(&mut bars, one.pair, time, one.current_price, one.quantity);
    }
    bars.values()
        .flat_map(HashMap::values)
        .filter(|bar| bar.open > 0.0)
        .count()
}

fn l2(payloads: &[Vec<u8>]) -> usize {
    const HEAD: usize = r#"{"eventType":"MarketDataUpdate","timestamp":""#.len();
    let mut bars = Bars::new();
    let mut day = (Vec::new(), 0);
    for bytes in payloads {
        let mut at = HEAD;
        if bytes[at..at + 10] != day.0[..] {
            day.0 = bytes[at..at + 10].to_vec();
            let mut midnight = day.0.clone();
            midnight.extend_from_slice(b"T00:00:00Z");
            day.1 = parse_time(&midnight).expect("a day");
        }
        at += 11;
        let mut part = || {
            let value = digits(bytes, &mut at);
            at += 1;
            value
        };
        let (hour, minute, second, micros) = (part(), part(), part(), part());
        let time = day.1 + ((hour * 60 + minute) * 60 + second) * 1_000_000 + micros;
        at += r#"","pair":""#.len();
        let start = at;
        while bytes[at] != b'"' {
            at += 1;
        }
        let pair = std::str::from_utf8(&bytes[start..at]).expect("UTF-8");
        at += r#"","currentPrice":"#.len();
        let price = decimal(bytes, &mut at);
        at += r#","quantity":"#.len();
        let quantity = decimal(bytes, &mut at);
        update(&mut bars, pair, time, price, quantity);
    }
    bars.values()
        .flat_map(HashMap::values)
        .filter(|bar| bar.open > 0.0)
        .count()
}

fn digits(bytes: &[u8], at: &mut usize) -> i64 {
    let mut value = 0;
    while bytes[*at].is_ascii_digit() {
        value = value * 10 + i64::from(bytes[*at] - b'0');
        *at += 1;
    }
    value
}

fn decimal(bytes: &[u8], at: &mut usize) -> f64 {
    let mut value = digits(bytes, at) as f64;
    if bytes[*at] == b'.' {
        *at += 1;
        let from = *at;
        let rest = digits(bytes, at) as f64;
        value += rest / 10_f64.powi((*at - from) as i32);
    }
    value
}

/// A pipeline over brokers that already hold the records; seconds to run it to the end.
fn run(url: &str, dir: &Path, updates: &[(i64, &str, Vec<u8>)]) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let pipeline = config::Pipeline::parse("bars.toml", &file(url), &|_| None);
    let plan = pipeline.expect("a plan").plan;
    runtime.block_on(async {
        let open = OpenBroker::open(&plan.brokers[0].url, Arc::new(SystemClock))
            .await
            .expect("a broker");
        let broker = open.broker();
        fill(&*broker, updates).await;
        let stores: Arc<dyn Stores> = match open {
            OpenBroker::Memory(_) => Arc::new(MemoryStores::default()),
            OpenBroker::File(_) => Arc::new(SledStores::new(dir.join("state"), 1)),
        };
        let pipeline = Pipeline::new(plan, vec![broker], stores);
        let mut options = RunOptions::new("0", 1);
        options.until_end = watch::channel(true).1;
        let (_stop, stopped) = watch::channel(false);
        let start = std::time::Instant::now();
        pipeline.run(options, stopped).await.expect("a run");
        let took = start.elapsed().as_secs_f64();
        assert_eq!(pipeline.progress().counts().committed, updates.len() as u64);
        drop(pipeline);
        open.close().await.expect("closed");
        took
    })
}

async fn fill(broker: &dyn Broker, updates: &[(i64, &str, Vec<u8>)]) {
    let topic = Topic::new("updates").expect("a name");
    broker
        .create_topic(&TopicSpec::new(topic, NonZeroU32::MIN))
        .await
        .expect("a topic");
    for set in sets("updates", updates, 1000) {
        broker.produce(vec![set]).await.expect("records");
    }
    broker.sync().await.expect("durable");
}

fn main() {
    let updates_clean = updates(RECORDS, None);
    let poisoned = updates(RECORDS, Some(100));
    let payloads: Vec<Vec<u8>> = updates_clean
        .iter()
        .map(|(_, _, payload)| payload.clone())
        .collect();
    let bytes: usize = payloads.iter().map(Vec::len).sum();
    let root = tempfile::tempdir().expect("a directory");
    let names = ["L1", "L2", "mem", "file", "poison"];
    let mut rounds = vec![Vec::new(); names.len()];
    for round in 0..ROUNDS {
        let dir = root.path().join(round.to_string());
        let url = format!("file://{}/log?fsync=100ms", dir.display());
        rounds[0].push(seconds(|| black_box(l1(&payloads))).0);
        rounds[1].push(seconds(|| black_box(l2(&payloads))).0);
        rounds[2].push(run("mem://", &dir, &updates_clean));
        rounds[3].push(run(&url, &dir, &updates_clean));
        rounds[4].push(run("mem://", &dir, &poisoned));
        std::fs::remove_dir_all(&dir).ok();
    }
    let medians: Vec<f64> = rounds.into_iter().map(median).collect();
    println!(
        "{RECORDS} records of {} bytes, medians of {ROUNDS} rounds",
        bytes / RECORDS
    );
    for (name, took) in names.iter().zip(&medians) {
        println!(
            "{name:8} {:6.2} M records/s  {:5.0} ns  {:5.2} x L1",
            RECORDS as f64 / took / 1e6,
            took * 1e9 / RECORDS as f64,
            medians[0] / took
        );
    }
    println!("poison   {:.2} of clean", medians[2] / medians[4]);
    drop((payloads, poisoned));
    let long = updates(10 * RECORDS, None);
    let took = run("mem://", root.path(), &long);
    println!(
        "long     {:5.0} ns, {:.2} of the cost of the first",
        took * 1e8 / RECORDS as f64,
        took / 10.0 / medians[2]
    );
}
