//! Delay in process at 100,000 records a second: parse, keyed aggregate, sink.
//!
//! `cargo bench --bench latency` sends the same updates at the same pace to, in turns:
//!
//! * **bare**: two threads and a channel: one sends, the other reads JSON with serde_json, keeps
//!   one-second bars in a `HashMap` and has those in hand that a record closes;
//! * **mem**: a pipeline file on `mem://`, at least once: decode, `tumbling_window` of a second by pair,
//!   sink; a consumer reads what comes out.
//!
//! and prints the delay of the bars from before the record that closes them is sent until after they
//! are read, p50 and p99. The market is a thousand times as fast as the clock: each millisecond a
//! second's 100 records come at once, and the bars of the second before are due. A sender that falls
//! behind its pace fails the bench, and so do bars that differ.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark reads the clock and prints"
)]

mod market;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use market::bars::{self, Bar, Bars, Borrowed};
use market::{Claim, Update, claim, median, row, set, updates, verdict};
use tidemill::broker::{
    Broker, ConsumerOptions, Delivery, Start, SystemClock, Topic, TopicPartition, TopicSpec,
};
use tidemill::config;
use tidemill::events::parse_time;
use tidemill::pipeline::{MemoryStores, OpenBroker, Pipeline, RunOptions};
use tokio::sync::watch;

const RECORDS: usize = 500_000;
/// Sent at once, each millisecond: 100,000 a second.
const PER_SEND: usize = 100;
const ROUNDS: usize = 5;
/// How far the sender may be behind its pace at the end.
const SENDER_BEHIND_MAX: Duration = Duration::from_millis(10);
const SECOND: i64 = 1_000_000;

const FILE: &str = r#"
    [pipeline]
    format = 1
    name = "latency"
    guarantee = "at_least_once"
    commit = "100ms"

    [brokers.main]
    url = "mem://"

    [topics.updates]
    broker = "main"
    event = "MarketDataUpdate"
    key = "pair"
    start = "earliest"

    [topics.bars]
    broker = "main"

    [stages.second]
    from = "updates"
    op = "tumbling_window"
    size = "1s"
    event = "Bar"

    [stages.second.aggregate]
    open = "first(currentPrice)"
    high = "max(currentPrice)"
    low = "min(currentPrice)"
    close = "last(currentPrice)"
    volume = "sum(quantity)"

    [sinks.bars]
    from = "second"
    topic = "bars"
"#;

/// The second that a time lies in.
fn second(time: i64) -> i64 {
    time - time.rem_euclid(SECOND)
}

/// A bar with its second and its pair.
type Closed = (i64, String, Bar);

/// Takes a record into the bar of its pair; what it closes goes to `closed`.
fn take(bars: &mut HashMap<String, Bar>, open: &mut i64, payload: &[u8], closed: &mut Vec<Closed>) {
    let update: Borrowed<'_> = serde_json::from_slice(payload).expect("JSON");
    let start = second(parse_time(update.timestamp.as_bytes()).expect("a time"));
    if start > *open {
        closed.extend(bars.drain().map(|(pair, bar)| (*open, pair, bar)));
        *open = start;
    }
    match bars.get_mut(update.pair) {
        Some(bar) => bar.add(update.current_price, update.quantity),
        None => {
            let bar = Bar::new(update.current_price, update.quantity);
            bars.insert(update.pair.to_owned(), bar);
        }
    }
}

/// When each send began, the second of each bar that came out and when it was read, and the bars.
struct Run {
    sent: Vec<Instant>,
    arrived: Vec<(i64, Instant)>,
    bars: Bars,
}

impl Run {
    /// p50 and p99 in milliseconds.
    fn percentiles(self, updates: &[Update]) -> (f64, f64) {
        // Of each second: the send that closes it.
        let mut closers = HashMap::new();
        let mut open = second(updates[0].0);
        for (at, (time, ..)) in updates.iter().enumerate() {
            if second(*time) > open {
                closers.insert(open, at / PER_SEND);
                open = second(*time);
            }
        }
        let mut delays: Vec<Duration> = self
            .arrived
            .iter()
            .map(|(start, at)| at.duration_since(self.sent[closers[start]]))
            .collect();
        assert!(delays.len() > closers.len(), "fewer bars than seconds");
        delays.sort_unstable();
        let at = |share: f64| delays[(delays.len() as f64 * share) as usize].as_secs_f64() * 1e3;
        (at(0.5), at(0.99))
    }
}

/// Sends batch by batch, each in its millisecond. Says when each was sent.
///
/// # Panics
///
/// If it cannot keep that pace: what waits to be sent would be left out of the delay.
fn paced<T>(batches: impl Iterator<Item = T>, mut send: impl FnMut(T)) -> Vec<Instant> {
    let mut sent = Vec::with_capacity(RECORDS / PER_SEND);
    let begun = Instant::now();
    for (turn, batch) in batches.enumerate() {
        let due = begun + Duration::from_millis(turn as u64);
        if let Some(left) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(left);
        }
        sent.push(Instant::now());
        send(batch);
    }
    let late = begun
        .elapsed()
        .saturating_sub(Duration::from_millis(sent.len() as u64));
    assert!(late < SENDER_BEHIND_MAX, "the sender is {late:?} behind");
    sent
}

