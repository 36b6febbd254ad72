//! A segment being read.

mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use tidemill_broker::{Error, Result};
use tidemill_crash_point::crash_point;

pub(crate) use writer::SegmentWriter;

use crate::catalog::TopicId;
use crate::disk::{Disk, DiskFile, Mode, read_whole};
use crate::format::block::{HEADER_BYTES, Header};
use crate::format::index::Index;
use crate::format::manifest::{Manifest, SegmentMeta};
use crate::layout::{Layout, damaged, failed, stage};
use crate::window::Window;

/// A segment as one manifest lists it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) meta: SegmentMeta,
    topic: TopicId,
    partition: u32,
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
            topic,
            partition,
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

    /// The index: as stored, or rebuilt from the segment where that is missing or damaged. In the
    /// writer's process, which has the manifest, what was rebuilt is stored.
    pub(crate) fn index(
        &self,
        disk: &dyn Disk,
        salt: u32,
        manifest: Option<&Mutex<Manifest>>,
    ) -> Result<Arc<Index>> {
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
                metrics::counter!("tidemill_file_indexes_rebuilt_total").increment(1);
                let rebuilt = self.rebuild(disk, salt)?;
                if let Some(manifest) = manifest {
                    self.store(disk, &rebuilt, manifest);
                }
                rebuilt
            }
        };
        Ok(Arc::clone(self.index.get_or_init(|| Arc::new(index))))
    }

    /// Stores an index that was rebuilt, if it can be done now: an index may be lost at any time, and a
    /// reader need not wait, or fail, for its sake.
    fn store(&self, disk: &dyn Disk, index: &Index, manifest: &Mutex<Manifest>) {
        // Whoever holds the manifest may be about to put an index in the same place.
        let Ok(_held) = manifest.try_lock() else {
            return;
        };
        let stored = stage(disk, &self.index_path, &index.encode()).and_then(|staged| {
            crash_point!("index.rebuilt");
            staged.put(disk)
        });
        if let Err(error) = stored {
            tracing::warn!(
                index = %self.index_path.display(), %error,
                "a rebuilt index is not stored; it is rebuilt whenever it is missed"
            );
        }
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

    /// Reads the whole segment block by block, checking each, and that it belongs where it is.
    pub(crate) fn each_block(
        &self,
        disk: &dyn Disk,
        salt: u32,
        mut visit: impl FnMut(Header, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut window = Window::new(Arc::clone(self.file(disk)?), self.meta.len);
        let mut at = 0;
        let mut next = self.meta.base;
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
            let ours = header.topic == self.topic && header.partition == self.partition;
            if !ours || header.base < next || header.next > self.meta.next {
                let what = format!("the block of offset {} does not belong here", header.base);
                return Err(damaged(&self.path, at, what));
            }
            next = header.next;
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
