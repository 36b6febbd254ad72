//! The records of a block.

use tidemill_broker::{BatchBuilder, Offset, Timestamp};

use super::{ABSENT, ENTRY_BYTES, HEADER_BYTES, Header, SPARSE};

/// One record of a block: where its parts lie, counted from the block's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) timestamp: i64,
    pub(crate) start: u32,
    pub(crate) key_len: Option<u32>,
    pub(crate) value_len: Option<u32>,
    pub(crate) headers_len: u32,
}

impl Entry {
    /// Bytes of key, payload and headers.
    pub(crate) fn bytes(&self) -> usize {
        self.key_len.unwrap_or(0) as usize
            + self.value_len.unwrap_or(0) as usize
            + self.headers_len as usize
    }

    /// Declares the record over a slab in which the block begins at `at`.
    pub(crate) fn push(&self, builder: &mut BatchBuilder, at: u32) {
        builder.push_in_place(
            Offset(self.offset),
            Timestamp(self.timestamp),
            at + self.start,
            self.key_len,
            self.value_len,
            self.headers_len,
        );
    }
}

/// Iterates over the records of a block that [holds](Header::holds).
///
/// Yields nothing more at the first entry that leaves the block, which a block that holds does not
/// have.
#[derive(Debug, Clone)]
pub(crate) struct Entries<'a> {
    table: &'a [u8],
    header: Header,
    start: u32,
    index: u32,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(header: Header, block: &'a [u8]) -> Self {
        let table = block
            .get(HEADER_BYTES..header.data_at())
            .unwrap_or_default();
        Self {
            table,
            header,
            start: header.data_at() as u32,
            index: 0,
        }
    }

    /// Goes on at a [place](Self::place); (0, 0) is the beginning.
    pub(crate) fn resume(header: Header, block: &'a [u8], (index, start): (u32, u32)) -> Self {
        let mut entries = Self::new(header, block);
        if index > 0 {
            let skipped = index as usize * header.entry_bytes();
            entries.table = entries.table.get(skipped..).unwrap_or_default();
            entries.index = index;
            entries.start = start;
        }
        entries
    }

    /// Where the next record is: its index and where its bytes begin in the block.
    pub(crate) fn place(&self) -> (u32, u32) {
        (self.index, self.start)
    }
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    #[inline]
    fn next(&mut self) -> Option<Entry> {
        let (entry, rest) = self.table.split_first_chunk::<ENTRY_BYTES>()?;
        let word = |at: usize| {
            u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
        };
        let timestamp = i64::from_le_bytes([
            entry[0], entry[1], entry[2], entry[3], entry[4], entry[5], entry[6], entry[7],
        ]);
        let (key, value, headers_len) = (word(8), word(12), word(16));
        let delta = if self.header.flags & SPARSE == 0 {
            self.table = rest;
            self.index
        } else {
            let (delta, rest) = rest.split_first_chunk::<4>()?;
            self.table = rest;
            u32::from_le_bytes(*delta)
        };
        self.index += 1;
        let entry = Entry {
            offset: self.header.base + u64::from(delta),
            timestamp,
            start: self.start,
            key_len: (key != ABSENT).then_some(key),
            value_len: (value != ABSENT).then_some(value),
            headers_len,
        };
        let end = u64::from(self.start) + entry.bytes() as u64;
        if end > u64::from(self.header.len) {
            self.table = &[];
            return None;
        }
        self.start = end as u32;
        Some(entry)
    }
}
