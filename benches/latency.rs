//! Delay in process at 100,000 records a second: parse, keyed state, sink.
//!
//! `cargo bench --bench latency` sends the same updates at the same pace to, in turns:
//!
//! * **bare**: two threads and two channels: one sends, the other reads JSON with serde_json, looks
//!   the key up in a `HashMap` and answers;
//! * **mem**: a pipeline file on `mem://`, at least once: decode, `dedupe` by pair (its last sequence),
//!   sink; a consumer reads what comes out.
//!
//! and prints the delay from before the send until after the read, p50 and p99 in microseconds.

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
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use market::{Update, median, row, set, updates};
use serde::Deserialize;
use tidemill::broker::{
    Broker, ConsumerOptions, Delivery, Start, SystemClock, Topic, TopicPartition, TopicSpec,
};
use tidemill::config;
use tidemill::pipeline::{MemoryStores, OpenBroker, Pipeline, RunOptions};
use tokio::sync::watch;

const RECORDS: usize = 500_000;
/// Sent at once, each millisecond: 100,000 a second.
const PER_SEND: usize = 100;
const ROUNDS: usize = 3;

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

    [topics.seen]
    broker = "main"

    [stages.once]
    from = "updates"
    op = "dedupe"
    id = ["sequence"]
    window = "10s"
    count_max = 1

    [sinks.seen]
    from = "once"
    topic = "seen"
"#;

#[derive(Deserialize)]
struct Borrowed<'a> {
    pair: &'a str,
    #[serde(rename = "currentPrice")]
    current_price: f64,
    sequence: usize,
}

/// Sleeps until the next millisecond's turn.
fn wait(begun: Instant, send: usize) {
    let due = begun + Duration::from_millis(send as u64);
    if let Some(left) = due.checked_duration_since(Instant::now()) {
        std::thread::sleep(left);
    }
}

/// p50 and p99 in microseconds.
fn percentiles(mut delays: Vec<Duration>) -> (f64, f64) {
    delays.sort_unstable();
    let at = |share: f64| delays[(delays.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    (at(0.5), at(0.99))
}

fn bare(payloads: &[Vec<u8>]) -> (f64, f64) {
    let (send, receive) = sync_channel::<(Instant, Vec<Vec<u8>>)>(1024);
    let (answer, answers) = sync_channel::<(Instant, usize)>(1024);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut last: HashMap<String, f64> = HashMap::new();
            for (sent, batch) in receive {
                let mut count = 0;
                for payload in &batch {
                    let update: Borrowed<'_> = serde_json::from_slice(payload).expect("JSON");
                    count += usize::from(update.sequence > 0);
                    match last.get_mut(update.pair) {
                        Some(price) => *price = update.current_price,
                        None => drop(last.insert(update.pair.to_owned(), update.current_price)),
                    }
                }
                answer.send((sent, count)).expect("read");
            }
        });
        let reader = scope.spawn(move || {
            let mut delays = Vec::with_capacity(RECORDS);
            for (sent, count) in answers {
                delays.extend(std::iter::repeat_n(sent.elapsed(), count));
            }
            delays
        });
        let begun = Instant::now();
        for (at, batch) in payloads.chunks(PER_SEND).enumerate() {
            let batch = batch.to_vec();
            wait(begun, at);
            send.send((Instant::now(), batch)).expect("taken");
        }
        drop(send);
        percentiles(reader.join().expect("delays"))
    })
}

fn mem(updates: &[Update]) -> (f64, f64) {
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
        for name in ["updates", "seen"] {
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
        vec![broker.clone()],
        Arc::new(MemoryStores::default()),
    );
    let (stop, stopped) = watch::channel(false);
    let running =
        runtime.spawn(async move { pipeline.run(RunOptions::new("0", 1), stopped).await });
    let reading = runtime.spawn(read(broker.clone()));
    let mut sent = Vec::with_capacity(RECORDS / PER_SEND);
    let begun = Instant::now();
    for (turn, batch) in updates.chunks(PER_SEND).enumerate() {
        let set = set("updates", batch);
        wait(begun, turn);
        sent.push(Instant::now());
        runtime
            .block_on(broker.produce(vec![set]))
            .expect("produced");
    }
    let arrived = runtime.block_on(reading).expect("read");
    stop.send(true).expect("running");
    runtime.block_on(running).expect("ended").expect("a run");
    let delay = |(sequence, at): (usize, Instant)| at.duration_since(sent[sequence / PER_SEND]);
    percentiles(arrived.into_iter().map(delay).collect())
}

/// When each record came out, by its place in the input.
async fn read(broker: Arc<dyn Broker>) -> Vec<(usize, Instant)> {
    let at = TopicPartition::new(Topic::new("seen").expect("a name"), 0);
    let options = ConsumerOptions::partitions(vec![(at, Start::Earliest)]);
    let mut consumer = broker.consumer(options).await.expect("a consumer");
    let mut arrived = Vec::with_capacity(RECORDS);
    while arrived.len() < RECORDS {
        if let Delivery::Records(batch) = consumer.next().await.expect("a delivery") {
            let now = Instant::now();
            let from = arrived.len();
            arrived.extend((from..from + batch.len()).map(|place| (place, now)));
        }
    }
    arrived
}

fn main() {
    let updates = updates(RECORDS);
    let payloads: Vec<Vec<u8>> = updates
        .iter()
        .map(|(_, _, payload)| payload.clone())
        .collect();
    let mut rounds = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        rounds[0].push(bare(&payloads));
        rounds[1].push(mem(&updates));
    }
    let [bare, mem] = rounds.map(|round| {
        let (half, most): (Vec<f64>, Vec<f64>) = round.into_iter().unzip();
        (median(half) / 1e3, median(most) / 1e3)
    });
    row(
        "p99 at 100,000 records/s on `mem://`, at least once: parse, keyed state, sink",
        format!("{:.2} ms (p50 {:.2} ms)", mem.1, mem.0),
        format!(
            "{:.2} x two bare threads: {:.2} ms (p50 {:.2} ms)",
            mem.1 / bare.1,
            bare.1,
            bare.0
        ),
    );
}
