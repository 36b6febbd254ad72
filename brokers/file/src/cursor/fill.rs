//! Reading blocks from disk, each checked before anything of it is handed out.

use std::collections::VecDeque;

use tidemill_broker::Result;

use super::chunk::{Chunk, Span};
use super::{Cursor, Place};
use crate::disk::DiskFile;
use crate::format::block::{HEADER_BYTES, Header};
use crate::layout::{damaged, failed};
use crate::live::LogFile;
use crate::segment::{Segment, bad_block};
use crate::shared::Shared;
use crate::window::WINDOW_BYTES;

impl Cursor {
    /// Reads the blocks at these places of a log file, which lie in the `len` bytes from `from` on.
    pub(super) fn fill_from_log(
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
        Ok(Chunk::new(bytes, spans))
    }

    fn is_ours(&self, header: &Header) -> bool {
        header.topic == self.topic && header.partition == self.at.partition
    }

    /// Reads blocks from a segment, or finds that it holds nothing more: then the offset after it.
    pub(super) fn fill_from_segment(
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
                .find(shared.disk(), shared.salt, shared.manifest(), |index| {
                    index.mark(self.offset)
                })?
                .map_or(0, |mark| mark.position),
        };
        let file = segment.open(shared.disk())?;
        let mut wanted = WINDOW_BYTES;
        while position < meta.len {
            let len = (meta.len - position).min(wanted as u64) as usize;
            let bytes = read(&*file, position, len).map_err(failed("read", &segment.path))?;
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
                // Also of one that is passed over: by a wrong length others would be, unseen.
                if !header.holds(&bytes[at..end], shared.salt) || !self.is_ours(&header) {
                    return Err(bad_block(&segment.path, position + at as u64));
                }
                if header.next > self.offset {
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
                return Ok((Some(Chunk::new(bytes, spans)), self.offset));
            }
        }
        self.place = None;
        Ok((None, meta.next))
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
