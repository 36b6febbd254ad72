//! A directory with a log and a pipeline, and the command run in it.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;
use tidemill_broker::{
    Broker as _, BrokerExt as _, ConsumerOptions, Delivery, Headers, RecordSet, Start, Topic,
    TopicPartition, TopicSpec,
};
use tidemill_broker_file::{FileBroker, FileOptions};

/// Ticks are deduplicated, so that there is state, and become bars of one second.
pub(crate) const PIPELINE: &str = r#"
[pipeline]
format = 1
name = "p"
guarantee = "exactly_once"
commit = "10ms"

[brokers.main]
url = "file://data"

[topics.ticks]
broker = "main"
event = "MarketDataUpdate"
key = "pair"

[topics.bars]
broker = "main"

[stages.once]
from = "ticks"
op = "dedupe"
id = ["sequence"]
window = "1h"

[stages.bar]
from = "once"
op = "tumbling_window"
size = "1s"
event = "Bar"

[stages.bar.aggregate]
open = "first(currentPrice)"
close = "last(currentPrice)"
volume = "sum(quantity)"
trades = "count()"

[sinks.bars]
from = "bar"
topic = "bars"
"#;

/// How long another process may take for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ticks of a test: ten a second of two pairs.
pub(crate) const TICKS: u64 = 2_000;

/// A tick as JSON.
pub(crate) fn tick(number: u64) -> String {
    let (second, tenth) = (number / 10, number % 10);
    format!(
        r#"{{"eventType":"MarketDataUpdate","timestamp":"2024-03-11T{:02}:{:02}:{:02}.{tenth}Z","version":1,"pair":"{}","currentPrice":{}.25,"quantity":{},"sequence":{number}}}"#,
        second / 3600,
        second / 60 % 60,
        second % 60,
        pair(number),
        100 + number * 7 % 31,
        1 + number % 5,
    )
}

/// The pair of a tick, which is its record's key.
pub(crate) fn pair(number: u64) -> &'static str {
    if number.is_multiple_of(2) {
        "AAA"
    } else {
        "BBB"
    }
}

/// Makes the pipeline start anew.
pub(crate) const RESET: [&str; 7] = [
    "offsets",
    "reset",
    "p.toml",
    "--to",
    "earliest",
    "--drop-state",
    "--yes",
];

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    /// It ended with this code, and said all of this on standard error.
    #[track_caller]
    pub(crate) fn expect(self, code: i32, said: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for text in said {
            assert!(self.err.contains(text), "`{text}` is not in\n{}", self.err);
        }
        self
    }
}

/// A directory with a log `data`, a pipeline `p.toml`, and the state `.tidemill`.
#[derive(Debug)]
pub(crate) struct Home {
    dir: TempDir,
}

impl Home {
    /// A directory with the pipeline and no log.
    pub(crate) fn empty() -> Self {
        let home = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        home.write("p.toml", PIPELINE);
        home
    }

