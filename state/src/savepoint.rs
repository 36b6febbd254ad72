//! Savepoints: the whole state in a file of our own, to go back to or to move.
//!
//! The only way from one engine, or one version of it, to another. A file `savepoint-EPOCH.tms`:
//!
//! | Part | Bytes |
//! | --- | --- |
//! | head | `TMSAVE\r\n`, format (4), length of the manifest (4), manifest (JSON), CRC32C of format to manifest (4) |
//! | block, any number | length (4, not 0), CRC32C (4), elements: key length (4), value length (4), key, value |
//! | end | 0 (4), CRC32C of what follows (4), number of elements (8), digest (16) |
//!
//! All numbers are little endian. It is written under another name, synced, renamed, and its directory synced: a
//! file of that name is whole.

mod reader;
mod writer;

use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidemill_crash_point::crash_point;

use self::reader::Reader;
use self::writer::Writer;
use crate::directory::{ENGINE, RESTORING, create_dir, delete_restored, sync_dir};
use crate::error::Source;
use crate::headway::Counted;
use crate::off_thread::off_thread;
use crate::sled_store::Mode;
use crate::state::PAGE;
use crate::{
    Change, Digest, Doing, Epoch, Error, Identity, Note, Result, SledOptions, SledStore,
    StateStore, Stored, Watch, WriteBehind,
};

/// Savepoints kept in a directory; older ones are deleted when a new one is whole.
pub const SAVEPOINTS_MAX: usize = 3;

/// The newest format that this version reads.
const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"TMSAVE\r\n";
/// The longest manifest and the longest block that are believed. A block is one page of elements, each of which
/// fits into memory.
const MANIFEST_MAX: u32 = 16 << 20;
const BLOCK_MAX: u32 = 1 << 30;

/// What a savepoint says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Savepoint {
    /// The pipeline's name.
    pub pipeline: String,
    /// The task's name.
    pub task: String,
    /// The epoch.
    pub epoch: Epoch,
    /// From where the changelog is to be redone after it.
    pub changelog_offset: u64,
    /// The digest of the state.
    pub digest: Digest,
    /// What the caller put beside it, such as input offsets.
    pub attached: Vec<u8>,
    /// Where it lies.
    #[serde(skip)]
    pub path: PathBuf,
}

impl WriteBehind {
    /// Writes a savepoint of the last committed epoch into `dir`, after a pass. `attach` gives the bytes to put
    /// beside the state of the epoch it is asked for. Keeps the newest [`SAVEPOINTS_MAX`].
    ///
    /// The task goes on meanwhile; passes wait.
    ///
    /// # Errors
    ///
    /// If the pass fails, or the file cannot be written. The savepoints before stay.
    pub async fn savepoint<F, D, E>(
        &self,
        dir: &Path,
        identity: &Identity,
        attach: impl FnOnce(Epoch) -> Vec<u8>,
        durable: F,
        watch: Watch<'_>,
    ) -> Result<Savepoint>
    where
        F: FnOnce(Epoch) -> D,
        D: Future<Output = Result<(), E>>,
        E: Into<Source>,
    {
        let _pass = self.shared.pass.lock().await;
        self.pass_locked(durable).await?;
        let Some(stored) = self.shared.overlay().stored else {
            return Err(Error::invalid("there is no committed state to save"));
        };
        let manifest = Savepoint {
            pipeline: identity.pipeline.clone(),
            task: identity.task.clone(),
            epoch: stored.epoch,
            changelog_offset: stored.changelog_offset,
            digest: stored.digest,
            attached: attach(stored.epoch),
            path: dir.join(file_name(stored.epoch)),
        };
        let path = manifest.path.clone();
        let head = manifest.clone();
        let mut writer = off_thread(move || Writer::create(&head)).await?;
        let mut counted = Counted::begin(watch, Doing::Saving, None);
        // No pass runs, so the store is the state of that epoch, whatever is committed meanwhile.
        let mut after: Option<Bytes> = None;
        loop {
            let page = self
                .shared
                .store
                .scan(Bytes::new(), after.clone(), PAGE)
                .await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            let elements = page.len() as u64;
            writer = off_thread(move || writer.block(&page)).await?;
            counted.add(elements);
        }
        let found = writer.digest;
        if found != stored.digest {
            return Err(Error::DigestMismatch {
                epoch: stored.epoch,
                expected: stored.digest,
                found,
            });
        }
        let dir = dir.to_path_buf();
        off_thread(move || {
            writer.finish(&path)?;
            prune(&dir, &path)
        })
        .await?;
        Ok(manifest)
    }
}

fn file_name(epoch: Epoch) -> String {
    format!("savepoint-{:020}.tms", epoch.0)
}

/// Deletes what a process that was killed has left of a savepoint. Whoever writes one owns the store, and so
/// is the only one that does.
pub(crate) fn delete_interrupted(dir: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("list", dir)(error)),
    };
    for entry in entries {
        let path = entry.map_err(Error::io("list", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with("savepoint-") && name.ends_with(".tmp")) {
            std::fs::remove_file(&path).map_err(Error::io("delete", &path))?;
        }
    }
    Ok(())
}

/// Deletes all but `written` and the newest of those before it. Where the log fell back to an earlier epoch,
/// there are some after it: none of them fits it any more, but they are not in the way, either.
fn prune(dir: &Path, written: &Path) -> Result<()> {
    let names = names(dir)?;
    let upto = names.iter().position(|path| path == written);
    let old = upto.map_or(0, |upto| (upto + 1).saturating_sub(SAVEPOINTS_MAX));
    for path in &names[..old] {
        std::fs::remove_file(path).map_err(Error::io("delete", path))?;
    }
    Ok(())
}

