//! The real binary, killed at every named crash point and at random times, until its job is done: then
//! everything is as if it had never been killed.
//!
//! `KILL_CYCLES` is how many kills there are in all, `KILL_SEED` the seed of their places.

#![allow(
    clippy::print_stdout,
    reason = "the test reports how often each crash point was hit"
)]

#[path = "../job/mod.rs"]
mod job;
mod points;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use job::{Job, Outcome, Process, Signal, Ticks};
use points::{POINTS, Way};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// Kills of one job.
const KILLS_PER_JOB: u32 = 20;

/// Files in which its input arrives.
const PIECES: usize = 10;

/// From so many kills on, every crash point must have been passed often.
const CYCLES_ENOUGH: u32 = 200;
const HITS_MIN: u64 = 20;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn a_job_killed_at_any_instant_ends_as_if_it_never_was() {
    let cycles = number("KILL_CYCLES", 40) as u32;
    let seed = number("KILL_SEED", 1);
    let directory = tempfile::tempdir().unwrap();
    let mut tally = Tally::default();
    let mut jobs = 0;
    while tally.kills < cycles {
        let guarantee = [
            "exactly_once",
            "at_least_once",
            "exactly_once",
            "at_most_once",
        ][jobs % 4];
        let dir = directory.path().join(jobs.to_string());
        let seed = seed.wrapping_mul(1_000_003) + jobs as u64;
        println!("job {jobs}: {guarantee}, seed {seed}, {}", dir.display());
        run_job(&dir, guarantee, seed, &mut tally);
        std::fs::remove_dir_all(&dir).unwrap();
        jobs += 1;
    }
    tally.print(jobs);
    if tally.kills >= CYCLES_ENOUGH {
        for (point, _) in POINTS.iter().filter(|(_, way)| *way == Way::Run) {
            let passed = tally.passed.get(*point).copied().unwrap_or(0);
            assert!(passed >= HITS_MIN, "{point} was passed {passed} times");
            assert!(tally.killed.contains_key(*point), "nothing died at {point}");
        }
    }
}

/// What has happened so far, in all jobs.
#[derive(Debug, Default)]
struct Tally {
    kills: u32,
    at_random: u32,
    stops: u32,
    // By crash point.
    killed: BTreeMap<String, u64>,
    passed: BTreeMap<String, u64>,
    next_point: usize,
}

impl Tally {
    fn print(&self, jobs: usize) {
        println!(
            "{} kills ({} at random times), {} polite stops, {jobs} jobs",
            self.kills, self.at_random, self.stops
        );
        println!("{:<24} {:>8} {:>8}", "crash point", "kills", "passed");
        for (point, way) in POINTS {
            let of = |hits: &BTreeMap<String, u64>| hits.get(*point).copied().unwrap_or(0);
            match way {
                Way::Run => println!(
                    "{point:<24} {:>8} {:>8}",
                    of(&self.killed),
                    of(&self.passed)
                ),
                Way::Elsewhere(place) => println!("{point:<24} {place}"),
            }
        }
    }
}

/// One job: its input arrives in pieces, and nearly everything that works on it is killed.
fn run_job(dir: &Path, guarantee: &str, seed: u64, tally: &mut Tally) {
    let mut chance = SmallRng::seed_from_u64(seed);
    let query = [
        "?fsync=commit&split=64KiB",
        "?fsync=5ms&split=128KiB",
        "?split=256KiB",
    ];
    let query = query.choose(&mut chance).unwrap();
    // With the latter, epochs are cut by count, and so into many.
    let options: &[&str] = [&[][..], &["--lockstep"]].choose(&mut chance).unwrap();
    std::fs::create_dir_all(dir).unwrap();
    let mut ticks = Ticks::new(seed);
    let counts = (0..PIECES).map(|piece| 1_000 + piece % 3 * 2_000);
    let pieces: Vec<PathBuf> = counts.map(|count| ticks.file(dir, count)).collect();
    let expected = undisturbed(&dir.join("reference"), &pieces);

    let job = Job::new(&dir.join("job"), guarantee, query, options);
    let mut kills = 0;
    for (index, piece) in pieces.iter().enumerate() {
        while kills < KILLS_PER_JOB && chance.random_bool(0.25) {
            let patience = Duration::from_micros(chance.random_range(2_000..60_000));
            let ended = Process::start(job.import(piece)).end(patience, Signal::KILL);
            assert!(ended.was_killed || ended.is_done, "{}", ended.told);
            kills += u32::from(ended.was_killed);
            tally.at_random += u32::from(ended.was_killed);
        }
        Process::start(job.import(piece)).done();
        let is_last = index + 1 == pieces.len();
        let share = KILLS_PER_JOB * (index as u32 + 1) / pieces.len() as u32;
        while kills < share {
            kills += u32::from(disturb(&job, is_last, &mut chance, tally));
        }
    }
    Process::start(job.run(true)).done();
    tally.kills += kills;
    for line in std::fs::read_to_string(job.hits()).unwrap().lines() {
        *tally.passed.entry(line.to_owned()).or_default() += 1;
    }

    let found = Outcome::read(&job).unwrap();
    let difference = match guarantee {
        "exactly_once" => found.difference(&expected),
        "at_least_once" => without_repeats(found).difference(&expected),
        _ => surplus(&found, &expected).or_else(|| found.state_difference(&expected)),
    };
    if let Some(difference) = difference {
        panic!("{guarantee}, seed {seed}: {difference}");
    }
}

