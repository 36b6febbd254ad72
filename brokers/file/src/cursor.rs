//! Reading one partition forward: from its segments, then from the tail of the log.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tidemill_broker::{Batch, BatchBuilder, Error, Offset, Result, Timestamp, TopicPartition};

use crate::catalog::TopicId;
use crate::disk::DiskFile;
use crate::format::block::{Entries, HEADER_BYTES, Header};
use crate::layout::{damaged, failed, is_missing, lost};
use crate::live::{LogFile, Partition};
use crate::segment::{Segment, bad_block};
use crate::shared::Shared;
use crate::window::WINDOW_BYTES;

/// How often to look anew for a segment that the writer has replaced. Each time it must have done so
/// between two reads of this process.
const LOOKS_MAX: usize = 5;

/// How much of a batch to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// What stands at a cursor.
#[derive(Debug)]
pub(crate) enum Step {
    Records(Batch),
    /// Everything committed was read.
    End,
    /// The topic is gone, or another has its name.
    Gone,
}

/// A block of a chunk, checked, and how much of it was handed out.
#[derive(Debug, Clone, Copy)]
struct Span {
    header: Header,
    /// Where it begins in the slab.
    at: usize,
}

/// Blocks read from disk in one piece.
#[derive(Debug)]
struct Chunk {
    slab: Bytes,
    spans: VecDeque<Span>,
    /// Records of the first block already handed out, and where the next begins in the block.
    taken: (u32, u32),
}

/// Where in a segment the next block lies.
#[derive(Debug)]
struct Place {
    base: u64,
    rewrite: u32,
    position: u64,
}

/// A place in a partition that moves forward.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) at: TopicPartition,
    pub(crate) topic: TopicId,
    offset: u64,
    chunk: Option<Chunk>,
    place: Option<Place>,
}

/// Where to read, found under the lock; read without it.
enum Source {
    Segment(Arc<Segment>),
    Tail {
        log: LogFile,
        from: u64,
        len: usize,
        blocks: Vec<u64>,
    },
    /// Nothing is kept before this offset.
    Gap(u64),
}

fn lost_segment(error: Error) -> Error {
    lost(error, "the segment is missing")
}

impl Cursor {
    pub(crate) fn new(at: TopicPartition, topic: TopicId, offset: Offset) -> Self {
        Self {
            at,
            topic,
            offset: offset.0,
            chunk: None,
            place: None,
        }
    }

    pub(crate) fn offset(&self) -> Offset {
        Offset(self.offset)
    }

    pub(crate) fn seek(&mut self, offset: Offset) {
        self.offset = offset.0;
        self.chunk = None;
        self.place = None;
    }

    /// The next batch. Moves on only when it returns one.
    pub(crate) fn next(&mut self, shared: &Shared, limits: Limits) -> Result<Step> {
        for _ in 0..LOOKS_MAX {
            match self.step(shared, limits) {
                Err(error) if is_missing(&error) && shared.look_anew()? => {}
                other => return other.map_err(lost_segment),
            }
        }
        self.step(shared, limits).map_err(lost_segment)
    }

    fn step(&mut self, shared: &Shared, limits: Limits) -> Result<Step> {
        let source = {
            let live = shared.live();
            let Ok((topic, partition, next)) = live.partition(&self.at) else {
                return Ok(Step::Gone);
            };
            if topic != self.topic {
                return Ok(Step::Gone);
            }
            if self.chunk.is_some() {
                None
            } else {
                if self.offset < partition.low || self.offset > next {
                    return Err(Error::OutOfRange {
                        at: self.at.clone(),
                        asked: Offset(self.offset),
                        low: Offset(partition.low),
                        high: Offset(next),
                    });
                }
                if self.offset == next {
                    return Ok(Step::End);
                }
                Some(self.locate(&live.logs, partition, next)?)
            }
        };
        let (chunk, after) = match source {
            None => (None, self.offset),
            Some(Source::Segment(segment)) => self.fill_from_segment(shared, &segment)?,
            Some(Source::Tail {
                log,
                from,
                len,
                blocks,
            }) => (
                Some(self.fill_from_log(shared, &log, from, len, blocks)?),
                self.offset,
            ),
            Some(Source::Gap(next)) => (None, next),
        };
        if chunk.is_some() {
            self.chunk = chunk;
        }
        if let Some(chunk) = &mut self.chunk {
            let batch = chunk.take(&self.at, self.offset, limits);
            if chunk.spans.is_empty() {
                self.chunk = None;
            }
            self.offset = batch.next().0;
            return Ok(Step::Records(batch));
        }
        self.offset = after;
        Ok(Step::Records(
            BatchBuilder::default().build(self.at.clone(), Offset(after)),
        ))
    }

