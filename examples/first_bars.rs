//! The main job, from nothing: a recorded market becomes bars on a log in a directory.
//!
//! ```text
//! cargo run --release --example first_bars [DIRECTORY]
//! ```
//!
//! Prints each command before it runs it, so that it can be typed by hand afterwards. The log lies in
//! `DIRECTORY/data` and what the pipeline remembers in `DIRECTORY/.tidemill`; DIRECTORY is `.` unless
//! given. A run that was broken off goes on where it stopped; one that finished finds nothing to do.
//!
//! With `TIDEMILL_DATA` naming a directory that holds `lean/equity/usa/tick` and
//! `lean/crypto/coinbase/second/btcusd`, in the layout of QuantConnect LEAN, the trades in there are
//! taken instead of the bundled market, and DIRECTORY is `real` unless given.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, TableComponent, presets};
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use tidemill::cli::{self, Console, Exit, Terminals};
use tidemill::config::shell_word;

/// Bars shown of each pair and size.
const BARS_SHOWN: usize = 2;

/// What is read of the real data: trades of two US equities, and one-second bars of BTC-USD.
const REAL: [&str; 2] = ["lean/equity/usa/tick", "lean/crypto/coinbase/second/btcusd"];

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let data = std::env::var_os("TIDEMILL_DATA").filter(|data| !data.is_empty());
    let directory = std::env::args_os().nth(1);
    if let Some(option) = directory.as_ref().and_then(|text| text.to_str())
        && option.starts_with('-')
    {
        let usage = "usage: cargo run --release --example first_bars [DIRECTORY]\n\nimports a market into a log in DIRECTORY (`.` unless given), makes bars of it and prints them";
        return match option {
            "-h" | "--help" => {
                writeln!(io::stdout(), "{usage}")?;
                Ok(ExitCode::SUCCESS)
            }
            _ => {
                writeln!(io::stderr(), "there is no option `{option}`\n{usage}")?;
                Ok(ExitCode::from(2))
            }
        };
    }
    let job = Job::new(directory.map(PathBuf::from), data.map(PathBuf::from));
    let terminals = Terminals {
        input: false,
        output: io::stdout().is_terminal(),
        errors: io::stderr().is_terminal(),
    };
    let ended = job
        .run(&mut io::stdout(), &mut io::stderr(), terminals)
        .await;
    match ended {
        // Whoever read it has seen enough.
        Err(error) if is_broken_pipe(&*error) => Ok(ExitCode::SUCCESS),
        // A command that failed has said why.
        Err(error) => error.downcast::<Failed>().map(|failed| failed.0.into()),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

/// A command did not do what it was to do, and ended so.
#[derive(Debug)]
struct Failed(Exit);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the command ended with code {}", self.0 as u8)
    }
}

impl Error for Failed {}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Where everything is.
struct Job {
    root: PathBuf,
    pipeline: PathBuf,
    market: Vec<PathBuf>,
}

impl Job {
    fn new(root: Option<PathBuf>, data: Option<PathBuf>) -> Self {
        let default = if data.is_some() { "real" } else { "." };
        Self {
            root: root.unwrap_or_else(|| default.into()),
            pipeline: shipped("pipelines/bars.toml"),
            market: match data {
                Some(data) => REAL.map(|part| data.join(part)).to_vec(),
                None => vec![shipped("pipelines/data")],
            },
        }
    }

    async fn run(
        &self,
        output: &mut dyn Write,
        errors: &mut dyn Write,
        terminals: Terminals,
    ) -> Result<(), Box<dyn Error>> {
        let log = format!("file://{}", beneath(&self.root, "data").display());
        // Where it lies without being told, if that is here.
        let state = self.root.join(".tidemill/bars/0").display().to_string();
        let pipeline = self.pipeline.display().to_string();
        let mut shell = Shell {
            log: &log,
            errors,
            terminals,
        };

        let mut import = vec!["import", "--broker", &log, "--only", "trade"];
        let market: Vec<String> = self
            .market
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        import.extend(market.iter().map(String::as_str));
        shell.tidemill(&import, output).await?;

        let mut run = vec!["run", &pipeline, "--until-end", "--json"];
        if self.root != Path::new(".") {
            run.extend(["--state-dir", &state]);
        }
        let mut report = Vec::new();
        writeln!(output)?;
        shell.announce(&run, output)?;
        shell.quietly(&run, &mut report).await?;
        tell(&serde_json::from_slice(&report)?, output)?;

        for size in ["1s", "1m", "5m"] {
            let mut bars = LastBars::default();
            let read = ["read", &format!("bars-{size}"), "--broker", &log, "--json"];
            writeln!(output)?;
            shell.announce(&read, output)?;
            shell.quietly(&read, &mut bars).await?;
            writeln!(output, "the last of {} bars:", bars.count)?;
            writeln!(output, "{}", bars.table())?;
        }
        next(&log, &pipeline, output)?;
        Ok(())
    }
}

