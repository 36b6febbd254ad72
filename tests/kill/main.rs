//! The real binary, killed at every named crash point and at random times, until its job is done: then
//! everything is as if it had never been killed.
//!
//! `KILL_CYCLES` is how many kills there are in all, `KILL_SEED` the seed of their places.

#![allow(
    clippy::print_stdout,
    reason = "the test reports how often each crash point was hit"
)]

mod aftermath;
mod errand;
mod interrupted;
#[path = "../job/mod.rs"]
mod job;
mod many;
mod points;
mod signals;
mod tally;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use errand::{CHORES, End, Errand, Errands};
use interrupted::Interrupted;
use job::{Job, Outcome, Process, Scratch, Ticks};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tally::{KILLS_MIN, KILLS_WANTED, Tally};

/// Kills of one job.
const KILLS_PER_JOB: u32 = 20;

/// Files in which its input arrives: enough that a run that is killed mostly has something to do.
const PIECES: usize = 20;

/// Jobs at the same time: most of it is waiting.
const THREADS: usize = 2;

/// From so many kills on, every crash point must have been passed often.
const CYCLES_ENOUGH: u32 = 200;

/// What a job reads and writes.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// One topic, and one log.
    Plain,
    /// Two topics, merged.
    TwoInputs,
    /// Some of its outputs go to a log of their own.
    SecondLog,
}