    /// With a log that holds all ticks, split into segments.
    pub(crate) fn new() -> Self {
        let home = Self::empty();
        home.add_ticks(0..TICKS);
        home
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// The pipeline with changes.
    pub(crate) fn change_pipeline(&self, changes: &[(&str, &str)]) {
        let text = fs::read_to_string(self.path("p.toml")).unwrap();
        let text = changes.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1)
        });
        self.write("p.toml", text);
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(args).current_dir(self.dir.path());
        for name in ["TIDEMILL_BROKER", "TIDEMILL_LOG"] {
            command.env_remove(name);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn tidemill<S: AsRef<OsStr>>(&self, args: &[S]) -> Ended {
        self.command(args).output().unwrap().into()
    }

    /// Runs the pipeline to the end of its inputs.
    pub(crate) fn run(&self) -> Ended {
        self.tidemill(&["run", "p.toml", "--until-end"])
    }

    /// Runs it and expects nothing but success.
    #[track_caller]
    pub(crate) fn run_well(&self) {
        self.run().expect(0, &[]);
    }

    /// The log, to write to from within the test.
    pub(crate) async fn log(&self) -> FileBroker {
        FileBroker::open(self.path("data"), FileOptions::default())
            .await
            .unwrap()
    }

    /// Appends ticks to topic `ticks`, which is made if need be.
    pub(crate) fn add_ticks(&self, numbers: std::ops::Range<u64>) {
        block_on(async {
            let log = self.log().await;
            append_ticks(&log, numbers).await;
            log.close().await.unwrap();
        });
    }

    /// Makes a topic of one partition.
    pub(crate) fn make_topic(&self, name: &str) {
        block_on(async {
            let log = self.log().await;
            let spec = TopicSpec::new(Topic::new(name).unwrap(), 1.try_into().unwrap());
            log.create_topic(&spec).await.unwrap();
            log.close().await.unwrap();
        });
    }

    /// Waits until another process has written this many records to partition 0 of a topic.
    pub(crate) fn wait_for_records(&self, topic: &str, count: u64) {
        block_on(async {
            let log = FileBroker::open_reader(self.path("data"), FileOptions::default())
                .await
                .unwrap();
            let at = TopicPartition::new(Topic::new(topic).unwrap(), 0);
            let options = ConsumerOptions::partitions(vec![(at, Start::Earliest)]);
            let mut consumer = log.consumer(options).await.unwrap();
            let mut found = 0;
            while found < count {
                let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await;
                if let Delivery::Records(batch) = delivery.expect("nothing more comes").unwrap() {
                    found += batch.len() as u64;
                }
            }
        });
    }

    /// Everything in a topic of the log, as its records.
    pub(crate) fn records(&self, topic: &str) -> Vec<Found> {
        block_on(async {
            let log = FileBroker::open_reader(self.path("data"), FileOptions::default())
                .await
                .unwrap();
            let topic = Topic::new(topic).unwrap();
            let partitions = log.describe_topic(&topic).await.unwrap().partitions;
            let mut found = Vec::new();
            for partition in 0..partitions {
                let at = TopicPartition::new(topic.clone(), partition);
                for batch in log.read_to_end(&at, Start::Earliest).await.unwrap() {
                    found.extend(batch.iter().map(|record| {
                        Found {
                            key: record.key.map(<[u8]>::to_vec),
                            value: record.value.unwrap_or_default().to_vec(),
                            timestamp: record.timestamp.0,
                            headers: record
                                .headers()
                                .map(|(name, value)| (name.to_owned(), value.to_vec()))
                                .collect(),
                        }
                    }));
                }
            }
            found
        })
    }

    /// The bars that were written, in order.
    pub(crate) fn bars(&self) -> Vec<String> {
        let bars = self.records("bars");
        bars.into_iter()
            .map(|bar| String::from_utf8(bar.value).unwrap())
            .collect()
    }

    /// The bars are exactly those of an undisturbed run over all ticks.
    #[track_caller]
    pub(crate) fn expect_all_bars(&self) {
        let (found, expected) = (self.bars(), all_bars());
        assert_eq!(found.len(), expected.len());
        assert!(found == *expected, "other bars than without disturbance");
    }

    /// The files of the topic that was made first, `ticks`, that end in `.EXTENSION`.
    pub(crate) fn file_of_ticks(&self, extension: &str) -> PathBuf {
        let dir = self.path("data/topics/0000000000000000/0");
        let mut paths: Vec<PathBuf> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|found| found == extension))
            .collect();
        paths.sort();
        paths.remove(0)
    }

    /// Where the only task keeps its store below a directory of state.
    pub(crate) fn store_in(&self, state: &str) -> PathBuf {
        self.path(state).join("tasks/0-0")
    }

    /// Where the only task keeps its store.
    pub(crate) fn store(&self) -> PathBuf {
        self.path(".tidemill/p/0/tasks/0-0")
    }
}

/// A record that was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Vec<u8>,
    pub(crate) timestamp: i64,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl Found {
    pub(crate) fn header(&self, name: &str) -> String {
        let header = self.headers.iter().find(|(found, _)| found == name);
        let (_, value) = header.unwrap_or_else(|| panic!("no header {name}: {:?}", self.headers));
        String::from_utf8(value.clone()).unwrap()
    }
}

/// What an undisturbed run over all ticks writes.
pub(crate) fn all_bars() -> &'static Vec<String> {
    static BARS: OnceLock<Vec<String>> = OnceLock::new();
    BARS.get_or_init(|| {
        let home = Home::new();
        home.run_well();
        let bars = home.bars();
        assert_eq!(bars.len() as u64, TICKS / 5, "a bar a second for each pair");
        bars
    })
}

pub(crate) async fn append_ticks(log: &FileBroker, numbers: std::ops::Range<u64>) {
    let topic = Topic::new("ticks").unwrap();
    if log.describe_topic(&topic).await.is_err() {
        let spec = TopicSpec::new(topic.clone(), 1.try_into().unwrap());
        log.create_topic(&spec).await.unwrap();
    }
    for number in numbers {
        append(
            log,
            pair(number).as_bytes(),
            tick(number).as_bytes(),
            &Headers::new(),
        )
        .await;
    }
    log.sync().await.unwrap();
}

/// Appends one record to partition 0 of `ticks`.
pub(crate) async fn append(log: &FileBroker, key: &[u8], value: &[u8], headers: &Headers) {
    let at = TopicPartition::new(Topic::new("ticks").unwrap(), 0);
    let mut set = RecordSet::new(at);
    set.push(
        Some(tidemill_broker::Timestamp(7)),
        Some(key),
        Some(value),
        headers,
    );
    for acks in log.produce(vec![set]).await.unwrap() {
        acks.into_result().unwrap();
    }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Copies a directory and everything in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Changes one byte.
pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x55;
    fs::write(path, bytes).unwrap();
}

/// Sends a signal to a process this test has started.
pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Feeds a command on a thread of its own; whoever reads may leave early.
pub(crate) fn feed(child: &mut Child, lines: impl Iterator<Item = Vec<u8>> + Send + 'static) {
    let mut input = child.stdin.take().unwrap();
    std::thread::spawn(move || {
        for line in lines {
            if input
                .write_all(&line)
                .and_then(|()| input.write_all(b"\n"))
                .is_err()
            {
                return;
            }
        }
    });
}
