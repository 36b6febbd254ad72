//! Power loss: the file calls of the real binary, log and state in one trace, become images of what a
//! disk may hold when the power goes. On each the job goes on, nothing that was acknowledged is gone,
//! each store can be opened and is as new as it must be, and the job ends as if the power had never
//! failed, with stores that hold what the log says.
//!
//! `POWER_IMAGES` is the number of images, `POWER_SEED` the seed of where the power goes.

#![allow(
    clippy::print_stdout,
    reason = "the test reports what it did, and why where it did not"
)]

mod image;
#[path = "../job/mod.rs"]
mod job;
#[path = "../skip/mod.rs"]
mod skip;
mod syncs;
mod trace;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use image::{Image, Promise};
use job::{Job, Outcome, Process, Signal, Ticks, stores};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tidemill_state::{Epoch, Error, StateStore as _, read_note};
use trace::Call;

/// Images of one trace, at most.
const IMAGES_PER_TRACE: usize = 50;

/// How a job is run while it is recorded.
#[derive(Debug, Clone, Copy)]
struct Way {
    guarantee: &'static str,
    promise: Promise,
    query: &'static str,
    options: &'static [&'static str],
    // With one task alone it is certain whose crash points were passed.
    partitions: u32,
    are_long: bool,
    // Of the log to which some of the outputs go, beside that of the state.
    second: Option<&'static str>,
}

const WAYS: [Way; 6] = [
    Way {
        guarantee: "exactly_once",
        promise: Promise::AtSync,
        query: "?fsync=100ms&split=32KiB",
        options: &[],
        partitions: 1,
        are_long: true,
        second: None,
    },
    Way {
        guarantee: "exactly_once",
        promise: Promise::AtCommit,
        query: "?fsync=commit&split=32KiB",
        options: &["--lockstep"],
        partitions: 2,
        are_long: false,
        second: None,
    },
    Way {
        guarantee: "at_least_once",
        promise: Promise::AtCommit,
        query: "?fsync=commit&split=64KiB",
        options: &[],
        partitions: 1,
        are_long: true,
        second: None,
    },
    Way {
        guarantee: "at_least_once",
        promise: Promise::AtSync,
        query: "?fsync=100ms&split=32KiB",
        options: &["--lockstep"],
        partitions: 2,
        are_long: false,
        second: None,
    },
    Way {
        guarantee: "at_least_once",
        promise: Promise::AtCommit,
        query: "?fsync=commit&split=64KiB",
        options: &[],
        partitions: 1,
        are_long: false,
        second: Some("?fsync=100ms&split=32KiB"),
    },
    Way {
        guarantee: "at_most_once",
        promise: Promise::Untold,
        query: "?fsync=100ms&split=64KiB",
        options: &[],
        partitions: 1,
        are_long: false,
        second: Some("?fsync=100ms&split=32KiB"),
    },
];

impl Way {
    fn job(&self, dir: &Path, query: &str, options: &[&str]) -> Job {
        let mut job = Job::new(dir, self.guarantee, query, options);
        job.partitions = self.partitions;
        match self.second {
            Some(query) => job.with_second_log(query),
            None => job,
        }
    }

    /// What a job has written that its guarantee does not allow.
    fn difference(&self, found: Outcome, expected: &Outcome) -> Option<String> {
        match self.guarantee {
            "at_least_once" => found.without_repeats().difference(expected),
            "at_most_once" => {
                let surplus = found.surplus(expected);
                surplus.or_else(|| found.state_difference(expected))
            }
            _ => found.difference(expected),
        }
    }
}

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
        return;
    };
    let (mut done, mut calls, mut stores) = (0, 0, 0);
    let each = images.div_ceil(WAYS.len()).min(IMAGES_PER_TRACE);
    for way in WAYS.iter().cycle() {
        if done >= images {
            break;
        }
        let seed = seed.wrapping_mul(1_000_003) + done as u64;
        let dir = directory.path().join(done.to_string());
        let traced = record(&dir, &shim, way, seed);
        calls += traced.calls.len();
        stores += traced.stored.len();
        let count = each.min(images - done);
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
    println!("{done} images of {calls} file calls, in which stores were synced {stores} times");
}

/// What the images are worth: without syncs, the same images lose what was acknowledged.
#[test]
fn a_log_that_is_not_synced_loses_what_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let Some(shim) = shim(directory.path()) else {
        return;
    };
    let way = Way {
        query: "?fsync=never",
        ..WAYS[1]
    };
    let traced = record(&directory.path().join("job"), &shim, &way, 1);
    let mut lost = 0;
    for seed in 0..40 {
        let (image, _) = traced.image(&mut SmallRng::seed_from_u64(seed));
        let job = traced.job(&directory.path().join(seed.to_string()), "");
        image.write(&job.data());
        let left = Outcome::read(&job).map_or(0, |left| left.epochs());
        lost += u32::from(left < image.epochs);
    }
    assert!(lost >= 2, "of 40 images {lost} lost something");
}

