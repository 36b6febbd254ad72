//! Damage to the state: it is a cache of the log, rebuilt where it can be, and never trusted over it.

use std::fs;

use tidemill_broker::{
    self as broker, Broker as _, BrokerExt as _, Headers, NewRecord, RecordSet, Topic,
    TopicPartition, TopicSpec,
};
use tidemill_state::{Change, SledOptions, SledStore, State, StateStore as _};

use crate::signals::wait_for;
use crate::support::{Home, RESET, TICKS, all_bars, block_on, copy, flip, pair, signal, tick};

/// A run over the first half of the ticks; then the second half comes, with the first once more, which
/// only the state can tell.
fn half_way() -> Home {
    let home = Home::empty();
    home.add_ticks(0..TICKS / 2);
    home.run_well();
    home.add_ticks(0..TICKS);
    home
}

/// Changes a byte in each stretch of so many of a file of the engine.
fn flip_each(home: &Home, name: &str, stretch: usize) {
    let path = home.store().join("sled").join(name);
    let mut bytes = fs::read(&path).unwrap();
    bytes
        .iter_mut()
        .step_by(stretch)
        .for_each(|byte| *byte ^= 0x55);
    fs::write(path, bytes).unwrap();
}

/// Some of what is done here the engine takes for the end of what was written, and opens as if it had
/// never held anything.
#[test]
fn an_unreadable_store_is_set_aside_told_and_rebuilt() {
    type Harm = fn(&Home);
    let harms: [(&str, Harm); 8] = [
        ("identity", |home| {
            fs::write(home.store().join("identity.json"), "{").unwrap();
        }),
        ("note", |home| {
            fs::write(home.store().join("note"), [0xaa; 5_000]).unwrap();
        }),
        ("begin of db", |home| {
            for at in [0, 7, 300, 4_096, 100_000] {
                flip(&home.store().join("sled/db"), at);
            }
        }),
        ("all of db", |home| flip_each(home, "db", 512)),
        ("no db", |home| {
            fs::write(home.store().join("sled/db"), "").unwrap();
        }),
        ("no engine", |home| {
            fs::remove_dir_all(home.store().join("sled")).unwrap();
        }),
        ("a file for the engine", |home| {
            let engine = home.store().join("sled");
            fs::remove_dir_all(&engine).unwrap();
            fs::write(engine, "x").unwrap();
        }),
        ("a link to nowhere for the engine", |home| {
            let engine = home.store().join("sled");
            fs::remove_dir_all(&engine).unwrap();
            std::os::unix::fs::symlink("nowhere", engine).unwrap();
        }),
    ];
    for (what, harm) in harms {
        for is_killed in [false, true] {
            let home = half_way();
            if is_killed {
                kill_amid_run(&home);
            }
            harm(&home);
            let checked = home.tidemill(&["state", "fsck", "p.toml"]);
            assert_eq!(checked.code, Some(6), "{what}: {checked:?}");
            assert!(checked.out.contains("--set-aside"), "{what}: {checked:?}");
            let ended = home.run();
            assert_eq!(ended.code, Some(0), "{what}: {ended:?}");
            for said in ["set a state store aside", "aside-1"] {
                assert!(ended.err.contains(said), "{what}: {ended:?}");
            }
            assert!(!home.store().join("aside-2").exists(), "{what}");
            home.expect_all_bars();
            home.tidemill(&["state", "fsck", "p.toml"]).expect(0, &[]);
        }
    }
}

/// Starts a run and kills it once it has recovered: its store was not closed.
fn kill_amid_run(home: &Home) {
    let mut command = home.command(&["run", "p.toml"]);
    let mut child = command.env("TIDEMILL_LOG", "info").spawn().unwrap();
    let errors = wait_for(&mut child, "recovered");
    signal(&child, "KILL");
    child.wait().unwrap();
    drop(errors);
}

/// Writes a wrong value into the store, as a fault of the disk or of the program would: the time at
/// which an id was seen. Returns its key.
fn plant_wrong_value(home: &Home) -> (Vec<u8>, Vec<u8>) {
    block_on(async {
        let dir = home.store();
        let identity = tidemill_state::read_identity(&dir).unwrap().unwrap();
        let store = SledStore::open_strict(SledOptions {
            path: dir,
            identity,
            owner: "the test".to_owned(),
            new_id: 1,
            cache_bytes: SledOptions::CACHE_BYTES,
        })
        .await
        .unwrap();
        let (table, _) = State::stored_tables(&store)
            .await
            .unwrap()
            .into_iter()
            .find(|(_, spec)| spec.name.contains("once"))
            .unwrap();
        let page = store.scan(table.prefix(), None, 1).await.unwrap();
        let (key, value) = page[0].clone();
        // A microsecond later or earlier: no output depends on it.
        let mut wrong = value.to_vec();
        wrong[0] ^= 1;
        let change = Change {
            key: key.clone(),
            value: Some(wrong.clone().into()),
        };
        store.write(vec![change]).await.unwrap();
        store.sync().await.unwrap();
        store.close().await.unwrap();
        (key.to_vec(), wrong)
    })
}

