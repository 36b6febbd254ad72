//! Appending: one commit, one frame, one write.

mod draft;
mod failure;
mod rotate;
mod wait;

use std::collections::BTreeMap;

use tidemill_broker::{Error, Offset, Result, Timestamp};
use tidemill_crash_point::crash_point;

pub(crate) use draft::Drafts;
use failure::{FRAME_BYTES_MAX, too_much};
pub(crate) use failure::{Failure, unknown};

use crate::bell::Ring;
use crate::catalog::TopicId;
use crate::disk::write_all;
use crate::format::block::{Draft, Header};
use crate::format::crc32c;
use crate::format::frame::{self, Head, OffsetEntry};
use crate::layout::failed;
use crate::live::Live;
use crate::options::Fsync;
use crate::shared::{Appender, Shared, Writing, is_full, lock};

impl Shared {
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
        appender.latest = appender.latest.max(self.noted());
        let headers = self
            .place(&mut drafts.blocks, appender.latest)
            .map_err(Failure::Refused)?;
        let mut crcs = Vec::with_capacity(headers.len() * 4);
        for header in &headers {
            crcs.extend_from_slice(&header.crc.to_le_bytes());
        }
        let head = Head::Commit {
            blocks: headers.len() as u32,
            crcs: crc32c(&crcs),
            offsets,
        };
        let end = self
            .write_frame(writing, &mut appender, &head, &headers, &drafts.blocks)
            .inspect_err(|failure| self.make_room(writing, failure))?;
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
        metrics::counter!("tidemill_file_records_appended_total").increment(
            drafts
                .blocks
                .iter()
                .map(|block| u64::from(block.count()))
                .sum(),
        );
        metrics::counter!("tidemill_file_bytes_appended_total").increment(drafts.bytes);
        Ok((firsts, end))
    }

    /// Gives each block its offsets and time.
    fn place(&self, blocks: &mut [Draft], now: Timestamp) -> Result<Vec<Header>> {
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
            headers.push(block.place(next, end, now, self.salt));
        }
        Ok(headers)
    }

    /// Appends a frame without records.
    pub(crate) fn append_head(
        &self,
        prepare: impl FnOnce(&Live) -> Result<Head>,
    ) -> Result<u64, Failure> {
        let writing = self.writing("change topics").map_err(Failure::Refused)?;
        let mut appender = lock(&writing.appender);
        self.alive().map_err(Failure::Refused)?;
        let head = prepare(&self.live()).map_err(Failure::Refused)?;
        self.write_frame(writing, &mut appender, &head, &[], &[])
            .inspect_err(|failure| self.make_room(writing, failure))
    }

    fn write_frame(
        &self,
        writing: &Writing,
        appender: &mut Appender,
        head: &Head,
        headers: &[Header],
        blocks: &[Draft],
    ) -> Result<u64, Failure> {
        let body: u64 = headers.iter().map(|header| u64::from(header.len)).sum();
        self.rotate_if_due(writing, appender, body)?;
        let Some(log) = &mut appender.log else {
            return Err(Failure::Refused(Error::Poisoned {
                what: "there is no log file".into(),
            }));
        };
        let number = log.header.number;
        let place = log.end_place();
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
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemill_broker::{Headers, ManualClock, RecordSet, TopicPartition};

    use super::*;
    use crate::catalog::TopicEntry;
    use crate::disk::SimDisk;
    use crate::layout::Layout;
    use crate::options::FileOptions;

    /// Each producer reads the clock before it is its turn to append.
    #[test]
    fn what_comes_later_in_the_log_is_never_older() {
        let clock = Arc::new(ManualClock::starting_at(Timestamp(1)));
        let options = FileOptions {
            clock: clock.clone(),
            disk: Arc::new(SimDisk::new(1)),
            ..FileOptions::default()
        };
        let (shared, _) = crate::open::open(Layout::new("/log".as_ref()), options).unwrap();
        let at = TopicPartition::new("t".parse().unwrap(), 0);
        let topic = TopicEntry {
            name: at.topic.clone(),
            cleanup: Default::default(),
            next: vec![0],
        };
        shared
            .append_head(|_| Ok(Head::CreateTopic { id: 0, topic }))
            .unwrap();
        let draft = |time| {
            clock.set(Timestamp(time));
            let mut set = RecordSet::new(at.clone());
            set.push(None, None, Some(b"v"), &Headers::new());
            shared.draft(vec![set]).unwrap()
        };
        let append = |drafts| shared.append(drafts, Vec::new(), |_| Ok(())).unwrap();
        let [first, second] = [5, 7].map(draft);
        append(second);
        append(first);
        append(draft(3));
        let live = shared.live();
        let (_, partition, _) = live.partition(&at).unwrap();
        let times: Vec<_> = partition
            .tail
            .iter()
            .map(|block| block.append_time)
            .collect();
        assert_eq!(times, [7, 7, 7]);
    }
}
