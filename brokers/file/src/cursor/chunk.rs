//! Blocks read from disk in one piece, handed out record by record.

use std::collections::VecDeque;

use bytes::Bytes;
use tidemill_broker::{Batch, BatchBuilder, Offset, TopicPartition};

use super::Limits;
use crate::format::block::{Entries, Header};

/// A block of a chunk, checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) header: Header,
    /// Where it begins in the slab.
    pub(super) at: usize,
}

/// Blocks read from disk in one piece.
#[derive(Debug)]
pub(super) struct Chunk {
    slab: Bytes,
    spans: VecDeque<Span>,
    /// Records of the first block already handed out, and where the next begins in the block.
    taken: (u32, u32),
}

impl Chunk {
    pub(super) fn new(slab: Vec<u8>, spans: VecDeque<Span>) -> Self {
        Self {
            slab: slab.into(),
            spans,
            taken: (0, 0),
        }
    }

    /// Whether everything was handed out.
    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Makes a batch of what comes next, at least one record or one block without any.
    pub(super) fn take(&mut self, at: &TopicPartition, offset: u64, limits: Limits) -> Batch {
        let first = self.spans.front().map_or(0, |span| span.at);
        let mut builder = BatchBuilder::with_capacity(limits.records.min(1_024), 0);
        let (mut bytes, mut next, mut end) = (0, offset, first);
        'blocks: while let Some(span) = self.spans.front().copied() {
            let block_end = span.at + span.header.len as usize;
            let block = &self.slab[span.at..block_end];
            let mut entries = Entries::resume(span.header, block, self.taken);
            loop {
                let before = entries.clone();
                let Some(entry) = entries.next() else {
                    break;
                };
                if entry.offset < offset {
                    continue;
                }
                let size = entry.bytes();
                if !builder.is_empty()
                    && (builder.len() >= limits.records || bytes + size > limits.bytes)
                {
                    self.taken = before.place();
                    break 'blocks;
                }
                bytes += size;
                entry.push(&mut builder, (span.at - first) as u32);
                next = entry.offset + 1;
                end = span.at + (entry.start as usize) + size;
            }
            next = span.header.next;
            self.spans.pop_front();
            self.taken = (0, 0);
        }
        let slab = self.slab.slice(first..end.max(first));
        builder.build_in(slab, at.clone(), Offset(next))
    }
}
