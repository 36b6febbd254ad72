//! Many seeds, as many as there is time for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use crate::checker::Checker;
use crate::draw::Draw;
use crate::load::Pressed;
use crate::run::{self, Outcome};
use crate::scenario::Scenario;
use crate::world::POINTS;

/// Seeds that failed once, each with the story of its bug.
const FAILED: &str = include_str!("failed_seeds.txt");

/// How long a plain `cargo test` looks for new ones.
const SECONDS_DEFAULT: u64 = 20;

/// A run this long must have crashed this often at each named instant.
const CAMPAIGN: Duration = Duration::from_secs(60);
const CRASHES_MIN: u64 = 20;

/// No run takes as long by the wall clock: one that does is going around in circles.
const RUN_MAX: Duration = Duration::from_secs(120);

/// Names the run that does not end, and gives up. Dropping the sender says that it has ended.
fn watch_over(scenario: Scenario) -> mpsc::Sender<()> {
    let (running, ended) = mpsc::channel();
    std::thread::spawn(move || {
        if ended.recv_timeout(RUN_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
            let repeat = repeat(scenario);
            let text = format!("seed {scenario} does not end within {RUN_MAX:?}\n{repeat}\n");
            std::io::stderr().write_all(text.as_bytes()).unwrap();
            std::process::abort();
        }
    });
    running
}

/// Runs one seed in its setting.
pub(crate) fn try_scenario(scenario: Scenario) -> Outcome {
    let _running = watch_over(scenario);
    let draw = Draw::new(scenario);
    let once = || run::run(&draw);
    let mut outcome = once();
    if draw.twice && outcome.wrong.is_none() {
        let again = once();
        if let Some(place) = (0..outcome.lines.len().max(again.lines.len()))
            .find(|place| outcome.lines.get(*place) != again.lines.get(*place))
        {
            outcome.wrong = Some(format!(
                "a second run of the seed went another way: {:?}, then {:?}",
                outcome.lines.get(place),
                again.lines.get(place)
            ));
        } else if again.hash != outcome.hash {
            outcome.wrong = Some("a second run of the seed left other topics".to_owned());
        }
        if outcome.wrong.is_some() {
            outcome.caught.insert(Checker::Repeat);
        }
    }
    outcome
}

fn repeat(scenario: Scenario) -> String {
    format!(
        "repeat it with: SIM_SEED={scenario} cargo test --all-features --test simulation whatever_breaks"
    )
}

fn report(scenario: Scenario, outcome: &Outcome) -> String {
    let mut text = format!("{:#?}\n", Draw::new(scenario));
    for line in &outcome.lines {
        let _ = writeln!(text, "{line}");
    }
    if let Some(wrong) = &outcome.wrong {
        let _ = writeln!(
            text,
            "\nseed {scenario} failed: {wrong}\n{}",
            repeat(scenario)
        );
    }
    text
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={text}: expected a whole number")))
}

/// The wall clock, which a run never sees.
#[allow(clippy::disallowed_methods)]
fn wall() -> std::time::Instant {
    std::time::Instant::now()
}

/// Every line: a seed, then what it found.
fn failed_seeds() -> impl Iterator<Item = Scenario> {
    let lines = FAILED.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
}

#[test]
fn seeds_that_failed_once_pass() {
    for scenario in failed_seeds() {
        let outcome = try_scenario(scenario);
        assert!(outcome.wrong.is_none(), "{}", report(scenario, &outcome));
    }
}

#[test]
fn every_input_has_its_effect_once_whatever_breaks() {
    if let Ok(name) = std::env::var("SIM_SEED") {
        let scenario = name.parse().unwrap();
        let outcome = try_scenario(scenario);
        let report = report(scenario, &outcome);
        std::io::stderr().write_all(report.as_bytes()).unwrap();
        assert!(outcome.wrong.is_none(), "seed {scenario} failed");
        return;
    }
    let base = std::env::var("SIM_BASE").unwrap_or_default();
    let base = xxhash_rust::xxh3::xxh3_64(base.as_bytes());
    let seeds = number("SIM_SEEDS").unwrap_or(u64::MAX);
    let limit = match number("SIM_SECONDS") {
        Some(seconds) => Duration::from_secs(seconds),
        None if seeds < u64::MAX => Duration::MAX,
        None => Duration::from_secs(SECONDS_DEFAULT),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = number("SIM_THREADS").map_or(threads, |threads| threads as usize);
    let began = wall();
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let failures: Mutex<Vec<String>> = Mutex::default();
    let crashes: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let pressed: Mutex<Pressed> = Mutex::default();
    let ledgers = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while began.elapsed() < limit && !failed.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= seeds {
                        return;
                    }
                    let scenario = Scenario::of_series(base, index);
                    let outcome = try_scenario(scenario);
                    {
                        let mut pressed = pressed.lock().unwrap();
                        pressed.inboxes += outcome.pressed.inboxes;
                        pressed.states += outcome.pressed.states;
                    }
                    ledgers.fetch_add(outcome.ledgers, Ordering::Relaxed);
                    for (name, count) in &outcome.crashes {
                        *crashes.lock().unwrap().entry(name).or_default() += count;
                    }
                    if outcome.wrong.is_some() {
                        failures.lock().unwrap().push(report(scenario, &outcome));
                        let go_on = std::env::var("SIM_GO_ON").is_ok();
                        failed.store(!go_on, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let (runs, seconds) = (next.into_inner(), began.elapsed().as_secs_f64());
    let crashes = crashes.into_inner().unwrap();
    let pressed = pressed.into_inner().unwrap();
    let ledgers = ledgers.into_inner();
    let mut text = format!(
        "{runs} seeds in {seconds:.1} s on {threads} threads, {:.0} seeds/s; crashes at {crashes:?}; waits for room: {pressed:?}; sums of ledgers: {ledgers}\n",
        runs as f64 / seconds
    );
    let failures = failures.into_inner().unwrap();
    for failure in failures.iter().take(1) {
        text += failure;
    }
    for failure in &failures {
        let line = failure.lines().find(|line| line.starts_with("seed "));
        text += line.unwrap_or_default();
        text += "\n";
    }
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    assert!(
        failures.is_empty(),
        "{} seeds failed, see above",
        failures.len()
    );
    if began.elapsed() >= CAMPAIGN {
        for point in POINTS {
            let count = crashes.get(point).copied().unwrap_or_default();
            assert!(count >= CRASHES_MIN, "only {count} crashes at {point}");
        }
        let least = pressed.inboxes.min(pressed.states);
        assert!(least >= CRASHES_MIN, "hardly anything waited: {pressed:?}");
        // Many of each run with a ledger, or they were not found in the state.
        assert!(
            ledgers >= runs,
            "only {ledgers} sums of ledgers were looked at"
        );
    }
}
