//! Bars from market data, end to end, against loops over the same bytes in the same run.
//!
//! `cargo bench --bench bars` prints, as medians of interleaved rounds on one thread:
//!
//! * **L1**: serde_json into a borrowed struct of the four fields, one-minute OHLCV in a `HashMap`;
//! * **L2**: the same with a scanner written by hand for this one layout, which checks nothing;
//! * **mem**: a pipeline file on `mem://`, exactly once, commits each 100 ms;
//! * **file**: the same on `file://` with its state on disk, fsync each 100 ms;
//! * **mem** again with one record in a hundred refused, for several reasons;
//! * **long**: mem and file with ten times the records, each beside one with as many: the cost per record
//!   must stay;
//! * **memory**: file with ten times the records: what is resident must stay.
//!
//! Ratios are medians of those of each round.
//!
//! Whoever does not come to the very bars of the loop fails the bench.

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

use market::bars::{self, Bar, Bars, Borrowed};
use market::{
    Claim, POISONS, Update, claim, in_own_process, market, median, median_ratio, per_second,
    poisoned, resident_mib, row, seconds, set, updates, verdict,
};
use tidemill::broker::{Broker, SystemClock, Topic, TopicSpec};
use tidemill::config::{self, Plan};
use tidemill::events::parse_time;
use tidemill::pipeline::{
    MemoryStores, OpenBroker, Pipeline, Progress, RunOptions, SledStores, Stores,
};
use tokio::sync::watch;

const RECORDS: usize = 1_000_000;
const ROUNDS: usize = 7;
const LONG_ROUNDS: usize = 3;
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

fn update(bars: &mut Bars, pair: &str, time: i64, price: f64, quantity: f64) {
    let of_pair = match bars.get_mut(pair) {
        Some(found) => found,
        None => bars.entry(pair.to_owned()).or_default(),
    };
    of_pair
        .entry(time - time.rem_euclid(MINUTE))
        .and_modify(|bar| bar.add(price, quantity))
        .or_insert_with(|| Bar::new(price, quantity));
}

fn l1<P: AsRef<[u8]>>(payloads: impl IntoIterator<Item = P>) -> Bars {
    let mut bars = Bars::new();
    for payload in payloads {
        let Ok(one) = serde_json::from_slice::<Borrowed<'_>>(payload.as_ref()) else {
            continue;
        };
        let time = parse_time(one.timestamp.as_bytes()).expect("a time");
        update(&mut bars, one.pair, time, one.current_price, one.quantity);
    }
    bars
}

/// The bars of ten times the records.
fn of_ten_times() -> Bars {
    l1(market().take(10 * RECORDS).map(|(_, _, payload)| payload))
}

