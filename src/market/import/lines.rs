//! Lines of bounded length from a stream of unknown length.

use std::io::{self, BufRead, BufReader, Read};

use xxhash_rust::xxh3::Xxh3;

/// Longest line, in bytes.
///
/// A thousand times the longest line of any layout read here, and small enough that a file without
/// line ends cannot fill the memory.
pub(super) const LINE_BYTES_MAX: usize = 256 * 1024;

/// What some editors and spreadsheets put before the first line of a file in UTF-8: no part of it.
pub(crate) const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Bytes read from the file at once.
const READ_BYTES: usize = 64 * 1024;

/// What [`Lines::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line, left in the caller's buffer without its end.
    Whole,
    /// A line longer than [`LINE_BYTES_MAX`]: the buffer holds its beginning, the rest is skipped.
    TooLong,
    /// No more.
    End,
}

/// Reads lines; hashes all bytes on the way.
pub(super) struct Lines {
    input: BufReader<Box<dyn Read + Send>>,
    hash: Xxh3,
    number: u64,
    bytes: u64,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines")
            .field("number", &self.number)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Lines {
    pub(super) fn new(input: Box<dyn Read + Send>) -> Self {
        Self {
            input: BufReader::with_capacity(READ_BYTES, input),
            hash: Xxh3::new(),
            number: 0,
            bytes: 0,
        }
    }

    /// The number of the line read last, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Hash of all bytes read so far.
    pub(super) fn hash(&self) -> u128 {
        self.hash.digest128()
    }

    /// Reads the next line into `line`, without `\n` or `\r\n`, and without what may come before the
    /// first.
    pub(super) fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Line> {
        line.clear();
        let mut any = false;
        let mut too_long = false;
        loop {
            let available = match self.input.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                break;
            }
            any = true;
            let end = available.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(available.len(), |at| at + 1);
            let text = &available[..end.unwrap_or(taken)];
            let room = LINE_BYTES_MAX - line.len();
            too_long |= text.len() > room;
            line.extend_from_slice(&text[..text.len().min(room)]);
            self.hash.update(&available[..taken]);
            self.bytes += taken as u64;
            self.input.consume(taken);
            if end.is_some() {
                break;
            }
        }
        if !any {
            return Ok(Line::End);
        }
        self.number += 1;
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if self.number == 1 && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(if too_long { Line::TooLong } else { Line::Whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &'static [u8]) -> Vec<String> {
        let mut lines = Lines::new(Box::new(text));
        let mut line = Vec::new();
        let mut all = Vec::new();
        while lines.next(&mut line).unwrap() == Line::Whole {
            all.push(String::from_utf8(line.clone()).unwrap());
        }
        all
    }

    #[test]
    fn the_last_line_needs_no_end() {
        assert_eq!(lines(b"a\r\n\nb"), ["a", "", "b"]);
        assert_eq!(lines(b"a\n"), ["a"]);
        assert!(lines(b"").is_empty());
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line_and_of_no_other() {
        let marked = "\u{feff}a\n\u{feff}b".as_bytes();
        assert_eq!(lines(marked), ["a", "\u{feff}b"]);
        assert_eq!(lines("\u{feff}".as_bytes()), [""]);
    }

    #[test]
    fn a_line_of_100_mb_is_bounded_and_the_next_one_is_read() {
        let input = io::repeat(b'x').take(100_000_000).chain(&b"\nnext\n"[..]);
        let mut lines = Lines::new(Box::new(input));
        let mut line = Vec::new();
        assert_eq!(lines.next(&mut line).unwrap(), Line::TooLong);
        assert!(line.capacity() <= 2 * LINE_BYTES_MAX);
        assert_eq!(lines.next(&mut line).unwrap(), Line::Whole);
        assert_eq!((line.as_slice(), lines.number()), (&b"next"[..], 2));
        assert_eq!(lines.next(&mut line).unwrap(), Line::End);
    }
}
