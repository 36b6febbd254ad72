//! One partition: what was appended, in chunks that readers share.

use std::collections::{HashMap, VecDeque};
use std::sync::Weak;
use std::time::Duration;

use tidemill_broker::{
    Batch, BatchBuilder, Offset, RecordRef, Retention, Timestamp, TopicPartition, Watermarks,
};
use tokio::sync::Notify;

#[cfg(test)]
mod tests;

/// Chunks with fewer records than this left to read are copied together into one batch; larger ones
/// are shared. A batch that costs a lock and a wake-up each is dearer than copying a few records.
const SHARED_RECORDS_MIN: usize = 64;

/// Records appended since the last compaction before a partition is compacted without being asked.
const COMPACT_RECORDS_MIN: usize = 10_000;

/// The records of one append. Never empty.
#[derive(Debug)]
struct Chunk {
    batch: Batch,
    first: u64,
    /// The offset after the last record.
    end: u64,
    appended: Timestamp,
    newest: Timestamp,
    bytes: u64,
    /// The transaction it belongs to, if that was left open.
    transaction: Option<u64>,
}

impl Chunk {
    fn new(batch: Batch, appended: Timestamp, transaction: Option<u64>) -> Self {
        let last = batch.len() - 1;
        Self {
            first: batch.get(0).offset.0,
            end: batch.get(last).offset.next().0,
            newest: batch
                .iter()
                .map(|record| record.timestamp)
                .max()
                .unwrap_or(appended),
            bytes: batch.iter().map(size_of_record).sum::<usize>() as u64,
            appended,
            transaction,
            batch,
        }
    }

