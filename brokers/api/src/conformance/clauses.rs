//! The list of clauses, and the tests made of it.

use std::fmt;

use futures::future::BoxFuture;

use super::{
    Subject, cancel, durability, generations, groups, members, produce, reading, retention, topics,
    transaction_offsets, transactions,
};

/// One clause of the contract.
#[derive(Clone, Copy)]
pub struct Clause {
    /// Its theme and its sentence.
    pub name: &'static str,
    check: for<'a> fn(&'a Subject) -> BoxFuture<'a, ()>,
}

impl Clause {
    /// Checks it, and tells what was left out because the backend lacks something.
    ///
    /// # Panics
    ///
    /// If it does not hold, or left out what the backend is not said to lack.
    pub async fn check(&self, subject: &Subject) {
        (self.check)(subject).await;
        subject.tell(self.name);
    }
}

impl fmt::Debug for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clause").field(&self.name).finish()
    }
}

/// Finds a clause by theme and sentence.
#[doc(hidden)]
pub fn clause(name: &str) -> &'static Clause {
    CLAUSES
        .iter()
        .find(|clause| clause.name == name)
        .expect("a clause of the list")
}

/// Hands the list of clauses to another macro, after what it is given.
#[doc(hidden)]
#[macro_export]
macro_rules! __for_each_clause {
    ($callback:path, $($given:tt)*) => {
        $callback! {
            $($given)*
            topics {
                a_created_topic_is_described_as_asked
                topics_are_listed_in_order_of_their_names
                a_topic_is_not_created_twice
                an_unknown_topic_is_named
                an_unknown_partition_is_named
                a_deleted_topic_is_gone
                a_recreated_topic_begins_empty
                a_recreated_topic_has_another_identity
                a_deleted_topic_is_told_to_its_reader
                a_reader_does_not_take_a_recreated_topic_for_the_old
                a_compacted_topic_is_created_or_refused
                the_offsets_of_a_deleted_topic_are_gone
            }
            produce {
                records_come_back_in_the_order_given
                every_set_of_a_call_is_answered
                acknowledged_offsets_are_those_read
                a_missing_key_or_payload_is_not_an_empty_one
                headers_come_back_in_order_with_repeats
                event_times_come_back
                a_record_without_event_time_gets_one
                a_record_too_large_is_named_before_anything_is_appended
                a_record_of_the_largest_size_is_taken
                a_key_decides_the_partition_as_kafka_would
                nothing_to_produce_is_no_error
                a_refused_call_appends_nothing
                watermarks_follow_what_is_appended
                the_offset_at_a_time_is_the_first_not_before_it
                many_producers_lose_nothing_and_keep_their_order
                what_is_synced_is_still_there
            }
            transactions {
                all_records_of_a_transaction_are_read
                sets_of_one_partition_keep_their_order
                a_transaction_of_nothing_is_committed
                opening_an_id_fences_its_former_owner
                a_former_owner_is_fenced_whatever_it_commits
                other_ids_are_not_fenced
                a_record_too_large_is_named_and_nothing_is_seen
                an_unknown_topic_rejects_the_whole
                a_transactor_lives_on_after_a_rejection
                readers_go_over_the_gaps_transactions_leave
                transactions_of_many_ids_are_each_whole
                nothing_is_open_once_all_is_answered
            }
            transaction_offsets {
                records_and_offsets_are_committed_together
                records_and_offsets_become_visible_at_once
                a_stale_generation_is_fenced_and_nothing_is_seen
                an_offset_of_another_partition_rejects_the_whole
                a_transaction_that_mixes_generations_is_refused
                offsets_without_generation_are_fenced_while_there_are_members
                offsets_without_generation_are_taken_without_members
            }
            groups {
                a_subscription_without_a_group_is_refused
                a_member_without_time_is_refused
                a_member_may_take_for_ever
                nothing_is_committed_at_first
                committed_offsets_belong_to_their_group
                the_latest_commit_counts_also_backwards
                a_lone_member_gets_every_partition_before_its_records
                a_member_starts_where_its_group_committed
                a_member_without_committed_offset_is_told_so
                two_members_share_the_partitions
                equal_partitions_of_two_topics_come_to_one_member
                many_members_share_the_partitions
            }
            generations {
                a_former_generation_is_fenced
                another_partition_is_fenced_and_nothing_is_committed
                a_commit_without_generation_is_fenced_while_there_are_members
                no_record_of_a_revoked_partition_is_delivered
                the_holder_of_a_permit_may_commit
                a_permit_given_back_fences
                a_permit_given_back_fences_while_others_keep_theirs
                a_permit_kept_too_long_loses_its_partitions
            }
            members {
                a_silent_member_is_taken_for_dead
                a_member_that_falls_silent_is_noticed_by_one_that_only_waits
                what_a_member_did_not_commit_goes_to_the_next
                a_partition_that_stays_keeps_its_position
                a_member_that_returns_under_its_name_fences_its_former_self
                nothing_is_lost_while_members_come_and_go
            }
            reading {
                an_assignment_by_hand_is_told_first
                earliest_begins_at_the_first_record
                latest_sees_only_what_comes_after
                a_start_in_time_begins_at_the_first_not_before_it
                an_offset_begins_there
                a_start_at_the_committed_offset_needs_one
                an_end_is_told_once_each_time_it_is_reached
                an_offset_beyond_the_end_is_named_once
                a_seek_moves_whatever_was_fetched
                a_partition_that_is_not_assigned_cannot_be_sought
                a_paused_partition_waits_and_others_go_on
                positions_follow_what_was_delivered
                a_batch_keeps_to_its_bounds
                partitions_take_turns
                a_waiting_reader_wakes_for_new_records
                many_readers_each_see_everything
                a_partition_read_twice_is_the_same
            }
            retention {
                a_topic_without_bounds_keeps_everything
                old_records_go_by_the_time_they_were_appended
                a_clock_that_jumps_back_lets_nothing_go_too_soon_and_nothing_stay
                a_time_is_found_though_the_clock_jumped
                records_go_from_the_beginning_beyond_the_bound_of_bytes
                a_reader_overtaken_by_retention_is_told
                offsets_are_not_used_again_after_retention
                compaction_keeps_the_newest_record_of_each_key
                a_tombstone_removes_its_key_and_then_itself
                who_followed_beyond_the_tombstones_gone_misses_none
                a_reader_goes_on_through_compaction
            }
            durability {
                records_are_there_when_it_is_opened_again
                a_transaction_is_there_when_it_is_opened_again
                committed_offsets_are_there_when_it_is_opened_again
                a_generation_of_a_former_life_is_fenced
                topics_are_the_same_when_it_is_opened_again
            }
            cancel {
                a_dropped_next_loses_nothing
                a_dropped_produce_tears_nothing
                a_dropped_commit_of_offsets_can_be_repeated
                a_dropped_seek_leaves_the_old_place_or_the_new
                a_dropped_transaction_is_whole_or_absent
                a_dropped_opening_of_an_id_can_be_repeated
                a_dropped_creation_leaves_a_topic_whole_or_absent
                a_dropped_deletion_leaves_a_topic_whole_or_absent
                a_dropped_joining_does_not_block_its_group
                a_dropped_sync_can_be_repeated
                a_dropped_question_changes_nothing
            }
        }
    };
}