/// A file of this repository: as it is called from here, if it is.
fn shipped(path: &str) -> PathBuf {
    if Path::new(path).exists() {
        path.into()
    } else {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
    }
}

fn beneath(root: &Path, name: &str) -> PathBuf {
    if root == Path::new(".") {
        name.into()
    } else {
        root.join(name)
    }
}

/// What comes before a command that finds its broker in the pipeline's file, if it is not the one that
/// stands there.
fn by_broker(log: &str) -> String {
    match log {
        "file://data" => String::new(),
        _ => format!("TIDEMILL_BROKER={} ", shell_word(log)),
    }
}

/// Runs commands as a shell would, in this process.
struct Shell<'a> {
    log: &'a str,
    errors: &'a mut dyn Write,
    terminals: Terminals,
}

impl Shell<'_> {
    /// Prints a command, and runs it.
    async fn tidemill(
        &mut self,
        args: &[&str],
        output: &mut dyn Write,
    ) -> Result<(), Box<dyn Error>> {
        self.announce(args, output)?;
        self.quietly(args, output).await
    }

    fn announce(&self, args: &[&str], output: &mut dyn Write) -> io::Result<()> {
        let by_file = args.contains(&"run");
        let broker = match by_file {
            true => by_broker(self.log),
            false => String::new(),
        };
        let args: Vec<String> = args.iter().map(|arg| shell_word(arg)).collect();
        writeln!(output, "$ {broker}tidemill {}", args.join(" "))
    }

    async fn quietly(
        &mut self,
        args: &[&str],
        output: &mut dyn Write,
    ) -> Result<(), Box<dyn Error>> {
        let mut console = Console {
            input: &mut io::empty(),
            output,
            errors: &mut *self.errors,
            terminals: self.terminals,
        };
        let log = self.log;
        let env = move |name: &str| match name {
            "TIDEMILL_BROKER" => Some(log.to_owned()),
            name => std::env::var(name).ok(),
        };
        let args = ["tidemill"].iter().chain(args).map(OsString::from);
        let interrupts = futures::stream::unfold((), |()| async {
            tokio::signal::ctrl_c().await.ok().map(|()| ((), ()))
        });
        match cli::run(args, &mut console, &env, interrupts.boxed()).await {
            Exit::Ok => Ok(()),
            exit => Err(Failed(exit).into()),
        }
    }
}

/// What `run --json` says, in words.
fn tell(report: &serde_json::Value, output: &mut dyn Write) -> io::Result<()> {
    let count = |name: &str| report[name].as_u64().unwrap_or_default();
    let seconds = report["seconds"].as_f64().unwrap_or_default();
    match count("committed") {
        0 => writeln!(
            output,
            "nothing to do: everything imported had become bars before"
        ),
        read => writeln!(
            output,
            "{read} trades read, {} bars written, {} records set aside, in {} transaction{} and {seconds:.2} s",
            count("written"),
            count("deadLetters"),
            count("transactions"),
            if count("transactions") == 1 { "" } else { "s" },
        ),
    }
}

/// A record as `read --json` prints it, as far as it is needed.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    value: Bar<'a>,
}

/// Numbers stay the text they are.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bar<'a> {
    pair: &'a str,
    window_start: &'a str,
    #[serde(borrow)]
    open: &'a RawValue,
    #[serde(borrow)]
    high: &'a RawValue,
    #[serde(borrow)]
    low: &'a RawValue,
    #[serde(borrow)]
    close: &'a RawValue,
    #[serde(borrow)]
    volume: &'a RawValue,
    #[serde(borrow)]
    vwap: Option<&'a RawValue>,
    #[serde(borrow)]
    trades: &'a RawValue,
}

impl Bar<'_> {
    fn row(&self) -> Vec<String> {
        let start = self.window_start.get(..19).unwrap_or(self.window_start);
        let mut row = vec![self.pair.to_owned(), start.replace('T', " ")];
        let numbers = [
            Some(self.open),
            Some(self.high),
            Some(self.low),
            Some(self.close),
            Some(self.volume),
            self.vwap,
            Some(self.trades),
        ];
        row.extend(numbers.map(|number| number.map_or("-", RawValue::get).to_owned()));
        row
    }
}

/// Takes lines of JSON as they are printed and keeps the last bars of each pair.
#[derive(Default)]
struct LastBars {
    line: Vec<u8>,
    count: u64,
    // The oldest first.
    rows: BTreeMap<String, Vec<Vec<String>>>,
}