    /// The index of the first record at or after `offset`.
    fn index_of(&self, offset: u64) -> usize {
        if offset <= self.first {
            return 0;
        }
        if self.end - self.first == self.batch.len() as u64 {
            return ((offset - self.first) as usize).min(self.batch.len());
        }
        let (mut low, mut high) = (0, self.batch.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.batch.get(middle).offset.0 < offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Bytes of key, payload and headers.
pub(crate) fn size_of_record(record: RecordRef<'_>) -> usize {
    record.key.map_or(0, <[u8]>::len)
        + record.value.map_or(0, <[u8]>::len)
        + record.encoded_headers().len()
}

/// How much one read may return.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadLimits {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    /// Whether a batch's `next` reaches over a gap behind it; otherwise an empty batch tells of a gap
    /// at the end, as Kafka's clients see a control record.
    pub(crate) over_gaps: bool,
}

/// One partition.
#[derive(Debug)]
pub(crate) struct Log {
    at: TopicPartition,
    chunks: VecDeque<Chunk>,
    low: u64,
    high: u64,
    bytes: u64,
    /// First offsets of open transactions.
    open: Vec<(u64, u64)>,
    since_compaction: usize,
    // Below this, compaction has removed tombstones.
    tombstones_gone: u64,
    /// The bells of readers that found nothing here, until they are rung.
    pub(crate) waiting: Vec<Weak<Notify>>,
}

impl Log {
    pub(crate) fn new(at: TopicPartition) -> Self {
        Self {
            at,
            chunks: VecDeque::new(),
            low: 0,
            high: 0,
            bytes: 0,
            open: Vec::new(),
            since_compaction: 0,
            tombstones_gone: 0,
            waiting: Vec::new(),
        }
    }

    pub(crate) fn watermarks(&self) -> Watermarks {
        Watermarks {
            low: Offset(self.low),
            last_stable: Offset(self.last_stable()),
            high: Offset(self.high),
            tombstones_gone: Offset(self.tombstones_gone),
        }
    }

    pub(crate) fn last_stable(&self) -> u64 {
        self.open
            .iter()
            .map(|(_, first)| *first)
            .min()
            .unwrap_or(self.high)
    }

    /// Appends records and returns the offset of the first. There must be one.
    pub(crate) fn append(
        &mut self,
        mut records: BatchBuilder,
        now: Timestamp,
        transaction: Option<u64>,
    ) -> Offset {
        let first = self.high;
        records.rebase(Offset(first), now);
        self.high += records.len() as u64;
        self.since_compaction += records.len();
        if let Some(transaction) = transaction
            && !self.open.iter().any(|(open, _)| *open == transaction)
        {
            self.open.push((transaction, first));
        }
        let batch = records.build(self.at.clone(), Offset(self.high));
        let chunk = Chunk::new(batch, now, transaction);
        self.bytes += chunk.bytes;
        self.chunks.push_back(chunk);
        Offset(first)
    }

    /// Uses up offsets that nobody reads: Kafka's control records have one each, and aborted records
    /// keep theirs.
    pub(crate) fn append_gap(&mut self, offsets: u64) {
        self.high += offsets;
    }

    /// Ends an open transaction: its records become visible, or a gap. Says whether it was here.
    pub(crate) fn settle(&mut self, transaction: u64, commit: bool) -> bool {
        let before = self.open.len();
        self.open.retain(|(open, _)| *open != transaction);
        if !commit {
            self.chunks
                .retain(|chunk| chunk.transaction != Some(transaction));
            self.bytes = self.chunks.iter().map(|chunk| chunk.bytes).sum();
        }
        self.open.len() < before
    }

    /// The next batch at or after `position`; `None` at the last stable offset.
    pub(crate) fn read(&self, position: u64, limits: ReadLimits) -> Option<Batch> {
        let stable = self.last_stable();
        if position >= stable {
            return None;
        }
        // Who keeps up reads the last chunk, and need not look for it.
        let is_last = |chunk: &Chunk| (chunk.first..chunk.end).contains(&position);
        let mut at = match self.chunks.back() {
            Some(last) if is_last(last) => self.chunks.len() - 1,
            _ => self.chunks.partition_point(|chunk| chunk.end <= position),
        };
        let Some(chunk) = self.readable(at, stable) else {
            return Some(BatchBuilder::default().build(self.at.clone(), Offset(stable)));
        };
        let start = chunk.index_of(position);
        let left = chunk.batch.len() - start;
        let alone = self.readable(at + 1, stable).is_none();
        if left >= SHARED_RECORDS_MIN.min(limits.records) || alone {
            let taken = fitting(chunk, start, limits.records, limits.bytes);
            let end = start + taken;
            let next = if end < chunk.batch.len() {
                chunk.batch.get(end).offset.0
            } else {
                self.after(at, stable)
            };
            let next = self.reached(chunk.batch.get(end - 1).offset, next, limits);
            return Some(chunk.batch.slice(start..end, next));
        }
        let mut builder = BatchBuilder::default();
        let mut last = Offset(position);
        let mut next = position;
        let mut start = start;
        while let Some(chunk) = self.readable(at, stable) {
            let records = limits.records - builder.len();
            let bytes = limits.bytes.saturating_sub(builder.bytes());
            // Only the first record of a batch may be larger than the limit.
            if records == 0 || !builder.is_empty() && size_of_record(chunk.batch.get(start)) > bytes
            {
                next = chunk.batch.get(start).offset.0;
                break;
            }
            let end = start + fitting(chunk, start, records, bytes);
            for index in start..end {
                let record = chunk.batch.get(index);
                last = record.offset;
                builder.push_at(
                    record.offset,
                    record.timestamp,
                    record.key,
                    record.value,
                    record.encoded_headers(),
                );
            }
            if end < chunk.batch.len() {
                next = chunk.batch.get(end).offset.0;
                break;
            }
            next = self.after(at, stable);
            at += 1;
            start = 0;
        }
        Some(builder.build(self.at.clone(), self.reached(last, next, limits)))
    }

    fn readable(&self, at: usize, stable: u64) -> Option<&Chunk> {
        self.chunks.get(at).filter(|chunk| chunk.first < stable)
    }

    /// The offset of the first readable record after a chunk, or the last stable offset.
    fn after(&self, at: usize, stable: u64) -> u64 {
        self.readable(at + 1, stable)
            .map_or(stable, |chunk| chunk.first)
    }

    fn reached(&self, last: Offset, next: u64, limits: ReadLimits) -> Offset {
        if limits.over_gaps {
            Offset(next)
        } else {
            last.next()
        }
    }

    /// The first committed record whose timestamp is not before `time`, or the last stable offset.
    pub(crate) fn offset_at(&self, time: Timestamp) -> Offset {
        let stable = self.last_stable();
        self.chunks
            .iter()
            .take_while(|chunk| chunk.first < stable)
            .filter(|chunk| chunk.newest >= time)
            .flat_map(|chunk| chunk.batch.iter())
            .find(|record| record.timestamp >= time)
            .map_or(Offset(stable), |record| record.offset)
    }

    /// Drops whole chunks from the beginning by age and size.
    pub(crate) fn expire(&mut self, retention: Retention, now: Timestamp) {
        let stable = self.last_stable();
        while let Some(chunk) = self.chunks.front()
            && chunk.first < stable
        {
            let too_old = retention
                .age
                .is_some_and(|age| chunk.appended < now.minus(age));
            let too_many = retention
                .bytes
                .is_some_and(|bound| self.bytes - chunk.bytes >= bound);
            if !too_old && !too_many {
                break;
            }
            self.low = chunk.end;
            self.bytes -= chunk.bytes;
            self.chunks.pop_front();
        }
    }

    /// Whether enough was appended since the last compaction to make another worth its while.
    pub(crate) fn is_due_for_compaction(&self) -> bool {
        self.since_compaction >= COMPACT_RECORDS_MIN
            && self.since_compaction as u64 * 2 >= self.high - self.low
    }

    /// Keeps the newest record of each key, and those without one.
    pub(crate) fn compact(&mut self, tombstones: Duration, now: Timestamp) {
        self.since_compaction = 0;
        let stable = self.last_stable();
        let below = self.chunks.partition_point(|chunk| chunk.first < stable);
        let mut tombstones_gone = self.tombstones_gone;
        let mut kept = Vec::with_capacity(below);
        {
            let mut newest: HashMap<&[u8], u64> = HashMap::new();
            for chunk in self.chunks.range(..below) {
                for record in chunk.batch.iter() {
                    if let Some(key) = record.key {
                        newest.insert(key, record.offset.0);
                    }
                }
            }
            for chunk in self.chunks.range(..below) {
                let gone = chunk.appended < now.minus(tombstones);
                let stays = |record: &RecordRef<'_>| match record.key {
                    None => true,
                    Some(key) => {
                        newest.get(key) == Some(&record.offset.0)
                            && !(gone && record.value.is_none())
                    }
                };
                if gone {
                    let removed = chunk.batch.iter().filter(|record| {
                        let newest = record.key.and_then(|key| newest.get(key));
                        record.value.is_none() && newest == Some(&record.offset.0)
                    });
                    let ends = removed.map(|record| record.offset.0 + 1);
                    tombstones_gone = ends.max().unwrap_or(0).max(tombstones_gone);
                }
                let count = chunk.batch.iter().filter(stays).count();
                kept.push((count < chunk.batch.len()).then(|| {
                    let mut builder = BatchBuilder::default();
                    for record in chunk.batch.iter().filter(stays) {
                        builder.push_at(
                            record.offset,
                            record.timestamp,
                            record.key,
                            record.value,
                            record.encoded_headers(),
                        );
                    }
                    builder
                }));
            }
        }
        self.tombstones_gone = tombstones_gone;
        let rest = self.chunks.split_off(below);
        let before = std::mem::take(&mut self.chunks);
        for (chunk, rebuilt) in before.into_iter().zip(kept) {
            match rebuilt {
                None => self.chunks.push_back(chunk),
                Some(builder) if builder.is_empty() => {}
                Some(builder) => {
                    let batch = builder.build(self.at.clone(), Offset(chunk.end));
                    self.chunks
                        .push_back(Chunk::new(batch, chunk.appended, None));
                }
            }
        }
        self.chunks.extend(rest);
        self.bytes = self.chunks.iter().map(|chunk| chunk.bytes).sum();
    }

    /// Moves the beginning up to `to`, as retention does.
    pub(crate) fn drop_before(&mut self, to: u64) {
        let to = to.min(self.last_stable());
        self.low = self.low.max(to);
        while let Some(chunk) = self.chunks.front()
            && chunk.first < to
        {
            let Some(chunk) = self.chunks.pop_front() else {
                break;
            };
            let start = chunk.index_of(to);
            if start < chunk.batch.len() {
                let rest = chunk
                    .batch
                    .slice(start..chunk.batch.len(), Offset(chunk.end));
                self.chunks
                    .push_front(Chunk::new(rest, chunk.appended, chunk.transaction));
                break;
            }
        }
        self.bytes = self.chunks.iter().map(|chunk| chunk.bytes).sum();
    }

    /// Cuts everything from `to` on, as an unclean leader election does. What is appended next gets
    /// offsets that were used before.
    pub(crate) fn truncate(&mut self, to: u64) {
        if to >= self.high {
            return;
        }
        self.high = to;
        self.low = self.low.min(to);
        self.open.retain(|(_, first)| *first < to);
        while let Some(chunk) = self.chunks.back()
            && chunk.end > to
        {
            let Some(chunk) = self.chunks.pop_back() else {
                break;
            };
            let end = chunk.index_of(to);
            if end > 0 {
                let rest = chunk.batch.slice(0..end, Offset(to));
                self.chunks
                    .push_back(Chunk::new(rest, chunk.appended, chunk.transaction));
                break;
            }
        }
        self.bytes = self.chunks.iter().map(|chunk| chunk.bytes).sum();
    }
}

/// How many records from `start` on fit the limits; at least one.
fn fitting(chunk: &Chunk, start: usize, records: usize, bytes: usize) -> usize {
    let count = records.min(chunk.batch.len() - start).max(1);
    if chunk.bytes <= bytes as u64 {
        return count;
    }
    let mut left = bytes;
    for taken in 0..count {
        let size = size_of_record(chunk.batch.get(start + taken));
        if taken > 0 && size > left {
            return taken;
        }
        left = left.saturating_sub(size);
    }
    count
}
