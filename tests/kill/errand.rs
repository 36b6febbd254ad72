//! What processes are sent to do, and so where they can be killed: an errand for each crash point.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::SmallRng;

use crate::interrupted::Interrupted;
use crate::job::{Job, Process, Signal, Ticks};
use crate::many::Many;
use crate::tally::KILLS_WANTED;

/// Something to be done with a job's log and state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errand {
    /// Runs the pipeline.
    Run,
    /// Runs it without its stores and with little memory: state is rebuilt from the log, and does not fit.
    Rebuild,
    /// Runs it over stores that are damaged.
    RunDamaged,
    /// Runs it over a log whose end is torn.
    RunTorn,
    /// Runs it over a log in which a crash has left segments that nobody lists.
    RunLittered,
    /// Runs it over a log that has lost its indexes.
    RunUnindexed,
    /// Writes savepoints.
    Save,
    /// Writes savepoints and goes back to the first of each task.
    Restore,
    /// Makes a topic, fills it, and deletes it.
    Topic,
    /// Fills a topic that keeps little.
    Expire,
    /// Makes another log.
    NewLog,
    /// Runs a pipeline in which one record closes many windows.
    Fire,
}

/// Why a store may have been set aside: an errand harmed it, or went back to a savepoint, and was killed
/// or not. `why` is what lies beside it.
pub(crate) fn is_reason_of_ours(why: &str) -> bool {
    let reasons = [
        "it is not an identity",
        "replaced by a savepoint",
        "a savepoint was being restored here and is not whole",
    ];
    reasons.iter().any(|reason| why.contains(reason))
}

/// Those that are also done undisturbed, again and again.
pub(crate) const CHORES: [Errand; 11] = [
    Errand::Topic,
    Errand::Save,
    Errand::Expire,
    Errand::NewLog,
    Errand::RunDamaged,
    Errand::Restore,
    Errand::RunTorn,
    Errand::RunLittered,
    Errand::RunUnindexed,
    Errand::Rebuild,
    Errand::Fire,
];

impl Errand {
    /// Which errand passes a crash point.
    pub(crate) fn to(point: &str, chance: &mut SmallRng) -> Self {
        let (part, instant) = point.split_once('.').unwrap_or((point, ""));
        match (part, instant) {
            ("savepoint", _) => Self::Save,
            ("restore", _) => Self::Restore,
            ("redo", _) => Self::Rebuild,
            ("store", "aside") => Self::RunDamaged,
            ("open", "cut") => Self::RunTorn,
            ("remove", "leftover") => Self::RunLittered,
            ("index", "rebuilt") => Self::RunUnindexed,
            ("topic" | "remove", _) => Self::Topic,
            ("task", "worked_off") => Self::Fire,
            ("expire", _) => Self::Expire,
            ("create", _) => Self::NewLog,
            // Only a command that ends by itself closes the log.
            ("close", _) => [Self::Topic, Self::Expire][chance.random_range(0..2)],
            ("append" | "log" | "sync" | "split" | "manifest" | "index" | "open", _) => {
                [Self::Run, Self::Run, Self::Topic, Self::Expire][chance.random_range(0..4)]
            }
            _ => Self::Run,
        }
    }
}

/// The hit of a point at which a process is killed: each passes some of them once. Mostly the first, and
/// always until enough have died there.
pub(crate) fn nth(point: &str, killed: u64, chance: &mut SmallRng) -> u64 {
    match killed < KILLS_WANTED - 1 || chance.random_bool(0.5) {
        true => 1,
        false => chance.random_range(1..=nth_max(point)),
    }
}

/// How long a process is given to come to a point. A log is compacted beside all else.
pub(crate) fn patience(point: &str) -> Duration {
    match point.starts_with("compact.") {
        true => Duration::from_secs(3),
        false => Duration::from_millis(700),
    }
}

