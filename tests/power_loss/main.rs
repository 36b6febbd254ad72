//! Power loss: the file calls of the real binary, log and state in one trace, become images of what a
//! disk may hold when the power goes. On each the job goes on, nothing that was acknowledged is gone,
//! and it ends as if the power had never failed.
//!
//! `POWER_IMAGES` is the number of images, `POWER_SEED` the seed of where the power goes.

#![allow(
    clippy::print_stdout,
    reason = "the test reports what it did, and why where it did not"
)]

mod image;
#[path = "../job/mod.rs"]
mod job;
mod trace;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use job::{Job, Outcome, Process, Signal, Ticks};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use trace::Call;

/// Images of one trace.
const IMAGES_PER_TRACE: usize = 50;

/// Images that are looked at at the same time.
const THREADS: usize = 2;

/// Ticks in each file.
const TICKS: usize = 700;
const FILES: usize = 4;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_goes() {
    let images = number("POWER_IMAGES", 40) as usize;
    let seed = number("POWER_SEED", 1);
    let directory = tempfile::tempdir().unwrap();
    let Some(shim) = shim(directory.path()) else {
        println!("skipped: there is no C compiler `cc` to build the shim that records file calls");
        return;
    };
    let mut done = 0;
    let mut calls = 0;
    while done < images {
        let seed = seed.wrapping_mul(1_000_003) + done as u64;
        let dir = directory.path().join(done.to_string());
        let traced = record(&dir, &shim, "?fsync=commit&split=32KiB", seed);
        calls += traced.calls.len();
        let count = IMAGES_PER_TRACE.min(images - done);
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= count {
                            return;
                        }
                        let dir = dir.join(format!("image-{index}"));
                        check_image(&dir, &traced, seed + ((index as u64) << 32));
                        std::fs::remove_dir_all(&dir).unwrap();
                    }
                });
            }
        });
        std::fs::remove_dir_all(&dir).unwrap();
        done += count;
    }
    println!("{done} images of {calls} file calls");
}

/// What the images are worth: without syncs, the same images lose what was acknowledged.
#[test]
fn a_log_that_is_not_synced_loses_what_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let Some(shim) = shim(directory.path()) else {
        return;
    };
    let traced = record(&directory.path().join("job"), &shim, "?fsync=never", 1);
    let mut lost = 0;
    for seed in 0..40 {
        let mut chance = SmallRng::seed_from_u64(seed);
        let crash = crash(&traced.calls, &mut chance);
        let image = image::build(&traced.calls[..crash], &mut chance);
        let job = Job::new(
            &directory.path().join(seed.to_string()),
            "exactly_once",
            "",
            &[],
        );
        image.write(&job.data());
        let left = Outcome::read(&job).map_or(0, |left| left.epochs());
        lost += u32::from(left < image.epochs);
    }
    assert!(lost >= 2, "of 40 images {lost} lost something");
}

/// Builds the shim, where there is a compiler.
fn shim(dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power_loss/shim.c");
    let shim = dir.join("shim.so");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&shim);
    let built = cc.arg(source).args(["-ldl", "-lpthread"]).status().ok()?;
    assert!(built.success(), "cc cannot build the shim");
    Some(shim)
}

/// A job that was recorded.
struct Traced {
    calls: Vec<Call>,
    pieces: Vec<PathBuf>,
    expected: Outcome,
}

/// Runs a job to its end under the shim, killing it now and then.
fn record(dir: &Path, shim: &Path, query: &str, seed: u64) -> Traced {
    let mut chance = SmallRng::seed_from_u64(seed);
    std::fs::create_dir_all(dir).unwrap();
    let mut ticks = Ticks::new(seed);
    let pieces: Vec<PathBuf> = (0..FILES).map(|_| ticks.file(dir, TICKS)).collect();
    let job = Job::new(&dir.join("traced"), "exactly_once", query, &["--lockstep"]);
    let trace = dir.join("trace");
    let traced = |mut command: Command| {
        command
            .env("LD_PRELOAD", shim)
            .env("TRACE_ROOT", job.data())
            .env("TRACE_FILE", &trace);
        Process::start(command)
    };
    for piece in &pieces {
        traced(job.import(piece)).done();
        let mut file = std::fs::File::options().append(true).open(&trace).unwrap();
        file.write_all(trace::IMPORTED.as_bytes()).unwrap();
        // Killed while it works, or once it has nothing left to do.
        let patience = Duration::from_millis(chance.random_range(50..600));
        let ended = traced(job.run(false)).end(patience, Signal::KILL);
        assert!(ended.was_killed, "{}", ended.told);
    }
    traced(job.run(true)).done();
    let expected = Outcome::read(&job).unwrap();
    let calls = trace::read(&trace);
    assert!(calls.len() > 1_000 && expected.epochs() > 10);
    Traced {
        calls,
        pieces,
        expected,
    }
}

/// Where the power goes: right after an acknowledgement, or anywhere.
fn crash(calls: &[Call], chance: &mut SmallRng) -> usize {
    let is_promise =
        |call: &Call| matches!(call, Call::Write { data, .. } if data == b"task.committed\n");
    let promises: Vec<usize> = (0..calls.len())
        .filter(|&at| is_promise(&calls[at]))
        .collect();
    match promises.choose(chance) {
        Some(at) if chance.random_bool(0.5) => at + 1,
        _ => chance.random_range(0..=calls.len()),
    }
}

/// Lets the power go somewhere in the trace, and finishes the job on what is left.
fn check_image(dir: &Path, traced: &Traced, seed: u64) {
    let mut chance = SmallRng::seed_from_u64(seed);
    let crash = crash(&traced.calls, &mut chance);
    let image = image::build(&traced.calls[..crash], &mut chance);
    // The image need not be made durable: the power goes once.
    let job = Job::new(dir, "exactly_once", "?fsync=never&split=32KiB", &[]);
    image.write(&job.data());
    let place = format!("image {seed:#x}, the power went at call {crash}");
    if image.imports > 0 {
        // On a copy: reading it as its owner mends it.
        let copy = Job::new(&dir.join("copy"), "exactly_once", "", &[]);
        image.write(&copy.data());
        let left = Outcome::read(&copy).unwrap_or_else(|error| panic!("{place}: {error}"));
        let (epochs, records) = (left.epochs(), left.input);
        assert!(
            epochs >= image.epochs,
            "{place}: {epochs} of {} epochs are left",
            image.epochs
        );
        let imported = (image.imports * TICKS) as u64;
        assert!(
            records >= imported,
            "{place}: {records} of {imported} ticks are left"
        );
    }
    for piece in &traced.pieces[image.imports..] {
        finish(job.import(piece), &place);
    }
    finish(job.run(true), &place);
    let found = Outcome::read(&job).unwrap_or_else(|error| panic!("{place}: {error}"));
    if let Some(difference) = found.difference(&traced.expected) {
        panic!("{place}: {difference}");
    }
}

fn finish(command: Command, place: &str) {
    let ended = Process::start(command).end(Duration::from_secs(60), Signal::KILL);
    assert!(ended.is_done, "{place}: {}", ended.told);
}
