//! Where everything lies in the directory.

use std::io;
use std::path::{Path, PathBuf};

use tidemill_broker::Error;

use crate::catalog::TopicId;
use crate::disk::{Disk, DiskDir, Mode, write_all};
use crate::format::VERSION;
use crate::format::manifest::SegmentMeta;

/// The names in a directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    pub(crate) fn identity(&self) -> PathBuf {
        self.root.join("FORMAT")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("LOCK")
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.root.join("MANIFEST")
    }

    pub(crate) fn durable(&self) -> PathBuf {
        self.root.join("DURABLE")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("log")
    }

    pub(crate) fn log(&self, number: u64) -> PathBuf {
        self.logs().join(format!("{number:020}.log"))
    }

    pub(crate) fn topics(&self) -> PathBuf {
        self.root.join("topics")
    }

    pub(crate) fn topic(&self, topic: TopicId) -> PathBuf {
        self.topics().join(format!("{topic:016x}"))
    }

    pub(crate) fn partition(&self, topic: TopicId, partition: u32) -> PathBuf {
        self.topic(topic).join(partition.to_string())
    }

    pub(crate) fn segment(&self, topic: TopicId, partition: u32, meta: &SegmentMeta) -> PathBuf {
        self.partition(topic, partition)
            .join(format!("{:020}.{}.segment", meta.base, meta.rewrite))
    }

    pub(crate) fn index(&self, topic: TopicId, partition: u32, meta: &SegmentMeta) -> PathBuf {
        self.segment(topic, partition, meta).with_extension("index")
    }
}

/// The number in a log file's name.
pub(crate) fn log_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

/// An I/O error with what was being done to which file.
pub(crate) fn failed<'a>(
    doing: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io {
        doing,
        path: path.to_path_buf(),
        source,
    }
}

/// Whether a file was not there.
pub(crate) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

/// A file that is not there although another lists it: what is stored is not what was written.
pub(crate) fn lost(error: Error, what: &str) -> Error {
    match error {
        Error::Io { path, source, .. } if source.kind() == io::ErrorKind::NotFound => {
            damaged(&path, 0, what)
        }
        error => error,
    }
}

/// What is stored is not what was written.
pub(crate) fn damaged(path: &Path, at: u64, what: impl Into<String>) -> Error {
    Error::Damaged {
        path: path.to_path_buf(),
        at,
        what: what.into(),
    }
}

/// What is stored was written by a newer version.
pub(crate) fn newer(path: &Path, version: u32) -> Error {
    Error::NewerFormat {
        path: path.to_path_buf(),
        found: version,
        known: VERSION,
    }
}

/// Takes a file away. Fine if it is gone: an index may be lost at any time.
pub(crate) fn remove(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(failed("remove", path)),
    }
}

fn parent_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// A whole file, durable under another name, that is about to take the place of one.
#[derive(Debug)]
#[must_use = "it is not in its place yet"]
pub(crate) struct Staged<'a> {
    path: &'a Path,
    temporary: PathBuf,
    /// Where it is put. Open by now, so that once it is there its name can be made durable.
    parent: Box<dyn DiskDir>,
}

/// Writes what is to take the place of a file.
pub(crate) fn stage<'a>(
    disk: &dyn Disk,
    path: &'a Path,
    bytes: &[u8],
) -> Result<Staged<'a>, Error> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let parent = parent_of(path);
    let dir = disk.open_dir(parent).map_err(failed("open", parent))?;
    let written = || {
        let file = disk
            .open(&temporary, Mode::Create)
            .map_err(failed("create", &temporary))?;
        write_all(&*file, 0, &[bytes]).map_err(failed("write", &temporary))?;
        file.sync_data().map_err(failed("sync", &temporary))
    };
    if let Err(error) = written() {
        // On a full disk what is half written takes the room that others need. If it stays, the next to
        // be staged, or the next writer, takes it away.
        let _ = disk.remove(&temporary);
        return Err(error);
    }
    Ok(Staged {
        path,
        temporary,
        parent: dir,
    })
}

impl<'a> Staged<'a> {
    /// Puts it there, durably: a reader sees the old file or the new.
    pub(crate) fn put(self, disk: &dyn Disk) -> Result<(), Error> {
        self.rename(disk)?.settle()
    }

    /// Puts it there. If that fails, the old file is there.
    pub(crate) fn rename(self, disk: &dyn Disk) -> Result<Renamed<'a>, Error> {
        disk.rename(&self.temporary, self.path)
            .map_err(failed("rename to", self.path))?;
        Ok(Renamed {
            path: self.path,
            parent: self.parent,
        })
    }
}

/// What has taken its place. Until it is settled there, a loss of power may bring back what was there
/// before.
#[must_use = "its name is not durable yet"]
pub(crate) struct Renamed<'a> {
    path: &'a Path,
    parent: Box<dyn DiskDir>,
}

impl Renamed<'_> {
    /// Makes the name durable.
    pub(crate) fn settle(self) -> Result<(), Error> {
        self.parent
            .sync()
            .map_err(failed("sync", parent_of(self.path)))
    }
}