    fn locate(
        &self,
        logs: &std::collections::BTreeMap<u64, LogFile>,
        partition: &Partition,
        next: u64,
    ) -> Result<Source> {
        let offset = self.offset;
        let segments = &partition.segments;
        let index = segments.partition_point(|segment| segment.meta.next <= offset);
        if let Some(segment) = segments.get(index) {
            return Ok(Source::Segment(Arc::clone(segment)));
        }
        let tail = &partition.tail;
        let index = tail.partition_point(|block| block.next <= offset);
        let Some(first) = tail.get(index) else {
            return Ok(Source::Gap(next));
        };
        let Some(log) = logs.get(&first.log) else {
            return Err(damaged(
                std::path::Path::new("log"),
                first.position,
                format!("log file {} is missing", first.log),
            ));
        };
        // As many blocks as lie close together: other partitions' bytes between them are read in
        // vain.
        let mut blocks = Vec::new();
        let (mut useful, mut end) = (0, first.position);
        for block in tail.range(index..) {
            let far = block.log != first.log
                || block.position + u64::from(block.len) - first.position > WINDOW_BYTES as u64
                || block.position - end > useful + 4_096;
            if far && !blocks.is_empty() {
                break;
            }
            blocks.push(block.position);
            useful += u64::from(block.len);
            end = block.position + u64::from(block.len);
        }
        Ok(Source::Tail {
            log: log.clone(),
            from: first.position,
            len: (end - first.position) as usize,
            blocks,
        })
    }

    fn fill_from_log(
        &self,
        shared: &Shared,
        log: &LogFile,
        from: u64,
        len: usize,
        blocks: Vec<u64>,
    ) -> Result<Chunk> {
        let bytes = read(&*log.file, from, len).map_err(failed("read", &log.path))?;
        let mut spans = VecDeque::with_capacity(blocks.len());
        for position in blocks {
            let at = (position - from) as usize;
            let header = check(&bytes, at, shared.salt)
                .filter(|header| self.is_ours(header))
                .ok_or_else(|| bad_block(&log.path, position))?;
            spans.push_back(Span { header, at });
        }
        Ok(Chunk {
            slab: bytes.into(),
            spans,
            taken: (0, 0),
        })
    }

    fn is_ours(&self, header: &Header) -> bool {
        header.topic == self.topic && header.partition == self.at.partition
    }