fn nth_max(point: &str) -> u64 {
    let (part, _) = point.split_once('.').unwrap_or((point, ""));
    match part {
        "append" | "commit" | "sync" | "task" => 5,
        "compact" | "expire" | "index" | "log" | "manifest" | "recover" | "redo" | "remove"
        | "split" | "store" | "write_behind" => 2,
        _ => 1,
    }
}

/// How a process ends that does not end by itself.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// Asked to, after a while.
    Asked(Duration),
    /// Killed after a while.
    Killed(Duration),
    /// By itself at the crash point `NAME:NTH`; else killed after a while.
    At(String, Duration),
}

impl End {
    /// Runs a command to its end; whether it did not come to it.
    pub(crate) fn of(&self, mut command: Command, ends: bool) -> bool {
        let (patience, signal) = match self {
            // Long enough for anything.
            Self::Asked(_) if ends => (Duration::from_secs(60), Signal::KILL),
            Self::Asked(patience) => (*patience, Signal::TERM),
            Self::Killed(patience) => (*patience, Signal::KILL),
            Self::At(place, patience) => {
                command.env("TIDEMILL_CRASH_AT", place);
                (*patience, Signal::KILL)
            }
        };
        let ended = Process::start(command).end(patience, signal);
        // Done before, by a process that was killed right after; or too early.
        let nothing_to_do = ["exists already", "the pipeline has never run here"];
        let is_done = ended.is_done || nothing_to_do.iter().any(|said| ended.told.contains(said));
        assert!(ended.was_killed || is_done, "{}", ended.told);
        ended.was_killed
    }
}

/// Does the errands of one job.
#[derive(Debug)]
pub(crate) struct Errands<'a> {
    job: &'a Job,
    dir: PathBuf,
    ticks: Ticks,
    /// Counts what has a name of its own.
    number: u32,
    /// Records brought into the topic that keeps little.
    pub(crate) expiring: u64,
    /// The windows that many records have opened.
    pub(crate) many: Many,
    /// Of a job that may lose what it was sending.
    pub(crate) interrupted: Option<Interrupted>,
}

/// Records that a topic is filled with.
const FILL: usize = 600;

/// The topic that keeps little.
pub(crate) const SHORT: &str = "short";

impl<'a> Errands<'a> {
    pub(crate) fn new(job: &'a Job, dir: &Path, seed: u64) -> Self {
        Self {
            job,
            dir: dir.to_owned(),
            // Other files than those of the job: the same may not be imported twice.
            ticks: Ticks::new(!seed),
            number: 0,
            expiring: 0,
            many: Many::default(),
            interrupted: None,
        }
    }

    /// Does an errand; whether it was killed. One that was killed may have left something undone: it is
    /// done again, undisturbed.
    pub(crate) fn run(&mut self, errand: Errand, end: &End) -> bool {
        self.number += 1;
        let file = match errand {
            Errand::Topic | Errand::Expire => self.ticks.file(&self.dir, FILL),
            Errand::Fire => self.many.file(&self.dir),
            _ => PathBuf::new(),
        };
        self.prepare(errand);
        let was_killed = self.try_run(errand, &file, end);
        let only_runs = matches!(
            errand,
            Errand::Run
                | Errand::Rebuild
                | Errand::RunDamaged
                | Errand::RunTorn
                | Errand::RunLittered
                | Errand::RunUnindexed
        );
        if let Some(interrupted) = self.interrupted.as_mut().filter(|_| only_runs) {
            interrupted.look(self.job, was_killed);
        }
        if was_killed && !only_runs {
            let again = End::Asked(Duration::ZERO);
            assert!(!self.try_run(errand, &file, &again), "{errand:?}");
        }
        self.expiring += if errand == Errand::Expire {
            FILL as u64
        } else {
            0
        };
        was_killed
    }

