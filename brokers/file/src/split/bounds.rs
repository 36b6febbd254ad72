//! How far a segment may grow.

use tidemill_broker::{Cleanup, Retention};

use crate::format::manifest::SegmentMeta;
use crate::live::TailBlock;

/// How far a segment may grow. Retention removes whole segments, so one must not span more than a
/// part of what is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    bytes: u64,
    age: i64,
}

/// A segment spans at most this part of what retention keeps.
const RETENTION_PARTS: u32 = 4;

/// However little is kept: a segment may have as many bytes.
const SEGMENT_BYTES_MIN: u64 = 4 << 10;

impl Bounds {
    pub(super) fn of(cleanup: Cleanup, split_bytes: u64) -> Self {
        let retention = match cleanup {
            Cleanup::Delete(retention) => retention,
            Cleanup::Compact { .. } => Retention::default(),
        };
        let part = |bytes: u64| (bytes / u64::from(RETENTION_PARTS)).max(SEGMENT_BYTES_MIN);
        Self {
            bytes: retention
                .bytes
                .map_or(split_bytes, |bytes| part(bytes).min(split_bytes)),
            age: retention.age.map_or(i64::MAX, |age| {
                i64::try_from((age / RETENTION_PARTS).as_micros()).unwrap_or(i64::MAX)
            }),
        }
    }

    /// Whether a block may go into a segment.
    pub(super) fn admit(&self, segment: &SegmentMeta, block: &TailBlock) -> bool {
        segment.len < self.bytes
            && block.append_time.saturating_sub(segment.first_append) <= self.age
    }
}
