//! JSON lines from standard input to standard output, as in a shell's pipe.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use crate::support::{Ended, Home, RESET, TICKS, feed, tick};

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

/// That ids are remembered from run to run was denied: the state could be neither dropped nor saved.
#[test]
fn the_state_of_runs_over_standard_input_can_be_saved_and_dropped() {
    let home = Home::empty();
    let once = "[stages.once]\nfrom = \"stdin\"\nop = \"dedupe\"\nid = [\"sequence\"]\nwindow = \"1h\"\n[stages.bar]";
    home.write("p.toml", PIPELINE);
    home.change_pipeline(&[("[stages.bar]", once)]);
    home.change_pipeline(&[(
        "[stages.bar]\nfrom = \"stdin\"",
        "[stages.bar]\nfrom = \"once\"",
    )]);
    let explained = home.tidemill(&["explain", "p.toml"]).expect(0, &[]);
    let said = "each run goes on with the state of those before";
    assert!(explained.out.contains(said), "{}", explained.out);
    piped(&home, ticks(0..1_000)).expect(0, &["1000 records read and committed, 200 written"]);
    piped(&home, ticks(0..1_000)).expect(0, &["1000 records read and committed, 0 written"]);

    let saved = home
        .tidemill(&["state", "savepoint", "p.toml"])
        .expect(0, &[]);
    let path = saved.out.split_whitespace().last().unwrap();
    home.tidemill(&["state", "restore", "p.toml", "--from", path, "--yes"])
        .expect(0, &[]);
    piped(&home, ticks(0..1_000)).expect(0, &["1000 records read and committed, 0 written"]);

    let reset = |more: &[&str]| {
        let all = [&["offsets", "reset", "p.toml", "--drop-state"], more].concat();
        home.tidemill(&all)
    };
    for to in ["latest", "7"] {
        let said = "source `stdin` does not outlive a run";
        reset(&["--to", to, "--yes"]).expect(2, &[said, "`--to earliest`"]);
    }
    let told = reset(&["--to", "earliest", "--yes"]).expect(0, &[]);
    for said in [
        "source `stdin` does not outlive a run: each reads its own from the beginning",
        "state dropped: 1004 elements",
    ] {
        assert!(told.out.contains(said), "{said}\n{}", told.out);
    }
    piped(&home, ticks(0..1_000)).expect(0, &["1000 records read and committed, 200 written"]);
}

