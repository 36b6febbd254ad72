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
        home.tidemill(&import).expect(7, &["data", &owner, help]);
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
