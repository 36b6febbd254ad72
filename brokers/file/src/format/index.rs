//! Sparse indexes of segments, by offset and by time.

use super::{Reader, Writer, crc32c};

const MAGIC: &[u8; 8] = b"TmIdx\r\n\0";

/// How many bytes of a segment lie between two entries at least.
///
/// A seek reads this much on average twice; a segment of 64 MiB has a thousand entries.
pub(crate) const STRIDE_BYTES: u64 = 64 * 1024;

/// Where a block begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The block's first offset.
    pub(crate) offset: u64,
    /// The block's first byte in the segment.
    pub(crate) position: u64,
    /// The latest timestamp of all blocks before it; `i64::MIN` before the first.
    pub(crate) max_before: i64,
}

/// The index of one segment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Index {
    pub(crate) marks: Vec<Mark>,
    /// How many bytes of the segment it describes.
    pub(crate) covers: u64,
    /// The latest timestamp of everything it describes.
    pub(crate) max_timestamp: i64,
}

impl Index {
    pub(crate) fn new() -> Self {
        Self {
            marks: Vec::new(),
            covers: 0,
            max_timestamp: i64::MIN,
        }
    }

    /// Takes in the next block of the segment.
    pub(crate) fn add(&mut self, offset: u64, len: u64, max_timestamp: i64) {
        let due = self
            .marks
            .last()
            .is_none_or(|last| self.covers - last.position >= STRIDE_BYTES);
        if due {
            self.marks.push(Mark {
                offset,
                position: self.covers,
                max_before: self.max_timestamp,
            });
        }
        self.covers += len;
        self.max_timestamp = self.max_timestamp.max(max_timestamp);
    }

    /// The index of the first `len` bytes, whose latest timestamp is known.
    pub(crate) fn up_to(&self, len: u64, max_timestamp: i64) -> Self {
        let count = self.marks.partition_point(|mark| mark.position < len);
        Self {
            marks: self.marks[..count].to_vec(),
            covers: len,
            max_timestamp,
        }
    }

    /// Where to begin to look for an offset; `None` for the first block.
    pub(crate) fn mark(&self, offset: u64) -> Option<Mark> {
        let after = self.marks.partition_point(|mark| mark.offset <= offset);
        after.checked_sub(1).map(|at| self.marks[at])
    }

    /// Where to begin to look for the first record whose timestamp is not before `time`; `None` for the
    /// first block.
    pub(crate) fn mark_at(&self, time: i64) -> Option<Mark> {
        let after = self.marks.partition_point(|mark| mark.max_before < time);
        after.checked_sub(1).map(|at| self.marks[at])
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.u64(self.covers)
            .i64(self.max_timestamp)
            .u32(self.marks.len() as u32);
        for mark in &self.marks {
            body.u64(mark.offset)
                .u64(mark.position)
                .i64(mark.max_before);
        }
        let mut whole = Writer::default();
        whole.bytes(MAGIC).u32(crc32c(&body.0)).bytes(&body.0);
        whole.0
    }

    /// `None` if these bytes are not an index, whole and unharmed.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.array()? != *MAGIC || reader.u32()? != crc32c(bytes.get(12..)?) {
            return None;
        }
        let mut index = Self {
            covers: reader.u64()?,
            max_timestamp: reader.i64()?,
            marks: Vec::new(),
        };
        for _ in 0..reader.u32()? {
            index.marks.push(Mark {
                offset: reader.u64()?,
                position: reader.u64()?,
                max_before: reader.i64()?,
            });
        }
        reader.is_empty().then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_index_points_at_or_before_what_is_sought(
            blocks in proptest::collection::vec((1..40_000u64, -50..50i64), 1..200),
            time in -60..60i64,
            pick in any::<prop::sample::Index>(),
        ) {
            let mut index = Index::new();
            let mut places = Vec::new();
            for (offset, (len, timestamp)) in (0u64..).zip(&blocks) {
                places.push((offset, index.covers, *timestamp));
                index.add(offset, *len, *timestamp);
            }
            prop_assert_eq!(Index::parse(&index.encode()), Some(index.clone()));
            let (offset, position, _) = places[pick.index(places.len())];
            let found = index.mark(offset).map_or(0, |mark| mark.position);
            prop_assert!(found <= position && position - found < STRIDE_BYTES + 40_000);
            if let Some((_, position, _)) = places.iter().find(|(_, _, at)| *at >= time) {
                let found = index.mark_at(time).map_or(0, |mark| mark.position);
                prop_assert!(found <= *position);
            }
        }
    }
}
