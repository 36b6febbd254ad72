//! Reading one partition forward: from its segments, then from the tail of the log.

mod chunk;
mod fill;
mod offset_at;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tidemill_broker::{Batch, BatchBuilder, Error, Offset, Result, Timestamp, TopicPartition};

use chunk::Chunk;
pub(crate) use offset_at::offset_at;

use crate::catalog::TopicId;
use crate::layout::{damaged, is_missing, lost};
use crate::live::{LogFile, Partition};
use crate::segment::Segment;
use crate::shared::Shared;
use crate::window::WINDOW_BYTES;

/// How often to look anew for a segment that the writer has replaced. Each time it must have done so
/// between two reads.
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
    /// Begins at this time, which could not be looked up yet.
    time: Option<Timestamp>,
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
            time: None,
            chunk: None,
            place: None,
        }
    }

    /// Begins at the first record that is not before `time`, looked up with the next batch.
    pub(crate) fn at_time(at: TopicPartition, topic: TopicId, time: Timestamp) -> Self {
        Self {
            time: Some(time),
            ..Self::new(at, topic, Offset::START)
        }
    }

    pub(crate) fn offset(&self) -> Offset {
        Offset(self.offset)
    }

    pub(crate) fn seek(&mut self, offset: Offset) {
        self.offset = offset.0;
        self.time = None;
        self.chunk = None;
        self.place = None;
    }

    /// The next batch. Moves on only when it returns one.
    pub(crate) fn next(&mut self, shared: &Shared, limits: Limits) -> Result<Step> {
        if let Some(time) = self.time {
            self.seek(offset_at(shared, &self.at, time)?);
        }
        for _ in 0..LOOKS_MAX {
            match self.step(shared, limits) {
                Err(error) if is_missing(&error) => shared.look_anew()?,
                other => return other.map_err(|error| self.placed(error)),
            }
        }
        self.step(shared, limits)
            .map_err(|error| self.placed(error))
    }

    /// Says of damage how far the partition was read, so that a reader can be set behind it.
    fn placed(&self, error: Error) -> Error {
        match lost_segment(error) {
            Error::Damaged { path, at, what } => Error::Damaged {
                path,
                at,
                what: format!(
                    "{what}; {} could be read up to offset {}",
                    self.at, self.offset
                ),
            },
            error => error,
        }
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
                let stable = live.stable(partition, next, shared.readable());
                if self.offset >= stable {
                    return Ok(Step::End);
                }
                Some(self.locate(&live.logs, partition, stable)?)
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
            }) => {
                // By the time these are in a segment, its index knows better where to go on.
                self.place = None;
                let chunk = self.fill_from_log(shared, &log, from, len, blocks)?;
                (Some(chunk), self.offset)
            }
            Some(Source::Gap(next)) => (None, next),
        };
        if chunk.is_some() {
            self.chunk = chunk;
        }
        if let Some(chunk) = &mut self.chunk {
            let batch = chunk.take(&self.at, self.offset, limits);
            if chunk.is_empty() {
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
        logs: &BTreeMap<u64, LogFile>,
        partition: &Partition,
        stable: u64,
    ) -> Result<Source> {
        let offset = self.offset;
        let segments = &partition.segments;
        let index = segments.partition_point(|segment| segment.meta.next <= offset);
        if let Some(segment) = segments.get(index) {
            return Ok(Source::Segment(Arc::clone(segment)));
        }
        let tail = &partition.tail;
        let index = tail.partition_point(|block| block.next <= offset);
        let Some(first) = tail.get(index).filter(|block| block.base < stable) else {
            return Ok(Source::Gap(stable));
        };
        let Some(log) = logs.get(&first.log) else {
            return Err(damaged(
                Path::new("log"),
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
            if !blocks.is_empty() && (far || block.base >= stable) {
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
}
