//! One owner at a time: of a log, of an instance's directory.

use tidemill::pipeline::Instance;

use crate::support::{Home, TICKS, block_on, tick};

#[test]
fn a_log_in_use_is_refused_with_its_owner() {
    let home = Home::new();
    home.write("ticks.jsonl", tick(0));
    block_on(async {
        let log = home.log().await;
        let owner = format!("is in use by process {}", std::process::id());
        let help = "help: stop the other process, or use another directory";
        home.run().expect(7, &["data", &owner, help]);
        let import = ["import", "ticks.jsonl", "--broker", "file://data"];
        home.tidemill(&import).expect(7, &["data", &owner]);
        // Reading takes nothing from the owner.
        let read = ["read", "ticks", "--broker", "file://data", "--json"];
        let ended = home.tidemill(&read).expect(0, &[]);
        assert_eq!(ended.out.lines().count() as u64, TICKS);
        log.close().await.unwrap();
    });
    home.run_well();
    home.expect_all_bars();
}

#[test]
fn a_state_directory_in_use_is_refused_with_its_owner() {
    let home = Home::new();
    let taken = Instance::take(&home.path(""), "p", Some(&home.path("state"))).unwrap();
    let args = ["run", "p.toml", "--until-end", "--state-dir", "state"];
    let owner = format!("state is in use by process {}", std::process::id());
    home.tidemill(&args).expect(7, &[&owner, "--state-dir"]);
    // A name is no business of the owner's.
    let save = ["state", "savepoint", "p.toml", "--state-dir", "state"];
    home.tidemill(&save).expect(7, &[&owner, "--state-dir"]);
    let listed = home.tidemill(&[&save[..], &["--list"]].concat());
    assert_eq!(listed.expect(0, &[]).out, "there are no savepoints\n");
    drop(taken);
    home.tidemill(&args).expect(0, &[]);
    home.expect_all_bars();
}

#[test]
fn a_second_instance_takes_the_next_directory_and_is_stopped_by_the_log() {
    let home = Home::new();
    let taken = Instance::take(&home.path(".tidemill"), "p", None).unwrap();
    assert_eq!(taken.name(), "0");
    // The log has no owner, so the second instance may have it.
    home.run_well();
    assert!(home.path(".tidemill/p/1/tasks/0-0").exists());
    drop(taken);
    // The first instance's directory is empty: its state comes from the log.
    home.run_well();
    home.expect_all_bars();
}

/// Such a run became another instance in silence, built all state anew and left a second store.
#[test]
fn a_run_is_refused_while_somebody_looks_at_the_state_and_becomes_no_other_instance() {
    let home = Home::new();
    home.run_well();
    let root = home.path(".tidemill");
    let looking = Instance::take_all(&root, "p", None, "tidemill state ls").unwrap();
    let owner = format!("process {} (`tidemill state ls`)", std::process::id());
    home.run()
        .expect(7, &[".tidemill/p/0 is in use by", &owner]);
    home.tidemill(&["state", "ls", "p.toml"])
        .expect(7, &[".tidemill/p/0 is in use by", &owner]);
    assert!(!home.path(".tidemill/p/1").exists());
    drop(looking);
    home.run_well();
    assert!(!home.path(".tidemill/p/1").exists());
    home.expect_all_bars();
}

#[test]
fn a_run_that_finds_its_log_in_use_leaves_no_directory_of_state() {
    let home = Home::new();
    block_on(async {
        let log = home.log().await;
        let running = Instance::take(&home.path(".tidemill"), "p", None).unwrap();
        home.run().expect(7, &["data is in use by"]);
        assert!(!home.path(".tidemill/p/1").exists());
        drop(running);
        log.close().await.unwrap();
    });
}

#[test]
fn state_of_two_instances_is_named_and_the_one_that_was_overtaken_is_marked() {
    let home = Home::empty();
    home.add_ticks(0..TICKS / 2);
    home.run_well();
    let first = Instance::take(&home.path(".tidemill"), "p", None).unwrap();
    home.add_ticks(TICKS / 2..TICKS);
    home.run_well();
    drop(first);
    let listed = home.tidemill(&["state", "ls", "p.toml"]).expect(0, &[]).out;
    let of = |instance: &str| {
        let found = listed.lines().find(|line| line.contains(instance));
        found.unwrap_or_else(|| panic!("{instance} in {listed}"))
    };
    assert!(of(".tidemill/p/0/").contains("behind"), "{listed}");
    assert!(of(".tidemill/p/1/").contains("clean"), "{listed}");
    let get = ["state", "get", "p.toml", "tidemill.time"];
    let shown = home.tidemill(&get).expect(0, &[]).out;
    assert!(shown.contains(".tidemill/p/0 (behind)"), "{shown}");
    assert!(shown.contains(".tidemill/p/1"), "{shown}");
    let checked = home.tidemill(&["state", "fsck", "p.toml"]).expect(0, &[]);
    assert!(
        checked.out.contains("task 0-0 in .tidemill/p/0:")
            && checked.out.contains("behind another instance"),
        "{checked:?}"
    );
}

/// A run with the directory of all instances made a store beside theirs, and built all state anew.
#[test]
fn the_directory_of_all_instances_is_none_of_one() {
    let home = Home::new();
    let run = |dir: &str| home.tidemill(&["run", "p.toml", "--until-end", "--state-dir", dir]);
    let said = ".tidemill/p is where the instances of `p` have their directories, one each";
    let help = "help: name one of them, such as `.tidemill/p/0`, or a directory elsewhere";
    for dir in [".tidemill/p", "./.tidemill/p/"] {
        run(dir).expect(2, &[said, help]);
        assert!(!home.path(".tidemill/p").exists());
    }
    home.run_well();
    let entries = |dir: &str| std::fs::read_dir(home.path(dir)).unwrap().count();
    let before = entries(".tidemill/p");
    run(".tidemill/p").expect(2, &[said, help]);
    let ls = ["state", "ls", "p.toml", "--state-dir", ".tidemill/p"];
    home.tidemill(&ls).expect(2, &[said, help]);
    let reset = "offsets reset p.toml --to earliest --drop-state --state-dir .tidemill/p --yes";
    let reset: Vec<&str> = reset.split(' ').collect();
    home.tidemill(&reset).expect(2, &[said, help]);
    assert_eq!(entries(".tidemill/p"), before);
    run(".tidemill/p/0").expect(0, &[]);
    home.expect_all_bars();
}
