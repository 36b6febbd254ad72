//! Outputs that are gone: not made anew in silence, whichever way the pipeline goes on.

use crate::support::{Ended, Home, PIPELINE, TICKS};

const GONE: [&str; 2] = [
    "topic `bars` of sink `bars` is gone",
    "`tidemill topics create bars --broker file://data` to go on with what comes next",
];

/// A run over the first half of the ticks, whose bars were then deleted; the second half waits.
fn without_bars() -> Home {
    let home = Home::empty();
    home.add_ticks(0..TICKS / 2);
    home.run_well();
    delete_bars(&home);
    home.add_ticks(TICKS / 2..TICKS);
    home
}

fn delete_bars(home: &Home) {
    let delete = [
        "topics",
        "delete",
        "bars",
        "--broker",
        "file://data",
        "--yes",
    ];
    home.tidemill(&delete).expect(0, &[]);
}

fn create_bars(home: &Home) {
    let create = ["topics", "create", "bars", "--broker", "file://data"];
    home.tidemill(&create).expect(0, &[]);
}

fn has_bars(home: &Home) -> bool {
    let list = ["topics", "list", "--broker", "file://data", "--json"];
    let listed = home.tidemill(&list).expect(0, &[]);
    listed.out.contains("\"bars\"")
}

fn reset(home: &Home, args: &[&str]) -> Ended {
    home.tidemill(&[&["offsets", "reset", "p.toml"], args].concat())
}

fn run_accepting(home: &Home) -> Ended {
    home.tidemill(&["run", "p.toml", "--until-end", "--accept-new-version"])
}

#[test]
fn an_output_that_was_deleted_is_not_made_anew_in_silence() {
    let home = without_bars();
    for _ in 0..2 {
        home.run().expect(6, &GONE);
    }
    // Under another name it is another file: what changed is told instead.
    home.change_pipeline(&[("[topics.bars]", "[topics.bars]\ntopic = \"other\"")]);
    home.run()
        .expect(6, &["sink `bars`: topic bars on main -> other on main"]);
    home.write("p.toml", PIPELINE);
    create_bars(&home);
    home.run_well();
    let some = home.bars().len();
    assert!(some > 0);
    // The other way on writes all of it, also the topic.
    delete_bars(&home);
    reset(&home, &["--to", "earliest", "--drop-state", "--yes"]).expect(0, &[]);
    home.run_well();
    home.expect_all_bars();
}

/// A reset made the topic anew and said nothing, and the next run took it for the old one.
#[test]
fn a_reset_that_does_not_write_all_of_a_lost_output_anew_is_refused() {
    let home = without_bars();
    for args in [
        &["--to", "earliest", "--keep-state"][..],
        &["--to", "latest", "--drop-state", "--yes"],
        &[
            "--to",
            "earliest",
            "--drop-state",
            "--partition",
            "0",
            "--yes",
        ],
        &["--to", "1", "--drop-state", "--source", "ticks", "--yes"],
    ] {
        reset(&home, args).expect(6, &GONE);
        assert!(!has_bars(&home), "{args:?}");
    }
    // Once it is there by a decision, anything goes.
    create_bars(&home);
    reset(&home, &["--to", "latest", "--keep-state", "--yes"]).expect(0, &[]);
}

#[test]
fn a_reset_that_writes_a_lost_output_anew_says_so() {
    let home = without_bars();
    let args = ["--to", "earliest", "--drop-state"];
    let told = reset(&home, &args).expect(2, &["not confirmed: nothing was done"]);
    let said = "topic `bars` of sink `bars` is gone and would be made anew";
    assert!(told.out.contains(said), "{}", told.out);
    assert!(!has_bars(&home), "nothing was done");
    let done = reset(&home, &[&args[..], &["--yes", "--json"]].concat()).expect(0, &[]);
    let done: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(done["lostOutputs"][0]["topic"], "bars", "{done}");
    assert!(has_bars(&home));
    home.run_well();
    home.expect_all_bars();
}

/// The markers of another version were passed over, and the topic was made anew.
#[test]
fn a_new_version_is_not_accepted_over_an_output_that_is_gone() {
    let home = without_bars();
    home.change_pipeline(&[(
        "id = [\"sequence\"]",
        "id = [\"sequence\"]\ncount_max = 9999",
    )]);
    for _ in 0..2 {
        home.run().expect(6, &GONE);
        run_accepting(&home).expect(6, &GONE);
        assert!(!has_bars(&home));
    }
    // Nor if the sink is called otherwise now.
    home.change_pipeline(&[("[sinks.bars]", "[sinks.result]")]);
    let said = "topic `bars` of sink `result` is gone";
    run_accepting(&home).expect(6, &[said]);
    create_bars(&home);
    run_accepting(&home).expect(0, &[]);
    home.run_well();
}

#[test]
fn a_new_version_that_writes_to_another_topic_is_accepted() {
    let home = without_bars();
    home.change_pipeline(&[("[topics.bars]", "[topics.bars]\ntopic = \"other\"")]);
    let ended = run_accepting(&home).expect(0, &[]);
    assert!(!ended.err.contains("gone"), "{}", ended.err);
    assert_eq!(home.records("other").len() as u64, TICKS / 10);
}

/// With the store it was said that the changelog was deleted, which it was not; without, all bars were
/// written again.
#[test]
fn a_home_that_moved_away_from_the_changelog_is_refused_and_the_file_can_name_it() {
    let home = Home::new();
    home.run_well();
    let other = "[brokers.other]\nurl = \"file://other\"\n\n[sinks.first]\nfrom = \"bar\"\ntopic = { broker = \"other\", topic = \"first\" }\n\n[sinks.bars]";
    home.change_pipeline(&[
        ("guarantee = \"exactly_once\"\n", ""),
        ("[sinks.bars]", other),
    ]);
    let said = [
        "broker `main` holds `p.changelog`",
        "its home is `other`",
        "write `home = \"main\"` in `[pipeline]`",
    ];
    let accept = ["run", "p.toml", "--until-end", "--accept-new-version"];
    home.run().expect(6, &said);
    home.tidemill(&accept).expect(6, &said);
    std::fs::remove_dir_all(home.path(".tidemill")).unwrap();
    home.run().expect(6, &said);
    let checked = home.tidemill(&["check", "p.toml"]).expect(0, &[]);
    assert!(
        checked.out.contains("the home of the pipeline is `other`"),
        "{checked:?}"
    );

    home.change_pipeline(&[("name = \"p\"", "name = \"p\"\nhome = \"main\"")]);
    home.tidemill(&accept).expect(0, &[]);
    home.expect_all_bars();
    let checked = home.tidemill(&["check", "p.toml"]).expect(0, &[]);
    assert_eq!(checked.out, "no problems\n");
    let explained = home.tidemill(&["explain", "p.toml"]).expect(0, &[]);
    assert!(explained.out.contains("at home on main"), "{explained:?}");
}

/// It was to be made with one partition for each task of the pipeline, also of those that do not write it.
#[test]
fn an_output_that_is_gone_is_to_be_made_with_the_partitions_it_had() {
    let home = Home::empty();
    home.make_topic("others");
    home.add_ticks(0..TICKS / 2);
    let beside = r#"
[topics.others]
broker = "main"
event = "MarketDataUpdate"
key = "pair"

[topics.copies]
broker = "main"

[sinks.copies]
from = "others"
topic = "copies"
"#;
    home.write("p.toml", PIPELINE.to_owned() + beside);
    home.run_well();
    delete_bars(&home);
    home.run().expect(6, &GONE);
}
