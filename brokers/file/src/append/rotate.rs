//! The log file that is appended to: ended when it is full or holds what is to leave, and the next one begun.

use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::Error;
use tidemill_crash_point::crash_point;

use super::failure::Failure;
use crate::bell::Ring;
use crate::disk::{Mode, write_all};
use crate::format::log_header::{self, LogHeader};
use crate::layout::failed;
use crate::live::{LogFile, Partition};
use crate::shared::{Appender, Shared, Writing, is_full};

/// The disk is asked for its room at most once in as many bytes, and not for less.
const LOOK_BYTES: u64 = 64 << 10;

/// What is to be left beside the bytes of the log: for what comes between two looks, indexes and a manifest.
const SPARE_BYTES: u64 = 8 * LOOK_BYTES;

/// What is too old is looked for at most once in as long, and so no more log files are ended for it, however
/// short topics keep their records.
const LOOK_AGE: Duration = Duration::from_secs(60);

impl Shared {
    /// Makes sure that there is a log file to append as many bytes to, and that it is not full, nor holds
    /// what is to leave by its age.
    pub(super) fn rotate_if_due(
        &self,
        writing: &Writing,
        appender: &mut Appender,
        bytes: u64,
    ) -> Result<(), Failure> {
        let cramped = self.is_cramped(appender, bytes);
        let outdated = self.is_outdated(writing, appender);
        match &appender.log {
            Some(log) if log.len < self.options.split_bytes && !cramped && !outdated => Ok(()),
            _ => {
                self.end_log(writing, appender, cramped);
                self.begin_log(appender)
            }
        }
    }

    /// Whether, with as many bytes more, there would be no room to split the current log file, and so
    /// never again any: only what was split is ever let go.
    fn is_cramped(&self, appender: &mut Appender, bytes: u64) -> bool {
        let Some(log) = &appender.log else {
            return false;
        };
        if log.len < LOOK_BYTES || log.len + bytes < appender.look_at {
            return false;
        }
        // Where nobody knows there is enough, as far as anybody knows.
        let room = self.disk().room(&self.layout.root).unwrap_or(u64::MAX);
        let needed = log.len + 2 * bytes + SPARE_BYTES;
        match room.checked_sub(needed) {
            None => true,
            Some(spare) => {
                // Each byte appended takes room and needs some; others may take some, too.
                appender.look_at = log.len + bytes + (spare / 4).max(LOOK_BYTES);
                false
            }
        }
    }

    /// Whether the current log file holds what its topic keeps no longer. Only what was split is ever let go,
    /// and a topic that is quiet would wait until others have filled the file. Has that of segments leave, too.
    fn is_outdated(&self, writing: &Writing, appender: &mut Appender) -> bool {
        let now = self.noted();
        // Either way: the clock may have been set back.
        if u128::from(now.0.abs_diff(appender.looked.0)) < LOOK_AGE.as_micros() {
            return false;
        }
        appender.looked = now;
        let segments =
            self.is_any_outdated(|partition| Some(partition.segments.first()?.meta.last_append));
        let in_log = appender.log.as_ref().is_some_and(|log| {
            let number = log.header.number;
            self.is_any_outdated(|Partition { tail, .. }| {
                let first = tail.partition_point(|block| block.log < number);
                Some(tail.get(first)?.append_time)
            })
        });
        // At two looks: the clock may have leapt ahead, and be set right before the next.
        let again = std::mem::replace(&mut appender.outdated, segments || in_log);
        if again && segments {
            writing.splitter.ring(Ring::Work);
        }
        again && in_log
    }

    /// Hands the current log file to the splitter; the next append begins another.
    pub(crate) fn end_log(&self, writing: &Writing, appender: &mut Appender, cramped: bool) {
        let Some(log) = appender.log.take() else {
            return;
        };
        let mut live = self.live_mut();
        let end = Arc::new(live.catalog.clone());
        if let Some(ended) = live.logs.get_mut(&log.header.number) {
            ended.end = Some(end);
            ended.cramped = cramped;
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
            if !full && !failure.is_transient() {
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
            cramped: false,
        };
        self.live_mut().logs.insert(header.number, log.clone());
        appender.log = Some(log);
        appender.look_at = 0;
        Ok(())
    }
}
