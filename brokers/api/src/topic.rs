//! What a topic is made of.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::Topic;

/// How old records leave a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// Whole stretches at the beginning go, by age and size.
    Delete(Retention),
    /// Only the newest record of each key is sure to stay; a tombstone (no payload) removes its key
    /// and goes itself once it is older than `tombstones`.
    Compact {
        /// How long a tombstone stays readable.
        tombstones: Duration,
    },
}

impl Default for Cleanup {
    fn default() -> Self {
        Self::Delete(Retention::default())
    }
}

/// Bounds on what a topic keeps, for each partition. The default keeps everything.
///
/// Age counts from the broker's append time, not from event time, so that replayed history is not
/// thrown away on arrival. Bounds are met in whole segments: more may stay, never less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Records appended longer ago than this may go.
    pub age: Option<Duration>,
    /// Records may go from the beginning while the partition is larger than this many bytes.
    pub bytes: Option<u64>,
}

/// What to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// The name.
    pub name: Topic,
    /// How many partitions.
    pub partitions: NonZeroU32,
    /// How old records leave.
    pub cleanup: Cleanup,
}

impl TopicSpec {
    /// A topic that keeps everything.
    pub fn new(name: Topic, partitions: NonZeroU32) -> Self {
        Self {
            name,
            partitions,
            cleanup: Cleanup::default(),
        }
    }

    /// Sets how old records leave.
    #[must_use]
    pub fn cleanup(mut self, cleanup: Cleanup) -> Self {
        self.cleanup = cleanup;
        self
    }
}

/// Tells one incarnation of a topic from the next of the same name. Compare only for equality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicIdentity(pub [u8; 16]);

impl fmt::Display for TopicIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a broker knows of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// The name.
    pub name: Topic,
    /// How many partitions.
    pub partitions: u32,
    /// How old records leave.
    pub cleanup: Cleanup,
    /// Which incarnation this is; `None` where the backend cannot tell.
    pub identity: Option<TopicIdentity>,
}