/// What is said where a store is found to be wrong while its task runs.
const REBUILDING: &str = "the store is damaged: rebuilding it from the log";

/// A run over what there is ended before it had compared, and said that the store was in order.
#[test]
fn a_state_that_is_wrong_after_a_kill_is_rebuilt_once_by_the_next_run() {
    let home = Home::empty();
    home.add_ticks(0..TICKS / 2);
    home.run_well();
    // The last epoch is redone whenever a store is opened, which puts right what is wrong in it.
    home.add_ticks(TICKS / 2 - 1..TICKS / 2);
    home.run_well();
    kill_amid_run(&home);
    plant_wrong_value(&home);
    home.add_ticks(0..TICKS);
    let ended = home.run().expect(0, &[REBUILDING]);
    assert_eq!(ended.err.matches(REBUILDING).count(), 1, "{}", ended.err);
    assert!(home.store().join("aside-1").exists());
    home.expect_all_bars();
    let ended = home.run().expect(0, &[]);
    assert!(!ended.err.contains(REBUILDING), "{}", ended.err);
    assert!(!home.store().join("aside-2").exists());
}

/// Where the log itself leads to another state than its marker says, rebuilding helps once or never.
#[test]
fn a_state_that_is_wrong_again_once_it_was_rebuilt_halts() {
    let home = Home::empty();
    home.add_ticks(0..TICKS / 2);
    home.run_well();
    kill_amid_run(&home);
    let (key, wrong) = plant_wrong_value(&home);
    block_on(async {
        let log = home.log().await;
        let at = TopicPartition::new(Topic::new("p.changelog").unwrap(), 0);
        let mut set = RecordSet::new(at);
        let (key, value) = (Some(&key[..]), Some(&wrong[..]));
        set.push(None, key, value, &Headers::new());
        for acks in log.produce(vec![set]).await.unwrap() {
            acks.into_result().unwrap();
        }
        log.close().await.unwrap();
    });
    let ended = home
        .tidemill(&["run", "p.toml"])
        .expect(6, &[REBUILDING, "digest"]);
    assert_eq!(ended.err.matches(REBUILDING).count(), 1, "{}", ended.err);
    assert!(home.store().join("aside-1").exists());
    assert!(
        !home.store().join("aside-2").exists(),
        "the second is left as it is"
    );
}

#[test]
fn a_lost_store_is_rebuilt() {
    let home = half_way();
    fs::remove_dir_all(home.path(".tidemill")).unwrap();
    home.run_well();
    home.expect_all_bars();
}

#[test]
fn a_store_that_cannot_be_opened_stops_the_run_and_nothing_is_lost() {
    let home = half_way();
    let (store, kept) = (home.store(), home.path("kept"));
    fs::rename(&store, &kept).unwrap();
    fs::write(&store, "in the way").unwrap();
    home.run()
        .expect(3, &["the state of task 0-0 failed", "0-0"]);
    fs::remove_file(&store).unwrap();
    fs::rename(&kept, &store).unwrap();
    home.run_well();
    home.expect_all_bars();
}

#[test]
fn a_store_of_a_newer_version_is_left_as_it_is() {
    let home = half_way();
    let path = home.store().join("identity.json");
    let ours = fs::read_to_string(&path).unwrap();
    fs::write(&path, ours.replace("\"format\": 1", "\"format\": 2")).unwrap();
    home.run().expect(
        6,
        &[
            "identity.json has format 2",
            "run the version that wrote it",
        ],
    );
    assert!(!home.store().join("aside-1").exists());
    fs::write(&path, ours).unwrap();
    home.run_well();
    home.expect_all_bars();
}

#[test]
fn the_state_of_another_pipeline_is_refused_and_left_as_it_is() {
    let home = half_way();
    let other = fs::read_to_string(home.path("p.toml"))
        .unwrap()
        .replace("\"p\"", "\"other\"");
    home.write("other.toml", other);
    let args = [
        "run",
        "other.toml",
        "--until-end",
        "--state-dir",
        ".tidemill/p/0",
    ];
    let checked = home.tidemill(&["state", "fsck", "other.toml", "--state-dir", args[4]]);
    assert_eq!(checked.code, Some(6), "{checked:?}");
    assert!(checked.out.contains("state of pipeline `p`"), "{checked:?}");
    home.tidemill(&args).expect(
        6,
        &[
            "holds the state of pipeline `p`",
            "not of pipeline `other`",
            "another directory",
        ],
    );
    home.run_well();
    home.expect_all_bars();
}

