//! Jobs that were recorded, what the power may leave of them, and what is right then.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tidemill_state::{Epoch, Error, StateStore as _};

use crate::image::{self, Image};
use crate::job::{Job, Outcome, Outputs, Process, Signal, Ticks, stores};
use crate::trace::{self, Call};
use crate::way::Way;

/// Ticks in each file.
pub(crate) const TICKS: usize = 700;
const FILES: usize = 4;

/// A job that was recorded.
pub(crate) struct Traced {
    pub(crate) way: Way,
    pub(crate) calls: Vec<Call>,
    /// The files of its input.
    pub(crate) pieces: Vec<PathBuf>,
    /// What comes out when nothing breaks.
    pub(crate) expected: Outcome,
    /// What the kills in it have cost.
    lost: Outputs,
    /// Where in the trace the store of the only task had been synced, and the epoch that it said then.
    pub(crate) stored: Vec<(usize, Option<Epoch>)>,
}

/// Runs a job to its end under the shim, and ends it now and then before.
pub(crate) fn record(dir: &Path, shim: &Path, way: &Way, seed: u64) -> Traced {
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
    let lost = way.lost(&found, &expected);
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
        lost,
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
    pub(crate) fn image(&self, chance: &mut SmallRng) -> (Image, usize) {
        let promises = places_of(&self.calls, self.way.promise.line());
        let crash = match promises.choose(chance) {
            Some(at) if chance.random_bool(0.5) => at + 1,
            _ => chance.random_range(0..=self.calls.len()),
        };
        let image = image::build(&self.calls[..crash], self.way.promise, chance);
        (image, crash)
    }

    /// The same job, elsewhere.
    pub(crate) fn job(&self, dir: &Path, query: &str) -> Job {
        self.way.job(dir, query, &[])
    }

    /// What is wrong with the stores that the loss of power has left.
    pub(crate) fn wrong_store(&self, job: &Job, image: &Image, crash: usize) -> Option<String> {
        for task in 0..self.way.partitions {
            let name = format!("0-{task}");
            if !self.was_written(&name, image) {
                continue;
            }
            let found = match opened(&job.stores().join(&name)) {
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

    /// Whether anything may have been written to the store of a task: its note was durable before. The
    /// power may go while the store is made: then there is nothing in it, and nothing to lose.
    pub(crate) fn was_written(&self, task: &str, image: &Image) -> bool {
        image.noted.contains(&format!("state/tasks/{task}"))
    }

    /// Outputs that `at_most_once` may be without after this image.
    pub(crate) fn may_be_lost(&self, dir: &Path, left: &Outcome, crash: usize) -> Outputs {
        // Kills before it, and what was being sent.
        let mut may = self.lost.clone();
        may.extend(left.last_epochs(|_| true));
        // A log of their own loses what it had not synced, however long the other has known of it.
        let durable = self.job(&dir.join("durable"), "");
        image::build_durable(&self.calls[..crash]).write(&durable.data());
        let durable = Outcome::read(&durable).unwrap_or_default();
        let gone = durable.lost(&self.expected).of("trades");
        may.extend(gone.among(&left.committed()));
        may
    }
}