    fn prepare(&self, errand: Errand) {
        let data = self.job.data();
        let tick_files = data.join("log/topics/0000000000000000/0");
        match errand {
            Errand::Rebuild => {
                // It may not be there yet.
                let _ = std::fs::remove_dir_all(data.join("state"));
            }
            Errand::RunDamaged => {
                for task in files(&self.job.stores()) {
                    if task.join("identity.json").exists() {
                        std::fs::write(task.join("identity.json"), "{").unwrap();
                    }
                }
            }
            Errand::RunTorn => {
                let logs = files(&data.join("log/log"));
                // Of the last file its end, or of the next its begin.
                let path = logs.last().cloned();
                let path = path.unwrap_or(data.join("log/log/00000000000000999999.log"));
                let mut bytes = std::fs::read(&path).unwrap_or_default();
                bytes.extend_from_slice(&[0x5a; 57]);
                std::fs::write(path, bytes).unwrap();
            }
            Errand::RunLittered if tick_files.exists() => {
                for name in [
                    "00000000000000999999.7.segment",
                    "00000000000000999999.7.index",
                ] {
                    std::fs::write(tick_files.join(name), "left").unwrap();
                }
            }
            Errand::RunUnindexed => {
                let partitions = files(&data.join("log/topics"));
                let partitions = partitions.iter().flat_map(|topic| files(topic));
                for file in partitions.flat_map(|partition| files(&partition)) {
                    if file
                        .extension()
                        .is_some_and(|extension| extension == "index")
                    {
                        std::fs::remove_file(file).unwrap();
                    }
                }
            }
            _ => {}
        }
    }

    fn try_run(&self, errand: Errand, file: &Path, end: &End) -> bool {
        let job = self.job;
        match errand {
            Errand::Rebuild => end.of(job.run_file(&self.in_little_memory(), false), false),
            Errand::Run
            | Errand::RunDamaged
            | Errand::RunTorn
            | Errand::RunLittered
            | Errand::RunUnindexed => end.of(job.run(false), false),
            Errand::Save => end.of(job.state("savepoint"), true),
            Errand::Restore => {
                if end.of(job.state("savepoint"), true) {
                    return true;
                }
                let tasks = files(&job.stores());
                let oldest = tasks.iter().filter_map(|task| {
                    let saved = files(&task.join("savepoints"));
                    saved
                        .into_iter()
                        .find(|path| path.extension().is_some_and(|end| end == "tms"))
                });
                let oldest: Vec<PathBuf> = oldest.collect();
                let mut command = job.state("restore");
                for path in &oldest {
                    command.arg("--from").arg(path);
                }
                command.arg("--yes");
                !oldest.is_empty() && end.of(command, true)
            }
            Errand::Topic => {
                let name = format!("scratch-{}", self.number);
                end.of(self.topics(&["create", &name, "--partitions", "2"]), true)
                    || end.of(job.import_into(&name, file), true)
                    || end.of(self.topics(&["delete", &name, "--yes"]), true)
            }
            Errand::Expire => {
                let create = ["create", SHORT, "--retention-bytes", "20KiB"];
                end.of(self.topics(&create), true) || end.of(job.import_into(SHORT, file), true)
            }
            Errand::NewLog => {
                let path = job.data().join(format!("other-{}", self.number));
                let url = format!("file://{}", path.display());
                let mut command = job.command();
                command.args(["topics", "create", "first", "--broker", &url]);
                if end.of(command, true) {
                    return true;
                }
                std::fs::remove_dir_all(path).unwrap();
                false
            }
            Errand::Fire => {
                end.of(Many::import(job, file), true) || end.of(Many::run(job, &self.dir), true)
            }
        }
    }

    /// The pipeline's file with as little memory as there can be.
    fn in_little_memory(&self) -> PathBuf {
        let whole = std::fs::read_to_string(self.job.file()).unwrap();
        let path = self.dir.join("small.toml");
        let small = whole.replace("threads = 2", "threads = 2\nmemory = \"1KiB\"");
        assert_ne!(small, whole);
        std::fs::write(&path, small).unwrap();
        path
    }

    fn topics(&self, args: &[&str]) -> Command {
        let mut command = self.job.command();
        command.arg("topics").args(args);
        command.args(["--broker", &self.job.url()]);
        command
    }
}

/// What is in a directory, sorted; nothing if there is none.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}
