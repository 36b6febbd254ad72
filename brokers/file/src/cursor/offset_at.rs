//! Finding an offset by time.

use tidemill_broker::{Error, Offset, Result, Timestamp, TopicPartition};

use super::{Cursor, Limits, Step};
use crate::shared::Shared;

/// The offset of the first record whose timestamp is not before `time`; the end if there is none.
pub(crate) fn offset_at(shared: &Shared, at: &TopicPartition, time: Timestamp) -> Result<Offset> {
    let (topic, low, next, segments, tail) = {
        let live = shared.live();
        let (topic, partition, next) = live.partition(at)?;
        let segments: Vec<_> = partition
            .segments
            .iter()
            .filter(|segment| segment.meta.max_timestamp >= time.0)
            .cloned()
            .collect();
        let tail: Vec<u64> = partition
            .tail
            .iter()
            .filter(|block| block.max_timestamp >= time.0)
            .map(|block| block.base)
            .collect();
        (topic, partition.low, next, segments, tail)
    };
    let start = match (segments.first(), tail.first()) {
        (Some(segment), _) => {
            let index = segment.index(shared.disk(), shared.salt, shared.manifest())?;
            let position = index.position_at(time.0);
            let mark = index.marks.iter().find(|mark| mark.position == position);
            mark.map_or(segment.meta.base, |mark| mark.offset)
        }
        (None, Some(base)) => *base,
        (None, None) => return Ok(Offset(next)),
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
