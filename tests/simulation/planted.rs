//! Bugs planted in the shipped code: each must be found, or the simulator proves nothing.

use tidemill_state::planted;

use crate::campaign;
use crate::scenario::{Scenario, Setting};

/// Seeds within which each bug must be found.
const SEEDS_MAX: u64 = 500;

fn is_found(name: &'static str) {
    is_found_by(name, |_| true);
}

fn is_found_by(name: &'static str, tries: impl Fn(Setting) -> bool) {
    planted::plant(name);
    let mut seeds = (0..SEEDS_MAX).map(|index| Scenario::of_series(0, index));
    let found = seeds.find(|scenario| {
        tries(scenario.setting) && campaign::try_scenario(*scenario).wrong.is_some()
    });
    planted::plant("");
    let Some(scenario) = found else {
        panic!("{name} was not found by {SEEDS_MAX} seeds");
    };
    // Or it was something else that failed there.
    if let Some(wrong) = campaign::try_scenario(scenario).wrong {
        panic!("seed {scenario} fails without {name}, too: {wrong}");
    }
}

#[test]
fn offsets_committed_before_the_delta_are_found() {
    is_found("P1");
}

#[test]
fn delta_and_marker_in_two_transactions_are_found() {
    is_found("P2");
}

#[test]
fn a_store_ahead_of_the_durable_log_is_found_when_the_power_is_lost() {
    // Only there the log loses what it has not made durable.
    is_found_by("P3", |setting| setting == Setting::Files);
}

#[test]
fn state_written_behind_before_its_commit_is_known_is_found() {
    is_found("P3_uncommitted");
}

#[test]
fn offsets_off_by_one_are_found() {
    is_found("P4");
}

#[test]
fn a_revocation_that_is_ignored_is_found() {
    is_found("P6");
}

#[test]
fn state_merged_before_its_commit_is_known_is_found() {
    is_found("P7");
}

#[test]
fn input_that_is_taken_although_there_is_no_room_is_found() {
    is_found_by("P13", |setting| setting == Setting::Tight);
}

#[test]
fn work_that_a_restart_takes_for_done_is_found() {
    is_found_by("P14", |setting| setting == Setting::Tight);
}
