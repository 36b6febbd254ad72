//! Where a record sits, when it happened, and who may say so.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::Topic;

/// One partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Topic,
    /// The partition, from 0.
    pub partition: u32,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: Topic, partition: u32) -> Self {
        Self { topic, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// The place of a record in its partition. Offsets rise, may have gaps and are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// The first offset of every partition.
    pub const START: Self = Self(0);

    /// The offset after this one: what a consumer commits once it is done with the record at `self`;
    /// saturates, as a broker may name any.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A record's partition and offset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordPosition {
    /// The partition.
    pub at: TopicPartition,
    /// The offset within it.
    pub offset: Offset,
}

impl fmt::Display for RecordPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.at, self.offset)
    }
}

/// An instant in microseconds since 1970-01-01T00:00:00Z; negative before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The earliest instant.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest instant.
    pub const MAX: Self = Self(i64::MAX);

    /// An instant given in milliseconds since the epoch; saturates.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// Milliseconds since the epoch, rounded down.
    pub fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// This instant plus a duration; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// This instant less a duration; saturates.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
    }
}

/// The ends of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// The first offset that may still be read; retention moves it.
    pub low: Offset,
    /// Readers see records below this: everything below is committed and, where the broker
    /// promises durability, durable.
    pub last_stable: Offset,
    /// The offset the next record would get.
    pub high: Offset,
    /// Compaction has removed tombstones below this: who has followed a compacted partition only up
    /// to an earlier offset may hold keys that are gone, and must begin anew. 0 where nothing was
    /// removed, or nothing is known.
    pub tombstones_gone: Offset,
}

/// Proof of belonging to one assignment of a consumer group.
///
/// Handed out with [`Delivery::Assigned`](crate::Delivery::Assigned) and given back with every
/// commit of offsets; the broker refuses a stale one as [fenced](crate::Class::Fenced). Two
/// generations are equal if they are of the same member in the same round of the group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Generation {
    /// The round of the group: rises with each rebalance.
    pub number: u64,
    /// The member, as the broker names it.
    pub member: Arc<str>,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.number, self.member)
    }
}
