//! Damage to the log: named with file and byte, nothing touched, and exact once it is repaired.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Home, TICKS, append_ticks, block_on, copy, flip};

/// Harms a log by `harm`, expects the run to halt and to say so, repairs it, and expects that nothing
/// was lost.
#[track_caller]
fn harmed(file: impl Fn(&Home) -> PathBuf, harm: impl Fn(&Path), said: &str) {
    let home = Home::new();
    let path = file(&home);
    let whole = fs::read(&path).unwrap();
    harm(&path);
    let name = path
        .strip_prefix(home.path(""))
        .unwrap()
        .display()
        .to_string();
    let help = "help: restore the file from a copy";
    for _ in 0..2 {
        let ended = home.run().expect(6, &[&name, said, help]);
        assert_eq!(
            ended.err.matches(said).count(),
            1,
            "told once: {}",
            ended.err
        );
    }
    fs::write(&path, whole).unwrap();
    home.run_well();
    home.expect_all_bars();
}

#[test]
fn a_corrupt_segment_halts_with_its_byte_and_nothing_is_lost() {
    let segment = |home: &Home| home.file_of_ticks("segment");
    let middle = |path: &Path| flip(path, fs::metadata(path).unwrap().len() as usize / 2);
    harmed(
        segment,
        middle,
        "the block's checksum or records do not match its bytes",
    );
    harmed(segment, |path| flip(path, 3), "is damaged at byte 0");
}

#[test]
fn a_truncated_or_missing_segment_halts_before_anything_is_written() {
    let segment = |home: &Home| home.file_of_ticks("segment");
    let cut = |path: &Path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(5_000).unwrap();
    };
    harmed(
        segment,
        cut,
        "is damaged at byte 5000: the file ends here and should have ",
    );
    harmed(
        segment,
        |path| fs::remove_file(path).unwrap(),
        "the segment is missing",
    );
}

#[test]
fn a_corrupt_truncated_or_missing_manifest_halts() {
    let manifest = |home: &Home| home.path("data/MANIFEST");
    harmed(
        manifest,
        |path| flip(path, 40),
        "the checksum does not match",
    );
    harmed(
        manifest,
        |path| fs::write(path, b"x").unwrap(),
        "is damaged at byte",
    );
    harmed(
        manifest,
        |path| fs::remove_file(path).unwrap(),
        "the file is missing",
    );
}

#[test]
fn a_directory_without_or_with_a_damaged_format_is_not_taken_for_a_new_log() {
    let format = |home: &Home| home.path("data/FORMAT");
    harmed(
        format,
        |path| fs::remove_file(path).unwrap(),
        "the file is missing",
    );
    harmed(format, |path| flip(path, 1), "is damaged at byte 0");
}

#[test]
fn a_log_of_a_newer_version_is_left_as_it_is() {
    let home = Home::new();
    let path = home.path("data/FORMAT");
    let ours = fs::read(&path).unwrap();
    let mut newer = ours.clone();
    newer[16] = 2;
    fs::write(&path, &newer).unwrap();
    home.run().expect(
        6,
        &[
            "data/FORMAT has format 2; this version reads up to 1",
            "help: run the version that wrote it",
        ],
    );
    assert_eq!(fs::read(&path).unwrap(), newer);
    fs::write(&path, ours).unwrap();
    home.run_well();
    home.expect_all_bars();
}

#[test]
fn an_index_is_made_anew_whatever_became_of_it() {
    let harms: [fn(&Path); 3] = [
        |path| flip(path, 20),
        |path| fs::write(path, b"x").unwrap(),
        |path| fs::remove_file(path).unwrap(),
    ];
    for harm in harms {
        let home = Home::new();
        home.run_well();
        harm(&home.file_of_ticks("index"));
        // Whoever reads from the beginning needs none. What is read again here is a repeat.
        let reset = "offsets reset p.toml --to 1234 --keep-state --yes";
        let reset: Vec<&str> = reset.split(' ').collect();
        home.tidemill(&reset).expect(0, &[]);
        home.run().expect(0, &["was rebuilt from its segment"]);
        home.expect_all_bars();
        assert_eq!(home.records("p.dead-letter").len(), 0);
    }
}

/// A log as a crash leaves it: all ticks in its tail, none in segments.
fn crashed() -> (Home, PathBuf) {
    let home = Home::empty();
    block_on(async {
        let log = home.log().await;
        append_ticks(&log, 0..TICKS).await;
        copy(&home.path("data"), &home.path("image"));
        log.close().await.unwrap();
    });
    fs::remove_dir_all(home.path("data")).unwrap();
    fs::rename(home.path("image"), home.path("data")).unwrap();
    let log = home.path("data/log/00000000000000000001.log");
    assert!(fs::metadata(&log).unwrap().len() > TICKS * 100);
    (home, log)
}

#[test]
fn a_torn_tail_is_cut_and_reported() {
    let (home, log) = crashed();
    let whole = fs::read(&log).unwrap();
    let mut torn = whole.clone();
    torn.extend_from_slice(&whole[whole.len() - 200..whole.len() - 60]);
    fs::write(&log, torn).unwrap();
    home.run()
        .expect(0, &["WARN", "half-written", "00000000000000000001.log"]);
    home.expect_all_bars();
}

