//! What the benchmarks share: the same market, a stopwatch, and the table they print.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stderr,
    reason = "each benchmark uses its part"
)]

pub mod bars;

use std::ffi::OsStr;
use std::fmt::Display;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill::broker::{RecordSet, Timestamp, Topic, TopicPartition};
use tidemill::events::write_time;
use tidemill::market::decimal::to_text;

pub const START: i64 = 1_381_152_600_000_000;
pub const PAIRS: [&str; 6] = [
    "BTC-USD", "ETH-USD", "SOL-USD", "DOGE-USD", "XRP-EUR", "LTC-USDT",
];

/// Event time, pair, payload.
pub type Update = (i64, &'static str, Vec<u8>);

/// Market data updates of about 240 bytes, as a market data service writes them, without end.
pub fn market() -> impl Iterator<Item = Update> {
    let mut random = SmallRng::seed_from_u64(42);
    let mut time = START;
    let mut price = 943_215_500_i64;
    let update = move |at: usize| {
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
        let payload = format!(
            r#"{{"eventType":"MarketDataUpdate","timestamp":"{stamp}","pair":"{pair}","currentPrice":{current},"quantity":{quantity},"side":"{side}","bid":{bid},"ask":{ask},"venue":"paper","sequence":{},"tradeId":"{}"}}"#,
            at + 1_000_000,
            at + 77_000,
        )
        .into_bytes();
        (time, pair, payload)
    };
    (0..).map(update)
}

/// The first so many.
pub fn updates(count: usize) -> Vec<Update> {
    market().take(count).collect()
}

/// A way in which a payload is broken.
pub type Poison = (&'static str, fn(&mut Vec<u8>));

/// From what is found out at its last byte to what is found out at its first.
pub const POISONS: [Poison; 4] = [
    ("cut short", |payload| payload.truncate(payload.len() - 1)),
    ("without price", |payload| replace_price(payload, b"")),
    ("of a wrong type", |payload| {
        replace_price(payload, br#""currentPrice":true,"#);
    }),
    ("no JSON at all", |payload| payload[0] = b'<'),
];

fn replace_price(payload: &mut Vec<u8>, with: &[u8]) {
    let at = memchr::memmem::find(payload, br#""currentPrice":"#).expect("a price");
    let len = memchr::memchr(b',', &payload[at..]).expect("its end") + 1;
    payload.splice(at..at + len, with.iter().copied());
}

/// The same updates, one in a hundred broken.
pub fn poisoned(updates: &[Update], (_, break_one): Poison) -> Vec<Update> {
    let mut updates = updates.to_vec();
    for (_, _, payload) in updates.iter_mut().skip(50).step_by(100) {
        break_one(payload);
    }
    updates
}

/// The updates as records for one partition.
pub fn set(topic: &str, updates: &[Update]) -> RecordSet {
    let at = TopicPartition::new(Topic::new(topic).expect("a name"), 0);
    let mut set = RecordSet::new(at);
    for (time, pair, payload) in updates {
        set.push_with(Timestamp(*time), Some(pair.as_bytes()), &[], |slab| {
            slab.extend_from_slice(payload);
        });
    }
    set
}

/// Resident memory of this process in MiB: now, and at its peak; zeros where the kernel does not say.
pub fn resident_mib() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
        kib.unwrap_or_default() / 1024
    };
    (mib("VmRSS:"), mib("VmHWM:"))
}

/// Runs this bench again as a process of its own, so that its peak of memory is its own too; the figures
/// that it prints.
pub fn in_own_process(arguments: &[&OsStr]) -> Vec<f64> {
    let program = std::env::current_exe().expect("a path");
    let mut command = Command::new(program);
    let child = command.args(arguments).stderr(Stdio::inherit()).output();
    let child = child.expect("started");
    assert!(child.status.success(), "{arguments:?}: {}", child.status);
    let printed = String::from_utf8(child.stdout).expect("figures");
    let figures = printed.split_whitespace().map(str::parse);
    figures.collect::<Result<_, _>>().expect("figures")
}

/// Prints a row of the table in the README, whose columns `.ci/bench` names.
pub fn row(what: &str, figure: impl Display, against: impl Display) {
    println!(
        "| `{}` | {what} | {figure} | {against} |",
        env!("CARGO_CRATE_NAME")
    );
}

static MISSED: AtomicBool = AtomicBool::new(false);

/// Says so if a figure is not what is claimed of it; [`verdict`] then ends the bench with an error.
pub fn claim(what: &str, figure: f64, is: Claim) {
    let (holds, claimed) = match is {
        Claim::AtLeast(least) => (figure >= least, format!("at least {least}")),
        Claim::AtMost(most) => (figure <= most, format!("at most {most}")),
    };
    if !holds {
        MISSED.store(true, Ordering::Relaxed);
        eprintln!("missed: {what}: {figure:.2}, where {claimed} is claimed");
    }
}

/// What is claimed of a figure.
pub enum Claim {
    AtLeast(f64),
    AtMost(f64),
}

/// How the bench ends: with an error if anything claimed was missed.
pub fn verdict() -> ExitCode {
    match MISSED.load(Ordering::Relaxed) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// A speed: `items` in so many seconds.
pub fn per_second(items: usize, seconds: f64, name: &str) -> String {
    let millions = items as f64 / seconds / 1e6;
    let digits = if millions < 10.0 { 1 } else { 0 };
    format!("{millions:.digits$} M {name}/s")
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

/// The median of what each round's figure is to that of the same round: a machine that slows down from
/// round to round slows both.
pub fn median_ratio(figures: &[f64], against: &[f64]) -> f64 {
    median(
        figures
            .iter()
            .zip(against)
            .map(|(one, other)| one / other)
            .collect(),
    )
}