fn bare(updates: &[Update]) -> Run {
    let (send, receive) = sync_channel::<Vec<Vec<u8>>>(1024);
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            let mut arrived = Vec::with_capacity(RECORDS);
            let (mut bars, mut open) = (HashMap::new(), i64::MIN);
            let mut closed = Vec::with_capacity(RECORDS);
            for batch in receive {
                for payload in &batch {
                    take(&mut bars, &mut open, payload, &mut closed);
                }
                let now = Instant::now();
                let new = &closed[arrived.len()..];
                arrived.extend(new.iter().map(|(start, ..)| (*start, now)));
            }
            (arrived, closed)
        });
        let payloads = updates.chunks(PER_SEND).map(|batch| {
            let payloads = batch.iter().map(|(_, _, payload)| payload.clone());
            payloads.collect()
        });
        let sent = paced(payloads, |batch| send.send(batch).expect("taken"));
        drop(send);
        let (arrived, closed) = worker.join().expect("bars");
        let mut bars = Bars::new();
        for (start, pair, bar) in closed {
            bars.entry(pair).or_default().insert(start, bar);
        }
        Run {
            sent,
            arrived,
            bars,
        }
    })
}

fn mem(updates: &[Update]) -> Run {
    // One thread for the pipeline and the reader, this one sends.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let plan = config::Pipeline::parse("latency.toml", FILE, &|_| None)
        .expect("a plan")
        .plan;
    let broker = runtime.block_on(async {
        let open = OpenBroker::open(&plan.brokers[0].url, Arc::new(SystemClock)).await;
        let broker = open.expect("a broker").broker();
        for name in ["updates", "bars"] {
            let topic = Topic::new(name).expect("a name");
            broker
                .create_topic(&TopicSpec::new(topic, NonZeroU32::MIN))
                .await
                .expect("a topic");
        }
        broker
    });
    let pipeline = Pipeline::new(
        plan,
        &[("main", broker.clone())],
        Arc::new(MemoryStores::default()),
    )
    .expect("a pipeline");
    let (stop, stopped) = watch::channel(false);
    let running =
        runtime.spawn(async move { pipeline.run(RunOptions::new("0", 1), stopped).await });
    let last = second(updates[updates.len() - 1].0);
    let mut seconds = updates.iter().rev().map(|(time, ..)| second(*time));
    let last_closed = seconds.find(|start| *start < last).expect("two seconds");
    let reading = runtime.spawn(read(broker.clone(), last_closed));
    let batches = updates.chunks(PER_SEND).map(|batch| set("updates", batch));
    let sent = paced(batches, |set| {
        runtime
            .block_on(broker.produce(vec![set]))
            .expect("produced");
    });
    let arrived = runtime.block_on(reading).expect("read");
    stop.send(true).expect("running");
    runtime.block_on(running).expect("ended").expect("a run");
    let bars = runtime.block_on(bars::written(&*broker));
    Run {
        sent,
        arrived,
        bars,
    }
}

/// The bars up to those of the second `last`, and when each came out.
async fn read(broker: Arc<dyn Broker>, last: i64) -> Vec<(i64, Instant)> {
    let at = TopicPartition::new(Topic::new("bars").expect("a name"), 0);
    let options = ConsumerOptions::partitions(vec![(at, Start::Earliest)]);
    let mut consumer = broker.consumer(options).await.expect("a consumer");
    let mut arrived: Vec<(i64, Instant)> = Vec::with_capacity(RECORDS);
    while arrived.last().is_none_or(|(start, _)| *start < last) {
        if let Delivery::Records(batch) = consumer.next().await.expect("a delivery") {
            let now = Instant::now();
            // The event time of a bar is its end.
            let start = |time: i64| second(time - 1);
            arrived.extend(batch.iter().map(|bar| (start(bar.timestamp.0), now)));
        }
    }
    arrived
}

fn main() -> ExitCode {
    let updates = updates(RECORDS);
    let mut rounds = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let (bare, mem) = (bare(&updates), mem(&updates));
        bars::are_the_same("mem", &mem.bars, &bare.bars);
        rounds[0].push(bare.percentiles(&updates));
        rounds[1].push(mem.percentiles(&updates));
    }
    let [bare, mem] = rounds.map(|round| {
        let (half, most): (Vec<f64>, Vec<f64>) = round.into_iter().unzip();
        (median(half), median(most))
    });
    row(
        "p99 at 100,000 records/s on `mem://`, at least once: parse, keyed aggregate, sink",
        format!("{:.2} ms (p50 {:.2} ms)", mem.1, mem.0),
        format!(
            "{:.2} x two bare threads: {:.2} ms (p50 {:.2} ms)",
            mem.1 / bare.1,
            bare.1,
            bare.0
        ),
    );
    claim(
        "delay against two bare threads",
        mem.1 / bare.1,
        Claim::AtMost(2.0),
    );
    verdict()
}
