//! Logs that a pipeline only reads: somebody else writes to them meanwhile, and any number may read.

use std::ops::Range;

use crate::support::{Ended, Home, TICKS, block_on, signal, tick};

/// Has the pipeline read log `feed`; it writes to log `data`.
pub(crate) fn read_from_feed(home: &Home, url: &str) {
    home.change_pipeline(&[(
        "[topics.ticks]\nbroker = \"main\"",
        &format!("[brokers.feed]\nurl = \"{url}\"\n\n[topics.ticks]\nbroker = \"feed\""),
    )]);
}

/// Brings ticks into a log as another process.
#[track_caller]
pub(crate) fn import(home: &Home, url: &str, numbers: Range<u64>) {
    let file = format!("{}-{}.jsonl", numbers.start, numbers.end);
    home.write(&file, numbers.map(tick).collect::<Vec<_>>().join("\n"));
    let args = ["import", &file, "--broker", url, "--topic", "ticks"];
    home.tidemill(&args).expect(0, &[]);
}

#[test]
fn a_running_pipeline_is_fed_by_imports_and_leaves_its_feed_to_other_readers() {
    let home = Home::empty();
    home.make_topic("bars");
    read_from_feed(&home, "file://feed");
    import(&home, "file://feed", 0..TICKS / 2);
    let running = home.command(&["run", "p.toml"]).spawn().unwrap();
    home.wait_for_records("bars", TICKS / 10 - 2);
    import(&home, "file://feed", TICKS / 2..TICKS);
    // All but those of the last second, whose windows nothing closes yet.
    home.wait_for_records("bars", TICKS / 5 - 2);

    let text = std::fs::read_to_string(home.path("p.toml")).unwrap();
    let other = text
        .replace("\"p\"", "\"q\"")
        .replace("file://data", "file://other");
    home.write("q.toml", other);
    let report = format!("{TICKS} records read and committed, {} written", TICKS / 5);
    let run = ["run", "q.toml", "--until-end"];
    home.tidemill(&run).expect(0, &[&report]);

    signal(&running, "TERM");
    Ended::from(running.wait_with_output().unwrap()).expect(0, &[]);
    home.run_well();
    home.expect_all_bars();
}

#[test]
fn a_feed_that_is_not_there_is_made_with_the_partitions_of_the_file_and_left_to_who_writes_it() {
    let home = Home::empty();
    home.make_topic("bars");
    read_from_feed(&home, "file://feed");
    home.change_pipeline(&[("key = \"pair\"", "key = \"pair\"\npartitions = 1")]);
    home.run().expect(0, &["0 records read and committed"]);
    let running = home.command(&["run", "p.toml"]).spawn().unwrap();
    import(&home, "file://feed", 0..TICKS);
    home.wait_for_records("bars", TICKS / 5 - 2);
    signal(&running, "TERM");
    Ended::from(running.wait_with_output().unwrap()).expect(0, &[]);
    home.run_well();
    home.expect_all_bars();
}

#[test]
fn a_pipeline_is_reset_while_somebody_writes_to_its_feed() {
    let home = Home::empty();
    read_from_feed(&home, "file://feed");
    import(&home, "file://feed", 0..TICKS);
    home.run_well();
    block_on(async {
        let options = tidemill_broker_file::FileOptions::default();
        let path = home.path("feed");
        let writer = tidemill_broker_file::FileBroker::open(path, options).await;
        let reset = [
            "offsets",
            "reset",
            "p.toml",
            "--to",
            "latest",
            "--keep-state",
            "--yes",
        ];
        home.tidemill(&reset).expect(0, &[]);
        writer.unwrap().close().await.unwrap();
    });
}
