//! One input partition of a task: where it is read, and how far event time has come there.

use std::time::Duration;

use tidemill_broker::{Offset, TopicIdentity, TopicPartition};
use tokio::time::Instant;

use super::MarkedInput;
use super::graph::EventTime;
use crate::operators::Decode;

/// One input partition of a task.
#[derive(Debug)]
pub(crate) struct InputPartition {
    /// Which source of the task it belongs to.
    pub(crate) source: usize,
    /// Which source of the plan that is.
    pub(crate) source_of_plan: usize,
    /// Name of the source in the file.
    pub(crate) name: String,
    /// What its source was called when it was last read, where it was: its event time lies there.
    pub(crate) was: Option<String>,
    pub(crate) at: TopicPartition,
    /// Index of its broker in the plan.
    pub(crate) broker: usize,
    /// Whether its offsets are the consumer group's too.
    pub(crate) in_group: bool,
    pub(crate) identity: Option<TopicIdentity>,
    /// The next offset to take.
    pub(crate) next: Offset,
    pub(crate) decode: Decode,
    /// Whether its poison is this task's to set aside: one of those that read it does.
    pub(crate) sets_aside: bool,
    /// After this long without a record it holds nobody back.
    pub(crate) idle_after: Option<Duration>,
    pub(crate) last_taken: Instant,
    pub(crate) is_idle: bool,
    /// Whether everything that was committed has been taken.
    pub(crate) has_ended: bool,
}

impl InputPartition {
    pub(crate) fn event_time(&self) -> EventTime {
        let watermark = self.decode.watermark();
        if self.is_idle {
            EventTime::Idle(watermark)
        } else {
            EventTime::At(watermark)
        }
    }

    /// When it becomes idle, unless a record comes.
    pub(crate) fn idle_at(&self) -> Option<Instant> {
        let idle_after = self.idle_after.filter(|_| !self.is_idle)?;
        Some(self.last_taken + idle_after)
    }

    pub(crate) fn marked(&self) -> MarkedInput {
        MarkedInput {
            source: self.name.clone(),
            topic: self.at.topic.as_str().to_owned(),
            partition: self.at.partition,
            identity: self.identity.map(|identity| identity.0),
            incarnation: self.decode.incarnation(),
            next: self.next.0,
        }
    }

    /// Key of its event time in the task's state.
    pub(crate) fn time_key(&self) -> Vec<u8> {
        self.time_key_of(&self.name)
    }

    /// The same under the name that it had, where it was read before.
    pub(crate) fn former_time_key(&self) -> Option<Vec<u8>> {
        Some(self.time_key_of(self.was.as_ref()?))
    }

    fn time_key_of(&self, name: &str) -> Vec<u8> {
        let mut key = name.to_owned().into_bytes();
        key.push(0);
        key.extend_from_slice(&self.at.partition.to_be_bytes());
        key
    }
}
