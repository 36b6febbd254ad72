//! What is read of a topic: from where, how far, and until when.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::support::{Ended, Home, flip, signal, tick};

fn documents(lines: &str) -> Vec<Value> {
    let lines = lines.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[track_caller]
fn read(home: &Home, args: &[&str]) -> Vec<Value> {
    let ended = home.tidemill(&[&["read", "ticks", "--json"], args].concat());
    documents(&ended.expect(0, &[]).out)
}

#[test]
fn a_partition_a_time_and_a_number_of_records_say_what_is_read() {
    let home = Home::empty();
    let lines: Vec<String> = (0..100).map(tick).collect();
    home.write("ticks.jsonl", lines.join("\n"));
    let import = "import ticks.jsonl --broker file://data --topic ticks --partitions 3";
    let import: Vec<&str> = import.split(' ').collect();
    home.tidemill(&import).expect(0, &[]);
    let sequences = |read: &[Value]| -> Vec<u64> {
        let mut found: Vec<u64> = read
            .iter()
            .map(|record| record["value"]["sequence"].as_u64().unwrap())
            .collect();
        found.sort_unstable();
        found
    };
    let parts = [1, 2].map(|partition: u64| {
        let found = read(&home, &["--partition", &partition.to_string()]);
        assert!(found.iter().all(|record| record["partition"] == partition));
        sequences(&found)
    });
    assert!(parts.iter().all(|part| !part.is_empty()), "{parts:?}");
    let mut both = parts.concat();
    both.sort_unstable();
    assert_eq!(both, (0..100).collect::<Vec<_>>());

    let late = read(&home, &["--from", "2024-03-11T00:00:07.500Z"]);
    assert_eq!(sequences(&late), (75..100).collect::<Vec<_>>());
    let some = ["--partition", "1", "--from", "3", "--limit", "2"];
    let offsets: Vec<u64> = read(&home, &some)
        .iter()
        .map(|record| record["offset"].as_u64().unwrap())
        .collect();
    assert_eq!(offsets, [3, 4]);
    let ended = home.tidemill(&["read", "ticks", "--partition", "3"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

#[test]
fn from_latest_only_what_comes_later_is_read() {
    let home = Home::empty();
    home.add_ticks(0..3);
    assert!(read(&home, &["--from", "latest"]).is_empty());
    let args = ["read", "ticks", "--json", "--follow", "--from", "latest"];
    let mut child = home.command(&args).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = String::new();
    let has_printed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // There is no telling when it has begun: something is written until it prints.
        scope.spawn(|| {
            for next in 3.. {
                home.add_ticks(next..next + 1);
                if has_printed.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        output.read_line(&mut lines).unwrap();
        has_printed.store(true, Ordering::Relaxed);
    });
    let first = &documents(&lines)[0];
    assert!(first["offset"].as_u64().unwrap() >= 3, "{first}");
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Whoever reads from the beginning needs no index.
#[test]
fn a_read_from_the_middle_finds_its_place_whatever_became_of_the_index() {
    let harms: [fn(&Path); 4] = [
        |_| {},
        |path| flip(path, 20),
        |path| fs::write(path, b"x").unwrap(),
        |path| fs::remove_file(path).unwrap(),
    ];
    for harm in harms {
        let home = Home::new();
        harm(&home.file_of_ticks("index"));
        let found = read(&home, &["--from", "1234", "--limit", "3"]);
        let sequences: Vec<&Value> = found
            .iter()
            .map(|record| &record["value"]["sequence"])
            .collect();
        assert_eq!(sequences, [1234, 1235, 1236]);
    }
}

#[test]
fn a_follower_prints_what_comes_later_and_a_signal_ends_it_as_is_meant() {
    for name in ["INT", "TERM"] {
        let home = Home::empty();
        home.add_ticks(0..3);
        let args = ["read", "ticks", "--json", "--follow"];
        let mut child = home.command(&args).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = String::new();
        for _ in 0..3 {
            output.read_line(&mut lines).unwrap();
        }
        home.add_ticks(3..4);
        output.read_line(&mut lines).unwrap();
        assert_eq!(documents(&lines)[3]["value"]["sequence"], 3);
        signal(&child, name);
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "nothing more has come");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

/// It waited for ever for what nobody could write any more.
#[test]
fn a_follower_ends_when_the_directory_is_removed_or_replaced() {
    for replaced in [false, true] {
        let home = Home::empty();
        home.add_ticks(0..1);
        let args = ["read", "ticks", "--json", "--follow"];
        let mut child = home.command(&args).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut String::new()).unwrap();
        if replaced {
            fs::rename(home.path("data"), home.path("former")).unwrap();
            home.add_ticks(0..2);
        } else {
            fs::remove_dir_all(home.path("data")).unwrap();
        }
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        let ended = Ended::from(child.wait_with_output().unwrap());
        ended.expect(
            3,
            &[
                "directory `data` was removed or replaced while it was read",
                "read it again",
            ],
        );
        assert_eq!(rest, "", "of another log");
    }
}

/// The signal came amid a line, and half of it was the last that was written.
#[test]
fn a_follower_that_a_signal_ends_writes_whole_lines() {
    let home = Home::new();
    let args = ["read", "ticks", "--json", "--follow"];
    let mut child = home.command(&args).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = String::new();
    // The rest is more than the pipe holds.
    output.read_line(&mut lines).unwrap();
    signal(&child, "INT");
    output.read_to_string(&mut lines).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(lines.ends_with("}\n"), "{:?}", lines.lines().last());
    let found = documents(&lines);
    assert!(
        (0..)
            .zip(&found)
            .all(|(offset, found): (u64, _)| found["offset"] == offset)
    );
}

#[test]
fn a_topic_that_is_made_or_deleted_is_described_to_machines() {
    let home = Home::empty();
    let topics = |verb: &str, more: &[&str]| {
        let args = [
            &["topics", verb, "t", "--broker", "file://data", "--json"],
            more,
        ]
        .concat();
        let told = home.tidemill(&args).expect(0, &[]).out;
        serde_json::from_str::<Value>(&told).unwrap()
    };
    let made = topics("create", &["--partitions", "3", "--retention-age", "7d"]);
    assert_eq!(made["topic"], "t");
    assert_eq!(made["partitions"].as_array().unwrap().len(), 3);
    assert_eq!(made["cleanup"]["ageMs"], 7 * 24 * 3_600_000);
    assert_eq!(topics("describe", &[]), made);
    assert_eq!(topics("delete", &["--yes"]), made);
    let again = ["topics", "delete", "t", "--broker", "file://data", "--json"];
    let refused = home.tidemill(&[&again[..], &["--yes"]].concat());
    refused.expect(2, &["{\"error\":{\"exit\":2,", "unknown topic `t`"]);
}
