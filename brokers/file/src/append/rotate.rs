//! The log file that is appended to: ended when it is full, and the next one begun.

use std::sync::Arc;

use tidemill_broker::Error;
use tidemill_crash_point::crash_point;

use super::failure::Failure;
use crate::bell::Ring;
use crate::disk::{Mode, write_all};
use crate::format::log_header::{self, LogHeader};
use crate::layout::failed;
use crate::live::LogFile;
use crate::shared::{Appender, Shared, Writing, is_full};

/// The disk is asked for its room at most once in as many bytes, and not for less.
const LOOK_BYTES: u64 = 64 << 10;

/// What is to be left beside the bytes of the log: for what comes between two looks, indexes and a manifest.
const SPARE_BYTES: u64 = 8 * LOOK_BYTES;

impl Shared {
    /// Makes sure that there is a log file to append as many bytes to, and that it is not full.
    pub(super) fn rotate_if_full(
        &self,
        writing: &Writing,
        appender: &mut Appender,
        bytes: u64,
    ) -> Result<(), Failure> {
        let cramped = self.is_cramped(appender, bytes);
        match &appender.log {
            Some(log) if log.len < self.options.split_bytes && !cramped => Ok(()),
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
