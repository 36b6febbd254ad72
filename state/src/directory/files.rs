//! Files and directories that are there after a power loss.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::{Error, Result};

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    let dir = File::open(path).map_err(Error::io("open directory", path))?;
    dir.sync_all().map_err(Error::io("sync directory", path))
}

/// Creates a directory and its parents, readable by the owner alone, durably.
pub(crate) fn create_dir(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::io("create directory", path))?;
    // Up to the root any of them may be new; syncing an old one costs little and happens once.
    for ancestor in path.ancestors() {
        if ancestor.as_os_str().is_empty() {
            return sync_dir(Path::new("."));
        }
        // A directory further up may belong to somebody else. Its entry for ours is then long there.
        if sync_dir(ancestor).is_err() && ancestor == path {
            return sync_dir(path);
        }
    }
    Ok(())
}

/// Replaces a file as a whole: readers, and a power loss, see the old one or the new one.
pub(crate) fn write_replacing(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(Error::io("create", &temporary))?;
    file.write_all(content)
        .map_err(Error::io("write", &temporary))?;
    file.sync_all().map_err(Error::io("sync", &temporary))?;
    std::fs::rename(&temporary, path).map_err(Error::io("rename to", path))?;
    match path.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}