#[test]
fn state_that_does_not_outlive_a_run_is_denied_by_every_verb_in_the_same_words() {
    let home = Home::empty();
    home.write("p.toml", PIPELINE.replace("file://data", "mem://"));
    for _ in 0..2 {
        piped(&home, ticks(0..1_000)).expect(0, &["1000 records read and committed, 200 written"]);
    }
    let said = "broker `log` keeps the state of this pipeline and does not outlive a run";
    let [reset @ .., _yes] = RESET;
    for args in [
        &reset[..],
        &["state", "savepoint", "p.toml"],
        &["state", "restore", "p.toml", "--from", "x"],
    ] {
        home.tidemill(args).expect(2, &[said, "`file://DIRECTORY`"]);
    }
    let listed = home.tidemill(&["state", "ls", "p.toml"]).expect(0, &[]);
    assert_eq!(listed.out, "there is no state\n");
    let explained = home.tidemill(&["explain", "p.toml"]).expect(0, &[]);
    let said = "committed to the changelog on `log`, for the life of this process";
    assert!(explained.out.contains(said), "{}", explained.out);
    assert!(!explained.out.contains("those before"), "{}", explained.out);
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

/// The report stood among the results.
#[test]
fn on_standard_output_results_are_alone_also_with_a_report_for_machines() {
    let home = Home::empty();
    home.write("p.toml", PIPELINE);
    let ended = piped_to(&home, &["run", "p.toml", "--json"], ticks(0..1_000)).expect(0, &[]);
    assert_eq!(ended.out.lines().count(), 200);
    assert!(ended.out.lines().all(|line| line.contains("\"Bar\"")));
    let report: serde_json::Value = serde_json::from_str(&ended.err).unwrap();
    assert_eq!(report["committed"], 1_000);
    // Where results go elsewhere, it is the result.
    let home = Home::new();
    let ended = home.tidemill(&["run", "p.toml", "--until-end", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&ended.expect(0, &[]).out).unwrap();
    assert_eq!(report["committed"], TICKS);
}

/// The first line became a dead letter.
#[test]
fn a_byte_order_mark_before_the_first_line_is_no_part_of_it() {
    let home = Home::empty();
    home.write("p.toml", PIPELINE);
    let marked = |line: Vec<u8>| ["\u{feff}".as_bytes(), &line].concat();
    let first = marked(tick(0).into_bytes());
    // Between lines it is poison like anything else.
    let other = marked(tick(6).into_bytes());
    let lines = [first].into_iter().chain(ticks(1..6)).chain([other]);
    piped(&home, lines).expect(0, &["7 records read and committed, 2 written, 1 set aside"]);
    let dead = home.records("dead");
    assert!(dead[0].value.starts_with("\u{feff}".as_bytes()));
}

/// Ticks of the log become bars on standard output, in epochs that no pipe holds.
fn printing() -> Home {
    const NUMBER: u64 = 10_000;
    let home = Home::empty();
    home.change_pipeline(&[
        ("commit = \"10ms\"", "commit = { interval = \"1h\" }"),
        (
            "guarantee = \"exactly_once\"\n",
            "dead_letter = { broker = \"main\", topic = \"dead\" }\n",
        ),
        (
            "[brokers.main]",
            "[brokers.console]\nurl = \"stdio:\"\n[brokers.main]",
        ),
        ("[topics.bars]\nbroker = \"main\"\n", ""),
        ("topic = \"bars\"", "topic = { broker = \"console\" }"),
    ]);
    home.add_ticks(0..NUMBER);
    home
}

fn printed_whole(home: &Home) {
    let ended = home
        .run()
        .expect(0, &["10000 records read and committed, 2000 written"]);
    assert_eq!(ended.out.lines().count(), 2_000);
    assert!(ended.out.len() > 128 << 10, "more than a pipe holds");
}

#[test]
fn what_could_not_be_handed_over_is_not_committed_and_printed_by_the_next_run() {
    let home = printing();
    for _ in 0..2 {
        let mut child = home
            .command(&["run", "p.toml", "--until-end"])
            .spawn()
            .unwrap();
        let mut first = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut first).unwrap();
        assert!(first.starts_with("{\"eventType\":\"Bar\""), "{first}");
        drop(output);
        let ended: Ended = child.wait_with_output().unwrap().into();
        let ended = ended.expect(0, &[]);
        assert!(!ended.err.contains("error") && !ended.err.contains("ERROR"));
    }
    printed_whole(&home);
}

#[cfg(target_os = "linux")]
#[test]
fn standard_output_that_takes_nothing_is_told_and_nothing_is_committed() {
    let home = printing();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let child = home
        .command(&["run", "p.toml", "--until-end"])
        .stdout(Stdio::from(full))
        .spawn()
        .unwrap();
    let ended: Ended = child.wait_with_output().unwrap().into();
    ended.expect(
        3,
        &["cannot write standard output", "No space left on device"],
    );
    printed_whole(&home);
}

/// The help showed a file that did not exist, and nothing a file that works.
#[test]
fn the_pipeline_that_explain_shows_of_stdio_works_as_it_stands() {
    let home = Home::empty();
    let explained = home.tidemill(&["explain", "brokers"]).expect(0, &[]).out;
    let (_, file) = explained.split_once("\n# Trades as JSON lines").unwrap();
    home.write("lines.toml", format!("#{file}"));
    let line = r#"{"symbol":"ACME","price":12.5,"size":100,"at":"2024-03-11T14:30:01Z"}"#;
    assert!(file.contains(line), "{file}");
    let lines = [line, "no JSON"].map(|line| line.as_bytes().to_vec());
    let ended = piped_to(&home, &["run", "lines.toml"], lines.into_iter());
    let ended = ended.expect(0, &["2 records read and committed, 2 written, 1 set aside"]);
    assert!(ended.out.contains("\"volume\":100"), "{}", ended.out);
    assert_eq!(home.records("trades")[0].key.as_deref(), Some(&b"ACME"[..]));
    assert_eq!(home.records("lines.dead-letter").len(), 1);
}

#[test]
fn the_built_in_event_is_explained_with_a_line_that_is_one() {
    let home = Home::empty();
    let explained = ["explain", "MarketDataUpdate"];
    let told = home.tidemill(&explained).expect(0, &[]).out;
    for field in [
        "currentPrice",
        "decimal(8)",
        "required",
        "optional",
        "RFC 3339",
    ] {
        assert!(told.contains(field), "{told}");
    }
    let json = home.tidemill(&[&explained[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json.expect(0, &[]).out).unwrap();
    let line = json["example"].as_str().unwrap();
    assert!(told.contains(line), "{told}");
    for field in json["fields"].as_array().unwrap() {
        if field["required"] == true {
            assert!(line.contains(field["name"].as_str().unwrap()), "{field}");
        }
    }
    home.write("one.jsonl", line);
    let import = "import one.jsonl --broker file://data --topic ticks";
    home.tidemill(&import.split(' ').collect::<Vec<_>>())
        .expect(0, &[]);
    home.run()
        .expect(0, &["1 record read and committed, 1 written, 0 set aside"]);
    let events = home.tidemill(&["explain", "events"]).expect(0, &[]).out;
    assert!(
        events.contains("tidemill explain MarketDataUpdate")
            || events.contains("tidemill explain\nMarketDataUpdate"),
        "{events}"
    );
}
