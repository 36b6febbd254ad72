//! SIGINT and SIGTERM: what is open is committed, and the next run goes on from there to the same bytes.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStderr};

use crate::support::{Ended, Home, TICKS, signal};

/// Waits for a line on standard error that holds `text`.
pub(crate) fn wait_for(child: &mut Child, text: &str) -> BufReader<ChildStderr> {
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert!(
            errors.read_line(&mut line).unwrap() > 0,
            "it ended without `{text}`"
        );
    }
    errors
}

#[test]
fn a_signal_commits_what_is_open_and_the_next_run_finishes_to_the_same_bars() {
    for name in ["INT", "TERM"] {
        let home = Home::empty();
        home.make_topic("bars");
        // In the middle of a window, so that state is open.
        home.add_ticks(0..TICKS / 2 + 3);
        let child = home.command(&["run", "p.toml"]).spawn().unwrap();
        home.wait_for_records("bars", TICKS / 10);
        signal(&child, name);
        let ended: Ended = child.wait_with_output().unwrap().into();
        let told = [
            "stopping: committing what is open",
            "records read and committed",
        ];
        ended.expect(0, &told);
        home.add_ticks(TICKS / 2 + 3..TICKS);
        home.run_well();
        home.expect_all_bars();
        home.run()
            .expect(0, &["0 records read and committed, 0 written"]);
        home.expect_all_bars();
    }
}

/// It ended with 0 and without a word, as if all had been read.
#[test]
fn a_run_to_the_end_that_is_ended_before_says_so_and_goes_on_when_it_is_run_again() {
    let home = Home::new();
    // Nobody reads what is printed, so it cannot come to the end.
    home.change_pipeline(&[
        ("exactly_once", "at_least_once"),
        (
            "commit = \"10ms\"",
            "commit = { interval = \"10ms\", records = 100 }",
        ),
        (
            "[topics.ticks]",
            "[brokers.console]\nurl = \"stdio:\"\n\n[topics.ticks]",
        ),
        (
            "[sinks.bars]",
            "[sinks.ticks]\nfrom = \"once\"\ntopic = { broker = \"console\" }\n\n[sinks.bars]",
        ),
    ]);
    let args = ["run", "p.toml", "--until-end", "--json"];
    let mut child = home.command(&args).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    signal(&child, "INT");
    let mut errors = wait_for(&mut child, "stopping: committing what is open");
    let printed = 1 + output.lines().count() as u64;
    assert!(printed < TICKS, "{printed}");
    let mut told = String::new();
    errors.read_to_string(&mut told).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{told}");
    let mut documents = told.lines().map(|line| {
        let document: serde_json::Value = serde_json::from_str(line).unwrap();
        document
    });
    let report = documents.next().unwrap();
    assert_eq!(report["reachedEnd"], false);
    assert_eq!(report["committed"], printed);
    let error = &documents.next().unwrap()["error"];
    assert_eq!(error["exit"], 1);
    assert_eq!(
        error["message"],
        "stopped before the end of what there is to read"
    );
    assert_eq!(error["help"], "run the same command again to go on");

    let again = home.tidemill(&args).expect(0, &["\"reachedEnd\":true"]);
    assert_eq!(printed + again.out.lines().count() as u64, TICKS);
    home.expect_all_bars();
}

#[test]
fn the_end_of_the_input_closes_windows_and_says_so() {
    let home = Home::new();
    home.change_pipeline(&[("size = \"1s\"", "size = \"1m\"")]);
    let said = "at the end of the input closed 2 windows that were open, so event time is at 2024-03-11T00:04:00.000000Z: records that come later for windows up to then are late";
    home.run().expect(0, &[said]);
    let again = home.run().expect(0, &[]);
    assert!(!again.err.contains("closed"), "{}", again.err);
    // One for a window that was closed, one for the next.
    home.add_ticks(TICKS + 100..TICKS + 101);
    home.add_ticks(2_400..2_401);
    let args = ["run", "p.toml", "--until-end", "--json"];
    let ended = home.tidemill(&args).expect(0, &[]);
    let report: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["deadLetters"], 1, "{report}");
    assert_eq!(report["windowsClosed"], 1);
    assert_eq!(report["closedAt"], "2024-03-11T00:05:00.000000Z");
    assert_eq!(report["reachedEnd"], true);
}

