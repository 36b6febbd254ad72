//! Appending: one commit, one frame, one write.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tidemill_broker::{Error, Offset, RecordSet, Result, Timestamp, TopicPartition};
use tidemill_crash_point::{crash_point, planted};

use crate::bell::Ring;
use crate::catalog::TopicId;
use crate::disk::{Mode, write_all};
use crate::format::block::{Draft, DraftRecord, Header};
use crate::format::crc32c;
use crate::format::frame::{self, Head, OffsetEntry};
use crate::format::log_header::{self, LogHeader};
use crate::layout::failed;
use crate::live::LogFile;
use crate::options::Fsync;
use crate::shared::{Appender, Shared, Writing, is_full, lock};

/// A block is closed at this many bytes, so that a reader of a few records need not check many.
const BLOCK_BYTES: usize = 256 * 1024;

/// A block is closed at this many records.
const BLOCK_RECORDS: usize = 4_096;

/// The largest frame: far more than a transaction should hold, far less than what overflows a
/// reader's memory.
const FRAME_BYTES_MAX: u64 = 1 << 30;

/// Why nothing, or perhaps something, was appended.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was appended.
    Refused(Error),
    /// It may be found in the log when that is opened again.
    Unknown(Error),
}

impl Failure {
    /// The error to give to somebody who cannot be told of the difference.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Refused(error) => error,
            Self::Unknown(error) => unknown(&error),
        }
    }
}

fn too_much(bytes: u64) -> Error {
    Error::Invalid {
        what: format!(
            "a commit of {bytes} bytes; the limit is {FRAME_BYTES_MAX}, and {} for group offsets",
            frame::HEAD_BYTES_MAX
        ),
    }
}

/// An outcome that only the log can tell.
pub(crate) fn unknown(error: &Error) -> Error {
    let cause =
        std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
    Error::UnknownOutcome {
        what: format!("the append failed half-way ({error}{cause}); open the log again to see"),
    }
}

/// Records checked and encoded, all but their offsets.
#[derive(Debug, Default)]
pub(crate) struct Drafts {
    blocks: Vec<Draft>,
    /// The blocks of each record set.
    sets: Vec<std::ops::Range<usize>>,
    bytes: u64,
}

/// A record that cannot be appended, and where it stands.
#[derive(Debug)]
pub(crate) struct Culprit {
    pub(crate) error: Error,
    pub(crate) set: usize,
    pub(crate) record: Option<usize>,
}

impl Shared {
    /// Checks and encodes records.
    pub(crate) fn draft(&self, sets: Vec<RecordSet>) -> Result<Drafts, Culprit> {
        let now = self.now();
        let mut drafts = Drafts {
            blocks: Vec::with_capacity(sets.len()),
            sets: Vec::with_capacity(sets.len()),
            bytes: 0,
        };
        for (index, set) in sets.into_iter().enumerate() {
            let culprit = |error, record| Culprit {
                error,
                set: index,
                record,
            };
            let id = self
                .live()
                .partition(&set.at)
                .map(|(id, ..)| id)
                .map_err(|error| culprit(error, None))?;
            let first = drafts.blocks.len();
            self.draft_set(id, set, now, &mut drafts.blocks)
                .map_err(|(error, record)| culprit(error, Some(record)))?;
            drafts.sets.push(first..drafts.blocks.len());
        }
        drafts.bytes = drafts.blocks.iter().map(|block| block.len() as u64).sum();
        Ok(drafts)
    }

    fn draft_set(
        &self,
        topic: TopicId,
        set: RecordSet,
        now: Timestamp,
        blocks: &mut Vec<Draft>,
    ) -> Result<(), (Error, usize)> {
        let at = set.at.clone();
        let limit = self.options.record_bytes_max;
        if set.bytes() as u64 > FRAME_BYTES_MAX {
            return Err((too_much(set.bytes() as u64), 0));
        }
        let batch = set.into_records().build(at.clone(), Offset::START);
        let mut records = Vec::with_capacity(batch.len().min(BLOCK_RECORDS));
        let (mut start, mut end) = (0, 0);
        let mut close = |records: &mut Vec<DraftRecord>, data: Bytes| {
            if !records.is_empty() {
                blocks.push(Draft::new(topic, at.partition, now, records, data));
                records.clear();
            }
        };
        for (index, record) in batch.iter().enumerate() {
            let draft = DraftRecord {
                timestamp: if record.timestamp == Timestamp::MIN {
                    now
                } else {
                    record.timestamp
                },
                key_len: record.key.map(|key| key.len() as u32),
                value_len: record.value.map(|value| value.len() as u32),
                headers_len: record.encoded_headers().len() as u32,
                offset_delta: records.len() as u64,
            };
            let bytes = draft.bytes();
            if bytes > limit {
                return Err((
                    Error::TooLarge {
                        at: at.clone(),
                        index,
                        bytes,
                        limit,
                    },
                    index,
                ));
            }
            if records.len() == BLOCK_RECORDS || end - start + bytes > BLOCK_BYTES {
                close(&mut records, batch.slab().slice(start..end));
                start = end;
            }
            records.push(DraftRecord {
                offset_delta: records.len() as u64,
                ..draft
            });
            end += bytes;
        }
        close(&mut records, batch.slab().slice(start..end));
        Ok(())
    }

