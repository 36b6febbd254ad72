//! A segment being written, and its index.

use std::path::PathBuf;

use tidemill_broker::Result;
use tidemill_crash_point::crash_point;

use crate::catalog::TopicId;
use crate::disk::{DiskFile, write_all};
use crate::format::index::Index;
use crate::format::manifest::SegmentMeta;
use crate::format::{Crc, crc32c};
use crate::layout::{failed, stage};
use crate::shared::Shared;

/// Gathers small pieces into large writes.
pub(crate) struct SegmentWriter<'a> {
    file: &'a dyn DiskFile,
    path: &'a PathBuf,
    at: u64,
    added: u64,
    buffer: Vec<u8>,
    crc: Crc,
}

/// How much is gathered before it is written.
const BUFFER_BYTES: usize = 1 << 20;

impl<'a> SegmentWriter<'a> {
    /// Writes from `at` on.
    pub(crate) fn new(file: &'a dyn DiskFile, path: &'a PathBuf, at: u64) -> Self {
        Self {
            file,
            path,
            at,
            added: 0,
            buffer: Vec::new(),
            crc: Crc::new(),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc.update(bytes);
        self.added += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        write_all(self.file, self.at, &[&self.buffer]).map_err(failed("write", self.path))?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes it durable; returns how many bytes were written and their checksum.
    pub(crate) fn finish(mut self) -> Result<(u64, u32)> {
        self.flush()?;
        // There may be more, left by a crash.
        self.file
            .truncate(self.at)
            .map_err(failed("truncate", self.path))?;
        self.file.sync_data().map_err(failed("sync", self.path))?;
        Ok((self.added, self.crc.finish()))
    }
}

impl Shared {
    /// Stores an index, and with it the names in its directory; returns its checksum.
    pub(crate) fn write_index(
        &self,
        topic: TopicId,
        partition: u32,
        meta: &SegmentMeta,
        index: &Index,
    ) -> Result<u32> {
        let bytes = index.encode();
        let path = self.layout.index(topic, partition, meta);
        let staged = stage(self.disk(), &path, &bytes)?;
        crash_point!("index.staged");
        staged.put(self.disk())?;
        Ok(crc32c(&bytes))
    }
}
