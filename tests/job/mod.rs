//! The job that the tests of crashes run with the real binary: ticks in; repeats dropped, bars of two
//! sizes, the ticks in order, and what is wrong with them as dead letters out.

mod lost;
mod outcome;
mod process;
mod scratch;
pub(crate) mod stores;
mod ticks;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) use lost::Outputs;
pub(crate) use outcome::Outcome;
pub(crate) use process::{Process, Signal};
pub(crate) use scratch::Scratch;
pub(crate) use ticks::Ticks;

/// Partitions of its input, and so its tasks, unless said otherwise.
const PARTITIONS: u32 = 2;

const PIPELINE: &str = r#"
[pipeline]
format = 1
name = "job"
guarantee = "GUARANTEE"
commit = { interval = "4ms", records = 100 }
threads = 2

[brokers.main]
url = "${JOB_BROKER}"

[events.Tick]
fields = { pair = "text", currentPrice = "decimal(2)", quantity = "decimal(4)", side = "text", note = "text", sequence = "int", timestamp = "time" }
time = "timestamp"

[topics.ticks]
broker = "main"
event = "Tick"
key = "pair"
start = "earliest"
out_of_order = "300ms"

[topics.bars-1s]
broker = "main"

[topics.bars-10s]
broker = "main"

[topics.trades]
broker = "main"

[stages.unique]
from = "ticks"
op = "dedupe"
id = ["sequence"]
window = "20s"

[stages.second]
from = "unique"
op = "tumbling_window"
size = "1s"
aggregate = "ohlcv(currentPrice, quantity)"

[stages.sides]
from = "unique"
op = "route"
field = "side"
cases = { buys = "BUY", sells = "SELL" }

[stages.ten]
from = "sides.buys"
op = "tumbling_window"
size = "10s"
lateness = "1s"
aggregate = { vwap = "vwap(currentPrice, quantity)", n = "count()", last = "last(currentPrice)" }

[stages.again]
from = ["sides.buys", "sides.sells"]
op = "merge"

[sinks.bars-1s]
from = "second"
topic = "bars-1s"

[sinks.bars-10s]
from = "ten"
topic = "bars-10s"

[sinks.trades]
from = "again"
topic = "trades"
"#;

/// A job in a directory: `data` holds what the program writes, log and state; the rest is the test's.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    dir: PathBuf,
    // The query of the broker's URL.
    query: String,
    // Further options of the run.
    options: Vec<String>,
    /// Partitions of its input, and so its tasks.
    pub(crate) partitions: u32,
    /// The query of the URL of a second broker, to which the trades go.
    second: Option<String>,
    /// Whether what it works on is two topics, merged.
    has_two_inputs: bool,
}

impl Job {
    /// A job that has not begun.
    pub(crate) fn new(dir: &Path, guarantee: &str, query: &str, options: &[&str]) -> Self {
        std::fs::create_dir_all(dir.join("data")).unwrap();
        let file = PIPELINE.replace("GUARANTEE", guarantee);
        std::fs::write(dir.join("job.toml"), file).unwrap();
        Self {
            dir: dir.to_owned(),
            query: query.to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            partitions: PARTITIONS,
            second: None,
            has_two_inputs: false,
        }
    }

    /// The same, of which the trades go to a log of their own.
    pub(crate) fn with_second_log(mut self, query: &str) -> Self {
        let file = std::fs::read_to_string(self.file()).unwrap();
        let one = "[topics.trades]\nbroker = \"main\"";
        let other =
            "[brokers.second]\nurl = \"${JOB_SECOND}\"\n\n[topics.trades]\nbroker = \"second\"";
        assert!(file.contains(one));
        std::fs::write(self.file(), file.replace(one, other)).unwrap();
        self.second = Some(query.to_owned());
        self
    }

