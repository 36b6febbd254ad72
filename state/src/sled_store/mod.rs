//! The store on disk, over sled 0.34.
//!
//! sled is fast enough and small, and has edges that are known and guarded here (the proofs are in the tests):
//!
//! * Its flush is no fsync on Linux: a real one follows, on our own handle of its file `db`.
//! * A kill amid a snapshot leaves a file that the next open takes for a snapshot: deleted before.
//! * Its `conf` and directories are never synced: done whenever it is opened.
//! * Values of some size go to files of their own that are never synced: larger ones are cut into chunks.
//! * Its own flusher logs a failed fsync and goes on: off.
//! * Its memory is freed by a collector that big batches starve: single inserts, and a drain after each chunk.
//! * It panics on some damage: every call runs behind a guard, on a thread of its own.

mod engine;
mod layout;
mod worker;

use std::path::PathBuf;
use std::sync::PoisonError;

use async_trait::async_trait;
use bytes::Bytes;
use tidemill_crash_point::crash_point;

use crate::directory::{ENGINE, Lock, NoteFile, RESTORING, StoredIdentity, create_dir, set_aside};
use crate::off_thread::off_thread;
use crate::store::{Identity, Page, SetAside};
use crate::{Change, Error, Note, OpenedStore, Result, StateStore, Stored, chain};
use engine::Engine;
use worker::Worker;

/// Bytes after which a page of a scan ends, so that long values do not fill the memory.
const PAGE_BYTES: usize = 1 << 20;

/// How a [`SledStore`] is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SledOptions {
    /// The directory; created if it is missing. One per task.
    pub path: PathBuf,
    /// Whose state it is to hold.
    pub identity: Identity,
    /// Who opens it, for the message to a second owner.
    pub owner: String,
    /// The number of the store, should it be created now. Chance is passed in.
    pub new_id: u128,
    /// Bytes of the engine's own cache.
    pub cache_bytes: u64,
}

impl SledOptions {
    /// Bytes of the engine's cache if nothing else is said: what is hot is in the tables above it.
    pub const CACHE_BYTES: u64 = 32 << 20;
}

/// A store in a directory.
///
/// Dropping it waits for the call under way and frees the directory; [`close`](StateStore::close) does so
/// without blocking the caller's thread.
#[derive(Debug)]
pub struct SledStore {
    worker: Worker,
    opened: OpenedStore,
}

/// What becomes of a store that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is set aside.
    Replace,
    /// It is reported.
    Strict,
    /// It is reported; and that a savepoint is being restored is as it should be.
    Restore,
}

impl SledStore {
    /// Opens the store, or creates it. One that cannot be used is set aside and an empty one takes its place: then
    /// [`OpenedStore::set_aside`] says where it is and why.
    ///
    /// # Errors
    ///
    /// If it is in use, newer than this version, or somebody else's; then it is left as it is. If the file system
    /// refuses.
    pub async fn open(options: SledOptions) -> Result<Self> {
        Self::open_with(options, Mode::Replace).await
    }

    /// The same, but one that cannot be used is left in place and reported as the error.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); and if the store is damaged.
    pub async fn open_strict(options: SledOptions) -> Result<Self> {
        Self::open_with(options, Mode::Strict).await
    }

    pub(crate) async fn open_with(options: SledOptions, mode: Mode) -> Result<Self> {
        let path = options.path.clone();
        let (worker, (id, aside)) =
            Worker::spawn(path.clone(), move || open(&options, mode)).await?;
        let opened = OpenedStore {
            id,
            path: Some(path),
            set_aside: aside,
        };
        Ok(Self { worker, opened })
    }
}

/// Opens the engine; on its thread.
fn open(options: &SledOptions, mode: Mode) -> Result<(Engine, (u128, Option<SetAside>))> {
    let dir = &options.path;
    create_dir(dir)?;
    let lock = Lock::take(dir, &options.owner)?;
    crash_point!("store.open");
    if mode != Mode::Strict {
        crate::savepoint::delete_interrupted(&dir.join("savepoints"))?;
    }
    let why = match try_open(options, mode) {
        Ok((id, note, db)) => return Ok((Engine::new(dir, lock, note, db)?, (id, None))),
        Err(error @ Error::Damaged { .. }) if mode == Mode::Replace => chain(&error),
        Err(error) => return Err(error),
    };
    let aside = set_aside(dir, &why)?;
    crash_point!("store.aside");
    let (id, note, db) = try_open(options, mode)?;
    Ok((Engine::new(dir, lock, note, db)?, (id, Some(aside))))
}

