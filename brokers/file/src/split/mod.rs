//! Splitting a log file into the segments of its partitions.

mod bounds;

use std::collections::BTreeSet;
use std::sync::Arc;

use tidemill_broker::Result;
use tidemill_crash_point::crash_point;

use bounds::Bounds;

use crate::catalog::TopicId;
use crate::disk::Mode;
use crate::format::index::Index;
use crate::format::manifest::{Manifest, SegmentMeta};
use crate::format::{block, crc32c_joined};
use crate::layout::failed;
use crate::live::{LogFile, TailBlock};
use crate::segment::{Segment, SegmentWriter, bad_block};
use crate::shared::{Shared, Writing, lock};
use crate::window::Window;

/// What one partition has in the log being split.
struct Job {
    topic: TopicId,
    partition: u32,
    blocks: Vec<TailBlock>,
}

impl Shared {
    /// The first log file, if the log goes on in another.
    pub(crate) fn next_ended(&self) -> Option<LogFile> {
        let live = self.live();
        let (_, log) = live.logs.first_key_value()?;
        log.end.is_some().then(|| log.clone())
    }

    /// Moves what a log file holds into segments, then removes it.
    pub(crate) fn split(&self, writing: &Writing, log: &LogFile) -> Result<()> {
        let mut manifest = lock(&writing.manifest);
        let mut next = manifest.clone();
        next.number += 1;
        next.first_log = log.header.number + 1;
        next.first_start = log.end_place();
        if let Some(end) = &log.end {
            next.catalog = (**end).clone();
        }
        let topics = &next.catalog.topics;
        next.partitions.retain(|id, _| topics.contains_key(id));
        let mut made = BTreeSet::new();
        for job in self.jobs(log, &next) {
            self.alive()?;
            let dir = self.layout.partition(job.topic, job.partition);
            self.disk()
                .create_dir(&dir)
                .map_err(failed("create", &dir))?;
            made.insert(self.layout.topic(job.topic));
            self.write_segments(log, &job, &mut next)?;
        }
        for dir in &made {
            self.disk().sync_dir(dir).map_err(failed("sync", dir))?;
        }
        if !made.is_empty() {
            let dir = self.layout.topics();
            self.disk().sync_dir(&dir).map_err(failed("sync", &dir))?;
        }
        crash_point!("split.named");
        for (id, topic) in &next.catalog.topics {
            let count = topic.next.len() as u32;
            if count > 0 && !next.partitions.contains_key(id) {
                next.partitions
                    .insert(*id, vec![Default::default(); count as usize]);
            }
        }
        self.install(&mut manifest, next)?;
        drop(manifest);
        crash_point!("split.installed");
        // The manifest no longer needs it. A crash before this is done leaves it for the next open.
        self.disk()
            .remove(&log.path)
            .map_err(failed("remove", &log.path))?;
        crash_point!("split.removed");
        self.remove_topics()?;
        metrics::counter!("tidemill_file_logs_split_total").increment(1);
        tracing::debug!(log = log.header.number, bytes = log.len, "split a log file");
        Ok(())
    }

    fn jobs(&self, log: &LogFile, manifest: &Manifest) -> Vec<Job> {
        let live = self.live();
        let mut jobs = Vec::new();
        for (id, partitions) in &live.partitions {
            if !manifest.catalog.topics.contains_key(id) {
                continue;
            }
            for (number, partition) in (0..).zip(partitions) {
                let blocks: Vec<TailBlock> = partition
                    .tail
                    .iter()
                    .take_while(|block| block.log == log.header.number)
                    .copied()
                    .collect();
                if !blocks.is_empty() {
                    jobs.push(Job {
                        topic: *id,
                        partition: number,
                        blocks,
                    });
                }
            }
        }
        jobs
    }

    /// Appends a partition's blocks to its last segment, and to others after it.
    fn write_segments(&self, log: &LogFile, job: &Job, manifest: &mut Manifest) -> Result<()> {
        let bounds = match manifest.catalog.topics.get(&job.topic) {
            Some(topic) => Bounds::of(topic.cleanup, self.options.split_bytes),
            None => return Ok(()),
        };
        let mut window = Window::new(Arc::clone(&log.file), log.len);
        let mut blocks = &job.blocks[..];
        while let Some(first) = blocks.first() {
            let partition = manifest.partition(job.topic, job.partition);
            let open = partition.segments.last().copied().filter(|segment| {
                segment.rewrite == 0
                    && segment.base >= partition.compacted
                    && bounds.admit(segment, first)
            });
            let mut meta = open.unwrap_or(SegmentMeta::empty(first.base, 0));
            meta.first_append = meta.first_append.min(first.append_time);
            let count = 1 + blocks[1..]
                .iter()
                .scan(meta.len + u64::from(first.len), |len, block| {
                    let before = SegmentMeta { len: *len, ..meta };
                    *len += u64::from(block.len);
                    bounds.admit(&before, block).then_some(())
                })
                .count();
            let (these, rest) = blocks.split_at(count);
            blocks = rest;
            let meta = self.write_segment(log, job, &mut window, these, meta, open.is_some())?;
            let partition = manifest.partition(job.topic, job.partition);
            if open.is_some() {
                partition.segments.pop();
            }
            partition.segments.push(meta);
        }
        Ok(())
    }

    fn write_segment(
        &self,
        log: &LogFile,
        job: &Job,
        window: &mut Window,
        blocks: &[TailBlock],
        mut meta: SegmentMeta,
        exists: bool,
    ) -> Result<SegmentMeta> {
        let path = self.layout.segment(job.topic, job.partition, &meta);
        let mode = if exists { Mode::Write } else { Mode::Create };
        let file = self
            .disk()
            .open(&path, mode)
            .map_err(failed("open", &path))?;
        let mut index = if exists {
            let segment = Segment::new(&self.layout, job.topic, job.partition, meta);
            let index = segment.index(self.disk(), self.salt, None)?;
            index.up_to(meta.len, meta.max_timestamp)
        } else {
            Index::new()
        };
        let mut writer = SegmentWriter::new(&*file, &path, meta.len);
        for block in blocks {
            let bytes = window
                .get(block.position, block.len as usize)
                .map_err(failed("read", &log.path))?
                .filter(|bytes| {
                    block::Header::parse(bytes).is_some_and(|header| header.holds(bytes, self.salt))
                })
                .ok_or_else(|| bad_block(&log.path, block.position))?;
            writer.write(bytes)?;
            index.add(block.base, u64::from(block.len), block.max_timestamp);
            meta.records += u64::from(block.count);
            meta.first_append = meta.first_append.min(block.append_time);
            meta.last_append = meta.last_append.max(block.append_time);
            meta.max_timestamp = meta.max_timestamp.max(block.max_timestamp);
            meta.next = block.next;
        }
        let (added, crc) = writer.finish()?;
        crash_point!("split.segment");
        meta.crc = crc32c_joined(meta.crc, crc, added);
        meta.len += added;
        meta.index_crc = self.write_index(job.topic, job.partition, &meta, &index)?;
        Ok(meta)
    }
}
