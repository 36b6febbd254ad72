//! One file, as the items its lines become.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use tidemill_broker::Timestamp;

use super::container::{self, Opened};
use super::detect::Detected;
use super::error::{BadLine, Error, Result};
use super::item::{Item, Reason};
use super::layout::{Emit, Parser};
use super::lines::{Line, Lines};
use super::options::OnBadLine;
use super::run::Counts;

/// Most bytes of a bad line that are set aside.
const BAD_LINE_BYTES_MAX: usize = 4 * 1024;

/// Reads one file.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    path: &'a Path,
    detected: &'a Detected,
    on_bad_line: OnBadLine,
    lines: Lines,
    bytes: u64,
    parser: Parser,
    line: Vec<u8>,
    items: VecDeque<Item>,
    counts: Counts,
    last: Timestamp,
}

impl<'a> Reader<'a> {
    /// `head` is the event time of bad lines before the first good one.
    pub(super) fn open(
        path: &'a Path,
        detected: &'a Detected,
        on_bad_line: OnBadLine,
        head: Timestamp,
    ) -> Result<Self> {
        let parser = Parser::new(&detected.setting).map_err(|what| Error::Unclear {
            path: path.to_path_buf(),
            what: what.into(),
        })?;
        let Opened { lines, bytes } = container::open(path)?;
        Ok(Self {
            path,
            detected,
            on_bad_line,
            lines,
            bytes,
            parser,
            line: Vec::new(),
            items: VecDeque::new(),
            counts: Counts::default(),
            last: head,
        })
    }

    /// What was counted so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Hash of all bytes read so far.
    pub(super) fn hash(&self) -> u128 {
        self.lines.hash()
    }

    /// The file's length in bytes, unpacked.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.lines.bytes()
    }

    /// The next item, or `None` at the file's end.
    pub(super) fn next(&mut self) -> Result<Option<Item>> {
        loop {
            if let Some(item) = self.items.pop_front() {
                self.count(&item);
                return Ok(Some(item));
            }
            let read = self
                .lines
                .next(&mut self.line)
                .map_err(|error| self.unreadable(error))?;
            let number = self.lines.number();
            let outcome = match read {
                Line::End => return Ok(None),
                Line::TooLong => Err(BadLine::too_long()),
                Line::Whole => self.take(number),
            };
            if let Err(bad) = outcome {
                self.bad_line(number, bad)?;
            }
        }
    }

    fn take(&mut self, number: u64) -> Result<(), BadLine> {
        let line = std::str::from_utf8(&self.line).map_err(|error| {
            let at = error.valid_up_to();
            BadLine::new(at + 1, "UTF-8", &self.line[at..])
        })?;
        if line.trim().is_empty() || (number == 1 && self.parser.take_names(line)) {
            return Ok(());
        }
        self.counts.lines += 1;
        let before = self.items.len();
        let mut out = Emit {
            items: &mut self.items,
            pair: &self.detected.pair,
            venue: self.detected.venue.as_deref(),
            line: number,
            scales: self.detected.setting.scales,
        };
        match self.parser.line(line, &mut out) {
            Ok(rounded) => {
                self.counts.rounded += rounded;
                Ok(())
            }
            Err(bad) => {
                self.items.truncate(before);
                Err(bad)
            }
        }
    }

    fn bad_line(&mut self, number: u64, bad: BadLine) -> Result<()> {
        match self.on_bad_line {
            OnBadLine::Stop => Err(bad.at(self.path, number)),
            OnBadLine::Skip => {
                let kept = self.line.len().min(BAD_LINE_BYTES_MAX);
                self.items.push_back(Item {
                    time: self.last,
                    pair: self.detected.pair.clone(),
                    line: number,
                    suspect: Some(Reason::Bad(bad)),
                    payload: self.line[..kept].to_vec(),
                });
                Ok(())
            }
        }
    }

    fn count(&mut self, item: &Item) {
        let counts = &mut self.counts;
        match item.suspect {
            Some(Reason::Bad(_)) => {
                counts.bad_lines += 1;
                return;
            }
            Some(_) => counts.suspicious += 1,
            None => counts.records += 1,
        }
        counts.backwards += u64::from(item.time < self.last);
        self.last = item.time;
        counts.first = Some(counts.first.map_or(item.time, |first| first.min(item.time)));
        counts.last = Some(counts.last.map_or(item.time, |last| last.max(item.time)));
    }

    fn unreadable(&self, error: io::Error) -> Error {
        if container::is_zip(self.path) {
            return Error::Archive {
                path: self.path.to_path_buf(),
                what: format!("after {} bytes of its content: {error}", self.lines.bytes()),
            };
        }
        Error::Io {
            doing: "read",
            path: self.path.to_path_buf(),
            source: error,
        }
    }
}

/// A file that was read once and found good.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: std::path::PathBuf,
    pub(super) detected: Detected,
    /// Hash of its content, unpacked.
    pub(super) hash: u128,
    /// Identifies what becomes of it: content, layout, pair, day, scales.
    pub(super) id: u128,
    pub(super) counts: Counts,
    /// No item of it is earlier.
    pub(super) earliest: Timestamp,
    /// The event time of bad lines before the first good one: that of the latter. Where no line is good,
    /// the earliest of the files beside it, or else when the file was last changed.
    pub(super) head: Timestamp,
}

impl Source {
    /// The hash of its content and of all that decides about the outcome.
    pub(super) fn identify(hash: u128, detected: &Detected) -> u128 {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        hasher.update(&hash.to_be_bytes());
        hasher.update(detected.fingerprint.as_bytes());
        hasher.digest128()
    }
}