/// Runs the pipeline and ends it one way or another; whether it was killed.
fn disturb(job: &Job, until_end: bool, chance: &mut SmallRng, tally: &mut Tally) -> bool {
    let mut command = job.run(until_end);
    let patience = Duration::from_millis(chance.random_range(10..300));
    if chance.random_bool(0.1) && !until_end {
        let ended = Process::start(command).end(patience, Signal::TERM);
        assert!(ended.is_done || ended.was_killed, "{}", ended.told);
        tally.stops += u32::from(ended.is_done);
        tally.at_random += u32::from(ended.was_killed);
        return ended.was_killed;
    }
    if chance.random_bool(0.3) {
        let killed = died(command, patience);
        tally.at_random += u32::from(killed);
        return killed;
    }
    let points = POINTS.iter().filter(|(_, way)| *way == Way::Run);
    let points: Vec<&str> = points.map(|(point, _)| *point).collect();
    let point = points[tally.next_point % points.len()];
    tally.next_point += 1;
    let nth = chance.random_range(1..=points::nth_max(point));
    command.env("TIDEMILL_CRASH_AT", format!("{point}:{nth}"));
    let passed_before = passed(job, point);
    let killed = died(command, Duration::from_millis(700));
    if killed {
        // Ours may have come first.
        let there = passed(job, point) - passed_before == nth;
        let of = tally.killed.entry(point.to_owned()).or_default();
        *of += u64::from(there);
        tally.at_random += u32::from(!there);
    }
    killed
}

/// Runs a process and kills it after `patience`; whether it died, by us or by itself.
fn died(command: Command, patience: Duration) -> bool {
    let ended = Process::start(command).end(patience, Signal::KILL);
    assert!(ended.was_killed || ended.is_done, "{}", ended.told);
    ended.was_killed
}

/// How often a crash point was passed, in all processes of the job.
fn passed(job: &Job, point: &str) -> u64 {
    let hits = std::fs::read_to_string(job.hits()).unwrap_or_default();
    hits.lines().filter(|line| *line == point).count() as u64
}

/// What comes out when nothing is killed.
fn undisturbed(dir: &Path, pieces: &[PathBuf]) -> Outcome {
    let job = Job::new(dir, "exactly_once", "", &[]);
    for piece in pieces {
        Process::start(job.import(piece)).done();
    }
    Process::start(job.run(true)).done();
    let outcome = Outcome::read(&job).unwrap();
    assert!(outcome.epochs() > 0 && outcome.input > 0);
    assert!(outcome.outputs.len() >= 8 && outcome.outputs.values().all(|all| all.len() > 10));
    outcome
}

/// What was written, without what was written before under the same id.
fn without_repeats(mut outcome: Outcome) -> Outcome {
    for written in outcome.outputs.values_mut() {
        let mut seen = BTreeSet::new();
        written.retain(|one| seen.insert(one.id.clone()));
    }
    outcome
}

/// What was written twice, out of order, or should not have been at all.
fn surplus(found: &Outcome, expected: &Outcome) -> Option<String> {
    for (at, found) in &found.outputs {
        // In order: what is expected, with gaps.
        let mut left = expected.outputs.get(at).into_iter().flatten();
        if let Some(one) = found.iter().find(|one| !left.any(|other| other == *one)) {
            return Some(format!("{at:?} has {one:?} too much, or out of order"));
        }
    }
    None
}