#[test]
fn a_second_signal_leaves_at_once_and_loses_nothing() {
    let home = Home::new();
    // Nobody reads what is printed, so the first signal has to wait.
    let printed = crate::support::PIPELINE
        .replace("exactly_once", "at_least_once")
        .replace(
            "[topics.ticks]",
            "[brokers.console]\nurl = \"stdio:\"\n\n[topics.ticks]",
        )
        .replace("[topics.bars]\nbroker = \"main\"", "")
        .replace("topic = \"bars\"", "topic = { broker = \"console\" }");
    home.write("p.toml", printed);
    let args = ["run", "p.toml"];
    let mut child = home.command(&args).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = vec![String::new()];
    output.read_line(&mut lines[0]).unwrap();
    signal(&child, "INT");
    let _errors = wait_for(&mut child, "stopping: committing what is open");
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    lines.extend(output.lines().map(Result::unwrap));
    // With another run every bar was printed at least once.
    let again = home.run().expect(0, &[]);
    let mut found: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    found.extend(again.out.lines());
    let whole = |line: &&str| line.ends_with('}');
    found.retain(whole);
    found.sort_unstable();
    found.dedup();
    let reference = Home::new();
    reference.run_well();
    let mut expected = reference.bars();
    expected.sort_unstable();
    assert!(
        found == expected,
        "{} bars of {}",
        found.len(),
        expected.len()
    );
}

#[test]
fn a_signal_ends_a_run_whose_standard_input_says_nothing() {
    let home = Home::empty();
    home.write("p.toml", crate::stdio::PIPELINE);
    let mut child = home
        .command(&["run", "p.toml"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    for number in 0..20 {
        std::io::Write::write_all(
            &mut input,
            format!("{}\n", crate::support::tick(number)).as_bytes(),
        )
        .unwrap();
    }
    let mut first = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut first).unwrap();
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(input);
}

/// Everything that takes no part in a commit dies of the signal, like any program, also where it
/// waits for what never comes.
#[test]
fn a_verb_with_nothing_to_finish_ends_by_the_signal_whatever_it_waits_for() {
    let home = Home::new();
    let fifo = home.path("fifo.toml");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    for (number, name) in [(2, "INT"), (15, "TERM")] {
        for verb in ["check", "run", "explain"] {
            let mut child = home.command(&[verb, "fifo.toml"]).spawn().unwrap();
            // Returns once the other end is open, and is never written to.
            let writer = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
            signal(&child, name);
            assert_eq!(child.wait().unwrap().signal(), Some(number), "{verb}");
            drop(writer);
        }
        let mut child = home.command(&["read", "ticks", "--json"]).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        // The rest is more than the pipe holds, and nobody reads it.
        output.read_line(&mut String::new()).unwrap();
        signal(&child, name);
        assert_eq!(child.wait().unwrap().signal(), Some(number));
    }
}

#[test]
fn an_import_that_is_broken_off_goes_on_where_it_stopped() {
    let home = Home::empty();
    let lines: Vec<String> = (0..120_000).map(crate::support::tick).collect();
    home.write("ticks.jsonl", lines.join("\n"));
    home.make_topic("ticks");
    let args = [
        "import",
        "ticks.jsonl",
        "--broker",
        "file://data?fsync=1ms",
        "--topic",
        "ticks",
    ];
    let child = home.command(&args).spawn().unwrap();
    home.wait_for_records("ticks", 1);
    signal(&child, "INT");
    let ended: Ended = child.wait_with_output().unwrap().into();
    ended.expect(
        1,
        &[
            "stopping: committing what is in (again to leave at once)",
            "of 120000 records in",
            "help: run the same command again to go on",
        ],
    );
    let before = home.records("ticks").len();
    assert!(0 < before && before < lines.len(), "{before}");
    home.tidemill(&args).expect(0, &[]);
    let found = home.records("ticks");
    assert_eq!(found.len(), lines.len());
    let again = home.tidemill(&args).expect(0, &[]);
    assert!(again.out.contains("0 by this run"), "{}", again.out);
}
