//! Restart with a large state: from the start of a process to its first result; and what is resident.
//!
//! `cargo bench --bench restart` builds the state of a window over a day with a million keys on a log
//! on disk, 116 bytes each, and prints what it takes to go on with it. Each run is a process of its own, so that its
//! peak of resident memory is its own; the state's map is bounded at 128 MiB:
//!
//! * **build**: a million records, each of another key;
//! * **warm**: with the state's store as a run left it that was told to end, from the start of the
//!   process until a record that waited is committed with what follows from it;
//! * **killed**: the same with the store as a run left it that was killed;
//! * **cold**: the same without it, from the changelog;
//! * **update**: half a million records more, of any of the keys;
//! * **steady**: elsewhere, ten million records: each of a million keys once, then 99 in a hundred of ten
//!   thousand keys, the rest of any: what is resident must stay, and so must the cost of a record.
//!
//! In the end every window is closed: a key that is missing, or of which a record is missing or counted
//! twice, fails the bench.

#![allow(
    clippy::disallowed_methods,
    clippy::exit,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark reads the clock, prints, and ends as if it had been killed"
)]

mod market;

use std::num::NonZeroU32;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use market::{Claim, bars, claim, in_own_process, median, per_second, resident_mib, row, verdict};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill::broker::{RecordSet, SystemClock, Timestamp, Topic, TopicPartition, TopicSpec};
use tidemill::config::{self, Plan};
use tidemill::events::write_time;
use tidemill::pipeline::{OpenBroker, Pipeline, Progress, RunOptions, SledStores};
use tokio::sync::watch;

const KEYS: usize = 1_000_000;
/// Of these most records are, once every key is there.
const HOT: usize = 10_000;
const STEADY: usize = 10_000_000;
const ROUNDS: usize = 3;
const START: i64 = 1_381_104_000_000_000;
const QUANTITY: f64 = 1.5;

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

/// So long that an element of the state has 116 bytes, key and value.
fn name(key: usize) -> String {
    format!("KEY-{key:07}.PERPETUAL-FUTURES.EXAMPLE-VENUES")
}

fn price(key: usize) -> f64 {
    (100 + key % 900) as f64 + 0.25
}

fn payload(key: usize, time: i64) -> String {
    let mut stamp = Vec::new();
    write_time(time, &mut stamp).expect("a time");
    format!(
        r#"{{"eventType":"MarketDataUpdate","timestamp":"{}","pair":"{}","currentPrice":{},"quantity":{QUANTITY}}}"#,
        String::from_utf8(stamp).expect("ASCII"),
        name(key),
        price(key),
    )
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

async fn open(dir: &Path) -> (Plan, OpenBroker) {
    let pipeline = config::Pipeline::parse("restart.toml", &file(dir), &|_| None);
    let plan = pipeline.expect("a plan").plan;
    let open = OpenBroker::open(&plan.brokers[0].url, Arc::new(SystemClock)).await;
    (plan, open.expect("a log"))
}

/// The input of a log, and how often each key has come in it.
struct Input<'a> {
    dir: &'a Path,
    counts: Vec<u32>,
    all: i64,
}

impl<'a> Input<'a> {
    fn new(dir: &'a Path) -> Self {
        Self {
            dir,
            counts: vec![0; KEYS],
            all: 0,
        }
    }

    /// Adds a record of each of these keys.
    fn add(&mut self, keys: impl Iterator<Item = usize>) {
        runtime().block_on(self.write(keys));
    }

    async fn write(&mut self, mut keys: impl Iterator<Item = usize>) {
        let (_, open) = open(self.dir).await;
        let broker = open.broker();
        let topic = Topic::new("updates").expect("a name");
        if broker.describe_topic(&topic).await.is_err() {
            let spec = TopicSpec::new(topic.clone(), NonZeroU32::MIN);
            broker.create_topic(&spec).await.expect("a topic");
        }
        loop {
            let mut set = RecordSet::new(TopicPartition::new(topic.clone(), 0));
            for key in keys.by_ref().take(1000) {
                let time = START + self.all;
                let key_bytes = name(key);
                set.push_with(Timestamp(time), Some(key_bytes.as_bytes()), &[], |slab| {
                    slab.extend_from_slice(payload(key, time).as_bytes());
                });
                self.counts[key] += 1;
                self.all += 1;
            }
            if set.is_empty() {
                break;
            }
            broker.produce(vec![set]).await.expect("written");
        }
        open.close().await.expect("closed");
    }

    /// Closes the windows, and fails the bench unless each has every record of its key once.
    fn is_all_there(&self) {
        let bars = runtime().block_on(async {
            let (plan, open) = open(self.dir).await;
            let stores = Arc::new(SledStores::new(self.dir.join("state"), 1));
            let pipeline =
                Pipeline::new(plan, &[("main", open.broker())], stores).expect("a pipeline");
            let mut options = RunOptions::new("0", 1);
            options.until_end = watch::channel(true).1;
            let (_stop, stopped) = watch::channel(false);
            pipeline.run(options, stopped).await.expect("a run");
            drop(pipeline);
            let bars = bars::written(&*open.broker()).await;
            open.close().await.expect("closed");
            bars
        });
        let day = START - START.rem_euclid(86_400_000_000);
        let expected = self.counts.iter().enumerate().map(|(key, count)| {
            let bar = bars::Bar::new(price(key), QUANTITY * f64::from(*count));
            (name(key), [(day, bar)].into())
        });
        bars::are_the_same("in the end", &bars, &expected.collect());
    }

    /// What this process does as one of its own, in seconds since it was started, and further figures.
    fn phase(&self, name: &str) -> Vec<f64> {
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let started = started.expect("after 1970").as_micros().to_string();
        let [phase, name, started] = ["phase", name, &started].map(AsRef::as_ref);
        in_own_process(&[phase, name, started, self.dir.as_ref()])
    }
}

