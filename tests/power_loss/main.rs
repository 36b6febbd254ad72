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
mod sent;
#[path = "../skip/mod.rs"]
mod skip;
mod syncs;
mod trace;
mod traced;
mod way;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use job::{Outcome, Outputs, Process, Scratch, Signal, stores};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use traced::{TICKS, Traced, record};
use way::{WAYS, Way};

/// Images of one trace, at most.
const IMAGES_PER_TRACE: usize = 50;

/// Images that are looked at at the same time.
const THREADS: usize = 2;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_goes() {
    let images = number("POWER_IMAGES", 40) as usize;
    let seed = number("POWER_SEED", 1);
    let directory = Scratch::new(format!(
        "POWER_SEED={seed} POWER_IMAGES={images} cargo test --all-features --test power_loss acknowledged_is_lost"
    ));
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
    let directory = Scratch::new("cargo test --all-features --test power_loss");
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
    let directory = Scratch::new("cargo test --all-features --test power_loss");
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
    let directory = Scratch::new("cargo test --all-features --test power_loss");
    let Some(shim) = shim(directory.path()) else {
        return;
    };
    let mut traced = record(&directory.path().join("job"), &shim, &WAYS[0], 1);
    let calls = std::mem::take(&mut traced.calls);
    for name in ["db", "conf"] {
        traced.calls = image::without_syncs_of(&calls, &format!("/sled/{name}"));
        let mut wrong = 0;
        for seed in 0..400 {
            let (image, crash) = traced.image(&mut SmallRng::seed_from_u64(seed));
            let dir = directory.path().join(format!("{name}-{seed}"));
            let job = traced.job(&dir, "");
            image.write(&job.data());
            wrong += u32::from(traced.wrong_store(&job, &image, crash).is_some());
            std::fs::remove_dir_all(&dir).unwrap();
            if wrong == 2 {
                break;
            }
        }
        assert_eq!(wrong, 2, "without syncs of {name}");
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
    let left = Outcome::read(&copy);
    let may_be_lost = match &left {
        Ok(left) if traced.way.guarantee == "at_most_once" => traced.may_be_lost(dir, left, crash),
        // With nothing committed there is nothing that is not written anew.
        _ => Outputs::default(),
    };
    if image.imports > 0 {
        let left = left.unwrap_or_else(|error| panic!("{place}: {error}"));
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
    let was_written = |task: &str| traced.was_written(task, &image);
    for piece in &traced.pieces[image.imports..] {
        finish(job.import(piece), &place);
    }
    finish(job.run(true), &place);
    let found = Outcome::read(&job).unwrap_or_else(|error| panic!("{place}: {error}"));
    // One that was being made when the power went cannot be opened, and held nothing.
    if let Some(wrong) = stores::wrong(&job, &found, |task, _| !was_written(task)) {
        panic!("{place}: {wrong}");
    }
    let lost = traced.way.lost(&found, &traced.expected);
    if let Some(difference) = traced.way.difference(found, &traced.expected) {
        panic!("{place}: {difference}");
    }
    if let Some(beyond) = lost.beyond(&may_be_lost) {
        panic!("{place}: {beyond}");
    }
}

fn finish(command: Command, place: &str) {
    let ended = Process::start(command).end(Duration::from_secs(60), Signal::KILL);
    assert!(ended.is_done, "{place}: {}", ended.told);
}
