//! Reading: deliveries, assignments, positions.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Batch, Error, Generation, Group, Offset, Permit, Result, Timestamp, Topic, TopicPartition,
};

/// What a consumer reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subscription {
    /// Topics whose partitions the group shares out among its members. Needs a group.
    Topics(Vec<Topic>),
    /// Partitions assigned by hand, each with where to begin.
    Partitions(Vec<(TopicPartition, Start)>),
}

/// Where to begin in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The group's committed offset; an error where nothing is committed.
    Committed,
    /// The first record that is still there.
    Earliest,
    /// Only what comes after the assignment.
    Latest,
    /// The first record whose timestamp is not before this.
    At(Timestamp),
    /// This offset.
    Offset(Offset),
}

/// How to consume.
#[derive(Debug, Clone)]
pub struct ConsumerOptions {
    /// The group whose offsets are used; `None` keeps no offsets.
    pub group: Option<Group>,
    /// A stable name of this member: one that returns under it takes over its former self's
    /// partitions and fences it.
    pub instance: Option<String>,
    /// What to read.
    pub subscription: Subscription,
    /// Where a subscribed partition begins for which the group has committed nothing. There is no
    /// default: a consumer never silently starts at the end.
    pub start: Start,
    /// Most records in one batch.
    pub batch_records_max: usize,
    /// A batch is closed at this many bytes of payload; a single larger record comes alone.
    pub batch_bytes_max: usize,
    /// How long the holder of a [`Permit`] may keep a revoked partition.
    pub revoke_deadline: Duration,
    /// How long a member may be silent before the group takes it for dead: neither in a call of
    /// [`next`](Consumer::next) nor making one. Its partitions then go to the others, and it is told
    /// so by [`Delivery::Lost`] when it next asks.
    pub session_timeout: Duration,
}

impl ConsumerOptions {
    /// Consumes as a member of a group.
    pub fn group(group: Group, topics: Vec<Topic>, start: Start) -> Self {
        Self {
            group: Some(group),
            start,
            ..Self::with(Subscription::Topics(topics))
        }
    }

    /// Refuses what makes no sense on any broker. Every backend asks this first.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: batches of nothing, topics without a group or none at all, a member
    /// without time to answer, a partition that is assigned twice or starts where a group is without one.
    pub fn check(&self) -> Result<()> {
        let invalid = |what: String| Err(Error::Invalid { what });
        if self.batch_records_max == 0 || self.batch_bytes_max == 0 {
            return invalid("a batch must hold at least one record and one byte".into());
        }
        match &self.subscription {
            Subscription::Topics(topics) if topics.is_empty() => {
                invalid("a subscription needs a topic".into())
            }
            Subscription::Topics(_) if self.group.is_none() => {
                invalid("a subscription to topics needs a group".into())
            }
            Subscription::Topics(_)
                if self.session_timeout.is_zero() || self.revoke_deadline.is_zero() =>
            {
                // It would be taken for dead whenever somebody looks, join anew, and so for ever.
                invalid(
                    "a member needs time: a session and a revoke deadline of more than 0".into(),
                )
            }
            Subscription::Topics(_) => Ok(()),
            Subscription::Partitions(partitions) => {
                for (index, (at, start)) in partitions.iter().enumerate() {
                    if partitions[..index].iter().any(|(other, _)| other == at) {
                        return invalid(format!("{at} is assigned twice"));
                    }
                    if *start == Start::Committed && self.group.is_none() {
                        return invalid(format!(
                            "{at} starts where a group is, and there is no group"
                        ));
                    }
                }
                Ok(())
            }
        }
    }

    /// Consumes partitions assigned by hand.
    pub fn partitions(partitions: Vec<(TopicPartition, Start)>) -> Self {
        Self::with(Subscription::Partitions(partitions))
    }

    fn with(subscription: Subscription) -> Self {
        Self {
            group: None,
            instance: None,
            subscription,
            start: Start::Committed,
            batch_records_max: 256,
            batch_bytes_max: 1024 * 1024,
            revoke_deadline: Duration::from_secs(30),
            session_timeout: Duration::from_secs(45),
        }
    }
}

/// What [`Consumer::next`] yields.
#[derive(Debug)]
pub enum Delivery {
    /// Records of one partition, in offset order. Never empty of meaning: it holds a record, or
    /// moves the position over a gap.
    Records(Batch),
    /// These partitions are now ours, under this generation. Comes before any of their records.
    /// Also re-stamps what stays ours through a rebalance: `partitions` is always the whole
    /// assignment.
    Assigned {
        /// The assignment. `None` when assigned by hand.
        generation: Option<Generation>,
        /// All partitions that are ours now.
        partitions: Vec<TopicPartition>,
    },
    /// These partitions go when the permit drops, or at its deadline. No record of them is
    /// delivered after this.
    Revoked {
        /// What goes.
        partitions: Vec<TopicPartition>,
        /// Holds them until dropped.
        permit: Permit,
    },
    /// These partitions are gone already: nothing may be committed for them.
    Lost {
        /// What went.
        partitions: Vec<TopicPartition>,
    },
    /// Everything that was committed in a partition has been delivered. Told once each time the
    /// end is reached.
    End {
        /// The partition.
        partition: TopicPartition,
        /// The next offset to read there.
        offset: Offset,
    },
}

/// A reader of partitions.
///
/// Dropping it leaves its group; what it did not commit is delivered again to the next owner.
#[async_trait]
pub trait Consumer: Send + std::fmt::Debug {
    /// Waits for the next delivery.
    ///
    /// Records of one partition come in offset order, each once, beginning at its start or the
    /// last seek. Only committed records come. Partitions take turns.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] when the position is no longer kept or
    /// beyond the end: named once, then that partition is silent until a seek.
    /// [`Error::UnknownTopic`] when a topic is gone;
    /// [`Error::NoCommittedOffset`] with [`Start::Committed`].
    /// After a transient error call again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: what it would have yielded comes from the next call.
    async fn next(&mut self) -> Result<Delivery>;

    /// Commits the next offset to read of partitions for the group.
    ///
    /// # Errors
    ///
    /// [`Error::StaleGeneration`], of class fenced, if `generation`
    /// is not the current one or a partition is not assigned under it; then nothing of the call is committed. With hand-assigned partitions
    /// `generation` is `None`, which is fenced while the group has members.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves unknown whether the offsets are committed; committing again is
    /// harmless.
    async fn commit(
        &mut self,
        generation: Option<&Generation>,
        offsets: &[(TopicPartition, Offset)],
    ) -> Result<()>;

    /// Moves the position of an assigned partition: the next record delivered of it is the first at
    /// or after `offset`, whatever was fetched before.
    ///
    /// # Errors
    ///
    /// If the partition is not assigned. An offset out of range is told by [`next`](Self::next).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the position where it was or at `offset`.
    async fn seek(&mut self, at: &TopicPartition, offset: Offset) -> Result<()>;

    /// Stops delivery of records of these partitions; other deliveries go on. A batch already
    /// fetched waits too. Partitions that are not assigned are ignored.
    fn pause(&mut self, partitions: &[TopicPartition]);

    /// Undoes [`pause`](Self::pause).
    fn resume(&mut self, partitions: &[TopicPartition]);

    /// The next offset to deliver of an assigned partition.
    fn position(&self, at: &TopicPartition) -> Option<Offset>;
}