#[test]
fn state_without_its_log_halts_and_both_are_named() {
    let home = half_way();
    fs::rename(home.path("data"), home.path("kept")).unwrap();
    home.run().expect(
        6,
        &[
            "topic `ticks` does not exist, but .tidemill/p/0 holds state",
            "help: restore the log",
        ],
    );
    assert!(!home.path("data").exists(), "no empty log takes its place");
    fs::rename(home.path("kept"), home.path("data")).unwrap();
    home.run_well();
    home.expect_all_bars();
}

#[test]
fn state_that_is_newer_than_its_log_halts_and_either_can_be_given_up() {
    let home = Home::empty();
    home.add_ticks(0..TICKS / 2);
    home.run_well();
    copy(&home.path("data"), &home.path("backup"));
    home.add_ticks(TICKS / 2..TICKS * 3 / 4);
    home.run_well();
    fs::rename(home.path("data"), home.path("newer")).unwrap();
    copy(&home.path("backup"), &home.path("data"));
    let ended = home.run().expect(6, &["the log lost something", "take th"]);
    assert!(
        ended.err.contains(".tidemill/p/0/tasks/0-0"),
        "the store: {}",
        ended.err
    );
    assert!(
        ended.err.contains("epoch") || ended.err.contains("p.changelog/0"),
        "{}",
        ended.err
    );

    // The log is restored after all: as if nothing had been.
    let (old, new) = (home.path("data"), home.path("newer"));
    fs::rename(&old, home.path("old")).unwrap();
    fs::rename(&new, &old).unwrap();
    home.add_ticks(TICKS / 2..TICKS);
    home.run_well();
    home.expect_all_bars();

    // Or the store is given up: the run goes on from the log as it is.
    fs::remove_dir_all(&old).unwrap();
    fs::rename(home.path("old"), &old).unwrap();
    fs::remove_dir_all(home.store()).unwrap();
    home.add_ticks(TICKS / 2..TICKS);
    home.run_well();
    home.expect_all_bars();
}

/// The log was replaced by an older copy of itself and went on, elsewhere, as far as the store had seen: by
/// epochs and offsets alone the store is one of this log, and what only the lost half held was taken for seen.
#[test]
fn a_store_that_followed_another_copy_of_its_log_is_set_aside_and_rebuilt() {
    let home = Home::empty();
    home.add_ticks(0..TICKS / 4);
    home.run_well();
    copy(&home.path("data"), &home.path("backup"));
    home.add_ticks(TICKS / 4..TICKS);
    home.run_well();
    fs::remove_dir_all(home.path("data")).unwrap();
    fs::rename(home.path("backup"), home.path("data")).unwrap();
    for eighth in 2..6 {
        home.add_ticks(eighth * TICKS / 8..(eighth + 1) * TICKS / 8);
        let args = ["run", "p.toml", "--until-end", "--state-dir", "elsewhere"];
        home.tidemill(&args).expect(0, &[]);
    }
    home.add_ticks(6 * TICKS / 8..TICKS);
    let ended = home.run().expect(0, &[REBUILDING, "but"]);
    assert!(ended.err.contains("was committed"), "{ended:?}");
    home.expect_all_bars();
    home.run_well();
}

