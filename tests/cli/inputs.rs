//! Inputs that are not what they were, or not there: nothing is read from the wrong log, and nothing is
//! passed over in silence.

use tidemill_broker::Broker as _;
use tidemill_broker::{Cleanup, Headers, Retention, Topic, TopicPartition, TopicSpec};
use tidemill_broker_file::{FileBroker, FileOptions};

use crate::support::{Home, PIPELINE, TICKS, append, append_ticks, block_on, signal};

#[test]
fn a_missing_topic_is_named_with_what_makes_it() {
    let home = Home::empty();
    let told = [
        "topic `ticks` of source `ticks` does not exist",
        "create it with `tidemill topics create ticks",
        "there is no log in `data`",
    ];
    // A misspelt name leaves nothing behind, be it a log or state.
    for _ in 0..2 {
        home.run().expect(2, &told);
        assert!(!home.path("data").exists());
        assert!(!home.path(".tidemill").exists());
    }
    // A log without the topic is as it was.
    home.make_topic("other");
    home.run().expect(2, &told[..2]);
    let topics = ["topics", "list", "--broker", "file://data", "--json"];
    let listed = home.tidemill(&topics).expect(0, &[]);
    assert!(!listed.out.contains("bars") && !listed.out.contains("p.changelog"));
    home.add_ticks(0..TICKS);
    home.run_well();
    home.expect_all_bars();
}

/// It was made anew and then refused as one that had been made anew.
#[test]
fn a_log_that_is_gone_is_not_made_anew_under_state_that_came_of_it() {
    let home = Home::new();
    home.change_pipeline(&[("[topics.ticks]", "[topics.ticks]\npartitions = 1")]);
    home.run_well();
    let aside = home.path("aside");
    std::fs::rename(home.path("data"), &aside).unwrap();
    for _ in 0..2 {
        home.run().expect(6, &["there is no log in `data`"]);
        assert!(!home.path("data").exists());
    }
    std::fs::rename(&aside, home.path("data")).unwrap();
    home.run_well();
    home.expect_all_bars();
}

#[test]
fn a_file_that_says_another_number_of_partitions_is_refused() {
    let home = Home::new();
    home.change_pipeline(&[("[topics.ticks]", "[topics.ticks]\npartitions = 2")]);
    home.run().expect(
        6,
        &["topic `ticks` has 1 partitions where 2 are needed: the file says so"],
    );
    home.write("p.toml", PIPELINE);
    home.run_well();
    home.expect_all_bars();
}

/// Deletes the topic and makes it again.
fn recreate(home: &Home, partitions: u32) {
    block_on(async {
        let log = home.log().await;
        let topic = Topic::new("ticks").unwrap();
        log.delete_topic(&topic).await.unwrap();
        let spec = TopicSpec::new(topic, partitions.try_into().unwrap());
        log.create_topic(&spec).await.unwrap();
        append_ticks(&log, 0..TICKS).await;
        log.close().await.unwrap();
    });
}

#[test]
fn an_input_that_was_deleted_and_made_again_is_not_taken_for_the_old_one() {
    let home = Home::new();
    home.run_well();
    recreate(&home, 1);
    let told = "ticks/0 is not the log this pipeline has read: it was deleted and created again";
    for _ in 0..2 {
        home.run()
            .expect(6, &[told, "`tidemill offsets reset` makes it start anew"]);
    }
    home.expect_all_bars();
}

#[test]
fn an_input_that_was_deleted_is_told_with_one_code_by_every_command() {
    let home = Home::new();
    home.run_well();
    let delete = [
        "topics",
        "delete",
        "ticks",
        "--broker",
        "file://data",
        "--yes",
    ];
    home.tidemill(&delete).expect(0, &[]);
    let told = ["topic `ticks`, which this pipeline reads, was deleted"];
    for _ in 0..2 {
        home.run().expect(6, &told);
    }
    let reset = [
        "offsets",
        "reset",
        "p.toml",
        "--to",
        "earliest",
        "--keep-state",
    ];
    home.tidemill(&reset).expect(6, &told);
    // The group has committed nothing, for that went with the topic: it was no finding.
    let show = ["offsets", "show", "p.toml"];
    home.tidemill(&show).expect(6, &told);
    home.add_ticks(0..TICKS);
    let told = ["ticks/0 is not the log this pipeline has read: it was deleted and created again"];
    home.run().expect(6, &told);
    let shown = home.tidemill(&show).expect(6, &told);
    let said = format!("{TICKS} of a former topic");
    assert!(shown.out.contains(&said), "{}", shown.out);
}

