//! Reading a log file frame by frame, and telling a torn tail from damage.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tidemill_broker::Result;

use crate::disk::DiskFile;
use crate::format::block::{self, HEADER_BYTES};
use crate::format::crc32c;
use crate::format::frame::{self, Head, Header};
use crate::format::log_header::{self, LogHeader};
use crate::layout::{failed, newer};
use crate::window::{WINDOW_BYTES, Window};

/// A whole frame, every checksum of it checked.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) head: Head,
    /// The blocks, each with its first byte in the file.
    pub(crate) blocks: Vec<(block::Header, u64)>,
    /// The first byte after the frame.
    pub(crate) end: u64,
}

/// What stands at a place of a log file.
#[derive(Debug)]
pub(crate) enum Found {
    Frame(Box<Frame>),
    /// The file ends here, after a whole frame.
    End,
    /// Something else, or a part of a frame.
    Torn(&'static str),
}

/// The header of a log file. `None` if it is not whole: its file is torn from the first byte on, or
/// damaged.
///
/// # Errors
///
/// If it cannot be read, or a newer version wrote it: that must not be taken for torn.
pub(crate) fn read_header(file: &dyn DiskFile, path: &Path) -> Result<Option<LogHeader>> {
    let mut bytes = Vec::new();
    file.read_at(0, log_header::BYTES, &mut bytes)
        .map_err(failed("read", path))?;
    match LogHeader::newer(&bytes) {
        Some(version) => Err(newer(path, version)),
        None => Ok(LogHeader::parse(&bytes)),
    }
}

/// Reads the frames of one log file.
#[derive(Debug)]
pub(crate) struct Scanner {
    window: Window,
    header: LogHeader,
    block_salt: u32,
}

impl Scanner {
    /// Reads `file` up to `end`.
    pub(crate) fn new(
        file: Arc<dyn DiskFile>,
        end: u64,
        header: LogHeader,
        block_salt: u32,
    ) -> Self {
        Self {
            window: Window::new(file, end),
            header,
            block_salt,
        }
    }

    /// Moves the end of what is read.
    pub(crate) fn extend(&mut self, end: u64) {
        self.window.end = end;
    }

    pub(crate) fn header(&self) -> &LogHeader {
        &self.header
    }

    /// Header and head of the frame at `at`, if its checksum holds.
    fn start(&mut self, at: u64) -> io::Result<Option<(Header, Head)>> {
        let header = match self.window.get(at, frame::HEADER_BYTES)? {
            Some(bytes) => Header::parse(bytes),
            None => None,
        };
        let Some(header) = header.filter(|header| header.place == self.header.start + at) else {
            return Ok(None);
        };
        let salt = self.header.salt();
        let head = self
            .window
            .get(at, header.body_at() as usize)?
            .filter(|bytes| header.holds(bytes, salt))
            .and_then(|bytes| header.head(&bytes[frame::HEADER_BYTES..]));
        Ok(head.map(|head| (header, head)))
    }

    /// What stands at `at`.
    pub(crate) fn read(&mut self, at: u64) -> io::Result<Found> {
        if at == self.window.end {
            return Ok(Found::End);
        }
        let Some((header, head)) = self.start(at)? else {
            return Ok(Found::Torn("no whole frame begins here"));
        };
        let end = at.saturating_add(header.len());
        if end > self.window.end {
            return Ok(Found::Torn(
                "the file ends inside the frame that begins here",
            ));
        }
        let mut blocks = Vec::new();
        let mut crcs = Vec::new();
        let mut position = at + header.body_at();
        while position < end {
            let Some(block) = self
                .window
                .get(position, HEADER_BYTES)?
                .and_then(block::Header::parse)
                .filter(|block| u64::from(block.len) <= end - position)
            else {
                return Ok(Found::Torn(
                    "the frame that begins here holds a broken block",
                ));
            };
            let salt = self.block_salt;
            let holds = self
                .window
                .get(position, block.len as usize)?
                .is_some_and(|bytes| block.holds(bytes, salt));
            if !holds {
                return Ok(Found::Torn(
                    "the frame that begins here holds a broken block",
                ));
            }
            crcs.extend_from_slice(&block.crc.to_le_bytes());
            blocks.push((block, position));
            position += u64::from(block.len);
        }
        let expected = match &head {
            Head::Commit { blocks, crcs, .. } => (*blocks as usize, *crcs),
            Head::CreateTopic { .. } | Head::DeleteTopic { .. } => (0, crc32c(&[])),
        };
        if expected != (blocks.len(), crc32c(&crcs)) {
            return Ok(Found::Torn(
                "the frame that begins here holds other blocks than it says",
            ));
        }
        Ok(Found::Frame(Box::new(Frame { head, blocks, end })))
    }

    /// The most that any frame from `at` on says was durable when it was written: proof that what
    /// lies before was once whole. Frames are found wherever they begin.
    pub(crate) fn durable_from(&mut self, mut at: u64) -> io::Result<u64> {
        let mut durable = 0;
        while at < self.window.end {
            let len = (self.window.end - at).min(WINDOW_BYTES as u64) as usize;
            let Some(bytes) = self.window.get(at, len)? else {
                break;
            };
            let candidates: Vec<u64> = bytes
                .windows(frame::MAGIC.len())
                .enumerate()
                .filter(|(_, window)| *window == frame::MAGIC)
                .map(|(index, _)| at + index as u64)
                .collect();
            for candidate in candidates {
                if let Some((header, _)) = self.start(candidate)? {
                    durable = durable.max(header.durable);
                }
            }
            // Far enough back to find a magic that the window cut in two.
            at += (len - len.min(frame::MAGIC.len() - 1)).max(1) as u64;
        }
        Ok(durable)
    }
}

/// What was cut from the end of the log when it was opened: commits that a crash had left
/// half-written. None of them was ever known durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The log file.
    pub path: std::path::PathBuf,
    /// Its first byte that was cut.
    pub at: u64,
    /// How many bytes were cut, those of later log files included.
    pub bytes: u64,
    /// What was found there.
    pub what: &'static str,
}

impl Torn {
    pub(crate) fn new(path: &Path, at: u64, bytes: u64, what: &'static str) -> Self {
        Self {
            path: path.to_path_buf(),
            at,
            bytes,
            what,
        }
    }
}
