//! A segment being read.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tidemill_broker::{Error, Result};
use tidemill_crash_point::crash_point;

use crate::catalog::TopicId;
use crate::disk::{Disk, DiskFile, Mode, read_whole};
use crate::format::block::{HEADER_BYTES, Header};
use crate::format::index::Index;
use crate::format::manifest::SegmentMeta;
use crate::layout::{Layout, damaged, failed, stage};
use crate::window::Window;

/// A segment as one manifest lists it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) meta: SegmentMeta,
    pub(crate) path: PathBuf,
    index_path: PathBuf,
    file: OnceLock<Arc<dyn DiskFile>>,
    index: OnceLock<Arc<Index>>,
}

impl Segment {
    pub(crate) fn new(
        layout: &Layout,
        topic: TopicId,
        partition: u32,
        meta: SegmentMeta,
    ) -> Arc<Self> {
        Arc::new(Self {
            meta,
            path: layout.segment(topic, partition, &meta),
            index_path: layout.index(topic, partition, &meta),
            file: OnceLock::new(),
            index: OnceLock::new(),
        })
    }

    /// The open file. Kept open, so that a reader goes on in it after it was removed.
    pub(crate) fn file(&self, disk: &dyn Disk) -> Result<&Arc<dyn DiskFile>> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = disk
            .open(&self.path, Mode::Read)
            .map_err(failed("open", &self.path))?;
        let len = file.len().map_err(failed("measure", &self.path))?;
        if len < self.meta.len {
            return Err(damaged(
                &self.path,
                len,
                format!("the file ends here and should have {} bytes", self.meta.len),
            ));
        }
        Ok(self.file.get_or_init(|| file))
    }

    /// The index: as stored, or rebuilt from the segment where that is missing or damaged. `repair`
    /// says whether to store what was rebuilt.
    pub(crate) fn index(&self, disk: &dyn Disk, salt: u32, repair: bool) -> Result<Arc<Index>> {
        if let Some(index) = self.index.get() {
            return Ok(Arc::clone(index));
        }
        let stored = match read_whole(disk, &self.index_path) {
            Ok(bytes) => Index::parse(&bytes).filter(|index| index.covers >= self.meta.len),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("read", &self.index_path)(error)),
        };
        let index = match stored {
            Some(index) => index,
            None => {
                tracing::warn!(
                    index = %self.index_path.display(),
                    "an index is missing or damaged; rebuilding it from its segment"
                );
                metrics::counter!("tidemill_file_indexes_rebuilt").increment(1);
                let rebuilt = self.rebuild(disk, salt)?;
                if repair {
                    let staged = stage(disk, &self.index_path, &rebuilt.encode())?;
                    crash_point!("index.rebuilt");
                    staged.put(disk)?;
                }
                rebuilt
            }
        };
        Ok(Arc::clone(self.index.get_or_init(|| Arc::new(index))))
    }

    /// Reads the whole segment, checking it, into an index.
    pub(crate) fn rebuild(&self, disk: &dyn Disk, salt: u32) -> Result<Index> {
        let mut index = Index::new();
        self.each_block(disk, salt, |header, _| {
            index.add(header.base, u64::from(header.len), header.max_timestamp);
            Ok(())
        })?;
        Ok(index)
    }

    /// Reads the whole segment block by block, checking each.
    pub(crate) fn each_block(
        &self,
        disk: &dyn Disk,
        salt: u32,
        mut visit: impl FnMut(Header, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut window = Window::new(Arc::clone(self.file(disk)?), self.meta.len);
        let mut at = 0;
        while at < self.meta.len {
            let header = window
                .get(at, HEADER_BYTES)
                .map_err(failed("read", &self.path))?
                .and_then(Header::parse)
                .ok_or_else(|| damaged(&self.path, at, "no block begins here"))?;
            let block = window
                .get(at, header.len as usize)
                .map_err(failed("read", &self.path))?
                .filter(|block| header.holds(block, salt))
                .ok_or_else(|| damaged(&self.path, at, BLOCK_CRC))?;
            visit(header, block)?;
            at += u64::from(header.len);
        }
        Ok(())
    }
}

/// What is said of a block whose checksum is wrong.
pub(crate) const BLOCK_CRC: &str = "the block's checksum does not match its bytes";

/// Fails as [`Error::Damaged`] at a block of any file.
pub(crate) fn bad_block(path: &std::path::Path, at: u64) -> Error {
    damaged(path, at, BLOCK_CRC)
}