/// The savepoints' files, oldest first. A directory that is missing has none.
fn names(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("list", dir))?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with("savepoint-") && name.ends_with(".tms") {
            names.push(path);
        }
    }
    // The epoch is padded, so names sort like it.
    names.sort();
    Ok(names)
}

/// The savepoints in a directory, oldest first; those whose head cannot be read with their error.
///
/// # Errors
///
/// If the directory cannot be read.
pub fn savepoints(dir: &Path) -> Result<Vec<Result<Savepoint>>> {
    Ok(names(dir)?
        .iter()
        .map(|path| Reader::open(path).map(|reader| reader.head))
        .collect())
}

/// Reads a savepoint to its end and checks all of it. Returns what it says about itself and the number of elements.
///
/// # Errors
///
/// If it is damaged, cut short, or of a newer format.
pub async fn check_savepoint(path: &Path, watch: Watch<'_>) -> Result<(Savepoint, u64)> {
    let mut reader = open(path).await?;
    let mut counted = Counted::begin(watch, Doing::Checking, Some(reader.bytes));
    loop {
        let (read, page) = reader.next().await?;
        reader = read;
        counted.reach(reader.at);
        if page.is_none() {
            return Ok((reader.head, reader.elements));
        }
    }
}

async fn open(savepoint: &Path) -> Result<Reader> {
    let path = savepoint.to_owned();
    off_thread(move || Reader::open(&path)).await
}

/// Makes a new store in a directory that holds none, from a savepoint, which is checked as a whole before.
///
/// If it fails, it deletes what it has made. Killed, it leaves a store that the next restore deletes, and that
/// the next opening sets aside.
///
/// # Errors
///
/// If the savepoint is damaged, of another pipeline or task, or the directory holds a store already.
pub async fn restore(
    savepoint: &Path,
    options: SledOptions,
    watch: Watch<'_>,
) -> Result<Savepoint> {
    let (head, elements) = check_savepoint(savepoint, watch).await?;
    let found = Identity {
        pipeline: head.pipeline.clone(),
        task: head.task.clone(),
    };
    if found != options.identity {
        return Err(Error::Foreign {
            path: savepoint.to_path_buf(),
            found: found.to_string(),
            expected: options.identity.to_string(),
        });
    }
    let dir = options.path.clone();
    if dir.join(RESTORING).exists() {
        delete_restored(&dir)?;
    }
    if dir.join("identity.json").exists() || dir.join(ENGINE).exists() {
        return Err(Error::invalid(format!(
            "{} holds a state already; move it away first",
            dir.display()
        )));
    }
    let counted = Counted::begin(watch, Doing::Filling, Some(elements));
    match fill(savepoint, options, &head, counted).await {
        Ok(()) => Ok(head),
        // Somebody else's by now.
        Err(error @ Error::InUse { .. }) => Err(error),
        Err(error) => {
            // The error is what to tell; what cannot be deleted now is when this is tried again.
            let _ = delete_restored(&dir);
            Err(error)
        }
    }
}

/// Fills a new store.
async fn fill(
    savepoint: &Path,
    options: SledOptions,
    head: &Savepoint,
    mut counted: Counted<'_>,
) -> Result<()> {
    let dir = options.path.clone();
    create_dir(&dir)?;
    let restoring = dir.join(RESTORING);
    File::create(&restoring).map_err(Error::io("create", &restoring))?;
    sync_dir(&dir)?;
    let store = SledStore::open_with(options, Mode::Restore).await?;
    store
        .set_note(Note {
            newest: Some(head.epoch),
            open: true,
            has_stored: false,
        })
        .await?;
    let mut reader = open(savepoint).await?;
    loop {
        let (read, page) = reader.next().await?;
        reader = read;
        let Some(page) = page else { break };
        let changes = page.into_iter().map(|(key, value)| Change {
            key,
            value: Some(value),
        });
        store.write(changes.collect()).await?;
        crash_point!("restore.block");
        counted.reach(reader.elements);
    }
    store.sync().await?;
    store
        .set_stored(Stored {
            epoch: head.epoch,
            changelog_offset: head.changelog_offset,
            digest: head.digest,
        })
        .await?;
    store.sync().await?;
    store
        .set_note(Note {
            newest: Some(head.epoch),
            open: false,
            has_stored: true,
        })
        .await?;
    store.close().await?;
    std::fs::remove_file(&restoring).map_err(Error::io("delete", &restoring))?;
    sync_dir(&dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As after the log was restored from an older copy.
    #[test]
    fn what_was_just_written_stays_though_there_are_later_epochs() {
        let dir = tempfile::tempdir().unwrap();
        let path = |epoch| dir.path().join(file_name(Epoch(epoch)));
        for epoch in [2, 3, 4, 5, 6, 7] {
            std::fs::write(path(epoch), b"").unwrap();
        }
        std::fs::write(path(1), b"").unwrap();
        prune(dir.path(), &path(1)).unwrap();
        assert_eq!(names(dir.path()).unwrap().len(), 7);
        prune(dir.path(), &path(6)).unwrap();
        assert_eq!(names(dir.path()).unwrap(), [4, 5, 6, 7].map(path));
    }
}
