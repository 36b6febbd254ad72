//! Bugs planted in the shipped code: each must be found, or the simulator proves nothing. Which checker finds
//! which is said in [`Checker`].

use std::collections::BTreeSet;

use tidemill_state::planted;

use crate::campaign;
use crate::checker::Checker;
use crate::scenario::{Scenario, Setting};

/// Seeds within which each bug must be found.
const SEEDS_MAX: u64 = 500;

/// Where a bug can show.
fn anywhere(_: Setting) -> bool {
    true
}

fn where_room_is_short(setting: Setting) -> bool {
    setting == Setting::Tight
}

/// Only there the log loses what it has not made durable.
fn where_power_is_lost(setting: Setting) -> bool {
    setting == Setting::Files
}

/// A seed is found in which this checker finds the bug.
fn is_found_by(checker: Checker, name: &'static str, tries: fn(Setting) -> bool) {
    is_found(name, tries, &|caught| caught.contains(&checker));
}

/// A seed is found in which nobody but this checker finds the bug.
fn is_found_only_by(checker: Checker, name: &'static str, tries: fn(Setting) -> bool) {
    is_found(name, tries, &|caught| *caught == BTreeSet::from([checker]));
}

fn is_found(
    name: &'static str,
    tries: fn(Setting) -> bool,
    is_enough: &dyn Fn(&BTreeSet<Checker>) -> bool,
) {
    planted::plant(name);
    let seeds = (0..SEEDS_MAX).map(|index| Scenario::of_series(0, index));
    let mut seeds = seeds.filter(|scenario| tries(scenario.setting));
    let found = seeds.find(|scenario| is_enough(&campaign::try_scenario(*scenario).caught));
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
    is_found_by(Checker::Run, "P1", anywhere);
}

#[test]
fn delta_and_marker_in_two_transactions_are_found() {
    is_found_only_by(Checker::Digests, "P2", anywhere);
}

#[test]
fn a_store_ahead_of_the_durable_log_is_found_when_the_power_is_lost() {
    is_found_by(Checker::Run, "P3", where_power_is_lost);
}

#[test]
fn state_written_behind_before_its_commit_is_known_is_found() {
    is_found_by(Checker::Digests, "P3_uncommitted", anywhere);
}

#[test]
fn offsets_off_by_one_are_found() {
    is_found_by(Checker::Progress, "P4", anywhere);
}

#[test]
fn a_revocation_that_is_ignored_is_found() {
    is_found_by(Checker::Run, "P6", anywhere);
}

#[test]
fn state_merged_before_its_commit_is_known_is_found() {
    is_found_by(Checker::Run, "P7", anywhere);
}

#[test]
fn dead_letters_outside_of_the_transaction_are_found() {
    is_found_by(Checker::Conservation, "P8", anywhere);
}

#[test]
fn input_that_is_taken_although_there_is_no_room_is_found() {
    is_found_only_by(Checker::Bounds, "P13", where_room_is_short);
}

#[test]
fn work_that_a_restart_takes_for_done_is_found() {
    is_found_only_by(Checker::Effects, "P14", where_room_is_short);
}

#[test]
fn an_epoch_that_leaves_a_table_behind_is_found() {
    is_found_only_by(Checker::Ledger, "P15", anywhere);
}

#[test]
fn a_reader_that_sees_what_is_not_durable_is_found_when_the_power_is_lost() {
    is_found_only_by(Checker::Seen, "P16", where_power_is_lost);
}

#[test]
fn ids_that_differ_from_run_to_run_are_found() {
    is_found_only_by(Checker::Repeat, "P17", anywhere);
}

#[test]
fn an_inbox_that_is_never_filled_again_is_found() {
    is_found_only_by(Checker::Progress, "P18", where_room_is_short);
}

#[test]
fn records_of_a_key_in_several_partitions_are_found() {
    is_found_only_by(Checker::Order, "P19", anywhere);
}

#[test]
fn a_changelog_that_is_read_to_what_shows_at_once_is_found() {
    is_found_by(Checker::Run, "P21", anywhere);
}

#[test]
fn tables_that_take_the_memory_of_others_are_found() {
    is_found_only_by(Checker::Bounds, "P20", anywhere);
}