#[test]
fn an_input_with_another_number_of_partitions_is_refused() {
    let home = Home::new();
    home.run_well();
    recreate(&home, 3);
    home.run().expect(
        6,
        &[
            "another number of partitions than when its state was written",
            "offsets reset",
        ],
    );
    home.expect_all_bars();
}

/// A log in small pieces, whose topic `ticks` keeps a few kilobytes.
async fn short_log(home: &Home) -> FileBroker {
    let options = FileOptions {
        split_bytes: 4_096,
        ..FileOptions::default()
    };
    FileBroker::open(home.path("data"), options).await.unwrap()
}

/// Retention has removed the ticks from 100 on, up to somewhere, before the run after that came.
fn overtaken() -> (Home, u64) {
    let home = Home::empty();
    let low = block_on(async {
        let log = short_log(&home).await;
        let retention = Retention {
            age: None,
            bytes: Some(20_000),
        };
        let spec = TopicSpec::new(Topic::new("ticks").unwrap(), 1.try_into().unwrap())
            .cleanup(Cleanup::Delete(retention));
        log.create_topic(&spec).await.unwrap();
        append_ticks(&log, 0..100).await;
        log.close().await.unwrap();
        home.run_well();
        let log = short_log(&home).await;
        for from in (100..TICKS).step_by(50) {
            append_ticks(&log, from..from + 50).await;
            log.clean().await.unwrap();
        }
        let at = TopicPartition::new(Topic::new("ticks").unwrap(), 0);
        let low = log.watermarks(&at).await.unwrap().low.0;
        log.close().await.unwrap();
        low
    });
    assert!(low > 100, "retention has done nothing: {low}");
    (home, low)
}

#[test]
fn retention_that_overtook_the_reader_halts_with_the_gap() {
    let (home, low) = overtaken();
    let before = home.bars();
    let told = format!("records of ticks/0 from offset 100 are gone: the log begins at {low}");
    for _ in 0..2 {
        home.run().expect(6, &[&told, "on_gap = \"skip\""]);
    }
    assert_eq!(home.bars(), before);
}

#[test]
fn a_reset_is_the_way_on_after_retention_overtook_the_reader() {
    let (home, low) = overtaken();
    let told = format!("the log begins at {low}");
    home.run().expect(6, &[&told]);
    let before = home.bars();
    let mut reset = vec![
        "offsets",
        "reset",
        "p.toml",
        "--to",
        "earliest",
        "--keep-state",
    ];
    // Without `--yes` it only tells.
    let said = "not confirmed: nothing was done\n  help: give `--yes`";
    home.tidemill(&reset).expect(2, &[said]);
    home.run().expect(6, &[&told]);
    reset.push("--yes");
    home.tidemill(&reset).expect(0, &[]);
    home.run_well();
    let after = home.bars();
    assert_eq!(after[..before.len()], before, "what was written stays");
    // What is left of the log is in bars, once.
    let trades = |bar: &String| {
        let bar: serde_json::Value = serde_json::from_str(bar).unwrap();
        bar["trades"].as_u64().unwrap()
    };
    assert_eq!(before.iter().map(trades).sum::<u64>(), 100);
    assert_eq!(after.iter().map(trades).sum::<u64>(), 100 + TICKS - low);
    home.run_well();
    assert_eq!(home.bars(), after);
}

#[test]
fn a_gap_that_is_to_be_skipped_leaves_a_dead_letter_that_says_what_is_missing() {
    let (home, low) = overtaken();
    let bars = home.bars().len();
    home.change_pipeline(&[("[topics.ticks]", "[topics.ticks]\non_gap = \"skip\"")]);
    home.run().expect(
        0,
        &["WARN", "retention removed records before they were read"],
    );
    let dead = home.records("p.dead-letter");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header("dl-class"), "source.gap");
    let told = format!(
        "records of ticks/0 from offset 100 were removed before they were read; going on at {low}"
    );
    assert_eq!(dead[0].header("dl-error"), told);
    assert!(home.bars().len() > bars);
    // Told once.
    home.run_well();
    assert_eq!(home.records("p.dead-letter").len(), 1);
}

