//! Records checked and encoded, all but their offsets.

use std::ops::Range;

use bytes::Bytes;
use tidemill_broker::{Error, Offset, RecordSet, Timestamp};

use super::failure::{FRAME_BYTES_MAX, too_much};
use crate::catalog::TopicId;
use crate::format::block::{Draft, DraftRecord};
use crate::shared::Shared;

/// A block is closed at this many bytes, so that a reader of a few records need not check many.
const BLOCK_BYTES: usize = 256 * 1024;

/// A block is closed at this many records.
const BLOCK_RECORDS: usize = 4_096;

/// Records checked and encoded, all but their offsets.
#[derive(Debug, Default)]
pub(crate) struct Drafts {
    pub(super) blocks: Vec<Draft>,
    /// The blocks of each record set.
    pub(super) sets: Vec<Range<usize>>,
    pub(super) bytes: u64,
}

/// A record that cannot be appended, and where it stands.
#[derive(Debug)]
pub(crate) struct Culprit {
    pub(crate) error: Error,
    pub(crate) set: usize,
    /// The first, if it is the whole set.
    pub(crate) record: usize,
}

impl Shared {
    /// Checks and encodes records.
    pub(crate) fn draft(&self, sets: Vec<RecordSet>) -> Result<Drafts, Culprit> {
        let now = self.now();
        let mut drafts = Drafts {
            blocks: Vec::with_capacity(sets.len()),
            sets: Vec::with_capacity(sets.len()),
            bytes: 0,
        };
        for (index, set) in sets.into_iter().enumerate() {
            let culprit = |error, record| Culprit {
                error,
                set: index,
                record,
            };
            let id = self
                .live()
                .partition(&set.at)
                .map(|(id, ..)| id)
                .map_err(|error| culprit(error, 0))?;
            let first = drafts.blocks.len();
            self.draft_set(id, set, now, &mut drafts.blocks)
                .map_err(|(error, record)| culprit(error, record))?;
            drafts.sets.push(first..drafts.blocks.len());
        }
        drafts.bytes = drafts.blocks.iter().map(|block| block.len() as u64).sum();
        Ok(drafts)
    }

    fn draft_set(
        &self,
        topic: TopicId,
        set: RecordSet,
        now: Timestamp,
        blocks: &mut Vec<Draft>,
    ) -> Result<(), (Error, usize)> {
        let at = set.at.clone();
        let limit = self.options.record_bytes_max;
        if set.bytes() as u64 > FRAME_BYTES_MAX {
            return Err((too_much(set.bytes() as u64), 0));
        }
        let batch = set.into_records().build(at.clone(), Offset::START);
        let mut records = Vec::with_capacity(batch.len().min(BLOCK_RECORDS));
        let (mut start, mut end) = (0, 0);
        let mut close = |records: &mut Vec<DraftRecord>, data: Bytes| {
            if !records.is_empty() {
                blocks.push(Draft::new(topic, at.partition, records, data));
                records.clear();
            }
        };
        for (index, record) in batch.iter().enumerate() {
            let draft = DraftRecord {
                timestamp: if record.timestamp == Timestamp::MIN {
                    now
                } else {
                    record.timestamp
                },
                key_len: record.key.map(|key| key.len() as u32),
                value_len: record.value.map(|value| value.len() as u32),
                headers_len: record.encoded_headers().len() as u32,
                offset_delta: records.len() as u64,
            };
            let bytes = draft.bytes();
            if bytes > limit {
                return Err((
                    Error::TooLarge {
                        at: at.clone(),
                        index,
                        bytes,
                        limit,
                    },
                    index,
                ));
            }
            if records.len() == BLOCK_RECORDS || end - start + bytes > BLOCK_BYTES {
                close(&mut records, batch.slab().slice(start..end));
                start = end;
            }
            records.push(DraftRecord {
                offset_delta: records.len() as u64,
                ..draft
            });
            end += bytes;
        }
        close(&mut records, batch.slab().slice(start..end));
        Ok(())
    }
}
