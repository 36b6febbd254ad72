//! Splitting a log file into the segments of its partitions.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use tidemill_broker::{Cleanup, Error, Result, Retention};
use tidemill_crash_point::crash_point;

use crate::bell::Ring;
use crate::catalog::TopicId;
use crate::disk::{DiskFile, Mode, write_all};
use crate::format::index::Index;
use crate::format::manifest::{Manifest, SegmentMeta};
use crate::format::{Crc, block, crc32c, crc32c_joined};
use crate::layout::{failed, stage};
use crate::live::{LogFile, TailBlock};
use crate::segment::{Segment, bad_block};
use crate::shared::{Shared, Writing, is_full, lock};
use crate::window::Window;

/// How much to do when asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Effort {
    /// What is due.
    #[default]
    Due,
    /// Split also the log file that is still appended to.
    Split,
    /// And compact whatever may be compacted.
    Clean,
}

/// How far the splitter has come with what it was asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cleaned {
    requested: u64,
    done: u64,
    /// The most that any request asks for that is not done.
    effort: Effort,
    /// Why the latest attempt stopped: the disk is full.
    pub(crate) full: Option<PathBuf>,
}

impl Cleaned {
    /// The latest failure, if it still stands.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.full {
            None => Ok(()),
            Some(path) => Err(Error::Io {
                doing: "split the log into",
                path: path.clone(),
                source: std::io::ErrorKind::StorageFull.into(),
            }),
        }
    }
}

/// How far a segment may grow. Retention removes whole segments, so one must not span more than a
/// part of what is kept.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    bytes: u64,
    age: i64,
}

/// A segment spans at most this part of what retention keeps.
const RETENTION_PARTS: u32 = 4;

/// However little is kept: a segment may have as many bytes.
const SEGMENT_BYTES_MIN: u64 = 4 << 10;

impl Bounds {
    fn of(cleanup: Cleanup, split_bytes: u64) -> Self {
        let retention = match cleanup {
            Cleanup::Delete(retention) => retention,
            Cleanup::Compact { .. } => Retention::default(),
        };
        let part = |bytes: u64| (bytes / u64::from(RETENTION_PARTS)).max(SEGMENT_BYTES_MIN);
        Self {
            bytes: retention
                .bytes
                .map_or(split_bytes, |bytes| part(bytes).min(split_bytes)),
            age: retention.age.map_or(i64::MAX, |age| {
                i64::try_from((age / RETENTION_PARTS).as_micros()).unwrap_or(i64::MAX)
            }),
        }
    }

    /// Whether a block may go into a segment.
    fn admit(&self, segment: &SegmentMeta, block: &TailBlock) -> bool {
        segment.len < self.bytes
            && block.append_time.saturating_sub(segment.first_append) <= self.age
    }
}

/// What one partition has in the log being split.
struct Job {
    topic: TopicId,
    partition: u32,
    blocks: Vec<TailBlock>,
}

impl Shared {
    /// Asks for everything to be split and cleaned, and waits.
    pub(crate) async fn clean(&self, effort: Effort) -> Result<()> {
        let writing = self.writing("clean")?;
        let mut cleaned = writing.cleaned.subscribe();
        let mut ticket = 0;
        self.now();
        writing.cleaned.send_modify(|cleaned| {
            cleaned.requested += 1;
            cleaned.effort = cleaned.effort.max(effort);
            ticket = cleaned.requested;
        });
        writing.splitter.ring(Ring::Urgent);
        loop {
            {
                let now = cleaned.borrow_and_update();
                if now.done >= ticket {
                    return now.check();
                }
            }
            self.alive()?;
            if cleaned.changed().await.is_err() {
                return self.alive();
            }
        }
    }