#[test]
fn a_file_that_changed_since_its_state_was_written_is_refused_unless_accepted() {
    let home = Home::empty();
    home.add_ticks(0..TICKS / 2);
    home.run_well();
    let before = home.bars();
    home.change_pipeline(&[("volume = \"sum(quantity)\"\n", "")]);
    home.add_ticks(TICKS / 2..TICKS);
    for _ in 0..2 {
        home.run().expect(
            6,
            &[
                "has changed since its state was written: \
                 stage `bar`: aggregate.volume sum(quantity) is gone",
                "--accept-new-version",
                "state `once` goes on with what it holds; `bar` must be empty",
            ],
        );
    }
    assert_eq!(home.bars(), before);
    // What decides no result may change.
    home.write("p.toml", PIPELINE.replace("\"10ms\"", "\"20ms\""));
    home.run_well();
    home.expect_all_bars();
    home.change_pipeline(&[("volume = \"sum(quantity)\"\n", "")]);
    home.tidemill(&["run", "p.toml", "--until-end", "--accept-new-version"])
        .expect(0, &[]);
    home.run_well();
    home.expect_all_bars();
}

#[test]
fn state_that_a_changed_file_leaves_behind_is_named() {
    let home = Home::new();
    home.run_well();
    home.change_pipeline(&[
        ("[stages.once]", "[stages.first]"),
        ("\"once\"", "\"first\""),
    ]);
    home.run().expect(
        6,
        &[
            "stage `first` is new; stage `once` is gone",
            "`once` stays as it is, unused; `first` begins empty",
        ],
    );
    let accepted = ["run", "p.toml", "--until-end", "--accept-new-version"];
    home.tidemill(&accepted).expect(
        0,
        &["belongs to no stage", "table=\"once\"", "--drop-state"],
    );
}

#[test]
fn a_file_that_changed_between_a_crash_and_the_restart_is_refused_and_the_old_one_goes_on() {
    let home = Home::empty();
    home.make_topic("bars");
    // In the middle of a window, so that state is open.
    home.add_ticks(0..TICKS / 2 + 3);
    let mut child = home.command(&["run", "p.toml"]).spawn().unwrap();
    home.wait_for_records("bars", TICKS / 10);
    signal(&child, "KILL");
    child.wait().unwrap();
    home.add_ticks(TICKS / 2 + 3..TICKS);
    let before = home.bars();
    home.change_pipeline(&[("size = \"1s\"", "size = \"2s\"")]);
    for _ in 0..2 {
        home.run().expect(
            6,
            &[
                "has changed since its state was written: stage `bar`: size 1s -> 2s",
                "--accept-new-version",
            ],
        );
    }
    assert_eq!(home.bars(), before);
    home.write("p.toml", PIPELINE);
    home.run_well();
    home.expect_all_bars();
}

#[test]
fn time_that_goes_backwards_gives_dead_letters_and_no_second_bar() {
    let home = Home::new();
    home.run_well();
    // The same instants under other numbers: no duplicates, but late.
    let late: Vec<String> = (0..10)
        .map(|number| {
            let from = format!("\"sequence\":{number}}}");
            crate::support::tick(number)
                .replace(&from, &format!("\"sequence\":{}}}", TICKS + number))
        })
        .collect();
    block_on(async {
        let log = home.log().await;
        for value in &late {
            append(&log, b"AAA", value.as_bytes(), &Headers::new()).await;
        }
        log.close().await.unwrap();
    });
    home.run()
        .expect(0, &["10 set aside in `p.dead-letter` (", "late 10 times)"]);
    let dead = home.records("p.dead-letter");
    assert_eq!(dead.len(), late.len());
    for (dead, value) in dead.iter().zip(&late) {
        assert_eq!(dead.value, value.as_bytes());
        assert!(
            dead.header("dl-class").contains("late"),
            "{}",
            dead.header("dl-class")
        );
    }
    home.expect_all_bars();
}