/// No chance: what a store stands on is synced before it is needed, whatever an image would show.
#[test]
fn all_that_a_store_stands_on_is_synced_before_it_is_needed() {
    const STORE: &str = "state/tasks/0-0";
    let directory = tempfile::tempdir().unwrap();
    let Some(shim) = shim(directory.path()) else {
        return;
    };
    let traced = record(&directory.path().join("job"), &shim, &WAYS[0], 2);
    assert_eq!(syncs::missing(&traced.calls, STORE), BTreeSet::new());
    for name in ["sled/conf", "sled/db", "sled", "0-0"] {
        let calls = image::without_syncs_of(&traced.calls, &format!("/{name}"));
        let missing = syncs::missing(&calls, STORE);
        assert!(!missing.is_empty(), "without syncs of {name}");
    }
}

/// And so do stores of which nothing was synced, or not how they are laid out.
#[test]
fn a_store_that_is_not_synced_is_too_old_or_cannot_be_opened() {
    let directory = tempfile::tempdir().unwrap();
    let Some(shim) = shim(directory.path()) else {
        return;
    };
    let mut traced = record(&directory.path().join("job"), &shim, &WAYS[0], 1);
    let calls = std::mem::take(&mut traced.calls);
    for name in ["db", "conf"] {
        traced.calls = image::without_syncs_of(&calls, &format!("/sled/{name}"));
        let mut wrong = 0;
        for seed in 0..40 {
            let (image, crash) = traced.image(&mut SmallRng::seed_from_u64(seed));
            let dir = directory.path().join(format!("{name}-{seed}"));
            let job = traced.job(&dir, "");
            image.write(&job.data());
            wrong += u32::from(traced.wrong_store(&job, &image, crash).is_some());
        }
        assert!(
            wrong >= 2,
            "without syncs of {name} {wrong} of 40 stores are wrong"
        );
    }
}

/// Builds the shim, where there is a compiler.
fn shim(dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power_loss/shim.c");
    let shim = dir.join("shim.so");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&shim);
    let Ok(built) = cc.arg(source).args(["-ldl", "-lpthread"]).status() else {
        skip::skip("loss of power", "cc");
        return None;
    };
    assert!(built.success(), "cc cannot build the shim");
    Some(shim)
}

/// A job that was recorded.
struct Traced {
    way: Way,
    calls: Vec<Call>,
    pieces: Vec<PathBuf>,
    expected: Outcome,
    /// Where in the trace the store of the only task had been synced, and the epoch that it said then.
    stored: Vec<(usize, Option<Epoch>)>,
}

/// Runs a job to its end under the shim, and ends it now and then before.
fn record(dir: &Path, shim: &Path, way: &Way, seed: u64) -> Traced {
    let mut chance = SmallRng::seed_from_u64(seed);
    std::fs::create_dir_all(dir).unwrap();
    let mut ticks = Ticks::new(seed);
    ticks.are_long = way.are_long;
    let pieces: Vec<PathBuf> = (0..FILES).map(|_| ticks.file(dir, TICKS)).collect();
    let job = way.job(&dir.join("traced"), way.query, way.options);
    let trace = dir.join("trace");
    let traced = |mut command: Command| {
        command
            .env("LD_PRELOAD", shim)
            .env("TRACE_ROOT", job.data())
            .env("TRACE_FILE", &trace);
        Process::start(command)
    };
    for (index, piece) in pieces.iter().enumerate() {
        traced(job.import(piece)).done();
        let mut file = std::fs::File::options().append(true).open(&trace).unwrap();
        file.write_all(trace::IMPORTED.as_bytes()).unwrap();
        // Killed while it works or once it has nothing left to do, or asked to end: then its stores are
        // brought up to the log.
        let patience = Duration::from_millis(chance.random_range(50..600));
        let signal = [Signal::KILL, Signal::TERM][index % 2];
        let ended = traced(job.run(false)).end(patience, signal);
        assert!(ended.was_killed || ended.is_done, "{}", ended.told);
    }
    traced(job.run(true)).done();
    let expected = job.undisturbed(&dir.join("reference"), &pieces);
    let found = Outcome::read(&job).unwrap();
    let calls = trace::read(&trace);
    assert!(calls.len() > 1_000 && found.epochs() > 10);
    assert_eq!(way.difference(found, &expected), None);
    let stored = match way.partitions {
        1 => stored(&calls, &dir.join("whole")),
        _ => Vec::new(),
    };
    Traced {
        way: *way,
        calls,
        pieces,
        expected,
        stored,
    }
}

