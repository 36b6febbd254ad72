//! Commands that are killed, or panic, at each crash point that they pass: what they do has happened, or not.

use std::collections::BTreeMap;
use std::fs;

use crate::support::{Home, PIPELINE, RESET, TICKS};

const ACCEPT: &[&str] = &["run", "p.toml", "--until-end", "--accept-new-version"];

/// The first and the last pass of each crash point that a command comes to.
fn passes(home: &Home, args: &[&str]) -> Vec<String> {
    let log = home.path("passed");
    let mut command = home.command(args);
    command.env("TIDEMILL_CRASH_LOG", &log);
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for name in fs::read_to_string(log).unwrap().lines() {
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    assert!(counts.contains_key("append.written"), "{counts:?}");
    let places = counts.into_iter().flat_map(|(name, last)| {
        let mut passes = vec![1, last];
        passes.dedup();
        passes.into_iter().map(move |nth| format!("{name}:{nth}"))
    });
    places.collect()
}

/// Runs a command and kills it there, if it comes there: work beside it may be done earlier or later.
fn kill(home: &Home, args: &[&str], place: &str) {
    let mut command = home.command(args);
    command.env("TIDEMILL_CRASH_AT", place);
    let ended = command.output().unwrap();
    assert!(
        matches!(ended.status.code(), None | Some(0)),
        "{place}: {ended:?}"
    );
}

/// How often each of the bars is there: all of them equally often.
#[track_caller]
fn times(home: &Home, place: &str) -> usize {
    let bars = home.bars();
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    for bar in &bars {
        *counts.entry(bar).or_default() += 1;
    }
    let times = counts.values().next().copied().unwrap_or_default();
    assert!(
        counts.values().all(|count| *count == times),
        "{place}: {counts:#?}"
    );
    times
}

#[test]
fn a_reset_that_is_killed_anywhere_has_happened_as_a_whole_or_not_at_all() {
    let whole = || {
        let home = Home::new();
        home.run_well();
        home
    };
    for place in passes(&whole(), &RESET) {
        let home = whole();
        kill(&home, &RESET, &place);
        home.run_well();
        let before = times(&home, &place);
        assert!((1..=2).contains(&before), "{place}: {before}");
        home.tidemill(&RESET).expect(0, &[]);
        home.run_well();
        assert_eq!(times(&home, &place), before + 1, "{place}");
    }
}

#[test]
fn a_new_version_that_is_killed_anywhere_goes_on_as_if_it_had_not_been() {
    let changed = || {
        let home = Home::empty();
        home.add_ticks(0..TICKS / 2);
        home.run_well();
        home.add_ticks(TICKS / 2..TICKS);
        let copies = "\n[topics.copies]\nbroker = \"main\"\n\n[sinks.copies]\nfrom = \"once\"\ntopic = \"copies\"\n";
        home.write("p.toml", PIPELINE.to_owned() + copies);
        home.run().expect(6, &["--accept-new-version"]);
        home
    };
    for place in passes(&changed(), ACCEPT) {
        let home = changed();
        kill(&home, ACCEPT, &place);
        home.tidemill(ACCEPT).expect(0, &[]);
        home.expect_all_bars();
        assert_eq!(home.records("copies").len() as u64, TICKS / 2, "{place}");
    }
}

#[test]
fn a_mistake_anywhere_in_the_program_ends_it_with_a_code_and_loses_nothing() {
    let home = || {
        let home = Home::empty();
        home.add_ticks(0..TICKS);
        home
    };
    let run = ["run", "p.toml", "--until-end"];
    for place in passes(&home(), &run) {
        let home = home();
        let mut command = home.command(&run);
        command.env("TIDEMILL_PANIC_AT", &place);
        let ended = command.output().unwrap();
        let told = String::from_utf8_lossy(&ended.stderr);
        // Work beside it may be done earlier or later, or not.
        let is_healed = told.contains("set a state store aside");
        if told.contains("panicked") && !is_healed {
            assert!(!ended.status.success(), "{place}: {told}");
            assert!(told.contains("mistake in tidemill"), "{place}: {told}");
        }
        if place.starts_with("commit.") || place.starts_with("recover.") {
            assert_eq!(ended.status.code(), Some(70), "{place}: {told}");
        }
        home.run_well();
        home.expect_all_bars();
    }
}