#[test]
fn an_import_of_time_that_goes_backwards_counts_it() {
    let home = Home::empty();
    let lines = [9, 3, 5].map(crate::support::tick).join("\n");
    home.write("back.jsonl", lines);
    let args = [
        "import",
        "back.jsonl",
        "--broker",
        "file://data",
        "--topic",
        "ticks",
        "--json",
    ];
    let ended = home.tidemill(&args).expect(0, &[]);
    let report: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["backwards"], 1, "{report}");
    assert_eq!(home.records("ticks").len(), 3);
    // Between two imports it is told, and what to do.
    home.write("behind.jsonl", crate::support::tick(4));
    let args = args.map(|arg| arg.replace("back.jsonl", "behind.jsonl"));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = "warning: `ticks` held later updates than these begin with";
    home.tidemill(&args)
        .expect(0, &[said, "together, in one call"]);
}

#[test]
fn an_import_that_meets_a_bad_line_writes_nothing_and_names_it() {
    let home = Home::empty();
    for (bad, said) in [
        ("\"currentPrice\":NaN", "bad.jsonl:2:"),
        ("\"currentPrice\":1e400", "bad.jsonl:2:"),
        ("\"currentPrice\":\"1e400\"", "bad.jsonl:2:"),
        ("\"currentPrice\":\"NaN\"", "bad.jsonl:2:"),
        ("\"pair\":\"X\",\"currentPrice\":1", "bad.jsonl:2:"),
    ] {
        let line = crate::support::tick(1).replace("\"currentPrice\":107.25", bad);
        assert!(line.contains(bad));
        home.write(
            "bad.jsonl",
            format!("{}\n{line}\n", crate::support::tick(0)),
        );
        let args = [
            "import",
            "bad.jsonl",
            "--broker",
            "file://data",
            "--topic",
            "ticks",
        ];
        home.tidemill(&args).expect(1, &[said, "expected "]);
        assert!(!home.path("data").exists(), "{bad}");
    }
    home.write("bad.jsonl", crate::support::tick(0));
    let args = [
        "import",
        "bad.jsonl",
        "--broker",
        "file://data",
        "--topic",
        "ticks",
    ];
    home.tidemill(&args).expect(0, &[]);
    assert_eq!(home.records("ticks").len(), 1);
}

#[test]
fn how_far_it_is_is_told_where_the_inputs_lie_on_another_broker() {
    let home = Home::new();
    let show = ["offsets", "show", "p.toml", "--json"];
    home.change_pipeline(&[
        (
            "[topics.ticks]",
            "[brokers.out]\nurl = \"file://out\"\n[topics.ticks]",
        ),
        (
            "[topics.bars]\nbroker = \"main\"",
            "[topics.bars]\nbroker = \"out\"",
        ),
        ("guarantee = \"exactly_once\"\n", ""),
    ]);
    let told = |code| -> serde_json::Value {
        serde_json::from_str(&home.tidemill(&show).expect(code, &[]).out).unwrap()
    };
    // Nothing yet, and nothing is made by looking.
    assert_eq!(told(0)["partitions"], serde_json::json!([]));
    assert!(!home.path("out").exists());
    home.run_well();
    let shown = told(0);
    let ticks = &shown["partitions"][0];
    assert_eq!(ticks["topic"], "ticks", "{shown}");
    assert_eq!(ticks["committed"], TICKS);
    assert_eq!(ticks["lag"], 0);
    assert_eq!(ticks["keptBy"], "markers");
}

#[test]
fn all_files_that_cannot_be_imported_are_told_at_once() {
    let home = Home::empty();
    for name in ["a.zip", "c.zip"] {
        home.write(name, "no archive");
    }
    home.write("b.jsonl", "{\"eventType\"");
    home.write("d.jsonl", crate::support::tick(0));
    let import = [
        "import",
        "a.zip",
        "b.jsonl",
        "c.zip",
        "d.jsonl",
        "--format",
        "json",
        "--broker",
        "file://new",
    ];
    home.tidemill(&import).expect(
        6,
        &[
            "3 files cannot be imported:\n  a.zip is not a readable zip archive",
            "\n  b.jsonl:1:",
            "\n  c.zip is not",
        ],
    );
    assert!(!home.path("new").exists());
}