macro_rules! list {
    ($($theme:ident { $($clause:ident)* })*) => {
        /// Every clause.
        pub const CLAUSES: &[Clause] = &[$($(
            Clause {
                name: concat!(stringify!($theme), "::", stringify!($clause)),
                check: |subject| Box::pin($theme::$clause(subject)),
            },
        )*)*];
    };
}
__for_each_clause!(list,);

/// Writes one test for each clause, in a module of the name given: `conformance! { NAME: SUBJECT }`,
/// where the expression makes a [`Subject`]. Attributes before the name make tests of async functions;
/// without any it is `#[tokio::test(start_paused = true)]`.
#[macro_export]
macro_rules! conformance {
    ($name:ident: $subject:expr) => {
        $crate::conformance! { #[tokio::test(start_paused = true)] $name: $subject }
    };
    ($(#[$attribute:meta])+ $name:ident: $subject:expr) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn subject() -> $crate::conformance::Subject {
                $subject
            }

            $(#[$attribute])+
            async fn lacks_what_it_says_and_nothing_else() {
                subject().lacks_what_it_says().await;
            }

            $crate::__for_each_clause! { $crate::__conformance_themes, [$(#[$attribute])+] }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_themes {
    ($attributes:tt $($theme:ident { $($clause:ident)* })*) => {
        $(mod $theme {
            $($crate::__conformance_test! { $attributes $theme $clause })*
        })*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_test {
    ([$(#[$attribute:meta])+] $theme:ident $clause:ident) => {
        $(#[$attribute])+
        async fn $clause() {
            let name = concat!(stringify!($theme), "::", stringify!($clause));
            $crate::conformance::clause(name).check(&super::subject()).await;
        }
    };
}
