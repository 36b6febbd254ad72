//! Compaction: the newest record of each key stays; old tombstones go.

use std::collections::HashMap;

use bytes::Bytes;
use tidemill_broker::{Cleanup, Result, Timestamp};
use tidemill_crash_point::crash_point;

use crate::catalog::TopicId;
use crate::disk::Mode;
use crate::format::block::{Draft, DraftRecord, Entries, Entry, Header};
use crate::format::index::Index;
use crate::format::manifest::{PartitionMeta, SegmentMeta};
use crate::layout::{failed, remove};
use crate::segment::Segment;
use crate::shared::{Shared, Writing, lock};
use crate::split::SegmentWriter;

/// A rewritten block is closed at this many bytes.
const BLOCK_BYTES: usize = 64 * 1024;

/// A rewritten block is closed at this many records.
const BLOCK_RECORDS: usize = 4_096;

impl Shared {
    /// Compacts the partitions of compacted topics that are due: when asked, those with anything
    /// new; otherwise those of which at least half is new, so that each byte is rewritten a few
    /// times at most.
    pub(crate) fn compact(&self, writing: &Writing, asked: bool) -> Result<()> {
        let topics: Vec<(TopicId, Timestamp)> = {
            let manifest = lock(&writing.manifest);
            let now = self.noted();
            let compacted = |cleanup| match cleanup {
                Cleanup::Compact { tombstones } => Some(now.minus(tombstones)),
                Cleanup::Delete(_) => None,
            };
            manifest
                .catalog
                .topics
                .iter()
                .filter_map(|(id, topic)| Some((*id, compacted(topic.cleanup)?)))
                .collect()
        };
        for (topic, horizon) in topics {
            let partitions = lock(&writing.manifest)
                .partitions
                .get(&topic)
                .map_or(0, Vec::len);
            for partition in 0..partitions as u32 {
                self.alive()?;
                self.compact_partition(writing, topic, partition, horizon, asked)?;
            }
        }
        Ok(())
    }

    fn compact_partition(
        &self,
        writing: &Writing,
        topic: TopicId,
        partition: u32,
        horizon: Timestamp,
        asked: bool,
    ) -> Result<()> {
        let mut manifest = lock(&writing.manifest);
        let mut next = manifest.clone();
        let meta = next.partition(topic, partition);
        let new: u64 = meta
            .segments
            .iter()
            .filter(|segment| segment.next > meta.compacted)
            .map(|segment| segment.len)
            .sum();
        let total: u64 = meta.segments.iter().map(|segment| segment.len).sum();
        let due = if asked {
            total > 0
        } else {
            new > 0 && new * 2 >= total
        };
        if !due {
            return Ok(());
        }
        let old = std::mem::take(&mut meta.segments);
        let Some(rewritten) = self.rewrite(topic, partition, &old, horizon, meta)? else {
            return Ok(());
        };
        meta.segments = rewritten;
        meta.compacted = meta
            .segments
            .last()
            .map_or(meta.compacted, |last| last.next);
        next.number += 1;
        self.install(&mut manifest, next)?;
        drop(manifest);
        crash_point!("compact.installed");
        metrics::counter!("tidemill_file_compactions").increment(1);
        for segment in &old {
            for path in [
                self.layout.segment(topic, partition, segment),
                self.layout.index(topic, partition, segment),
            ] {
                remove(self.disk(), &path)?;
                crash_point!("compact.removed");
            }
        }
        Ok(())
    }

    /// Writes what stays into new segments. `None` if everything stays and the segments are few
    /// enough.
    fn rewrite(
        &self,
        topic: TopicId,
        partition: u32,
        old: &[SegmentMeta],
        horizon: Timestamp,
        meta: &mut PartitionMeta,
    ) -> Result<Option<Vec<SegmentMeta>>> {
        let segments: Vec<_> = old
            .iter()
            .map(|meta| Segment::new(&self.layout, topic, partition, *meta))
            .collect();
        let mut newest: HashMap<Box<[u8]>, u64> = HashMap::new();
        for segment in &segments {
            segment.each_block(self.disk(), self.salt, |header, block| {
                for entry in Entries::new(header, block) {
                    if let Some(key) = key(&entry, block) {
                        match newest.get_mut(key) {
                            Some(offset) => *offset = entry.offset,
                            None => {
                                newest.insert(key.into(), entry.offset);
                            }
                        }
                    }
                }
                Ok(())
            })?;
        }
        let stays = |header: &Header, block: &[u8], entry: &Entry| {
            let current =
                key(entry, block).is_none_or(|key| newest.get(key) == Some(&entry.offset));
            let expired = entry.value_len.is_none() && header.append_time < horizon.0;
            (current, expired)
        };
        let mut any_goes = old.len() > 1;
        for segment in &segments {
            if any_goes {
                break;
            }
            segment.each_block(self.disk(), self.salt, |header, block| {
                any_goes |= Entries::new(header, block)
                    .any(|entry| stays(&header, block, &entry) != (true, false));
                Ok(())
            })?;
        }
        if !any_goes {
            return Ok(None);
        }
        let rewrite = old.iter().map(|segment| segment.rewrite).max().unwrap_or(0) + 1;
        let mut output = Output {
            shared: self,
            topic,
            partition,
            rewrite,
            done: Vec::new(),
        };
        // Each stretch of old segments becomes one new one.
        let mut rest = &segments[..];
        while let Some(first) = rest.first() {
            let mut count = 0;
            let mut bytes = 0;
            while count < rest.len() && (count == 0 || bytes < self.options.split_bytes) {
                bytes += rest[count].meta.len;
                count += 1;
            }
            let (stretch, after) = rest.split_at(count);
            rest = after;
            let end = stretch
                .last()
                .map_or(first.meta.next, |last| last.meta.next);
            let tombstones_gone = &mut meta.tombstones_gone;
            output.stretch(first.meta.base, end, |sink| {
                for segment in stretch {
                    segment.each_block(self.disk(), self.salt, |header, block| {
                        for entry in Entries::new(header, block) {
                            match stays(&header, block, &entry) {
                                (true, false) => sink.push(&header, block, &entry)?,
                                (true, true) => {
                                    *tombstones_gone = (*tombstones_gone).max(entry.offset + 1);
                                }
                                (false, _) => {}
                            }
                        }
                        Ok(())
                    })?;
                }
                Ok(())
            })?;
        }
        Ok(Some(output.done))
    }
}

fn key<'a>(entry: &Entry, block: &'a [u8]) -> Option<&'a [u8]> {
    let start = entry.start as usize;
    let len = entry.key_len? as usize;
    block.get(start..start + len)
}

/// Where rewritten segments go.
struct Output<'a> {
    shared: &'a Shared,
    topic: TopicId,
    partition: u32,
    rewrite: u32,
    done: Vec<SegmentMeta>,
}

/// Gathers records into blocks of one segment.
struct Sink<'a> {
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
    fn stretch(
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
    fn push(&mut self, header: &Header, block: &[u8], entry: &Entry) -> Result<()> {
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
        let mut draft = Draft::new(
            self.topic,
            self.partition,
            Timestamp(self.append_time),
            &self.records,
            data,
        );
        let header = draft.place(self.base, next, self.salt);
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