#[test]
fn damage_before_the_end_of_the_log_halts_and_leaves_it_as_it_is() {
    let (home, log) = crashed();
    let whole = fs::read(&log).unwrap();
    for harm in [
        |bytes: &mut Vec<u8>| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x55;
        },
        |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 1_000),
        |bytes: &mut Vec<u8>| bytes[8..40].fill(0),
    ] {
        let mut damaged = whole.clone();
        harm(&mut damaged);
        fs::write(&log, &damaged).unwrap();
        home.run().expect(
            6,
            &[
                "00000000000000000001.log is damaged at byte",
                "were durable",
                "help: restore the file",
            ],
        );
        assert_eq!(fs::read(&log).unwrap(), damaged);
    }
    fs::write(&log, whole).unwrap();
    home.run_well();
    home.expect_all_bars();
}

#[test]
fn a_damaged_changelog_halts_instead_of_starting_anew() {
    let home = Home::new();
    home.run_well();
    let topics = home.path("data/topics");
    // The changelog is the topic whose segment holds the markers.
    let dirs = fs::read_dir(topics)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("0"));
    let segments = dirs.flat_map(|dir| fs::read_dir(dir).unwrap());
    let changelog = segments
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            let bytes = fs::read(path).unwrap();
            path.extension().is_some_and(|found| found == "segment")
                && bytes
                    .windows(MARKER_KEY.len())
                    .any(|found| found == MARKER_KEY)
        })
        .unwrap();
    let whole = fs::read(&changelog).unwrap();
    flip(&changelog, whole.len() / 2);
    fs::remove_dir_all(home.path(".tidemill")).unwrap();
    home.run().expect(
        6,
        &[
            "cannot read the changelog p.changelog/0",
            "is damaged at byte",
        ],
    );
    fs::write(&changelog, whole).unwrap();
    home.run_well();
    home.expect_all_bars();
}

const MARKER_KEY: &[u8] = tidemill::pipeline::MARKER_KEY;

#[test]
fn a_reader_is_told_of_missing_files_as_the_writer_is() {
    let help = "help: restore the file from a copy";
    let read = ["read", "ticks", "--broker", "file://data"];
    type Lost = fn(&Home) -> PathBuf;
    let segment: Lost = |home| home.file_of_ticks("segment");
    let format: Lost = |home| home.path("data/FORMAT");
    for (lost, said) in [
        (segment, "the segment is missing"),
        (format, "the file is missing"),
    ] {
        let home = Home::new();
        fs::remove_file(lost(&home)).unwrap();
        home.run().expect(6, &[said, help]);
        home.tidemill(&read).expect(6, &[said, help]);
    }
    let home = Home::empty();
    block_on(async {
        let log = home.log().await;
        // Nothing of it is in segments yet.
        append_ticks(&log, 0..50).await;
        for file in fs::read_dir(home.path("data/log")).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        home.tidemill(&read)
            .expect(6, &["the file is missing", help]);
    });
}

#[test]
fn a_directory_of_somebody_else_is_no_log_for_a_reader_nor_for_a_writer() {
    let home = Home::empty();
    fs::create_dir(home.path("letters")).unwrap();
    home.write("letters/dear.txt", "dear");
    let broker = ["--broker", "file://letters"];
    for verb in [&["topics", "list"][..], &["topics", "create", "ticks"]] {
        let ended = home.tidemill(&[verb, &broker].concat());
        ended.expect(2, &["letters is not a tidemill log: it holds `dear.txt`"]);
    }
    assert_eq!(fs::read_dir(home.path("letters")).unwrap().count(), 1);
}

/// It said that nothing was changed, and neither where to go on nor that anything was committed.
#[test]
fn damage_amid_the_input_is_told_with_what_is_safe_and_where_to_go_on() {
    const MANY: u64 = 20_000;
    let home = Home::empty();
    home.change_pipeline(&[("commit = \"10ms\"", "commit = { records = 1000 }")]);
    home.add_ticks(0..MANY);
    let segment = home.file_of_ticks("segment");
    flip(
        &segment,
        fs::metadata(&segment).unwrap().len() as usize * 3 / 4,
    );
    let told = home.run().expect(
        6,
        &[
            "; ticks/0 could be read up to offset ",
            "that this run committed are safe",
        ],
    );
    let number = |before: &str| -> u64 {
        let (_, rest) = told.err.split_once(before).unwrap();
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    };
    let (read, committed) = (number("read up to offset "), number("again: the "));
    assert!(
        0 < committed && committed <= read && read < MANY,
        "{}",
        told.err
    );
    // Behind the damage it goes on, with all of what was committed.
    let before = home.bars();
    let reset = format!(
        "offsets reset p.toml --to {} --keep-state --yes",
        MANY - 100
    );
    home.tidemill(&reset.split(' ').collect::<Vec<_>>())
        .expect(0, &[]);
    home.run().expect(0, &["100 records read and committed"]);
    assert_eq!(home.bars()[..before.len()], before);
}
