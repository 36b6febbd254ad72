//! Finding an offset by time.

use tidemill_broker::{Error, Offset, Result, Timestamp, TopicPartition};

use super::{Cursor, LOOKS_MAX, Limits, Step, lost_segment};
use crate::layout::is_missing;
use crate::shared::Shared;

/// The offset of the first record whose timestamp is not before `time`; the end if there is none.
pub(crate) fn offset_at(shared: &Shared, at: &TopicPartition, time: Timestamp) -> Result<Offset> {
    for _ in 0..LOOKS_MAX {
        match look(shared, at, time) {
            // Retention or compaction came between what was found and the reading of it.
            Err(error) if is_missing(&error) || matches!(error, Error::OutOfRange { .. }) => {
                shared.look_anew()?;
            }
            other => return other,
        }
    }
    look(shared, at, time).map_err(lost_segment)
}

fn look(shared: &Shared, at: &TopicPartition, time: Timestamp) -> Result<Offset> {
    let (topic, low, stable, segments, tail) = {
        let live = shared.live();
        let (topic, partition, next) = live.partition(at)?;
        let stable = live.stable(partition, next, shared.readable());
        let segments: Vec<_> = partition
            .segments
            .iter()
            .filter(|segment| segment.meta.max_timestamp >= time.0)
            .cloned()
            .collect();
        let tail: Vec<u64> = partition
            .tail
            .iter()
            .filter(|block| block.max_timestamp >= time.0 && block.base < stable)
            .map(|block| block.base)
            .collect();
        (topic, partition.low, stable, segments, tail)
    };
    let start = match (segments.first(), tail.first()) {
        (Some(segment), _) => segment
            .find(shared.disk(), shared.salt, shared.manifest(), |index| {
                index.mark_at(time.0)
            })?
            .map_or(segment.meta.base, |mark| mark.offset),
        (None, Some(base)) => *base,
        (None, None) => return Ok(Offset(stable)),
    };
    let mut cursor = Cursor::new(at.clone(), topic, Offset(start.max(low)));
    let limits = Limits {
        records: 4_096,
        bytes: usize::MAX,
    };
    // The latest timestamp says that one is there; unless it was cleaned away meanwhile.
    loop {
        match cursor.next(shared, limits)? {
            Step::Records(batch) => {
                if let Some(found) = batch.iter().find(|record| record.timestamp >= time) {
                    return Ok(found.offset);
                }
            }
            Step::End => return Ok(cursor.offset()),
            Step::Gone => {
                return Err(Error::UnknownTopic {
                    topic: at.topic.clone(),
                });
            }
        }
    }
}