fn try_open(options: &SledOptions, mode: Mode) -> Result<(u128, NoteFile, sled::Db)> {
    let dir = &options.path;
    let id = match StoredIdentity::read(dir)? {
        Some(stored) => {
            stored.check(dir, &options.identity)?;
            stored.id()
        }
        None if dir.join(ENGINE).exists() => {
            return Err(Error::damaged(dir, "its identity.json is missing"));
        }
        None => {
            StoredIdentity::new(&options.identity, options.new_id).write(dir)?;
            options.new_id
        }
    };
    if dir.join(RESTORING).exists() && mode != Mode::Restore {
        return Err(Error::damaged(
            dir,
            "a savepoint was being restored here and is not whole",
        ));
    }
    let note = NoteFile::open(dir)?;
    let folder = dir.join(ENGINE);
    let db = engine::open(&folder, options.cache_bytes)?;
    // Some damage it takes for the end of what was written, and opens as if it had never held anything.
    if engine::stored(&db, &folder)?.is_none() && note.get().has_stored {
        let what = "the note beside it says that it held state, and it holds none";
        return Err(Error::damaged(folder, what));
    }
    Ok((id, note, db))
}

#[async_trait]
impl StateStore for SledStore {
    fn opened(&self) -> OpenedStore {
        self.opened.clone()
    }

    async fn get_many(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>> {
        self.worker
            .call(move |engine| keys.iter().map(|key| engine.get(key)).collect())
            .await
    }

    async fn scan(&self, prefix: Bytes, after: Option<Bytes>, limit: usize) -> Result<Page> {
        self.worker
            .call(move |engine| engine.scan(&prefix, after.as_deref(), limit, PAGE_BYTES))
            .await
    }

    async fn get_prefixes(&self, prefixes: Vec<Bytes>) -> Result<Vec<Page>> {
        self.worker
            .call(move |engine| {
                prefixes
                    .iter()
                    .map(|prefix| engine.scan(prefix, None, usize::MAX, usize::MAX))
                    .collect()
            })
            .await
    }

    async fn write(&self, changes: Vec<Change>) -> Result<()> {
        self.worker.call(move |engine| engine.write(&changes)).await
    }

    async fn sync(&self) -> Result<()> {
        let (file, path) = self.worker.call(|engine| engine.flush()).await?;
        let failure = self.worker.failure();
        off_thread(move || {
            // One after the other, and none after one that failed, also when nobody waits for that any
            // more: the kernel tells a failure once, and the next fsync is told that all is well.
            let file = file.lock().unwrap_or_else(PoisonError::into_inner);
            failure.check()?;
            file.sync_all()
                .map_err(Error::io("sync", path))
                .inspect_err(|error| failure.set(error))
        })
        .await
    }

    async fn stored(&self) -> Result<Option<Stored>> {
        self.worker.call(|engine| engine.stored()).await
    }

    async fn set_stored(&self, stored: Stored) -> Result<()> {
        self.worker
            .call(move |engine| engine.set_stored(stored))
            .await
    }

    async fn note(&self) -> Result<Note> {
        self.worker.call(|engine| Ok(engine.note())).await
    }

    async fn set_note(&self, note: Note) -> Result<()> {
        self.worker.call(move |engine| engine.set_note(note)).await
    }

    async fn clear(&self) -> Result<()> {
        self.worker.call(|engine| engine.clear()).await?;
        self.sync().await
    }

    async fn size(&self) -> Result<u64> {
        self.worker.call(|engine| engine.size()).await
    }

    async fn close(&self) -> Result<()> {
        self.worker.close().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store(path: &std::path::Path) -> SledStore {
        let identity = Identity {
            pipeline: "bars".into(),
            task: "0".into(),
        };
        let options = SledOptions {
            path: path.to_path_buf(),
            identity,
            owner: "a test".into(),
            new_id: 1,
            cache_bytes: 1 << 20,
        };
        SledStore::open(options).await.unwrap()
    }

    #[tokio::test]
    async fn after_a_sync_that_failed_nothing_is_synced_written_or_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path()).await;
        let change = || Change {
            key: "k".into(),
            value: Some("v".into()),
        };
        store.write(vec![change()]).await.unwrap();
        store.sync().await.unwrap();
        let broken = store.worker.call(|engine| engine.break_syncs()).await;
        broken.unwrap();

        // Both are handed to the kernel before the first of them fails.
        let (one, other) = tokio::join!(store.sync(), store.sync());
        let (failed, refused) = match one {
            Err(Error::Io { .. }) => (one, other),
            _ => (other, one),
        };
        let first = failed.unwrap_err();
        assert!(matches!(first, Error::Io { doing: "sync", .. }), "{first}");
        for later in [
            refused,
            store.sync().await,
            store.write(vec![change()]).await,
            store.get_many(vec!["k".into()]).await.map(drop),
            store.set_note(Note::default()).await,
        ] {
            match later.unwrap_err() {
                Error::Poisoned { what, .. } => assert_eq!(what, chain(&first)),
                error => panic!("{error}"),
            }
        }
        // Its directory is free for the next owner all the same, who recovers.
        store.close().await.unwrap();
        let store = self::store(dir.path()).await;
        let value = store.get_many(vec!["k".into()]).await.unwrap();
        assert_eq!(value, [Some("v".into())]);
    }
}
