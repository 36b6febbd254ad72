//! The topic of the dead letters, deleted between two runs: an output like others.

use tidemill_broker::Headers;

use crate::support::{Home, RESET, TICKS, append, append_ticks, block_on};

fn delete(home: &Home, topic: &str) {
    let delete = ["topics", "delete", topic, "--broker", "file://data"];
    home.tidemill(&[&delete[..], &["--yes"]].concat())
        .expect(0, &[]);
}

/// Half of the ticks and `poison` records that are none were read; the other half waits.
fn with_dead_letters(poison: usize) -> Home {
    let home = Home::empty();
    block_on(async {
        let log = home.log().await;
        append_ticks(&log, 0..TICKS / 2).await;
        for _ in 0..poison {
            append(&log, b"AAA", b"no tick", &Headers::new()).await;
        }
        log.close().await.unwrap();
    });
    home.run_well();
    assert_eq!(home.records("p.dead-letter").len(), poison);
    delete(&home, "p.dead-letter");
    home.add_ticks(TICKS / 2..TICKS);
    home
}

/// The topic was made anew, and nobody learnt that what lay there was gone.
#[test]
fn dead_letters_that_were_deleted_are_not_made_anew_in_silence() {
    let home = with_dead_letters(2);
    let before = home.bars();
    let create = ["topics", "create", "p.dead-letter"];
    let told = [
        "topic `p.dead-letter` of the dead letters is gone",
        "`tidemill topics create p.dead-letter --broker file://data` to go on with what comes next",
    ];
    for _ in 0..2 {
        home.run().expect(6, &told);
        assert_eq!(home.bars(), before);
    }
    home.tidemill(&[&create[..], &["--broker", "file://data"]].concat())
        .expect(0, &[]);
    home.run_well();
    home.expect_all_bars();
    assert_eq!(home.records("p.dead-letter").len(), 0);
    // They are counted from the first on: also those of a run before the last.
    delete(&home, "p.dead-letter");
    home.run().expect(6, &told);
    // Written anew from the beginning, they are there again.
    delete(&home, "bars");
    home.tidemill(&RESET).expect(0, &[]);
    home.run_well();
    home.expect_all_bars();
    assert_eq!(home.records("p.dead-letter").len(), 2);
}

#[test]
fn a_topic_of_dead_letters_that_held_none_is_made_anew() {
    let home = with_dead_letters(0);
    home.run_well();
    home.expect_all_bars();
    assert_eq!(home.records("p.dead-letter").len(), 0);
}
