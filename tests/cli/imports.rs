//! Imports that cannot be done, and what is set aside of those that can.

use std::fs;

use crate::support::{Home, block_on, tick};

#[test]
fn all_paths_that_are_missing_are_named_in_one_run() {
    let home = Home::empty();
    home.write("there.jsonl", tick(0));
    let args = [
        "import",
        "a.csv",
        "there.jsonl",
        "b.csv",
        "--broker",
        "file://new",
    ];
    home.tidemill(&args)
        .expect(3, &["cannot read a.csv", "cannot read b.csv"]);
    assert!(!home.path("new").exists());
}

/// It was taken for a name without a date, and its times for those of no day.
#[test]
fn a_date_in_a_path_that_is_no_day_is_told_as_such() {
    let home = Home::empty();
    fs::create_dir_all(home.path("equity/usa/tick/ibm")).unwrap();
    let name = "equity/usa/tick/ibm/20241332_trade.csv";
    home.write(name, "34200000,1800000,100,Q,,0\n");
    let said = format!("{name}: `20241332` in its name is no day");
    let import = ["import", name, "--broker", "file://new"];
    home.tidemill(&import)
        .expect(2, &[&said, "name it YYYYMMDD_trade or YYYYMMDD_quote"]);
    assert!(!home.path("new").exists());
}

#[test]
fn an_import_into_the_log_of_a_run_is_told_of_logs_that_are_fed_beside_a_run() {
    let home = Home::new();
    home.write("ticks.jsonl", tick(0));
    block_on(async {
        let log = home.log().await;
        let import = ["import", "ticks.jsonl", "--broker", "file://data"];
        let help = "help: stop what uses it; or import into a log of its own, which a pipeline reads while it runs: `--broker file://feed`, with `[brokers.feed]` and `url = \"file://feed\"` in the pipeline's file";
        home.tidemill(&import)
            .expect(7, &["is in use by process", help]);
        log.close().await.unwrap();
    });
}

/// They were set aside as of 1970.
#[test]
fn lines_set_aside_before_the_first_good_one_have_its_time() {
    let home = Home::empty();
    home.write(
        "ticks.jsonl",
        format!("none\nnone either\n{}\nnor this\n", tick(17)),
    );
    let import = ["import", "ticks.jsonl", "--on-bad-line", "skip"];
    let import = [&import[..], &["--broker", "file://data"]].concat();
    home.tidemill(&import).expect(0, &[]);
    let good = home.records("market-data-updates")[0].timestamp;
    let aside = home.records("market-data-suspect");
    let times: Vec<i64> = aside.iter().map(|record| record.timestamp).collect();
    assert_eq!(times, [good; 3]);
}

/// Where no line of a file is good, and no other file is, there is no event time at all.
#[test]
fn lines_set_aside_of_a_file_without_a_good_one_have_the_time_of_the_files_beside_it() {
    let home = Home::empty();
    home.write("a.jsonl", "none\n");
    home.write("b.jsonl", tick(17));
    let import = ["import", "a.jsonl", "b.jsonl", "--on-bad-line", "skip"];
    let import = [&import[..], &["--broker", "file://data"]].concat();
    home.tidemill(&import).expect(0, &[]);
    let good = home.records("market-data-updates")[0].timestamp;
    let aside = home.records("market-data-suspect");
    assert_eq!(aside[0].timestamp, good);
}

/// An import wrote them, and no pipeline could read them.
#[test]
fn sizes_of_quotes_that_an_import_writes_can_be_read_by_a_pipeline() {
    let home = Home::empty();
    fs::create_dir_all(home.path("equity/usa/tick/ibm")).unwrap();
    let name = "equity/usa/tick/ibm/20131007_quote.csv";
    home.write(name, "34200000,1800100,300,1800200,400,Q,,0\n");
    home.change_pipeline(&[
        ("sum(quantity)", "sum(bidQuantity)"),
        ("count()", "sum(askQuantity)"),
    ]);
    home.tidemill(&["import", "--pipeline", "p.toml", name])
        .expect(0, &[]);
    home.run_well();
    let bars = home.bars();
    assert!(bars[0].contains("\"volume\":300"), "{bars:?}");
    assert!(bars[0].contains("\"trades\":400"), "{bars:?}");
}
