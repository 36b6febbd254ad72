//! JSON lines from standard input to standard output, as in a shell's pipe.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use crate::support::{Ended, Home, TICKS, feed, tick};

/// Ticks from standard input become bars on standard output; dead letters go to a log.
pub(crate) const PIPELINE: &str = r#"
[pipeline]
format = 1
name = "p"
commit = "10ms"
dead_letter = "dead"

[brokers.console]
url = "stdio:"

[brokers.log]
url = "file://data"

[topics.stdin]
broker = "console"
event = "MarketDataUpdate"
key = "pair"

[topics.dead]
broker = "log"

[stages.bar]
from = "stdin"
op = "tumbling_window"
size = "1s"
event = "Bar"
aggregate = { open = "first(currentPrice)", trades = "count()" }

[sinks.out]
from = "bar"
topic = { broker = "console" }
"#;

fn piped(home: &Home, lines: impl Iterator<Item = Vec<u8>> + Send + 'static) -> Ended {
    piped_to(home, &["run", "p.toml"], lines)
}

fn piped_to(
    home: &Home,
    args: &[&str],
    lines: impl Iterator<Item = Vec<u8>> + Send + 'static,
) -> Ended {
    let mut child = home.command(args).stdin(Stdio::piped()).spawn().unwrap();
    feed(&mut child, lines);
    child.wait_with_output().unwrap().into()
}

fn ticks(numbers: std::ops::Range<u64>) -> impl Iterator<Item = Vec<u8>> + Send + 'static {
    numbers.map(|number| tick(number).into_bytes())
}

#[test]
fn lines_go_through_a_pipe_and_the_end_of_input_closes_what_is_open() {
    let home = Home::empty();
    home.write("p.toml", PIPELINE);
    let ended =
        piped(&home, ticks(0..TICKS)).expect(0, &["2000 records read and committed, 400 written"]);
    let lines: Vec<serde_json::Value> = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 400);
    assert!(
        lines.iter().all(|bar| bar["trades"] == 5),
        "nothing but bars on standard output"
    );
}

/// What had not come through the pipe yet was taken for its end.
#[test]
fn until_the_end_of_standard_input_is_until_it_is_closed() {
    let home = Home::empty();
    home.write("p.toml", PIPELINE);
    let args = ["run", "p.toml", "--until-end"];
    piped_to(&home, &args, ticks(0..20_000))
        .expect(0, &["20000 records read and committed, 4000 written"]);
}

/// Reading failed, and the run waited for ever for what would come.
#[test]
fn standard_input_that_cannot_be_read_ends_the_run_and_is_told() {
    let home = Home::empty();
    home.write("p.toml", PIPELINE);
    let directory = std::fs::File::open(home.path("")).unwrap();
    let child = home
        .command(&["run", "p.toml"])
        .stdin(Stdio::from(directory))
        .spawn()
        .unwrap();
    let ended: Ended = child.wait_with_output().unwrap().into();
    ended.expect(3, &["cannot read standard input", "directory"]);
}

#[test]
fn another_run_reads_its_own_input_from_the_first_line() {
    let home = Home::empty();
    home.write("p.toml", PIPELINE);
    piped(&home, ticks(0..1_000)).expect(0, &[]);
    let ended = piped(&home, ticks(1_000..TICKS))
        .expect(0, &["1000 records read and committed, 200 written"]);
    assert_eq!(ended.out.lines().count(), 200);
    assert!(home.records("dead").is_empty());
}

#[test]
fn what_one_run_sets_aside_of_its_input_is_not_what_another_does() {
    let home = Home::empty();
    home.write("p.toml", PIPELINE);
    for line in ["no event", "none either"] {
        piped(&home, [line.into()].into_iter()).expect(0, &[]);
    }
    let dead = home.records("dead");
    assert_eq!(dead.len(), 2);
    let [first, second] = [0, 1].map(|run: usize| dead[run].header("dl-id"));
    assert_ne!(first, second, "the first line of each run");
}

#[test]
fn a_reader_that_leaves_ends_the_run_without_a_word() {
    let home = Home::empty();
    home.write("p.toml", PIPELINE);
    let mut child = home
        .command(&["run", "p.toml"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // As `| head -1`: the input never ends by itself.
    feed(&mut child, (0..).map(|number| tick(number).into_bytes()));
    let mut first = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut first).unwrap();
    assert!(first.starts_with("{\"eventType\":\"Bar\""), "{first}");
    drop(output);
    let ended: Ended = child.wait_with_output().unwrap().into();
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
}

#[test]
fn a_reader_of_records_that_leaves_is_no_error() {
    let home = Home::new();
    let mut child = home
        .command(&["read", "ticks", "--broker", "file://data", "--json"])
        .spawn()
        .unwrap();
    let mut some = [0; 100];
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut some).unwrap();
    drop(output);
    let ended: Ended = child.wait_with_output().unwrap().into();
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
}
