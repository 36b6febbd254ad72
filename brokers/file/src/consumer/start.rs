//! Where the reading of a partition begins.

use tidemill_broker::{Error, Offset, Result, Start, TopicPartition};

use super::FileConsumer;
use crate::catalog::TopicId;
use crate::cursor::{Cursor, offset_at};

impl FileConsumer {
    /// Begins to read a partition.
    pub(super) fn add(&mut self, at: TopicPartition, start: Start) {
        // No topic has the last number.
        let found = self.shared.live().partition(&at).map(|(topic, ..)| topic);
        let topic = found.unwrap_or(TopicId::MAX);
        let cursor = |offset| Cursor::new(at.clone(), topic, offset);
        let (cursor, found) = match (self.resolve(&at, start), start) {
            (Ok(offset), _) => (cursor(offset), Ok(())),
            // It is looked up again when it is read.
            (Err(error), Start::At(time)) if error.is_transient() => {
                (Cursor::at_time(at.clone(), topic, time), Ok(()))
            }
            // Deleted since it was assigned: the next look tells that it is lost.
            (Err(Error::UnknownTopic { .. } | Error::UnknownPartition { .. }), _) => {
                (cursor(Offset::START), Ok(()))
            }
            (Err(error), _) => (cursor(Offset::START), Err(error)),
        };
        self.held.add(at, cursor, found);
    }

    /// Finds where to begin.
    fn resolve(&self, at: &TopicPartition, start: Start) -> Result<Offset> {
        // What a group has committed comes before any start but one given by hand.
        if let Some(group) = &self.group
            && (self.membership.is_some() || start == Start::Committed)
        {
            // Also what is not durable yet: whatever is committed behind it comes later in the log.
            let committed = self.shared.live().committed(group, at);
            match committed {
                Some(offset) => return Ok(offset),
                None if start == Start::Committed => {
                    return Err(Error::NoCommittedOffset {
                        group: group.clone(),
                        at: at.clone(),
                    });
                }
                None => {}
            }
        }
        let marks = self.shared.live().watermarks(at, self.shared.readable())?;
        match start {
            // Without a group that was refused when the consumer was opened.
            Start::Committed | Start::Earliest => Ok(marks.low),
            Start::Latest => Ok(marks.last_stable),
            Start::At(time) => offset_at(&self.shared, at, time),
            Start::Offset(offset) => Ok(offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemill_broker::{Consumer, ConsumerOptions, Delivery};

    use super::*;
    use crate::disk::SimDisk;
    use crate::layout::Layout;
    use crate::options::FileOptions;

    #[tokio::test(start_paused = true)]
    async fn a_partition_that_is_gone_before_it_is_read_is_lost() {
        let options = FileOptions {
            disk: Arc::new(SimDisk::new(1)),
            ..FileOptions::default()
        };
        let (shared, _) = crate::open::open(Layout::new("/log".as_ref()), options).unwrap();
        let nothing = ConsumerOptions::partitions(Vec::new());
        let mut consumer = FileConsumer::open(Arc::new(shared), nothing).unwrap();
        consumer.next().await.unwrap();
        let gone = TopicPartition::new("gone".parse().unwrap(), 0);
        consumer.add(gone.clone(), Start::Latest);
        let told = consumer.next().await;
        assert!(
            matches!(&told, Ok(Delivery::Lost { partitions }) if *partitions == [gone]),
            "{told:?}"
        );
        let told = consumer.next().await;
        assert!(matches!(told, Err(Error::UnknownTopic { .. })), "{told:?}");
    }
}