    /// Reads blocks from a segment, or finds that it holds nothing more: then the offset after it.
    fn fill_from_segment(
        &mut self,
        shared: &Shared,
        segment: &Segment,
    ) -> Result<(Option<Chunk>, u64)> {
        let meta = &segment.meta;
        let mut position = match &self.place {
            Some(place) if place.base == meta.base && place.rewrite == meta.rewrite => {
                place.position
            }
            _ if self.offset <= meta.base => 0,
            _ => segment
                .index(shared.disk(), shared.salt, shared.manifest())?
                .position(self.offset),
        };
        let file = segment.file(shared.disk())?;
        let mut wanted = WINDOW_BYTES;
        while position < meta.len {
            let len = (meta.len - position).min(wanted as u64) as usize;
            let bytes = read(&**file, position, len).map_err(failed("read", &segment.path))?;
            if bytes.len() < len {
                let end = position + bytes.len() as u64;
                return Err(damaged(&segment.path, end, "the file ends here"));
            }
            let mut spans = VecDeque::new();
            let mut at = 0;
            while at < bytes.len() {
                let Some(header) = bytes.get(at..).and_then(Header::parse) else {
                    if bytes.len() - at >= HEADER_BYTES || position + bytes.len() as u64 == meta.len
                    {
                        return Err(bad_block(&segment.path, position + at as u64));
                    }
                    break;
                };
                let end = at + header.len as usize;
                if end > bytes.len() {
                    if position + at as u64 + u64::from(header.len) > meta.len {
                        return Err(bad_block(&segment.path, position + at as u64));
                    }
                    // The next read begins here and is long enough.
                    wanted = wanted.max(header.len as usize);
                    break;
                }
                if header.next > self.offset {
                    if !header.holds(&bytes[at..end], shared.salt) || !self.is_ours(&header) {
                        return Err(bad_block(&segment.path, position + at as u64));
                    }
                    spans.push_back(Span { header, at });
                }
                at = end;
            }
            if at == 0 && wanted <= len {
                // Not even a header fits: the segment ends inside one.
                return Err(bad_block(&segment.path, position));
            }
            position += at as u64;
            if !spans.is_empty() {
                self.place = Some(Place {
                    base: meta.base,
                    rewrite: meta.rewrite,
                    position,
                });
                let chunk = Chunk {
                    slab: bytes.into(),
                    spans,
                    taken: (0, 0),
                };
                return Ok((Some(chunk), self.offset));
            }
        }
        self.place = None;
        Ok((None, meta.next))
    }
}

impl Chunk {
    /// Makes a batch of what comes next, at least one record or one block without any.
    fn take(&mut self, at: &TopicPartition, offset: u64, limits: Limits) -> Batch {
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

/// Header of the block at `at`, if its checksum holds.
fn check(bytes: &[u8], at: usize, salt: u32) -> Option<Header> {
    let header = Header::parse(bytes.get(at..)?)?;
    let block = bytes.get(at..at + header.len as usize)?;
    header.holds(block, salt).then_some(header)
}

fn read(file: &dyn DiskFile, at: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    file.read_at(at, len, &mut bytes)?;
    Ok(bytes)
}

/// The offset of the first record whose timestamp is not before `time`; the end if there is none.
pub(crate) fn offset_at(shared: &Shared, at: &TopicPartition, time: Timestamp) -> Result<Offset> {
    let (topic, low, next, segments, tail) = {
        let live = shared.live();
        let (topic, partition, next) = live.partition(at)?;
        let segments: Vec<_> = partition
            .segments
            .iter()
            .filter(|segment| segment.meta.max_timestamp >= time.0)
            .cloned()
            .collect();
        let tail: Vec<u64> = partition
            .tail
            .iter()
            .filter(|block| block.max_timestamp >= time.0)
            .map(|block| block.base)
            .collect();
        (topic, partition.low, next, segments, tail)
    };
    let start = match (segments.first(), tail.first()) {
        (Some(segment), _) => {
            let index = segment.index(shared.disk(), shared.salt, shared.manifest())?;
            let position = index.position_at(time.0);
            let mark = index.marks.iter().find(|mark| mark.position == position);
            mark.map_or(segment.meta.base, |mark| mark.offset)
        }
        (None, Some(base)) => *base,
        (None, None) => return Ok(Offset(next)),
    };
    let mut cursor = Cursor::new(at.clone(), topic, Offset(start.max(low)));
    let limits = Limits {
        records: 4_096,
        bytes: usize::MAX,
    };
    // The latest timestamp says that one is there; unless it was cleaned away meanwhile.
    loop {
        match cursor.next(shared, limits)? {
            Step::Records(batch) => {
                if let Some(found) = batch.iter().find(|record| record.timestamp >= time) {
                    return Ok(found.offset);
                }
            }
            Step::End => return Ok(cursor.offset()),
            Step::Gone => {
                return Err(Error::UnknownTopic {
                    topic: at.topic.clone(),
                });
            }
        }
    }
}