/// Runs until `watch` is done.
async fn run(dir: &Path, watch: impl AsyncFnOnce(Arc<Progress>)) {
    let (plan, open) = open(dir).await;
    let stores = Arc::new(SledStores::new(dir.join("state"), 1));
    let pipeline = Pipeline::new(plan, &[("main", open.broker())], stores).expect("a pipeline");
    let progress = pipeline.progress();
    let (stop, stopped) = watch::channel(false);
    let watch = async {
        watch(progress).await;
        stop.send(true).expect("running");
    };
    let (ended, ()) = tokio::join!(pipeline.run(RunOptions::new("0", 1), stopped), watch);
    ended.expect("a run");
    drop(pipeline);
    open.close().await.expect("closed");
}

async fn committed(progress: &Progress, records: usize) {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    while progress.counts().committed < records as u64 {
        tick.tick().await;
    }
}

/// In a process of its own: prints how long it took, and what was resident at most.
fn child(name: &str, dir: &Path, started: SystemTime) {
    let since = || started.elapsed().expect("a clock that goes on");
    let mut figures = Vec::new();
    let watch = async |progress: Arc<Progress>| match name {
        "steady" => {
            let mut begun = (0, Instant::now());
            for records in [KEYS, STEADY / 2, STEADY] {
                committed(&progress, records).await;
                figures.push(begun.1.elapsed().as_secs_f64() / (records - begun.0) as f64);
                figures.push(resident_mib().0 as f64);
                begun = (records, Instant::now());
            }
        }
        "build" => committed(&progress, KEYS).await,
        "update" => committed(&progress, KEYS / 2).await,
        _ => {
            committed(&progress, 1).await;
            figures.push(since().as_secs_f64());
            if name == "die" {
                // As a kill leaves it: nothing is flushed, nothing is closed.
                println!("0");
                std::process::exit(0);
            }
        }
    };
    runtime().block_on(run(dir, watch));
    if figures.is_empty() {
        figures.push(since().as_secs_f64());
    }
    figures.push(resident_mib().1 as f64);
    for figure in figures {
        println!("{figure}");
    }
}

fn report(what: &str, took: f64, resident: f64) {
    row(
        what,
        format!("{took:.1} s"),
        format!("{resident} MiB resident at most, the state's map bounded at 128 MiB"),
    );
    claim("MiB resident at most", resident, Claim::AtMost(512.0));
}

fn restarts(root: &Path) {
    let mut input = Input::new(root);
    input.add(0..KEYS);
    let built = input.phase("build");
    let what = "a state of a million keys of 116 bytes, built from as many records";
    report(what, built[0], built[1]);
    for name in ["warm", "killed", "cold"] {
        let (mut took, mut resident) = (Vec::new(), 0.0_f64);
        for round in 0..ROUNDS {
            match name {
                "killed" => {
                    input.add(std::iter::once(round));
                    input.phase("die");
                }
                "cold" => std::fs::remove_dir_all(root.join("state")).expect("removed"),
                _ => {}
            }
            input.add(std::iter::once(7));
            let figures = input.phase("restart");
            took.push(figures[0]);
            resident = resident.max(figures[1]);
        }
        let took = median(took);
        let what = match name {
            "warm" => "restart with it, until the first record is committed",
            "killed" => "the same after the run before was killed",
            _ => "the same without its store, from the changelog alone",
        };
        report(what, took, resident);
        if name != "cold" {
            claim(what, took, Claim::AtMost(4.0));
        }
    }
    let mut random = SmallRng::seed_from_u64(42);
    input.add((0..KEYS / 2).map(|_| random.random_range(0..KEYS)));
    let updated = input.phase("update");
    let what = "half a million changes more, of any of the keys";
    report(what, updated[0], updated[1]);
    input.is_all_there();
}

fn steady(root: &Path) {
    let mut input = Input::new(root);
    let mut random = SmallRng::seed_from_u64(42);
    let any = move |_| match random.random_range(0..100) {
        0 => random.random_range(0..KEYS),
        _ => random.random_range(0..HOT),
    };
    input.add((0..KEYS).chain((KEYS..STEADY).map(any)));
    let figures = input.phase("steady");
    let [_, one, to_five, five, to_ten, ten, most] = figures[..] else {
        panic!("not what it prints: {figures:?}")
    };
    let (grown, cost) = (ten / one, to_ten / to_five);
    row(
        "10 M records of a million keys, each once and then most of them of ten thousand",
        per_second(1, to_ten, "records"),
        format!("from 5 to 10 M {cost:.2} x the cost per record from 1 to 5 M"),
    );
    row(
        "resident with a million keys after 1, 5 and 10 M records",
        format!("{one}, {five} and {ten} MiB"),
        format!("{grown:.2} x after the first million; {most} MiB at most"),
    );
    claim("resident with all keys", grown, Claim::AtMost(1.2));
    claim("MiB resident at most", most, Claim::AtMost(512.0));
    claim("cost per record", cost, Claim::AtMost(1.1));
    input.is_all_there();
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os()
        .skip_while(|argument| argument != "phase")
        .collect();
    if let [_, name, started, dir] = &arguments[..] {
        let started = started.to_str().and_then(|micros| micros.parse().ok());
        let started = Duration::from_micros(started.expect("a time"));
        let started = SystemTime::UNIX_EPOCH + started;
        child(&name.to_string_lossy(), Path::new(dir), started);
        return ExitCode::SUCCESS;
    }
    for part in [restarts, steady] {
        let root = tempfile::tempdir_in(".").expect("a directory");
        part(root.path());
    }
    verdict()
}
