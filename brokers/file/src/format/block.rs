//! Blocks: consecutive records of one partition. The same bytes lie in a log and in a segment.

use bytes::Bytes;
use tidemill_broker::{BatchBuilder, Offset, Timestamp};

use super::{COUNT_MAX, Crc, Reader, Writer};

/// `TmBk`, the first bytes of every block.
pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"TmBk");

/// Bytes before the record table.
pub(crate) const HEADER_BYTES: usize = 72;

/// Bytes of one entry of the record table.
pub(crate) const ENTRY_BYTES: usize = 20;

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

    /// Whether `block`, the whole block of this header, is what was written.
    pub(crate) fn holds(&self, block: &[u8], salt: u32) -> bool {
        if block.len() != self.len as usize {
            return false;
        }
        let mut crc = Crc::new();
        crc.update(&block[HEADER_BYTES..]);
        crc.update(&block[8..HEADER_BYTES]);
        crc.finish() ^ salt == self.crc
    }
}

/// A block being written: all but its place in the partition.
#[derive(Debug)]
pub(crate) struct Draft {
    /// Header and record table; the header is filled in last.
    pub(crate) head: Vec<u8>,
    /// Keys, payloads and headers.
    pub(crate) data: Bytes,
    header: Header,
    crc: Crc,
}

impl Draft {
    /// Takes records whose parts lie in `data` one after the other. `times` says the timestamp of
    /// each.
    pub(crate) fn new(
        topic: u64,
        partition: u32,
        append_time: Timestamp,
        records: &[DraftRecord],
        data: Bytes,
    ) -> Self {
        let sparse = records
            .iter()
            .zip(0u64..)
            .any(|(record, index)| record.offset_delta != index);
        let mut header = Header {
            crc: 0,
            len: 0,
            count: records.len() as u32,
            flags: if sparse { SPARSE } else { 0 },
            topic,
            partition,
            base: 0,
            next: 0,
            append_time: append_time.0,
            max_timestamp: i64::MIN,
        };
        let table = header.data_at() - HEADER_BYTES;
        header.len = (HEADER_BYTES + table + data.len()) as u32;
        let mut head = Vec::with_capacity(HEADER_BYTES + table);
        head.resize(HEADER_BYTES, 0);
        for record in records {
            header.max_timestamp = header.max_timestamp.max(record.timestamp.0);
            let mut entry = [0; ENTRY_BYTES];
            entry[..8].copy_from_slice(&record.timestamp.0.to_le_bytes());
            entry[8..12].copy_from_slice(&record.key_len.unwrap_or(ABSENT).to_le_bytes());
            entry[12..16].copy_from_slice(&record.value_len.unwrap_or(ABSENT).to_le_bytes());
            entry[16..].copy_from_slice(&record.headers_len.to_le_bytes());
            head.extend_from_slice(&entry);
            if sparse {
                head.extend_from_slice(&(record.offset_delta as u32).to_le_bytes());
            }
        }
        let mut crc = Crc::new();
        crc.update(&head[HEADER_BYTES..]);
        crc.update(&data);
        Self {
            head,
            data,
            header,
            crc,
        }
    }

    /// Number of records.
    pub(crate) fn count(&self) -> u32 {
        self.header.count
    }

    /// The whole block's bytes.
    pub(crate) fn len(&self) -> usize {
        self.header.len as usize
    }

    pub(crate) fn topic(&self) -> u64 {
        self.header.topic
    }

    pub(crate) fn partition(&self) -> u32 {
        self.header.partition
    }

    /// Gives the block its place and finishes it.
    pub(crate) fn place(&mut self, base: u64, next: u64, salt: u32) -> Header {
        self.header.base = base;
        self.header.next = next;
        self.header.encode(&mut self.head);
        self.crc.update(&self.head[8..HEADER_BYTES]);
        self.header.crc = self.crc.finish() ^ salt;
        self.head[4..8].copy_from_slice(&self.header.crc.to_le_bytes());
        self.header
    }
}

/// One entry of a draft's record table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DraftRecord {
    pub(crate) timestamp: Timestamp,
    pub(crate) key_len: Option<u32>,
    pub(crate) value_len: Option<u32>,
    pub(crate) headers_len: u32,
    /// Offset less the block's base.
    pub(crate) offset_delta: u64,
}

impl DraftRecord {
    /// Bytes of key, payload and headers.
    pub(crate) fn bytes(&self) -> usize {
        self.key_len.unwrap_or(0) as usize
            + self.value_len.unwrap_or(0) as usize
            + self.headers_len as usize
    }
}

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

/// Iterates over the records of a block whose checksum [holds](Header::holds).
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Row = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<u8>, u64);

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        proptest::collection::vec(
            (
                any::<i64>(),
                proptest::option::of(bytes()),
                proptest::option::of(bytes()),
                bytes(),
                0..3u64,
            ),
            1..50,
        )
    }

    fn encode(rows: &[Row], base: u64) -> (Header, Vec<u8>, Vec<u64>) {
        let mut data = Vec::new();
        let mut delta = 0;
        let mut records = Vec::new();
        for (index, (time, key, value, headers, gap)) in rows.iter().enumerate() {
            data.extend_from_slice(key.as_deref().unwrap_or_default());
            data.extend_from_slice(value.as_deref().unwrap_or_default());
            data.extend_from_slice(headers);
            delta += gap + u64::from(index > 0);
            records.push(DraftRecord {
                timestamp: Timestamp(*time),
                key_len: key.as_ref().map(|key| key.len() as u32),
                value_len: value.as_ref().map(|value| value.len() as u32),
                headers_len: headers.len() as u32,
                offset_delta: delta,
            });
        }
        let mut draft = Draft::new(3, 1, Timestamp(5), &records, data.into());
        let header = draft.place(base, base + delta + 1, 77);
        let block = [&draft.head[..], &draft.data[..]].concat();
        let offsets = records
            .iter()
            .map(|record| base + record.offset_delta)
            .collect();
        (header, block, offsets)
    }

    proptest! {
        #[test]
        fn a_block_comes_back_as_it_was_written(rows in rows(), base in 0..1u64 << 40) {
            let (written, block, offsets) = encode(&rows, base);
            let header = Header::parse(&block).unwrap();
            prop_assert_eq!(header, written);
            prop_assert!(header.holds(&block, 77));
            prop_assert!(!header.holds(&block, 78));
            let mut builder = BatchBuilder::default();
            Entries::new(header, &block).for_each(|entry| entry.push(&mut builder, 0));
            let at = tidemill_broker::TopicPartition::new("t".parse().unwrap(), 1);
            let batch = builder.build_in(block.into(), at, Offset(header.next));
            prop_assert_eq!(batch.len(), rows.len());
            for ((record, row), offset) in batch.iter().zip(&rows).zip(offsets) {
                prop_assert_eq!(record.offset.0, offset);
                prop_assert_eq!(record.timestamp.0, row.0);
                prop_assert_eq!(record.key, row.1.as_deref());
                prop_assert_eq!(record.value, row.2.as_deref());
                prop_assert_eq!(record.encoded_headers(), &row.3[..]);
            }
        }

        #[test]
        fn no_flipped_bit_goes_unseen(rows in rows(), at in any::<prop::sample::Index>(), bit in 0..8) {
            let (_, mut block, _) = encode(&rows, 9);
            let at = at.index(block.len());
            block[at] ^= 1u8 << bit;
            prop_assert!(!Header::parse(&block).is_some_and(|header| header.holds(&block, 77)));
        }
    }
}
