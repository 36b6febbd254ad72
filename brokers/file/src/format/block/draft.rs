//! A block being written.

use bytes::Bytes;
use tidemill_broker::Timestamp;

use super::{ABSENT, ENTRY_BYTES, HEADER_BYTES, Header, SPARSE};
use crate::format::Crc;

/// A block being written: all but its place in the partition, and when it was appended.
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
    /// Takes records whose parts lie in `data` one after the other.
    pub(crate) fn new(topic: u64, partition: u32, records: &[DraftRecord], data: Bytes) -> Self {
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
            append_time: 0,
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

    /// Gives the block its place and time and finishes it.
    pub(crate) fn place(&mut self, base: u64, next: u64, append: Timestamp, salt: u32) -> Header {
        self.header.append_time = append.0;
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