/// How far the store of the only task was each time when all of it had been synced. Nothing wrote to it
/// between that and the crash point.
fn stored(calls: &[Call], dir: &Path) -> Vec<(usize, Option<Epoch>)> {
    let mut stored = Vec::new();
    for at in places_of(calls, b"write_behind.flushed\n") {
        let whole = dir.join(at.to_string());
        image::build_whole(&calls[..=at]).write(&whole);
        stored.push((at, opened(&whole.join("state/tasks/0-0")).unwrap()));
        std::fs::remove_dir_all(whole).unwrap();
    }
    let epochs: BTreeSet<Epoch> = stored.iter().filter_map(|(_, epoch)| *epoch).collect();
    assert!(
        epochs.len() > 1,
        "too little was written behind: {stored:?}"
    );
    stored
}

/// What a store says of how far it has followed its log.
fn opened(dir: &Path) -> Result<Option<Epoch>, Error> {
    stores::block_on(async {
        let store = stores::open(dir).await?;
        let stored = store.stored().await?;
        store.close().await?;
        Ok(stored.map(|stored| stored.epoch))
    })
}

/// Where this line was added to the crash points that were passed.
fn places_of(calls: &[Call], line: &[u8]) -> Vec<usize> {
    let is_line = |call: &Call| matches!(call, Call::Write { data, .. } if data == line);
    (0..calls.len()).filter(|&at| is_line(&calls[at])).collect()
}

impl Traced {
    /// The disk when the power went, and where in the trace: right after an acknowledgement, or
    /// anywhere.
    fn image(&self, chance: &mut SmallRng) -> (Image, usize) {
        let promises = places_of(&self.calls, self.way.promise.line());
        let crash = match promises.choose(chance) {
            Some(at) if chance.random_bool(0.5) => at + 1,
            _ => chance.random_range(0..=self.calls.len()),
        };
        let image = image::build(&self.calls[..crash], self.way.promise, chance);
        (image, crash)
    }

    /// The same job, elsewhere.
    fn job(&self, dir: &Path, query: &str) -> Job {
        self.way.job(dir, query, &[])
    }

    /// What is wrong with the stores that the loss of power has left.
    fn wrong_store(&self, job: &Job, image: &Image, crash: usize) -> Option<String> {
        for task in 0..self.way.partitions {
            let dir = job.stores().join(format!("0-{task}"));
            if !self.was_written(&dir, image) {
                continue;
            }
            let found = match opened(&dir) {
                Ok(found) => found,
                Err(error) => return Some(format!("the store of task {task}: {error:?}")),
            };
            let synced = self.stored.iter().rev().find(|(at, _)| *at < crash);
            let least = synced.and_then(|(_, epoch)| *epoch);
            if found < least {
                return Some(format!(
                    "the store of task {task} is at {found:?}, and had synced {least:?}"
                ));
            }
        }
        None
    }

    /// Whether anything may have been written to a store. The power may go while it is made: then there
    /// is nothing in it, and nothing to lose.
    fn was_written(&self, dir: &Path, image: &Image) -> bool {
        let is_noted =
            read_note(dir).is_ok_and(|note| note.is_some_and(|note| note.newest.is_some()));
        is_noted || (self.way.partitions == 1 && image.is_noted)
    }
}

/// Lets the power go somewhere in the trace, and finishes the job on what is left.
fn check_image(dir: &Path, traced: &Traced, seed: u64) {
    let mut chance = SmallRng::seed_from_u64(seed);
    let (image, crash) = traced.image(&mut chance);
    // The image need not be made durable: the power goes once.
    let job = traced.job(dir, "?fsync=never&split=32KiB");
    image.write(&job.data());
    let place = format!(
        "{:?}, image {seed:#x}, the power went at call {crash}",
        traced.way
    );
    // On a copy: opening it as its owner mends it.
    let copy = traced.job(&dir.join("copy"), "");
    image.write(&copy.data());
    if image.imports > 0 {
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
    if let Some(wrong) = traced.wrong_store(&copy, &image, crash) {
        panic!("{place}: {wrong}");
    }
    let was_written = |task: &str| traced.was_written(&copy.stores().join(task), &image);
    for piece in &traced.pieces[image.imports..] {
        finish(job.import(piece), &place);
    }
    finish(job.run(true), &place);
    let found = Outcome::read(&job).unwrap_or_else(|error| panic!("{place}: {error}"));
    // One that was being made when the power went cannot be opened, and held nothing.
    if let Some(wrong) = stores::wrong(&job, &found, |task, _| !was_written(task)) {
        panic!("{place}: {wrong}");
    }
    if let Some(difference) = traced.way.difference(found, &traced.expected) {
        panic!("{place}: {difference}");
    }
}

fn finish(command: Command, place: &str) {
    let ended = Process::start(command).end(Duration::from_secs(60), Signal::KILL);
    assert!(ended.is_done, "{place}: {}", ended.told);
}
