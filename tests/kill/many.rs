//! A pipeline in which one record closes more windows than are fired at once: what is left is worked off
//! in pieces, and a process may be killed between them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::job::Job;

/// Windows that one record closes: more than are fired at once.
const WINDOWS: u64 = 4_200;

/// Its input, and what comes out of it.
const INPUT: &str = "many";
pub(crate) const OUTPUT: &str = "fired";

const PIPELINE: &str = r#"
[pipeline]
format = 1
name = "many"
guarantee = "exactly_once"

[brokers.main]
url = "${JOB_BROKER}"

[events.Tick]
fields = { pair = "text", currentPrice = "decimal(2)", timestamp = "time" }
time = "timestamp"

[topics.many]
broker = "main"
event = "Tick"
key = "pair"
start = "earliest"

[topics.fired]
broker = "main"

[stages.second]
from = "many"
op = "tumbling_window"
size = "1s"
aggregate = { n = "count()" }

[sinks.fired]
from = "second"
topic = "fired"
"#;

/// The records that close them, so far.
#[derive(Debug, Default)]
pub(crate) struct Many {
    rounds: u64,
}

impl Many {
    /// How many windows have fired once all that was brought in was worked off.
    pub(crate) fn fired(&self) -> u64 {
        self.rounds * (WINDOWS + 1)
    }

    /// The next round of its input: a record for each window, and the one that closes them.
    pub(crate) fn file(&mut self, dir: &Path) -> PathBuf {
        let begin = 1_700_000_000_000 + self.rounds * 60_000;
        self.rounds += 1;
        let mut text = String::new();
        for window in 0..=WINDOWS {
            let time = begin + if window == WINDOWS { 30_000 } else { 0 };
            writeln!(
                text,
                r#"{{"eventType":"MarketDataUpdate","timestamp":{time},"pair":"P{window}","currentPrice":1.25}}"#
            )
            .unwrap();
        }
        let path = dir.join(format!("many-{}.jsonl", self.rounds));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Brings a round in.
    pub(crate) fn import(job: &Job, file: &Path) -> Command {
        let mut command = job.command();
        command.arg("import").arg(file).args(["--topic", INPUT]);
        command.args(["--format", "json", "--broker", &job.url()]);
        command
    }

    /// Works off all there is.
    pub(crate) fn run(job: &Job, dir: &Path) -> Command {
        let path = dir.join("many.toml");
        std::fs::write(&path, PIPELINE).unwrap();
        let mut command = job.command();
        command.arg("run").arg(path).arg("--until-end");
        command.arg("--state-dir").arg(job.data().join("many"));
        command
    }
}
