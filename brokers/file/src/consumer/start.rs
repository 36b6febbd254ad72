//! Where the reading of a partition begins.

use tidemill_broker::{Error, Offset, Result, Start, TopicPartition};

use super::FileConsumer;
use crate::cursor::{Cursor, offset_at};

impl FileConsumer {
    /// Begins to read a partition.
    pub(super) fn add(&mut self, at: TopicPartition, start: Start) {
        let topic = match self.shared.live().partition(&at) {
            Ok((topic, ..)) => topic,
            // The next look tells that it is gone.
            Err(_) => return,
        };
        let cursor = |offset| Cursor::new(at.clone(), topic, offset);
        let (cursor, found) = match (self.resolve(&at, start), start) {
            (Ok(offset), _) => (cursor(offset), Ok(())),
            // It is looked up again when it is read.
            (Err(error), Start::At(time)) if error.is_transient() => {
                (Cursor::at_time(at.clone(), topic, time), Ok(()))
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
            match self.shared.committed(group, at)? {
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
