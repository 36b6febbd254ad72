//! Epochs: what a task does between two commits, as a value.

use std::time::Duration;

use tidemill_broker::{
    Error as BrokerError, Generation, Group, GroupOffsets, Offset, RecordSet, TopicPartition,
};
use tidemill_state::Delta;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Marker, TaskId};

/// A closed epoch: everything that is to become visible together.
///
/// It may be sent again as the same value as long as its generation was never broken.
#[derive(Debug)]
pub(crate) struct ClosedEpoch {
    pub(crate) task: TaskId,
    /// Outputs and dead letters; empty in modes that send them apart.
    pub(crate) records: Vec<RecordSet>,
    /// What changed in the task's state.
    pub(crate) delta: Delta,
    /// What was taken in which order, where more than one order was possible.
    pub(crate) control: Option<RecordSet>,
    /// The marker, its attempt still to be filled in.
    pub(crate) marker: Marker,
    /// Where delta and marker go.
    pub(crate) changelog: TopicPartition,
    /// The group's offsets, for all partitions of the epoch, where source and outputs share a
    /// broker.
    pub(crate) offsets: Option<EpochOffsets>,
    /// When its first record was taken, for the metrics.
    pub(crate) opened: Instant,
}

impl ClosedEpoch {
    /// Bytes of all its records, but for the marker.
    pub(crate) fn bytes(&self) -> usize {
        let sets = self.records.iter().chain(&self.control);
        sets.map(RecordSet::bytes).sum::<usize>() + self.delta.bytes()
    }
}

/// The group's part of an epoch.
#[derive(Debug, Clone)]
pub(crate) struct EpochOffsets {
    pub(crate) group: Group,
    pub(crate) generation: Option<Generation>,
    pub(crate) next: Vec<(TopicPartition, Offset)>,
}

impl EpochOffsets {
    pub(crate) fn to_group_offsets(&self) -> GroupOffsets {
        tidemill_state::planted!(P4, {
            let one_less = |(at, next): &(_, Offset)| {
                (TopicPartition::clone(at), Offset(next.0.saturating_sub(1)))
            };
            return GroupOffsets {
                group: self.group.clone(),
                generation: self.generation.clone(),
                offsets: self.next.iter().map(one_less).collect(),
            };
        });
        GroupOffsets {
            group: self.group.clone(),
            generation: self.generation.clone(),
            offsets: self.next.clone(),
        }
    }
}

/// What became of an epoch.
#[derive(Debug)]
pub(crate) enum Settled {
    /// It happened. The changelog partition is to be redone from `changelog_next` on by a store
    /// that holds this epoch.
    Committed { changelog_next: u64 },
    /// It did not happen: its assignment is no longer ours, or was broken. Nothing is wrong.
    Dropped,
    /// It did not and cannot happen: the task must halt.
    Refused(BrokerError),
}

/// An epoch on its way to the committer.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) epoch: ClosedEpoch,
    pub(crate) settled: oneshot::Sender<Settled>,
}

/// How long after a failed try the next one follows: doubled from 10 ms up to 1 s.
pub(crate) fn pause_before_retry(tries: u32) -> Duration {
    Duration::from_millis(10 << tries.min(7)).min(Duration::from_secs(1))
}