    /// Appends what was drafted, with offsets of groups, as one frame. `guard` is asked last, with
    /// nobody else appending. Returns the first offset of each record set and the frame's end.
    pub(crate) fn append(
        &self,
        mut drafts: Drafts,
        offsets: Vec<OffsetEntry>,
        guard: impl FnOnce(&Appender) -> Result<()>,
    ) -> Result<(Vec<Option<Offset>>, u64), Failure> {
        let writing = self.writing("append").map_err(Failure::Refused)?;
        if drafts.bytes > FRAME_BYTES_MAX {
            return Err(Failure::Refused(too_much(drafts.bytes)));
        }
        let mut appender = lock(&writing.appender);
        self.alive().map_err(Failure::Refused)?;
        guard(&appender).map_err(Failure::Refused)?;
        if drafts.blocks.is_empty() && offsets.is_empty() {
            return Ok((vec![None; drafts.sets.len()], self.end()));
        }
        let headers = self.place(&mut drafts.blocks).map_err(Failure::Refused)?;
        let mut crcs = Vec::with_capacity(headers.len() * 4);
        for header in &headers {
            crcs.extend_from_slice(&header.crc.to_le_bytes());
        }
        let head = Head::Commit {
            blocks: headers.len() as u32,
            crcs: crc32c(&crcs),
            offsets,
        };
        let end = self.write_frame(writing, &mut appender, &head, &headers, &drafts.blocks)?;
        drop(appender);
        let firsts = drafts
            .sets
            .iter()
            .map(|blocks| {
                headers[blocks.clone()]
                    .first()
                    .map(|header| Offset(header.base))
            })
            .collect();
        metrics::counter!("tidemill_file_records_appended").increment(
            drafts
                .blocks
                .iter()
                .map(|block| u64::from(block.count()))
                .sum(),
        );
        metrics::counter!("tidemill_file_bytes_appended").increment(drafts.bytes);
        Ok((firsts, end))
    }

    /// Gives each block its offsets.
    fn place(&self, blocks: &mut [Draft]) -> Result<Vec<Header>> {
        let live = self.live();
        let mut ends: BTreeMap<(TopicId, u32), u64> = BTreeMap::new();
        let mut headers = Vec::with_capacity(blocks.len());
        for block in blocks {
            let key = (block.topic(), block.partition());
            let next = match ends.get(&key) {
                Some(next) => *next,
                None => *live
                    .catalog
                    .topics
                    .get(&key.0)
                    .and_then(|topic| topic.next.get(key.1 as usize))
                    .ok_or_else(|| Error::Invalid {
                        what: "a topic was deleted while records were appended to it".into(),
                    })?,
            };
            let end = next + u64::from(block.count());
            ends.insert(key, end);
            headers.push(block.place(next, end, self.salt));
        }
        Ok(headers)
    }

    /// Appends a frame without records.
    pub(crate) fn append_head(
        &self,
        prepare: impl FnOnce(&crate::live::Live) -> Result<Head>,
    ) -> Result<u64, Failure> {
        let writing = self.writing("change topics").map_err(Failure::Refused)?;
        let mut appender = lock(&writing.appender);
        self.alive().map_err(Failure::Refused)?;
        let head = prepare(&self.live()).map_err(Failure::Refused)?;
        self.write_frame(writing, &mut appender, &head, &[], &[])
    }