impl LastBars {
    fn take(&mut self) -> io::Result<()> {
        let record: Record<'_> = serde_json::from_slice(&self.line)?;
        let rows = self.rows.entry(record.value.pair.to_owned()).or_default();
        if rows.len() == BARS_SHOWN {
            rows.remove(0);
        }
        rows.push(record.value.row());
        self.count += 1;
        self.line.clear();
        Ok(())
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_style(TableComponent::HeaderLines, '─');
        table.set_style(TableComponent::MiddleHeaderIntersections, '─');
        table.set_header([
            "pair",
            "from (UTC)",
            "open",
            "high",
            "low",
            "close",
            "volume",
            "vwap",
            "trades",
        ]);
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut rows: Vec<Vec<String>> = self.rows.values().flatten().cloned().collect();
        for column in 2..rows.first().map_or(0, Vec::len) {
            align(rows.iter_mut().map(|row| &mut row[column]));
        }
        for row in rows {
            table.add_row(row);
        }
        table
    }
}

/// Makes the decimal points of a column stand below each other.
fn align<'a>(column: impl Iterator<Item = &'a mut String>) {
    let mut numbers: Vec<&mut String> = column.collect();
    let after_point = |number: &str| number.find('.').map_or(0, |point| number.len() - point);
    let most = numbers.iter().map(|number| after_point(number)).max();
    for number in &mut numbers {
        let missing = most.unwrap_or(0) - after_point(number);
        number.extend(std::iter::repeat_n(' ', missing));
    }
}

impl Write for LastBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.take()?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn next(log: &str, pipeline: &str, output: &mut dyn Write) -> io::Result<()> {
    let mut more = Table::new();
    more.load_preset(presets::NOTHING);
    let (broker, pipeline, log) = (by_broker(log), shell_word(pipeline), shell_word(log));
    more.add_row([
        format!("{broker}tidemill explain {pipeline}"),
        "what it does, what it guarantees, and why".into(),
    ]);
    more.add_row([
        format!("tidemill read bars-1m --broker {log} --limit 5"),
        "what came out".into(),
    ]);
    more.add_row([
        format!("tidemill topics list --broker {log}"),
        "what else is there: state, dead letters, the log of imports".into(),
    ]);
    more.add_row([
        format!("{broker}tidemill check {pipeline}"),
        "change the file first: all mistakes are told at once".into(),
    ]);
    writeln!(output, "\nwhat to try next")?;
    for line in more.lines() {
        writeln!(output, " {}", line.trim_end())?;
    }
    writeln!(
        output,
        "where `tidemill` is `cargo run --release --`, or installed with `cargo install --path .`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn commands_can_be_copied_whatever_the_directory_is_called() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("a b's");
        let job = Job::new(Some(directory.clone()), None);
        let (mut printed, mut errors) = (Vec::new(), Vec::new());
        let run = job.run(&mut printed, &mut errors, Terminals::default());
        run.await.unwrap();
        let printed = String::from_utf8(printed).unwrap();
        let shown = directory.display().to_string().replace('\'', r"'\''");
        let broker = format!("TIDEMILL_BROKER='file://{shown}/data' tidemill");
        for said in [
            format!("$ tidemill import --broker 'file://{shown}/data' "),
            format!("$ {broker} run "),
            format!("--state-dir '{shown}/.tidemill/bars/0'"),
            format!(" {broker} explain "),
            format!(" {broker} check "),
            format!(" tidemill read bars-1m --broker 'file://{shown}/data' --limit 5"),
        ] {
            assert!(printed.contains(&said), "{said} in\n{printed}");
        }
    }

    #[tokio::test]
    async fn a_command_that_fails_is_heard_and_its_code_passed_on() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("data"), "no directory").unwrap();
        let job = Job::new(Some(root.path().into()), None);
        let (mut printed, mut errors) = (Vec::new(), Vec::new());
        let run = job.run(&mut printed, &mut errors, Terminals::default());
        let error = run.await.unwrap_err();
        assert_eq!(
            error.downcast_ref().map(|Failed(exit)| *exit),
            Some(Exit::Io)
        );
        let errors = String::from_utf8(errors).unwrap();
        assert!(errors.contains("is not a directory"), "{errors}");
    }

    #[tokio::test]
    async fn bars_come_out_and_a_second_run_finds_nothing_to_do() {
        let root = tempfile::tempdir().unwrap();
        let job = Job::new(Some(root.path().into()), None);
        let mut printed = Vec::new();
        for _ in 0..2 {
            let mut errors = Vec::new();
            let run = job.run(&mut printed, &mut errors, Terminals::default());
            run.await.unwrap();
            printed.push(b'\0');
        }
        let printed = String::from_utf8(printed).unwrap();
        let mut runs = printed.split('\0');
        let (first, second) = (runs.next().unwrap(), runs.next().unwrap());
        assert!(
            first.contains("53550 trades read, 21045 bars written, 0 records set aside"),
            "{first}"
        );
        assert!(
            first.contains("tidemill read bars-5m") && first.contains("the last of 460 bars"),
            "{first}"
        );
        assert!(second.contains("nothing to do"), "{second}");
        let tables = |text: &str| text[text.find("\n$ tidemill read").unwrap()..].to_owned();
        assert_eq!(tables(first), tables(second));
    }
}
