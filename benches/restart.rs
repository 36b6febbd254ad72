//! Restart with a large state: from the start of a run to its first record; and what is resident.
//!
//! `cargo bench --bench restart` builds the state of a window over a day with a million keys on a log
//! on disk, ends the run, adds one record, and prints how long the next run takes to take it. Each run
//! is a process of its own, so that its peak of resident memory is its own; the state's map is
//! bounded at 128 MiB:
//!
//! * **build**: a million records, each of another key;
//! * **warm**: with the state's store as it was left;
//! * **cold**: without it, from the changelog;
//! * **update**: half a million records more, of any of the keys.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark reads the clock and prints"
)]

mod market;

use std::num::NonZeroU32;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use market::{Claim, claim, in_own_process, resident_mib, row, verdict};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill::broker::{NewRecord, RecordSet, SystemClock, Topic, TopicPartition, TopicSpec};
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

fn record(key: usize, time: i64) -> NewRecord {
    NewRecord::new(Topic::new("updates").expect("a name"), payload(key, time))
        .key(format!("KEY-{key:07}"))
}

/// Runs until `records` are committed; returns when the first was taken.
async fn run(dir: &Path, records: u64, mut more: impl Iterator<Item = NewRecord>) -> Duration {
    let begun = Instant::now();
    let pipeline = config::Pipeline::parse("restart.toml", &file(dir), &|_| None);
    let plan = pipeline.expect("a plan").plan;
    let open = OpenBroker::open(&plan.brokers[0].url, Arc::new(SystemClock))
        .await
        .expect("a log");
    let broker = open.broker();
    let topic = Topic::new("updates").expect("a name");
    if broker.describe_topic(&topic).await.is_err() {
        let spec = TopicSpec::new(topic.clone(), NonZeroU32::MIN);
        broker.create_topic(&spec).await.expect("a topic");
    }
    let at = TopicPartition::new(topic, 0);
    loop {
        let mut set = RecordSet::new(at.clone());
        for record in more.by_ref().take(1000) {
            let time = record.timestamp;
            set.push(
                time,
                record.key.as_deref(),
                record.value.as_deref(),
                &record.headers,
            );
        }
        if set.is_empty() {
            break;
        }
        broker.produce(vec![set]).await.expect("written");
    }
    let stores = Arc::new(SledStores::new(dir.join("state"), 1));
    let pipeline = Pipeline::new(plan, &[("main", broker)], stores).expect("a pipeline");
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

/// One run, and what it took.
fn phase(name: &str, dir: &Path) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let begun = Instant::now();
    let after = |records: usize| START + (KEYS + records) as i64;
    let took = match name {
        "build" => {
            let records = (0..KEYS).map(|key| record(key, START + key as i64));
            runtime.block_on(run(dir, KEYS as u64, records));
            begun.elapsed()
        }
        "update" => {
            let mut random = SmallRng::seed_from_u64(42);
            let any = |at| record(random.random_range(0..KEYS), after(2 + at));
            let records = (0..KEYS / 2).map(any);
            runtime.block_on(run(dir, KEYS as u64 / 2, records));
            begun.elapsed()
        }
        _ => runtime.block_on(run(dir, 1, std::iter::once(record(7, after(1))))),
    };
    let what = match name {
        "build" => "a state of a million keys, built from as many records",
        "warm" => "restart with it, to the first record",
        "cold" => "the same without its store, from the changelog alone",
        _ => "half a million changes more, of any of the keys",
    };
    row(
        what,
        format!("{:.1} s", took.as_secs_f64()),
        format!(
            "{} MiB resident at most, the state's map bounded at 128 MiB",
            resident_mib().1
        ),
    );
    claim(
        "MiB resident at most",
        resident_mib().1 as f64,
        Claim::AtMost(512.0),
    );
    if name == "warm" {
        claim(
            "seconds to the first record",
            took.as_secs_f64(),
            Claim::AtMost(4.0),
        );
    }
    verdict()
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip_while(|argument| argument != "phase");
    if let (Some(_), Some(name), Some(dir)) = (arguments.next(), arguments.next(), arguments.next())
    {
        return phase(&name.to_string_lossy(), Path::new(&dir));
    }
    let root = tempfile::tempdir_in(".").expect("a directory");
    for name in ["build", "warm", "cold", "update"] {
        if name == "cold" {
            std::fs::remove_dir_all(root.path().join("state")).expect("removed");
        }
        in_own_process(&["phase".as_ref(), name.as_ref(), root.path().as_ref()]);
    }
    verdict()
}