fn l2(payloads: &[&[u8]]) -> Bars {
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
    bars
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

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

async fn open(url: &str) -> (Plan, OpenBroker) {
    let pipeline = config::Pipeline::parse("bars.toml", &file(url), &|_| None);
    let plan = pipeline.expect("a plan").plan;
    let broker = OpenBroker::open(&plan.brokers[0].url, Arc::new(SystemClock)).await;
    (plan, broker.expect("a broker"))
}

async fn fill(broker: &dyn Broker, mut updates: impl Iterator<Item = Update>) {
    let topic = Topic::new("updates").expect("a name");
    broker
        .create_topic(&TopicSpec::new(topic, NonZeroU32::MIN))
        .await
        .expect("a topic");
    loop {
        let some: Vec<Update> = updates.by_ref().take(1000).collect();
        if some.is_empty() {
            break;
        }
        let set = set("updates", &some);
        broker.produce(vec![set]).await.expect("records");
    }
    broker.sync().await.expect("durable");
}

/// Runs the pipeline to the end of what its broker holds, and `watch` beside it; the seconds it took, and
/// the bars.
async fn run<F: Future<Output = ()>>(
    (plan, open): (Plan, OpenBroker),
    dir: &Path,
    watch: impl FnOnce(Arc<Progress>) -> F,
) -> (f64, Bars) {
    let stores: Arc<dyn Stores> = match open {
        OpenBroker::Memory(_) => Arc::new(MemoryStores::default()),
        OpenBroker::File(_) => Arc::new(SledStores::new(dir.join("state"), 1)),
    };
    let pipeline = Pipeline::new(plan, &[("main", open.broker())], stores).expect("a pipeline");
    let mut options = RunOptions::new("0", 1);
    options.until_end = watch::channel(true).1;
    let (_stop, stopped) = watch::channel(false);
    let start = Instant::now();
    let (ended, ()) = tokio::join!(pipeline.run(options, stopped), watch(pipeline.progress()));
    let took = start.elapsed().as_secs_f64();
    ended.expect("a run");
    drop(pipeline);
    let bars = bars::written(&*open.broker()).await;
    open.close().await.expect("closed");
    (took, bars)
}

/// Fills a broker and runs the pipeline over it, which must come to what the loop came to.
fn timed(url: &str, dir: &Path, updates: impl Iterator<Item = Update>, expected: &Bars) -> f64 {
    let (took, bars) = runtime().block_on(async {
        let (plan, open) = open(url).await;
        fill(&*open.broker(), updates).await;
        run((plan, open), dir, async |_| {}).await
    });
    bars::are_the_same(url, &bars, expected);
    took
}

fn log_in(dir: &Path) -> String {
    format!("file://{}/log?fsync=100ms", dir.display())
}

/// In a process of its own: runs over what `dir` holds, and prints how long it took, and what was
/// resident after 1, 5 and 10 times the records, and at most.
fn memory(dir: &Path) {
    let mut seen = Vec::new();
    let took = runtime().block_on(async {
        let watch = async |progress: Arc<Progress>| {
            let mut tick = tokio::time::interval(Duration::from_millis(1));
            for millions in [1, 5, 10] {
                while progress.counts().committed < millions * RECORDS as u64 {
                    tick.tick().await;
                }
                seen.push(resident_mib().0);
            }
        };
        let (took, bars) = run(open(&log_in(dir)).await, dir, watch).await;
        bars::are_the_same("ten times the records", &bars, &of_ten_times());
        took
    });
    let [one, five, ten] = seen[..] else {
        panic!("seen {seen:?}")
    };
    println!("{took} {one} {five} {ten} {}", resident_mib().1);
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip_while(|argument| argument != "memory");
    if let (Some(_), Some(dir)) = (arguments.next(), arguments.next()) {
        memory(Path::new(&dir));
        return ExitCode::SUCCESS;
    }
    let root = tempfile::tempdir().expect("a directory");
    let clean = updates(RECORDS);
    let payloads: Vec<&[u8]> = clean.iter().map(|(_, _, payload)| &payload[..]).collect();
    let bytes: usize = payloads.iter().map(|payload| payload.len()).sum();
    let broken = POISONS.map(|poison| {
        let updates = poisoned(&clean, poison);
        let bars = l1(updates.iter().map(|(_, _, payload)| payload));
        (updates, bars)
    });
    let mut rounds = vec![Vec::new(); 4 + POISONS.len()];
    for round in 0..ROUNDS {
        let dir = root.path().join(round.to_string());
        let (took, expected) = seconds(|| l1(&payloads));
        rounds[0].push(took);
        let (took, bars) = seconds(|| l2(&payloads));
        rounds[1].push(took);
        bars::are_the_same("the scanner", &bars, &expected);
        let updates = || clean.iter().cloned();
        rounds[2].push(timed("mem://", &dir, updates(), &expected));
        rounds[3].push(timed(&log_in(&dir), &dir, updates(), &expected));
        for (times, (updates, expected)) in rounds[4..].iter_mut().zip(&broken) {
            times.push(timed("mem://", &dir, updates.iter().cloned(), expected));
        }
        std::fs::remove_dir_all(&dir).ok();
    }
    let [l1, l2, mem, file] = [0, 1, 2, 3].map(|at| &rounds[at][..]);
    let speed = |took: &[f64]| per_second(RECORDS, median(took.to_vec()), "records");
    row(
        &format!(
            "one-minute bars from JSON of {} bytes on `mem://`, exactly once, one thread",
            bytes / RECORDS
        ),
        speed(mem),
        format!(
            "{:.1} x a loop with serde_json and a `HashMap`; {:.2} x a scanner written by hand for this one layout",
            median_ratio(l1, mem),
            median_ratio(l2, mem)
        ),
    );
    row(
        "the same on `file://`, commits and fsync each 100 ms",
        speed(file),
        format!("{:.1} x the loop", median_ratio(l1, file)),
    );
    for ((name, _), took) in POISONS.iter().zip(&rounds[4..]) {
        let of_clean = median_ratio(mem, took);
        row(
            &format!("on `mem://`, one record in a hundred {name}"),
            speed(took),
            format!("{of_clean:.2} x clean"),
        );
        claim(name, of_clean, Claim::AtLeast(0.9));
    }
    let [of_mem, of_file] = [mem, file].map(|took| median_ratio(l1, took));
    claim("mem:// against the loop", of_mem, Claim::AtLeast(1.0));
    claim("file:// against the loop", of_file, Claim::AtLeast(0.7));
    drop(payloads);
    drop(broken);
    long(root.path(), &clean);
    verdict()
}

/// Ten times the records on each broker, beside a run over as many as before.
fn long(root: &Path, clean: &[Update]) {
    let expected = l1(clean.iter().map(|(_, _, payload)| payload));
    let expected_of_all = of_ten_times();
    let mut costs = [Vec::new(), Vec::new()];
    let mut took = [Vec::new(), Vec::new()];
    let mut resident = Vec::new();
    for round in 0..LONG_ROUNDS {
        let dir = root.join(format!("long-{round}"));
        let aside = dir.join("short");
        let short = |url: &str| timed(url, &aside, clean.iter().cloned(), &expected);
        let of_short = short("mem://");
        let of_long = timed(
            "mem://",
            &dir,
            market().take(10 * RECORDS),
            &expected_of_all,
        );
        costs[0].push(of_long / 10.0 / of_short);
        took[0].push(of_long);

        let of_short = short(&log_in(&aside));
        runtime().block_on(async {
            let (_, open) = open(&log_in(&dir)).await;
            fill(&*open.broker(), market().take(10 * RECORDS)).await;
            open.close().await.expect("closed");
        });
        let figures = in_own_process(&["memory".as_ref(), dir.as_ref()]);
        let [of_long, one, five, ten, most] = figures[..] else {
            panic!("not what it prints: {figures:?}")
        };
        costs[1].push(of_long / 10.0 / of_short);
        took[1].push(of_long);
        resident.push((ten / one, [one, five, ten, most]));
        std::fs::remove_dir_all(&dir).ok();
    }
    for ((broker, costs), took) in ["mem://", "file://"].iter().zip(costs).zip(took) {
        let cost = median(costs);
        row(
            &format!("on `{broker}`, ten times the records"),
            per_second(10 * RECORDS, median(took), "records"),
            format!("{cost:.2} x the cost per record"),
        );
        claim(
            &format!("cost per record on {broker} of ten times as many"),
            cost,
            Claim::AtMost(1.1),
        );
    }
    // The round that grew most.
    resident.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (grown, [one, five, ten, most]) = resident[LONG_ROUNDS - 1];
    row(
        "resident on `file://` after 1, 5 and 10 M records",
        format!("{one}, {five} and {ten} MiB"),
        format!("{grown:.2} x after the first million; {most} MiB at most"),
    );
    claim(
        "memory after ten times the records",
        grown,
        Claim::AtMost(1.2),
    );
}
