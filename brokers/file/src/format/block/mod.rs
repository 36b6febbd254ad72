//! Blocks: consecutive records of one partition. The same bytes lie in a log and in a segment.

mod draft;
mod entries;
#[cfg(test)]
mod tests;

pub(crate) use draft::{Draft, DraftRecord};
pub(crate) use entries::{Entries, Entry};

use super::{COUNT_MAX, Crc, Reader, Writer};

/// `TmBk`, the first bytes of every block.
const MAGIC: u32 = u32::from_le_bytes(*b"TmBk");

/// Bytes before the record table.
pub(crate) const HEADER_BYTES: usize = 72;

/// Bytes of one entry of the record table.
const ENTRY_BYTES: usize = 20;

/// Stands for "no key" and "no payload" in the record table.
const ABSENT: u32 = u32::MAX;

/// Set when each record's offset is written, as after compaction; otherwise they are consecutive.
const SPARSE: u32 = 1;

/// What stands before a block's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) crc: u32,
    /// The whole block's bytes.
    pub(crate) len: u32,
    pub(crate) count: u32,
    pub(crate) flags: u32,
    pub(crate) topic: u64,
    pub(crate) partition: u32,
    pub(crate) base: u64,
    /// The offset after the block; more than `base + count` where compaction removed records.
    pub(crate) next: u64,
    pub(crate) append_time: i64,
    pub(crate) max_timestamp: i64,
}

impl Header {
    /// Reads a header. `None` if these bytes cannot be one.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.u32()? != MAGIC {
            return None;
        }
        let header = Self {
            crc: reader.u32()?,
            len: reader.u32()?,
            count: reader.u32()?,
            flags: reader.u32()?,
            partition: reader.u32()?,
            topic: reader.u64()?,
            base: reader.u64()?,
            next: reader.u64()?,
            append_time: reader.i64()?,
            max_timestamp: reader.i64()?,
        };
        reader.u64()?;
        let whole = header.data_at() as u64 <= u64::from(header.len)
            && header.flags & !SPARSE == 0
            && header
                .base
                .checked_add(u64::from(header.count))
                .is_some_and(|end| end <= header.next)
            && header.next <= COUNT_MAX;
        whole.then_some(header)
    }

    fn entry_bytes(&self) -> usize {
        ENTRY_BYTES + if self.flags & SPARSE == 0 { 0 } else { 4 }
    }

    /// Where the records' bytes begin in the block.
    fn data_at(&self) -> usize {
        HEADER_BYTES.saturating_add((self.count as usize).saturating_mul(self.entry_bytes()))
    }

    fn encode(&self, to: &mut [u8]) {
        let mut writer = Writer(Vec::with_capacity(HEADER_BYTES));
        writer
            .u32(MAGIC)
            .u32(self.crc)
            .u32(self.len)
            .u32(self.count)
            .u32(self.flags)
            .u32(self.partition)
            .u64(self.topic)
            .u64(self.base)
            .u64(self.next)
            .i64(self.append_time)
            .i64(self.max_timestamp)
            .u64(0);
        to[..HEADER_BYTES].copy_from_slice(&writer.0);
    }

    /// Whether `block`, the whole block of this header, is what was written, and could have been.
    pub(crate) fn holds(&self, block: &[u8], salt: u32) -> bool {
        if block.len() != self.len as usize {
            return false;
        }
        let mut crc = Crc::new();
        crc.update(&block[HEADER_BYTES..]);
        crc.update(&block[8..HEADER_BYTES]);
        crc.finish() ^ salt == self.crc && self.adds_up(block)
    }

    /// Whether the records fill the block, at offsets that rise from its base and stay before its end: a
    /// checksum that holds says nothing of who wrote it.
    fn adds_up(&self, block: &[u8]) -> bool {
        let mut entries = Entries::new(*self, block);
        let mut next = self.base;
        let rises = entries.by_ref().all(|entry| {
            let rises = entry.offset >= next;
            next = entry.offset + 1;
            rises
        });
        rises && entries.place() == (self.count, self.len) && next <= self.next
    }
}