    fn write_frame(
        &self,
        writing: &Writing,
        appender: &mut Appender,
        head: &Head,
        headers: &[Header],
        blocks: &[Draft],
    ) -> Result<u64, Failure> {
        self.rotate_if_full(writing, appender)?;
        let Some(log) = &mut appender.log else {
            return Err(Failure::Refused(Error::Poisoned {
                what: "there is no log file".into(),
            }));
        };
        let number = log.header.number;
        let place = log.end_place();
        let body: u64 = headers.iter().map(|header| u64::from(header.len)).sum();
        let durable = self.durable.get();
        let frame = frame::encode(head, body, place, durable, log.header.salt());
        if frame.len() > frame::HEADER_BYTES + frame::HEAD_BYTES_MAX {
            return Err(Failure::Refused(too_much(frame.len() as u64)));
        }
        let mut parts: Vec<&[u8]> = Vec::with_capacity(1 + blocks.len() * 2);
        parts.push(&frame);
        for block in blocks {
            parts.push(&block.head);
            parts.push(&block.data);
        }
        crash_point!("append.encoded");
        if let Err(error) = write_all(&*log.file, log.len, &parts) {
            let full = is_full(&error);
            let failure = failed("append to", &log.path)(error);
            if full && log.file.truncate(log.len).is_ok() {
                tracing::warn!(log = %log.path.display(), "the disk is full; nothing was appended");
                return Err(Failure::Refused(failure));
            }
            self.poison(&failure);
            return Err(Failure::Unknown(failure));
        }
        crash_point!("append.written");
        let mut position = log.len + frame.len() as u64;
        log.len = position + body;
        let end = log.end_place();
        let len = log.len;
        {
            let mut live = self.live_mut();
            live.apply(head);
            for header in headers {
                live.append(header, number, position);
                position += u64::from(header.len);
            }
            if let Some(log) = live.logs.get_mut(&number) {
                log.len = len;
            }
        }
        match self.options.fsync {
            Fsync::Commit => writing.syncer.ring(Ring::Urgent),
            Fsync::Every(_) => writing.syncer.ring(Ring::Work),
            Fsync::Never => {}
        }
        self.changed.notify_waiters();
        Ok(end)
    }

    fn rotate_if_full(&self, writing: &Writing, appender: &mut Appender) -> Result<(), Failure> {
        match &appender.log {
            Some(log) if log.len < self.options.split_bytes => Ok(()),
            _ => {
                self.end_log(writing, appender);
                self.begin_log(appender)
            }
        }
    }

    /// Hands the current log file to the splitter; the next append begins another.
    pub(crate) fn end_log(&self, writing: &Writing, appender: &mut Appender) {
        let Some(log) = appender.log.take() else {
            return;
        };
        let mut live = self.live_mut();
        let end = Arc::new(live.catalog.clone());
        if let Some(ended) = live.logs.get_mut(&log.header.number) {
            ended.end = Some(end);
        }
        drop(live);
        crash_point!("log.ended");
        appender.next_log = log.header.number + 1;
        appender.next_start = log.end_place();
        writing.splitter.ring(Ring::Work);
    }

    fn begin_log(&self, appender: &mut Appender) -> Result<(), Failure> {
        let header = LogHeader {
            uuid: self.uuid,
            number: appender.next_log,
            start: appender.next_start,
        };
        let path = self.layout.log(header.number);
        let refused = |failure: Error, full: bool| {
            // A log without a whole header is taken for empty when opened.
            if !full {
                self.poison(&failure);
            }
            Failure::Refused(failure)
        };
        let file = self.disk().open(&path, Mode::Create).map_err(|error| {
            let full = is_full(&error);
            refused(failed("create", &path)(error), full)
        })?;
        if let Err(error) = write_all(&*file, 0, &[&header.encode()]) {
            let full = is_full(&error) && self.disk().remove(&path).is_ok();
            return Err(refused(failed("write", &path)(error), full));
        }
        crash_point!("log.begun");
        let log = LogFile {
            header,
            path,
            file,
            len: log_header::BYTES as u64,
            end: None,
        };
        self.live_mut().logs.insert(header.number, log.clone());
        appender.log = Some(log);
        Ok(())
    }

    /// Waits while too many log files are not split yet.
    pub(crate) async fn room(&self) -> Result<()> {
        loop {
            let changed = self.changed.notified();
            self.alive()?;
            let behind = {
                let live = self.live();
                live.logs.len() > self.options.unsplit_max
            };
            if !behind {
                return Ok(());
            }
            if let Some(writing) = &self.writing {
                // Also where the disk was full the last time: there may be room by now.
                writing.splitter.ring(Ring::Work);
                writing.cleaned.borrow().check()?;
            }
            changed.await;
        }
    }

    /// Waits for the disk if the policy says so before each acknowledgement.
    pub(crate) async fn settle(&self, end: u64) -> Result<()> {
        planted!(early_acknowledgement, {
            return Ok(());
        });
        match self.options.fsync {
            Fsync::Commit => self.durable_to(end).await,
            Fsync::Every(_) | Fsync::Never => Ok(()),
        }
    }

    /// Group offsets as the log keeps them.
    pub(crate) fn offset_entries(
        &self,
        group: &tidemill_broker::Group,
        offsets: &[(TopicPartition, Offset)],
    ) -> Result<Vec<OffsetEntry>> {
        let live = self.live();
        offsets
            .iter()
            .map(|(at, offset)| {
                let (topic, ..) = live.partition(at)?;
                Ok(OffsetEntry {
                    group: group.clone(),
                    topic,
                    partition: at.partition,
                    offset: offset.0,
                })
            })
            .collect()
    }
}
