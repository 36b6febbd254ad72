//! Consumer groups: their members, and the offsets they have committed.

use std::collections::BTreeMap;

use tidemill_broker::coordinator::Coordinator;
pub(crate) use tidemill_broker::coordinator::{MemberId, World};
use tidemill_broker::{Group, Offset, Topic, TopicPartition};

/// An offset committed by a transaction that is not settled.
#[derive(Debug)]
struct Unsettled {
    transaction: u64,
    at: TopicPartition,
    offset: Offset,
}

/// One group.
#[derive(Debug)]
pub(crate) struct GroupState {
    pub(crate) members: Coordinator,
    offsets: BTreeMap<TopicPartition, Offset>,
    unsettled: Vec<Unsettled>,
}

impl GroupState {
    pub(crate) fn new(group: Group, life: u64) -> Self {
        Self {
            members: Coordinator::new(group, life),
            offsets: BTreeMap::new(),
            unsettled: Vec::new(),
        }
    }

    /// Forgets a deleted topic.
    pub(crate) fn forget(&mut self, topic: &Topic, world: &World<'_>) {
        self.offsets.retain(|at, _| at.topic != *topic);
        self.unsettled.retain(|offset| offset.at.topic != *topic);
        self.members.forget(topic, world);
    }

    pub(crate) fn commit(&mut self, offsets: &[(TopicPartition, Offset)]) {
        for (at, offset) in offsets {
            self.offsets.insert(at.clone(), *offset);
        }
    }

    /// Keeps offsets aside until their transaction is settled.
    pub(crate) fn commit_unsettled(
        &mut self,
        transaction: u64,
        offsets: &[(TopicPartition, Offset)],
    ) {
        self.unsettled
            .extend(offsets.iter().map(|(at, offset)| Unsettled {
                transaction,
                at: at.clone(),
                offset: *offset,
            }));
    }

    pub(crate) fn settle(&mut self, transaction: u64, commit: bool) {
        for settled in self
            .unsettled
            .extract_if(.., |offset| offset.transaction == transaction)
        {
            if commit {
                self.offsets.insert(settled.at, settled.offset);
            }
        }
    }

    /// The committed offset of a partition.
    ///
    /// # Errors
    ///
    /// If a transaction that may yet move it is not settled.
    pub(crate) fn committed(
        &self,
        at: &TopicPartition,
    ) -> std::result::Result<Option<Offset>, UnsettledOffset> {
        if self.unsettled.iter().any(|offset| offset.at == *at) {
            return Err(UnsettledOffset(at.clone()));
        }
        Ok(self.offsets.get(at).copied())
    }
}

/// A transaction that may yet move a committed offset is not settled.
#[derive(Debug, thiserror::Error)]
#[error("the committed offset of {0} is part of a transaction that is not settled")]
pub(crate) struct UnsettledOffset(TopicPartition);