    /// Splits what is ended, and cleans. Run by the splitter alone.
    pub(crate) fn maintain(&self) -> Result<()> {
        let writing = self.writing("split")?;
        loop {
            let (mut requested, mut effort) = (0, Effort::Due);
            writing.cleaned.send_if_modified(|cleaned| {
                requested = cleaned.requested;
                effort = std::mem::take(&mut cleaned.effort);
                false
            });
            if effort > Effort::Due {
                self.end_log(writing, &mut lock(&writing.appender));
            }
            let full = match self.maintain_once(writing, effort) {
                Ok(()) => None,
                // Nothing is lost: the log files stay, and the next round begins anew.
                Err(Error::Io { path, source, .. }) if is_full(&source) => {
                    tracing::warn!(path = %path.display(), "the disk is full; the log stays unsplit");
                    Some(path)
                }
                Err(error) => {
                    if self.alive().is_ok() {
                        self.poison(&error);
                    }
                    return Err(error);
                }
            };
            let stuck = full.is_some();
            writing.cleaned.send_modify(|cleaned| {
                cleaned.done = requested;
                cleaned.full = full;
            });
            self.changed.notify_waiters();
            if stuck || writing.cleaned.borrow().requested == requested {
                return Ok(());
            }
        }
    }

    fn maintain_once(&self, writing: &Writing, effort: Effort) -> Result<()> {
        let mut any = effort > Effort::Due;
        while let Some(log) = self.next_ended() {
            self.split(writing, &log)?;
            any = true;
        }
        if any {
            self.expire(writing)?;
            self.compact(writing, effort == Effort::Clean)?;
        }
        Ok(())
    }

    fn next_ended(&self) -> Option<LogFile> {
        let live = self.live();
        let (_, log) = live.logs.first_key_value()?;
        log.end.is_some().then(|| log.clone())
    }

    fn split(&self, writing: &Writing, log: &LogFile) -> Result<()> {
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
        metrics::counter!("tidemill_file_logs_split").increment(1);
        tracing::debug!(log = log.header.number, bytes = log.len, "split a log file");
        Ok(())
    }

    /// Replaces the manifest on disk, then what readers see.
    pub(crate) fn install(&self, manifest: &mut Manifest, next: Manifest) -> Result<()> {
        let path = self.layout.manifest();
        let staged = stage(self.disk(), &path, &next.encode())?;
        crash_point!("manifest.staged");
        staged.put(self.disk())?;
        crash_point!("manifest.replaced");
        *manifest = next;
        self.live_mut().install(manifest, &self.layout);
        self.publish_manifest()
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

    /// Stores an index, and with it the names in its directory; returns its checksum.
    pub(crate) fn write_index(
        &self,
        topic: TopicId,
        partition: u32,
        meta: &SegmentMeta,
        index: &Index,
    ) -> Result<u32> {
        let bytes = index.encode();
        let path = self.layout.index(topic, partition, meta);
        let staged = stage(self.disk(), &path, &bytes)?;
        crash_point!("index.staged");
        staged.put(self.disk())?;
        Ok(crc32c(&bytes))
    }
}

/// Gathers small pieces into large writes.
pub(crate) struct SegmentWriter<'a> {
    file: &'a dyn DiskFile,
    path: &'a PathBuf,
    at: u64,
    added: u64,
    buffer: Vec<u8>,
    crc: Crc,
}

/// How much is gathered before it is written.
const BUFFER_BYTES: usize = 1 << 20;

impl<'a> SegmentWriter<'a> {
    /// Writes from `at` on.
    pub(crate) fn new(file: &'a dyn DiskFile, path: &'a PathBuf, at: u64) -> Self {
        Self {
            file,
            path,
            at,
            added: 0,
            buffer: Vec::new(),
            crc: Crc::new(),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc.update(bytes);
        self.added += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        write_all(self.file, self.at, &[&self.buffer]).map_err(failed("write", self.path))?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes it durable; returns how many bytes were written and their checksum.
    pub(crate) fn finish(mut self) -> Result<(u64, u32)> {
        self.flush()?;
        // There may be more, left by a crash.
        self.file
            .truncate(self.at)
            .map_err(failed("truncate", self.path))?;
        self.file.sync_data().map_err(failed("sync", self.path))?;
        Ok((self.added, self.crc.finish()))
    }
}
