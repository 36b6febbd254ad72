//! Restart with a large state: from the start of a run to its first record.
//!
//! `cargo bench --bench restart` builds the state of a window over a day with a million keys on a
//! log on disk, ends the run, adds one record, and prints how long the next run takes to take it,
//! with the state's store as it was left (warm) and without it (cold, from the changelog); and the
//! resident memory, the state's map bounded at 128 MiB.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark reads the clock and prints"
)]

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidemill::broker::{
    BrokerExt, NewRecord, RecordSet, SystemClock, Timestamp, Topic, TopicPartition, TopicSpec,
};
use tidemill::config;
use tidemill::events::write_time;
use tidemill::pipeline::{OpenBroker, Pipeline, RunOptions, SledStores};
use tokio::sync::watch;

const KEYS: usize = 1_000_000;
const START: i64 = 1_381_104_000_000_000;

fn file(dir: &Path) -> String {
    format!(
        r#"
        [pipeline]
        format = 1
        name = "restart"
        guarantee = "exactly_once"
        commit = "100ms"
        memory = "128MiB"

        [brokers.main]
        url = "file://{}/log?fsync=100ms"

        [topics.updates]
        broker = "main"
        event = "MarketDataUpdate"
        key = "pair"
        start = "earliest"

        [topics.bars]
        broker = "main"

        [stages.day]
        from = "updates"
        op = "tumbling_window"
        size = "1d"
        event = "Bar"

        [stages.day.aggregate]
        open = "first(currentPrice)"
        high = "max(currentPrice)"
        low = "min(currentPrice)"
        close = "last(currentPrice)"
        volume = "sum(quantity)"

        [sinks.bars]
        from = "day"
        topic = "bars"
        "#,
        dir.display()
    )
}

fn payload(key: usize, time: i64) -> String {
    let mut stamp = Vec::new();
    write_time(time, &mut stamp).expect("a time");
    format!(
        r#"{{"eventType":"MarketDataUpdate","timestamp":"{}","pair":"KEY-{key:07}","currentPrice":{}.25,"quantity":1.5}}"#,
        String::from_utf8(stamp).expect("ASCII"),
        100 + key % 900,
    )
}

/// Runs until `records` are committed; returns when the first was taken.
async fn run(dir: &Path, records: u64, more: Option<NewRecord>) -> Duration {
    let pipeline = config::Pipeline::parse("restart.toml", &file(dir), &|_| None);
    let plan = pipeline.expect("a plan").plan;
    let open = OpenBroker::open(&plan.brokers[0].url, Arc::new(SystemClock))
        .await
        .expect("a log");
    let broker = open.broker();
    if let Some(record) = more {
        broker.send(record).await.expect("sent");
    } else {
        let topic = Topic::new("updates").expect("a name");
        broker
            .create_topic(&TopicSpec::new(topic.clone(), NonZeroU32::MIN))
            .await
            .expect("a topic");
        let at = TopicPartition::new(topic, 0);
        for chunk in (0..KEYS).collect::<Vec<_>>().chunks(1000) {
            let mut set = RecordSet::new(at.clone());
            for &key in chunk {
                let time = START + key as i64;
                let name = format!("KEY-{key:07}");
                set.push_with(Timestamp(time), Some(name.as_bytes()), &[], |slab| {
                    slab.extend_from_slice(payload(key, time).as_bytes());
                });
            }
            broker.produce(vec![set]).await.expect("written");
        }
    }
    let stores = Arc::new(SledStores::new(dir.join("state"), 1));
    let begun = Instant::now();
    let pipeline = Pipeline::new(plan, vec![broker], stores);
    let progress = pipeline.progress();
    let (stop, stopped) = watch::channel(false);
    let watch = async {
        let mut first = None;
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        loop {
            tick.tick().await;
            let counts = progress.counts();
            if counts.taken > 0 {
                first.get_or_insert_with(|| begun.elapsed());
            }
            if counts.committed >= records {
                stop.send(true).expect("running");
                return first.unwrap_or_default();
            }
        }
    };
    let (ended, first) = tokio::join!(pipeline.run(RunOptions::new("0", 1), stopped), watch);
    ended.expect("a run");
    drop(pipeline);
    open.close().await.expect("closed");
    first
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

fn main() {
    let root = tempfile::tempdir_in(".").expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let built = Instant::now();
    runtime.block_on(run(root.path(), KEYS as u64, None));
    println!(
        "{KEYS} keys: built in {:.1} s, peak resident {} MiB",
        built.elapsed().as_secs_f64(),
        resident_mib()
    );
    let one = |key: usize| {
        let time = START + KEYS as i64 + key as i64;
        NewRecord::new(Topic::new("updates").expect("a name"), payload(key, time))
            .key(format!("KEY-{key:07}"))
    };
    let warm = runtime.block_on(run(root.path(), 1, Some(one(7))));
    println!("warm     {:.2} s to the first record", warm.as_secs_f64());
    std::fs::remove_dir_all(root.path().join("state")).expect("removed");
    let cold = runtime.block_on(run(root.path(), 1, Some(one(8))));
    println!(
        "cold     {:.2} s to the first record, peak resident {} MiB",
        cold.as_secs_f64(),
        resident_mib()
    );
}
