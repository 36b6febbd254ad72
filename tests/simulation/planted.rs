//! Bugs planted in the shipped code: each must be found, or the simulator proves nothing.

use tidemill_state::planted;

use crate::campaign;

/// Seeds within which each bug must be found.
const SEEDS_MAX: u64 = 500;

fn is_found(name: &'static str) {
    planted::plant(name);
    let found = (0..SEEDS_MAX).find(|index| {
        let outcome = campaign::try_seed(campaign::seed(0, *index));
        outcome.wrong.is_some()
    });
    planted::plant("");
    assert!(found.is_some(), "{name} was not found by {SEEDS_MAX} seeds");
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
fn a_store_ahead_of_the_log_is_found() {
    is_found("P3");
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
