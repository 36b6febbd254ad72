//! A segment being read.

mod writer;

use std::cmp::Ordering;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tidemill_broker::{Error, Result};
use tidemill_crash_point::crash_point;

pub(crate) use writer::SegmentWriter;

use crate::catalog::TopicId;
use crate::disk::{Disk, DiskFile, Mode, read_whole};
use crate::format::block::{HEADER_BYTES, Header};
use crate::format::crc32c;
use crate::format::index::{Index, Mark};
use crate::format::manifest::{Manifest, SegmentMeta};
use crate::layout::{Layout, damaged, failed, stage};
use crate::shared::lock;
use crate::window::Window;

/// A segment as one manifest lists it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) meta: SegmentMeta,
    topic: TopicId,
    partition: u32,
    pub(crate) path: PathBuf,
    index_path: PathBuf,
    index: Mutex<Option<Arc<Index>>>,
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
            index: Mutex::default(),
        })
    }

    /// Opens the file, for as long as the caller reads in it: one kept open for each segment that was ever
    /// read would be more than a process may have.
    pub(crate) fn open(&self, disk: &dyn Disk) -> Result<Arc<dyn DiskFile>> {
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
        Ok(file)
    }

    /// The index: as stored, or rebuilt from the segment where that is missing or damaged. In the
    /// writer's process, which has the manifest, what was rebuilt is stored.
    pub(crate) fn index(
        &self,
        disk: &dyn Disk,
        salt: u32,
        manifest: Option<&Mutex<Manifest>>,
    ) -> Result<Arc<Index>> {
        if let Some(index) = &*lock(&self.index) {
            return Ok(Arc::clone(index));
        }
        let stored = match read_whole(disk, &self.index_path) {
            Ok(bytes) => Index::parse(&bytes).filter(|index| self.is_its(index, &bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("read", &self.index_path)(error)),
        };
        match stored {
            Some(index) => Ok(self.keep(index)),
            None => self.renew(disk, salt, manifest),
        }
    }

    /// Whether an index is the one that the manifest knows. Before a crash another may have been put in
    /// its place, for a segment that was about to grow.
    fn is_its(&self, index: &Index, bytes: &[u8]) -> bool {
        match index.covers.cmp(&self.meta.len) {
            Ordering::Less => false,
            Ordering::Equal => crc32c(bytes) == self.meta.index_crc,
            Ordering::Greater => true,
        }
    }

    fn keep(&self, index: Index) -> Arc<Index> {
        Arc::clone(lock(&self.index).insert(Arc::new(index)))
    }

    /// Rebuilds the index from the segment, whatever there was.
    fn renew(
        &self,
        disk: &dyn Disk,
        salt: u32,
        manifest: Option<&Mutex<Manifest>>,
    ) -> Result<Arc<Index>> {
        let rebuilt = self.rebuild(disk, salt)?;
        tracing::warn!(
            index = %self.index_path.display(),
            "an index was missing, damaged or another's, and was rebuilt from its segment"
        );
        metrics::counter!("tidemill_file_indexes_rebuilt_total").increment(1);
        if let Some(manifest) = manifest {
            self.store(disk, &rebuilt, manifest);
        }
        Ok(self.keep(rebuilt))
    }

    /// The block to begin to look at, picked by the index; `None` for the first. Where no such block
    /// begins there, the index is whole but not this segment's: it is rebuilt, as records would be passed
    /// over without a word.
    pub(crate) fn find(
        &self,
        disk: &dyn Disk,
        salt: u32,
        manifest: Option<&Mutex<Manifest>>,
        pick: impl Fn(&Index) -> Option<Mark>,
    ) -> Result<Option<Mark>> {
        let Some(mark) = pick(&*self.index(disk, salt, manifest)?) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        self.open(disk)?
            .read_at(mark.position, HEADER_BYTES, &mut bytes)
            .map_err(failed("read", &self.path))?;
        if Header::parse(&bytes).is_some_and(|header| {
            header.base == mark.offset
                && header.topic == self.topic
                && header.partition == self.partition
        }) {
            return Ok(Some(mark));
        }
        Ok(pick(&*self.renew(disk, salt, manifest)?))
    }

    /// Stores an index that was rebuilt, if it can be done now: an index may be lost at any time, and a
    /// reader need not wait, or fail, for its sake.
    fn store(&self, disk: &dyn Disk, index: &Index, manifest: &Mutex<Manifest>) {
        // Whoever holds the manifest may be about to put an index in the same place.
        let Ok(held) = manifest.try_lock() else {
            return;
        };
        // By now the segment may be longer, or gone.
        let listed = held
            .partitions
            .get(&self.topic)
            .and_then(|partitions| partitions.get(self.partition as usize))
            .is_some_and(|partition| partition.segments.contains(&self.meta));
        if !listed {
            return;
        }
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
        let mut window = Window::new(self.open(disk)?, self.meta.len);
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
                .ok_or_else(|| damaged(&self.path, at, BLOCK_BROKEN))?;
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

/// What is said of a block that does not hold.
pub(crate) const BLOCK_BROKEN: &str = "the block's checksum or records do not match its bytes";

/// Fails as [`Error::Damaged`] at a block of any file.
pub(crate) fn bad_block(path: &std::path::Path, at: u64) -> Error {
    damaged(path, at, BLOCK_BROKEN)
}