    /// The same over two topics, `ticks` and `others`, merged. No tick may come too late: which does where
    /// inputs meet depends on when they met.
    pub(crate) fn with_two_inputs(mut self) -> Self {
        let file = std::fs::read_to_string(self.file()).unwrap();
        let begin = file.find("[topics.ticks]").unwrap();
        let end = begin + file[begin..].find("[topics.bars-1s]").unwrap();
        let others = file[begin..end].replace("ticks", "others");
        let merged = "[stages.both]\nfrom = [\"ticks\", \"others\"]\nop = \"merge\"\n\n";
        let unique = "[stages.unique]\nfrom = ";
        let one = format!("{unique}\"ticks\"");
        assert!(file.contains(&one));
        let other = format!("{others}{merged}{unique}\"both\"");
        std::fs::write(self.file(), file.replace(&one, &other)).unwrap();
        self.has_two_inputs = true;
        self
    }

    /// What comes out of these ticks when nothing breaks.
    pub(crate) fn undisturbed(&self, dir: &Path, pieces: &[PathBuf]) -> Outcome {
        let mut job = match &self.second {
            None => Self::new(dir, "exactly_once", "", &[]),
            Some(query) => Self::new(dir, "at_least_once", "", &[]).with_second_log(query),
        };
        job.partitions = self.partitions;
        if self.has_two_inputs {
            job = job.with_two_inputs();
        }
        for piece in pieces {
            Process::start(job.import(piece)).done();
        }
        Process::start(job.run(true)).done();
        let outcome = Outcome::read(&job).unwrap();
        assert!(outcome.epochs() > 0 && outcome.input > 0);
        let least = 4 * self.partitions as usize;
        assert!(outcome.outputs.len() >= least);
        assert!(outcome.outputs.values().all(|all| all.len() > 10));
        outcome
    }

    /// The directories of its logs.
    pub(crate) fn logs(&self) -> Vec<PathBuf> {
        let second = self.second.as_ref().map(|_| "second");
        let names = std::iter::once("log").chain(second);
        names.map(|name| self.data().join(name)).collect()
    }

    /// Where the program writes.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Where the crash points that were passed are noted.
    pub(crate) fn hits(&self) -> PathBuf {
        self.data().join("hits")
    }

    /// Its pipeline's file.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.join("job.toml")
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}{}", self.data().join("log").display(), self.query)
    }

    /// Brings a file of ticks into the input that it is named after.
    pub(crate) fn import(&self, ticks: &Path) -> Command {
        let name = ticks.file_name().unwrap().to_str().unwrap();
        let (topic, _) = name.rsplit_once('-').unwrap();
        self.import_into(topic, ticks)
    }

    /// Brings a file of ticks into any topic.
    pub(crate) fn import_into(&self, topic: &str, ticks: &Path) -> Command {
        let mut command = self.command();
        command.arg("import").arg(ticks).args(["--topic", topic]);
        command.args(["--partitions", &self.partitions.to_string()]);
        command.args(["--format", "json", "--broker", &self.url()]);
        command
    }

    /// Runs the pipeline; to the end of what there is, if so asked.
    pub(crate) fn run(&self, until_end: bool) -> Command {
        self.run_file(&self.file(), until_end)
    }

    /// Runs the same with another file.
    pub(crate) fn run_file(&self, file: &Path, until_end: bool) -> Command {
        let mut command = self.command();
        command.arg("run").arg(file);
        command.arg("--state-dir").arg(self.data().join("state"));
        command
            .args(until_end.then_some("--until-end"))
            .args(&self.options);
        command
    }

    /// Where the tasks keep their stores.
    pub(crate) fn stores(&self) -> PathBuf {
        self.data().join("state/tasks")
    }

    /// Asks about the state, or does something with it.
    pub(crate) fn state(&self, verb: &str) -> Command {
        let mut command = self.command();
        command.args(["state", verb]).arg(self.file());
        command.arg("--state-dir").arg(self.data().join("state"));
        command
    }

    /// The command `tidemill` without arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        if let Some(query) = &self.second {
            let second = self.data().join("second");
            command.env("JOB_SECOND", format!("file://{}{query}", second.display()));
        }
        command
            .env("JOB_BROKER", self.url())
            .env("TIDEMILL_CRASH_LOG", self.hits())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }
}
