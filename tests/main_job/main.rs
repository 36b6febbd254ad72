//! The main job as anybody runs it: `import`, `run`, `read`. Every bar, of every size, is held against
//! those that `tests/oracle/bars.py` computes from the same files with Python's `decimal`, and the log
//! directory itself against another reader of it.
//!
//! Real data is taken from `TIDEMILL_DATA`; without it, and without python3, the tests say that they
//! skip.

mod log;
#[path = "../skip/mod.rs"]
mod skip;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use futures::StreamExt as _;
use tidemill::cli::{self, Console, Exit, Terminals};

/// A command of the program in this process, on a log of its own.
struct Job {
    dir: tempfile::TempDir,
}

impl Job {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        format!("file://{}", self.path("data").display())
    }

    /// Runs a command that must end well, and returns what it printed.
    async fn tidemill(&self, args: &[&str]) -> Vec<u8> {
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let mut console = Console {
            input: &mut io::empty(),
            output: &mut output,
            errors: &mut errors,
            terminals: Terminals::default(),
        };
        let log = self.log();
        let env = move |name: &str| (name == "TIDEMILL_BROKER").then(|| log.clone());
        let words = ["tidemill"].iter().chain(args).map(OsString::from);
        let signals = futures::stream::pending().boxed();
        let exit = cli::run(words, &mut console, &env, signals).await;
        let errors = String::from_utf8_lossy(&errors);
        assert_eq!(exit, Exit::Ok, "tidemill {}: {errors}", args.join(" "));
        output
    }

    /// Imports files and makes bars of them, with as many threads as asked.
    async fn make_bars(&self, files: &[PathBuf], threads: &str) {
        let log = self.log();
        let mut import = vec!["import", "--broker", &log, "--json"];
        import.extend(files.iter().map(|file| file.to_str().unwrap()));
        self.tidemill(&import).await;
        let pipeline = repository("pipelines/bars.toml");
        let state = self.path("state");
        let run = [
            "run",
            pipeline.to_str().unwrap(),
            "--until-end",
            "--json",
            "--threads",
            threads,
            "--state-dir",
            state.to_str().unwrap(),
        ];
        self.tidemill(&run).await;
    }

    async fn bars(&self, size: &str) -> Vec<u8> {
        let topic = format!("bars-{size}");
        self.tidemill(&["read", &topic, "--broker", &self.log(), "--json"])
            .await
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn say(what: &str) {
    // Past the capture of the test harness: how much was compared must be seen.
    let _ = writeln!(io::stderr(), "main job: {what}");
}

fn python(script: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(repository("tests/oracle").join(script));
    command
}

/// The files of trades below a directory, sorted.
fn trades_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(trades_below(&path));
        } else if path.to_str().unwrap().ends_with("_trade.zip") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Makes bars of the files, and has every one compared.
async fn every_bar_is_that_of_the_oracle(what: &str, files: &[PathBuf], threads: &str) {
    let Ok(expected) = python("bars.py").args(files).output() else {
        return skip::skip(&format!("main job: {what}"), "python3");
    };
    assert!(expected.status.success(), "{expected:?}");
    let job = Job::new();
    let oracle = job.path("oracle.jsonl");
    std::fs::write(&oracle, expected.stdout).unwrap();
    job.make_bars(files, threads).await;
    for size in ["1s", "1m", "5m"] {
        let actual = job.path(&format!("bars-{size}.jsonl"));
        std::fs::write(&actual, job.bars(size).await).unwrap();
        let compared = python("compare.py")
            .args(["--window", size])
            .args(["--map", "start=windowStart"])
            .args(["--map", "count=trades"])
            .args([&oracle, &actual])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&compared.stdout);
        assert!(
            compared.status.success(),
            "{what}, {size}: {told}{compared:?}"
        );
        say(&format!("{what}, {size}: {}", told.trim()));
    }
}

/// A part of the directory named by `TIDEMILL_DATA`, which need not hold both.
fn real(part: &str, what: &str) -> Option<PathBuf> {
    let data = std::env::var_os("TIDEMILL_DATA").filter(|data| !data.is_empty());
    let found = data.map(|data| Path::new(&data).join(part));
    let found = found.filter(|directory| directory.is_dir());
    if found.is_none() {
        skip::skip(&format!("main job: {what}"), "data");
    }
    found
}

#[tokio::test]
async fn every_bar_of_the_bundled_market_is_that_of_the_oracle() {
    let files = trades_below(&repository("pipelines/data"));
    assert_eq!(files.len(), 3);
    every_bar_is_that_of_the_oracle("bundled market", &files, "1").await;
}

#[tokio::test]
async fn every_bar_of_a_week_of_us_equities_is_that_of_the_oracle() {
    let what = "US equities, week of 2013-10-07";
    if let Some(directory) = real("lean/equity/usa/tick", what) {
        let files = trades_below(&directory);
        assert!(!files.is_empty(), "no files in {}", directory.display());
        every_bar_is_that_of_the_oracle(what, &files, "2").await;
    }
}

#[tokio::test]
async fn every_bar_of_bitcoin_seconds_is_that_of_the_oracle() {
    let what = "BTC-USD, seconds";
    if let Some(directory) = real("lean/crypto/coinbase/second/btcusd", what) {
        let files = trades_below(&directory);
        assert!(!files.is_empty(), "no files in {}", directory.display());
        every_bar_is_that_of_the_oracle(what, &files, "1").await;
    }
}

#[tokio::test]
async fn running_the_whole_job_again_changes_nothing() {
    let files = trades_below(&repository("pipelines/data"));
    let job = Job::new();
    job.make_bars(&files, "1").await;
    let once = job.bars("1m").await;
    job.make_bars(&files, "1").await;
    assert!(once == job.bars("1m").await);
}
