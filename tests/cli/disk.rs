//! Full disks and disks that cannot be written: nothing half written, and with room again all goes on.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use crate::feeds::{self, read_from_feed};
use crate::skip;
use crate::support::{Home, RESET, TICKS, copy, tick};

/// A file system in memory, mounted for one test.
struct Small {
    at: PathBuf,
}

impl Small {
    /// Mounts one; none if that is not allowed here.
    fn mount(home: &Home, kilobytes: u64) -> Option<Self> {
        let at = home.path("small");
        fs::create_dir(&at).unwrap();
        let size = format!("size={kilobytes}k");
        let args = ["-t", "tmpfs", "-o", &size, "tidemill-test"];
        let mounted = Command::new("mount").args(args).arg(&at).output();
        if !mounted.is_ok_and(|mounted| mounted.status.success()) {
            // A small disk, for which it takes root.
            skip::skip("full disks", "mount");
            return None;
        }
        Some(Self { at })
    }

    fn remount(&self, option: &str) {
        let option = format!("remount,{option}");
        let status = Command::new("mount")
            .args(["-o", &option])
            .arg(&self.at)
            .status();
        assert!(status.unwrap().success());
    }

    fn grow(&self) {
        self.remount("size=64m");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A mount that stays keeps the directory; nothing else can be done here.
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

const FULL: [&str; 2] = [
    "No space left on device",
    "help: make room and run the same command again",
];

fn import(home: &Home) -> crate::support::Ended {
    import_from(home, "ticks.jsonl")
}

fn import_from(home: &Home, file: &str) -> crate::support::Ended {
    let args = [
        "import",
        file,
        "--broker",
        "file://small/data",
        "--topic",
        "ticks",
    ];
    home.tidemill(&args)
}

/// A home whose ticks wait in a file to be imported: about 4 MB once they are in.
const IMPORTED: u64 = 20_000;

fn importing() -> Home {
    let home = Home::empty();
    let lines: Vec<String> = (0..IMPORTED).map(tick).collect();
    home.write("ticks.jsonl", lines.join("\n"));
    home
}

fn expect_imported_once(home: &Home) {
    fs::rename(home.path("small/data"), home.path("small/kept")).unwrap();
    copy(&home.path("small/kept"), &home.path("data"));
    let found = home.records("ticks");
    assert_eq!(found.len() as u64, IMPORTED);
    assert!((0..).zip(&found).all(|(number, found)| {
        let value = String::from_utf8_lossy(&found.value);
        value.contains(&format!("\"sequence\":{number}"))
    }));
}

#[test]
fn an_import_onto_a_full_disk_stops_whole_and_goes_on_with_room() {
    let home = importing();
    let Some(small) = Small::mount(&home, 2_000) else {
        return;
    };
    // Appended or split, whichever comes first to where there is no room.
    import(&home)
        .expect(3, &["cannot ", "small/data/"])
        .expect(3, &FULL);
    // Reading what is in takes no room.
    let read = ["read", "ticks", "--broker", "file://small/data", "--json"];
    home.tidemill(&read).expect(0, &[]);
    import(&home).expect(3, &FULL);
    small.grow();
    import(&home).expect(0, &[]);
    expect_imported_once(&home);
}

#[test]
fn a_disk_that_fills_up_while_the_log_is_split_loses_nothing() {
    let home = importing();
    // Room for some of the log, and not for all of its segments beside it.
    let Some(small) = Small::mount(&home, 3_300) else {
        return;
    };
    // The split, or what is appended meanwhile, whichever comes first to where there is no room.
    import(&home)
        .expect(3, &["cannot ", "small/data/"])
        .expect(3, &FULL);
    small.grow();
    import(&home).expect(0, &[]);
    let ended = import(&home).expect(0, &[]);
    assert!(
        ended.out.contains("0 by this run"),
        "it was in: {}",
        ended.out
    );
    expect_imported_once(&home);
}

/// What was to leave once left only after a split had taken room for all there was.
#[test]
fn a_log_that_keeps_little_gets_by_with_the_room_of_that_and_of_what_is_new() {
    let home = Home::empty();
    let Some(_small) = Small::mount(&home, 5_300) else {
        return;
    };
    let create = ["topics", "create", "ticks", "--retention-bytes", "1500kB"];
    let at = ["--broker", "file://small/data"];
    home.tidemill(&[&create[..], &at[..]].concat())
        .expect(0, &[]);
    // About 2.4 MB each.
    for round in 0..3 {
        let lines: Vec<String> = (0..12_000).map(|n| tick(round * 12_000 + n)).collect();
        let file = format!("ticks-{round}.jsonl");
        home.write(&file, lines.join("\n"));
        import_from(&home, &file).expect(0, &[]);
    }
    let read = ["read", "ticks", "--broker", "file://small/data", "--json"];
    let ended = home.tidemill(&read).expect(0, &[]);
    let last = ended.out.lines().last().unwrap_or_default();
    assert!(last.contains("35999"), "{last}");
}

#[test]
fn a_run_whose_log_fills_up_halts_and_goes_on_with_room() {
    let home = Home::new();
    let size: u64 = fs::metadata(home.file_of_ticks("segment")).unwrap().len();
    let Some(small) = Small::mount(&home, size / 1_024 + 80) else {
        return;
    };
    copy(&home.path("data"), &home.path("small/data"));
    home.change_pipeline(&[("file://data", "file://small/data")]);
    for _ in 0..2 {
        home.run().expect(3, &FULL);
    }
    small.grow();
    home.run_well();
    fs::remove_dir_all(home.path("data")).unwrap();
    copy(&home.path("small/data"), &home.path("data"));
    home.expect_all_bars();
}

#[test]
fn a_state_directory_that_fills_up_halts_and_the_log_is_whole() {
    for kilobytes in [4, 24, 150, 400] {
        let home = Home::empty();
        home.add_ticks(0..TICKS / 2);
        let Some(small) = Small::mount(&home, kilobytes) else {
            return;
        };
        let args = ["run", "p.toml", "--until-end", "--state-dir", "small/state"];
        let ended = home.tidemill(&args);
        // Enough room at some point.
        if ended.code != Some(0) {
            ended.expect(3, &["small/state"]).expect(3, &FULL);
        } else {
            assert!(kilobytes > 24, "{ended:?}");
        }
        small.grow();
        // The first half once more: only the state can tell.
        home.add_ticks(0..TICKS);
        home.tidemill(&args).expect(0, &[]);
        home.expect_all_bars();
    }
}

/// It told of its failure with `Os { code: 28, .. }`, and advised to start again.
#[test]
fn a_state_directory_that_fills_up_later_is_told_in_words_with_what_to_do() {
    let home = Home::empty();
    home.add_ticks(0..TICKS / 2);
    let Some(small) = Small::mount(&home, 60_000) else {
        return;
    };
    let args = ["run", "p.toml", "--until-end", "--state-dir", "small/state"];
    home.tidemill(&args).expect(0, &[]);
    home.add_ticks(TICKS / 2..TICKS);
    copy(&home.path("small/state"), &home.path("state"));
    copy(&home.path("data"), &home.path("before"));
    for room in [16_u64, 64, 128, 256] {
        fs::remove_dir_all(home.path("small/state")).unwrap();
        copy(&home.path("state"), &home.path("small/state"));
        let filler = fill(&small);
        let file = fs::File::options().write(true).open(&filler).unwrap();
        let len = file.metadata().unwrap().len();
        file.set_len(len - room * 1_024).unwrap();
        drop(file);
        let ended = home.tidemill(&args);
        fs::remove_file(filler).unwrap();
        if ended.code == Some(0) {
            assert!(room > 64, "{ended:?}");
        } else {
            let ended = ended.expect(3, &["small/state"]).expect(3, &FULL);
            for wrong in ["Os {", "panicked", "restart"] {
                assert!(!ended.err.contains(wrong), "{}", ended.err);
            }
            home.tidemill(&args).expect(0, &[]);
        }
        home.expect_all_bars();
        fs::remove_dir_all(home.path("data")).unwrap();
        copy(&home.path("before"), &home.path("data"));
    }
}

/// Takes all room there is; what is returned gives it back when removed.
fn fill(small: &Small) -> PathBuf {
    let path = small.at.join("filler");
    let mut file = fs::File::create(&path).unwrap();
    for size in [1 << 16, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    path
}

/// The savepoints in a state directory, and whatever else was left beside them.
fn savepoints(home: &Home) -> Vec<PathBuf> {
    let found = fs::read_dir(home.path("small/state/tasks/0-0/savepoints"));
    let found = found.into_iter().flatten();
    found.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_savepoint_or_a_restore_onto_a_full_disk_is_told_and_leaves_nothing_half_written() {
    let home = Home::empty();
    home.add_ticks(0..TICKS / 2);
    let Some(small) = Small::mount(&home, 8_000) else {
        return;
    };
    let state = |verb: &[&str]| {
        let mut args = verb.to_vec();
        args.extend(["p.toml", "--state-dir", "small/state"]);
        home.tidemill(&args)
    };
    state(&["run", "--until-end"]).expect(0, &[]);

    let filler = fill(&small);
    state(&["state", "savepoint"])
        .expect(3, &["small/state"])
        .expect(3, &FULL);
    assert_eq!(savepoints(&home), [] as [PathBuf; 0]);
    fs::remove_file(filler).unwrap();
    // As a process that was killed leaves it.
    let dir = home.store_in("small/state").join("savepoints");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("savepoint-00000000000000000001.tmp"), "half").unwrap();
    state(&["state", "savepoint"]).expect(0, &[]);
    let saved = savepoints(&home);
    let [saved] = &saved[..] else {
        panic!("one savepoint, and nothing else: {saved:?}");
    };
    fs::copy(saved, home.path("kept.tms")).unwrap();

    let filler = fill(&small);
    let restore = ["state", "restore", "--from", "kept.tms", "--yes"];
    for _ in 0..3 {
        state(&restore).expect(3, &["small/state"]).expect(3, &FULL);
    }
    fs::remove_file(filler).unwrap();
    let aside = |number: u32| {
        let path = home.store_in("small/state").join(format!("aside-{number}"));
        path.exists()
    };
    assert!(!aside(2), "what was half restored is no state to keep");
    // What is half restored is not taken for state: the first half once more, only the state can tell.
    home.add_ticks(0..TICKS);
    state(&["run", "--until-end"]).expect(0, &[]);
    home.expect_all_bars();
    state(&restore).expect(0, &[]);
    state(&["run", "--until-end"]).expect(0, &[]);
    home.expect_all_bars();
}

#[test]
fn a_disk_that_cannot_be_written_is_told_and_can_be_read() {
    let home = Home::new();
    let Some(small) = Small::mount(&home, 16_000) else {
        return;
    };
    copy(&home.path("data"), &home.path("small/data"));
    home.change_pipeline(&[("file://data", "file://small/data")]);
    home.write("ticks.jsonl", tick(0));
    small.remount("ro");
    let told = [
        "small/data",
        "Read-only file system",
        "help: make the directory writable",
    ];
    home.run().expect(3, &told);
    import(&home).expect(3, &told);
    let read = ["read", "ticks", "--broker", "file://small/data", "--json"];
    let ended = home.tidemill(&read).expect(0, &[]);
    assert_eq!(ended.out.lines().count() as u64, TICKS);
    small.remount("rw");
    home.run_well();
    fs::remove_dir_all(home.path("data")).unwrap();
    copy(&home.path("small/data"), &home.path("data"));
    home.expect_all_bars();
}

#[test]
fn a_state_directory_that_cannot_be_written_is_told() {
    let home = Home::new();
    let Some(small) = Small::mount(&home, 16_000) else {
        return;
    };
    let args = ["run", "p.toml", "--until-end", "--state-dir", "small/state"];
    small.remount("ro");
    home.tidemill(&args).expect(
        3,
        &[
            "small/state",
            "Read-only file system",
            "help: make the directory writable",
        ],
    );
    small.remount("rw");
    home.tidemill(&args).expect(0, &[]);
    home.expect_all_bars();
}

#[test]
fn state_on_a_disk_that_cannot_be_written_is_looked_at_in_a_copy() {
    let home = Home::new();
    let Some(small) = Small::mount(&home, 16_000) else {
        return;
    };
    let state = |verb: &[&str]| {
        let mut args = verb.to_vec();
        args.extend(["--state-dir", "small/state"]);
        home.tidemill(&args)
    };
    state(&["run", "p.toml", "--until-end"]).expect(0, &[]);
    state(&["state", "savepoint", "p.toml"]).expect(0, &[]);
    let look = || {
        let ls = state(&["state", "ls", "p.toml", "--json"])
            .expect(0, &[])
            .out;
        let get = state(&["state", "get", "p.toml", "once", "--json"])
            .expect(0, &[])
            .out;
        let fsck = state(&["state", "fsck", "p.toml", "--json"])
            .expect(0, &[])
            .out;
        let listed = state(&["state", "savepoint", "p.toml", "--list"])
            .expect(0, &[])
            .out;
        (ls, get, fsck, listed)
    };
    let written = look();
    assert_eq!(written.1.lines().count(), 100);
    assert!(written.3.contains("savepoints/savepoint-"), "{}", written.3);
    let saved = savepoints(&home).remove(0);
    let dry = || {
        let restore = [
            "state",
            "restore",
            "p.toml",
            "--from",
            saved.to_str().unwrap(),
        ];
        let [reset @ .., _yes] = RESET;
        let said = "not confirmed: nothing was done";
        [&restore[..], &reset].map(|verb| {
            let told = state(verb).expect(2, &[said]).out;
            let sure = [verb, &["--yes"]].concat();
            (
                told,
                sure.into_iter().map(str::to_owned).collect::<Vec<_>>(),
            )
        })
    };
    let rehearsed = dry();
    small.remount("ro");
    assert_eq!(look(), written);
    assert_eq!(dry(), rehearsed);
    for (_, sure) in &rehearsed {
        let sure: Vec<&str> = sure.iter().map(String::as_str).collect();
        state(&sure).expect(3, &["Read-only file system"]);
    }
    let task = "small/state/tasks/0-0";
    home.tidemill(&["state", "fsck", task]).expect(0, &[]);
    for changing in [
        &["state", "fsck", "p.toml", "--set-aside"][..],
        &["state", "savepoint", "p.toml"],
    ] {
        state(changing).expect(
            3,
            &["Read-only file system", "help: make the directory writable"],
        );
    }
    small.remount("rw");
    state(&["run", "p.toml", "--until-end"]).expect(0, &[]);
    home.expect_all_bars();
}

#[test]
fn a_recording_on_a_disk_that_cannot_be_written_is_read() {
    let home = Home::empty();
    let Some(small) = Small::mount(&home, 8_000) else {
        return;
    };
    read_from_feed(&home, "file://small/feed");
    feeds::import(&home, "file://small/feed", 0..TICKS);
    small.remount("ro");
    home.run_well();
    home.expect_all_bars();
}