#[test]
fn a_task_that_halts_stops_no_other_and_is_told_with_its_code() {
    let home = Home::empty();
    let append = |numbers: std::ops::Range<u64>| {
        block_on(async {
            let log = home.log().await;
            let topic = Topic::new("ticks").unwrap();
            let spec = TopicSpec::new(topic.clone(), 2.try_into().unwrap());
            match log.create_topic(&spec).await {
                Ok(()) | Err(broker::Error::TopicExists { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            for number in numbers {
                let at = u32::from(pair(number) == "BBB");
                let record = NewRecord::new(topic.clone(), tick(number))
                    .partition(at)
                    .key(pair(number));
                log.send(record).await.unwrap();
            }
            log.close().await.unwrap();
        });
    };
    let bars_of = |pair: &str| home.bars().iter().filter(|bar| bar.contains(pair)).count() as u64;
    append(0..TICKS / 2);
    home.run_well();
    append(TICKS / 2..TICKS);
    let path = home.path(".tidemill/p/0/tasks/0-1/identity.json");
    let ours = fs::read_to_string(&path).unwrap();
    fs::write(&path, ours.replace("\"format\": 1", "\"format\": 2")).unwrap();
    let ended = home
        .run()
        .expect(6, &["the state of task 0-1 failed", "has format 2"]);
    assert!(
        ended.err.matches("has format 2").count() <= 2,
        "a log line and the end: {}",
        ended.err
    );
    assert_eq!((bars_of("AAA"), bars_of("BBB")), (TICKS / 10, TICKS / 20));
    fs::write(&path, ours).unwrap();
    home.run_well();
    assert_eq!((bars_of("AAA"), bars_of("BBB")), (TICKS / 10, TICKS / 10));
}

fn delete(home: &Home, topic: &str) {
    let delete = ["topics", "delete", topic, "--broker", "file://data"];
    home.tidemill(&[&delete[..], &["--yes"]].concat())
        .expect(0, &[]);
}

/// A run over the first half of the ticks, after which the changelog was deleted; the second half waits.
fn without_changelog() -> Home {
    let home = Home::empty();
    home.add_ticks(0..TICKS / 2);
    home.run_well();
    delete(&home, "p.changelog");
    home.add_ticks(TICKS / 2..TICKS);
    home
}

/// The advice was to take the store away, which led into the next halt.
#[test]
fn a_deleted_changelog_halts_and_a_reset_is_the_way_on() {
    let home = without_changelog();
    let before = home.bars();
    let told = [
        "task 0-0 cannot go on: its store .tidemill/p/0/tasks/0-0",
        "p.changelog/0",
        "there is nothing left of the changelog; restore it, or `tidemill offsets reset` makes the pipeline start anew",
    ];
    for _ in 0..2 {
        home.run().expect(6, &told);
    }
    // Without the store it is the group's word that nothing is known to.
    let (store, kept) = (home.store(), home.path("kept"));
    fs::rename(&store, &kept).unwrap();
    let told = [
        "the group has committed offset 1000, but there is no marker",
        "`tidemill offsets reset` makes it start anew",
    ];
    for _ in 0..2 {
        home.run().expect(6, &told);
    }
    assert_eq!(home.bars(), before);
    fs::remove_dir_all(&store).unwrap();
    fs::rename(&kept, &store).unwrap();

    let reset = home.tidemill(&RESET).expect(0, &[]);
    assert!(reset.out.contains("tasks/0-0 set aside"), "{}", reset.out);
    home.run_well();
    let bars = home.bars();
    assert_eq!(bars[..before.len()], before, "what was written stays");
    assert!(bars[before.len()..] == *all_bars(), "not all of it anew");
    home.run_well();
    assert_eq!(home.bars(), bars);
}

#[test]
fn a_changelog_that_was_deleted_with_its_store_starts_anew_after_a_reset() {
    let home = without_changelog();
    fs::remove_dir_all(home.path(".tidemill")).unwrap();
    home.run()
        .expect(6, &["there is no marker", "`tidemill offsets reset`"]);
    delete(&home, "bars");
    home.tidemill(&RESET).expect(0, &[]);
    home.run_well();
    home.expect_all_bars();
}

/// A run that was refused left its store as if the process had been killed.
#[test]
fn a_run_that_is_refused_leaves_its_store_as_it_was() {
    let home = half_way();
    let look = || {
        let listed = home.tidemill(&["state", "ls", "p.toml"]);
        listed.expect(0, &[]).out
    };
    let before = look();
    assert!(before.contains("clean"), "{before}");
    let file = fs::read_to_string(home.path("p.toml")).unwrap();
    home.change_pipeline(&[("size = \"1s\"", "size = \"2s\"")]);
    home.run()
        .expect(6, &["the pipeline has changed since its state was written"]);
    assert_eq!(look(), before);
    home.write("p.toml", file);
    home.run_well();
    home.expect_all_bars();
}

/// A bar is for who looks at it: it moves the cursor, and a file is to hold lines.
#[test]
fn no_progress_is_shown_on_a_pipe() {
    let home = Home::new();
    home.run_well();
    let is_quiet = |args: &[&str]| {
        let err = home.tidemill(args).expect(0, &[]).err;
        assert!(!err.contains(['\r', '\u{1b}']), "{args:?}: {err}");
    };
    is_quiet(&["state", "fsck", "p.toml"]);
    is_quiet(&["state", "ls", "p.toml"]);
    is_quiet(&["state", "savepoint", "p.toml"]);
    let saved = fs::read_dir(home.store().join("savepoints")).unwrap();
    let saved = saved.map(|entry| entry.unwrap().path()).next().unwrap();
    let from = saved.to_str().unwrap();
    is_quiet(&["state", "restore", "p.toml", "--from", from, "--yes"]);
    // A run that has the whole changelog to redo.
    fs::remove_dir_all(home.store()).unwrap();
    is_quiet(&["run", "p.toml", "--until-end"]);
}

#[test]
fn a_store_that_waits_to_be_compared_with_its_log_is_called_so_until_it_was() {
    let home = Home::new();
    home.run_well();
    kill_amid_run(&home);
    let state = || home.tidemill(&["state", "ls", "p.toml"]).expect(0, &[]).out;
    assert!(state().contains("to be compared"), "{}", state());
    home.run_well();
    assert!(state().contains("clean"), "{}", state());
}
