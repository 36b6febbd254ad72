//! The segments that compaction writes.

use bytes::Bytes;
use tidemill_broker::{Result, Timestamp};
use tidemill_crash_point::crash_point;

use crate::catalog::TopicId;
use crate::disk::Mode;
use crate::format::block::{Draft, DraftRecord, Entry, Header};
use crate::format::index::Index;
use crate::format::manifest::SegmentMeta;
use crate::layout::failed;
use crate::segment::SegmentWriter;
use crate::shared::Shared;

/// A rewritten block is closed at this many bytes.
const BLOCK_BYTES: usize = 64 * 1024;

/// A rewritten block is closed at this many records.
const BLOCK_RECORDS: usize = 4_096;

/// Where rewritten segments go.
pub(super) struct Output<'a> {
    pub(super) shared: &'a Shared,
    pub(super) topic: TopicId,
    pub(super) partition: u32,
    /// How often these records were rewritten, this time included.
    pub(super) rewrite: u32,
    pub(super) done: Vec<SegmentMeta>,
}

/// Gathers records into blocks of one segment.
pub(super) struct Sink<'a> {
    writer: SegmentWriter<'a>,
    index: Index,
    meta: SegmentMeta,
    topic: TopicId,
    partition: u32,
    salt: u32,
    base: u64,
    append_time: i64,
    records: Vec<DraftRecord>,
    data: Vec<u8>,
}

impl Output<'_> {
    /// Writes one segment from `base` to `next`.
    pub(super) fn stretch(
        &mut self,
        base: u64,
        next: u64,
        fill: impl FnOnce(&mut Sink<'_>) -> Result<()>,
    ) -> Result<()> {
        let shared = self.shared;
        let meta = SegmentMeta {
            next,
            ..SegmentMeta::empty(base, self.rewrite)
        };
        let path = shared.layout.segment(self.topic, self.partition, &meta);
        let file = shared
            .disk()
            .open(&path, Mode::Create)
            .map_err(failed("create", &path))?;
        let mut sink = Sink {
            writer: SegmentWriter::new(&*file, &path, 0),
            index: Index::new(),
            meta,
            topic: self.topic,
            partition: self.partition,
            salt: shared.salt,
            base: 0,
            append_time: i64::MIN,
            records: Vec::new(),
            data: Vec::new(),
        };
        fill(&mut sink)?;
        sink.close_block()?;
        let (mut meta, index) = (sink.meta, sink.index);
        (meta.len, meta.crc) = sink.writer.finish()?;
        crash_point!("compact.written");
        meta.index_crc = shared.write_index(self.topic, self.partition, &meta, &index)?;
        self.done.push(meta);
        Ok(())
    }
}

impl Sink<'_> {
    pub(super) fn push(&mut self, header: &Header, block: &[u8], entry: &Entry) -> Result<()> {
        let start = entry.start as usize;
        let bytes = &block[start..start + entry.bytes()];
        let far = entry.offset - self.base > u64::from(u32::MAX);
        if self.records.len() == BLOCK_RECORDS || self.data.len() + bytes.len() > BLOCK_BYTES || far
        {
            self.close_block()?;
        }
        if self.records.is_empty() {
            self.base = entry.offset;
        }
        // The latest of all: a tombstone may stay longer than it must, never shorter.
        self.append_time = self.append_time.max(header.append_time);
        self.records.push(DraftRecord {
            timestamp: Timestamp(entry.timestamp),
            key_len: entry.key_len,
            value_len: entry.value_len,
            headers_len: entry.headers_len,
            offset_delta: entry.offset - self.base,
        });
        self.data.extend_from_slice(bytes);
        Ok(())
    }

    fn close_block(&mut self) -> Result<()> {
        let Some(last) = self.records.last() else {
            return Ok(());
        };
        let next = self.base + last.offset_delta + 1;
        let data = Bytes::from(std::mem::take(&mut self.data));
        let mut draft = Draft::new(self.topic, self.partition, &self.records, data);
        let header = draft.place(self.base, next, Timestamp(self.append_time), self.salt);
        self.writer.write(&draft.head)?;
        self.writer.write(&draft.data)?;
        self.index
            .add(header.base, u64::from(header.len), header.max_timestamp);
        self.meta.records += u64::from(header.count);
        self.meta.first_append = self.meta.first_append.min(header.append_time);
        self.meta.last_append = self.meta.last_append.max(header.append_time);
        self.meta.max_timestamp = self.meta.max_timestamp.max(header.max_timestamp);
        self.records.clear();
        self.append_time = i64::MIN;
        Ok(())
    }
}