/// The jobs, one after the other.
const JOBS: [(&str, Form); 8] = [
    ("exactly_once", Form::TwoInputs),
    ("at_least_once", Form::SecondLog),
    ("exactly_once", Form::Plain),
    ("at_most_once", Form::Plain),
    ("exactly_once", Form::TwoInputs),
    ("at_least_once", Form::TwoInputs),
    ("exactly_once", Form::Plain),
    ("at_most_once", Form::SecondLog),
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn a_job_killed_at_any_instant_ends_as_if_it_never_was() {
    let cycles = number("KILL_CYCLES", 40) as u32;
    let seed = number("KILL_SEED", 1);
    let directory = Scratch::new(format!(
        "KILL_SEED={seed} KILL_CYCLES={cycles} cargo test --all-features --test kill a_job_killed"
    ));
    let tally = Mutex::new(Tally::new());
    // Twice as many where chance has left out a crash point.
    let jobs = cycles.div_ceil(KILLS_PER_JOB);
    let is_enough = |job: u32| {
        let may_go_on = cycles >= CYCLES_ENOUGH && job < 2 * jobs;
        job >= jobs && (!may_go_on || tally.lock().unwrap().missed(KILLS_WANTED).is_empty())
    };
    let next = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    if is_enough(job) {
                        return;
                    }
                    let (guarantee, form) = JOBS[job as usize % JOBS.len()];
                    let dir = directory.path().join(job.to_string());
                    let seed = seed.wrapping_mul(1_000_003) + u64::from(job);
                    println!(
                        "job {job}: {guarantee}, {form:?}, seed {seed}, {}",
                        dir.display()
                    );
                    run_job(&dir, (guarantee, form), seed, &tally);
                    std::fs::remove_dir_all(&dir).unwrap();
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap();
    tally.print();
    if cycles >= CYCLES_ENOUGH {
        let missed = tally.missed(KILLS_MIN);
        assert!(
            missed.is_empty(),
            "passed too rarely, or too few died there (`errand.rs` says what passes a point): {missed:?}"
        );
    }
}

/// One job: its input arrives in pieces, and nearly everything that works on it is killed.
fn run_job(dir: &Path, (guarantee, form): (&str, Form), seed: u64, tally: &Mutex<Tally>) {
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
    let mut inputs = vec![Ticks::new(seed)];
    let mut job = Job::new(&dir.join("job"), guarantee, query, options);
    match form {
        Form::Plain => {}
        Form::SecondLog => job = job.with_second_log("?fsync=5ms&split=64KiB"),
        Form::TwoInputs => {
            inputs.push(Ticks::new(seed ^ 1));
            inputs[1].topic = "others";
            inputs.iter_mut().for_each(|ticks| ticks.are_late = false);
            job = job.with_two_inputs();
        }
    }
    let counts = (0..PIECES).map(|piece| 500 + piece % 3 * 1_000);
    let pieces: Vec<Vec<PathBuf>> = counts
        .map(|count| {
            let each = inputs.iter_mut();
            let count = count / each.len();
            each.map(|ticks| ticks.file(dir, count)).collect()
        })
        .collect();
    let mut expected = job.undisturbed(&dir.join("reference"), &pieces.concat());
    let errands_dir = dir.join("errands");
    std::fs::create_dir_all(&errands_dir).unwrap();
    let mut errands = Errands::new(&job, &errands_dir, seed);
    if guarantee == "at_most_once" {
        errands.interrupted = Some(Interrupted::new(&errands_dir));
    }
    let mut kills = 0;
    for (index, piece) in pieces.iter().enumerate() {
        while kills < KILLS_PER_JOB && chance.random_bool(0.1) {
            let patience = Duration::from_micros(chance.random_range(2_000..60_000));
            let one = piece.choose(&mut chance).unwrap();
            let was_killed = End::Killed(patience).of(job.import(one), true);
            kills += u32::from(was_killed);
            tally.lock().unwrap().at_random += u32::from(was_killed);
        }
        for one in piece {
            Process::start(job.import(one)).done();
        }
        let share = KILLS_PER_JOB * (index as u32 + 1) / pieces.len() as u32;
        while kills < share {
            kills += u32::from(disturb(&job, &mut errands, &mut chance, tally));
        }
        let chore = CHORES[(index + seed as usize) % CHORES.len()];
        let while_it_runs = Duration::from_millis(chance.random_range(20..100));
        errands.run(chore, &End::Asked(while_it_runs));
    }
    Process::start(job.run(true)).done();
    tally.lock().unwrap().end(&job, kills);

    let mut found = Outcome::read(&job).unwrap();
    let left = aftermath::wrong(&job, &found, &errands);
    if let Form::TwoInputs = form {
        sort_dead_letters(&mut found);
        sort_dead_letters(&mut expected);
    }
    let difference = match guarantee {
        "exactly_once" => found.difference(&expected),
        "at_least_once" => found.without_repeats().difference(&expected),
        _ => found
            .surplus(&expected)
            .or_else(|| too_few(&found, &expected, &errands))
            .or_else(|| found.state_difference(&expected)),
    };
    let difference = difference.or(left);
    if let Some(difference) = difference {
        panic!("{guarantee}, {form:?}, seed {seed}: {difference}");
    }
}

/// Does something with the job and ends it one way or another; whether it was killed.
fn disturb(
    job: &Job,
    errands: &mut Errands<'_>,
    chance: &mut SmallRng,
    tally: &Mutex<Tally>,
) -> bool {
    let patience = Duration::from_millis(chance.random_range(10..300));
    if chance.random_bool(0.1) {
        let was_killed = errands.run(Errand::Run, &End::Asked(patience));
        let mut tally = tally.lock().unwrap();
        tally.stops += u32::from(!was_killed);
        tally.at_random += u32::from(was_killed);
        return was_killed;
    }
    if chance.random_bool(0.1) {
        let errand = match chance.random_bool(0.6) {
            true => Errand::Run,
            false => *CHORES.choose(chance).unwrap(),
        };
        let was_killed = errands.run(errand, &End::Killed(patience));
        tally.lock().unwrap().at_random += u32::from(was_killed);
        return was_killed;
    }
    let (point, killed) = tally.lock().unwrap().next_point();
    let nth = errand::nth(&point, killed, chance);
    let errand = Errand::to(&point, chance);
    let before = tally::passed(job, &point);
    let at = End::At(format!("{point}:{nth}"), errand::patience(&point));
    let was_killed = errands.run(errand, &at);
    if was_killed {
        // Ours may have come first; and what was killed was done again.
        let there = tally::passed(job, &point) - before >= nth;
        tally.lock().unwrap().note_kill(&point, there);
    }
    was_killed
}

/// With several inputs they come in the order in which records came.
fn sort_dead_letters(outcome: &mut Outcome) {
    for ((topic, _), written) in &mut outcome.outputs {
        if topic == "job.dead-letter" {
            written.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        }
    }
}

/// What is missing with `at_most_once` that no process was sending when it was killed.
fn too_few(found: &Outcome, expected: &Outcome, errands: &Errands<'_>) -> Option<String> {
    let may = errands.interrupted.as_ref().map(|one| &one.outputs);
    let (may, lost) = (may?, found.lost(expected));
    println!(
        "{} outputs are missing of {} that were being sent when processes were killed",
        lost.count(),
        may.count()
    );
    lost.beyond(may)
}
