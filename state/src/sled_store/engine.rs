//! sled itself: every call of it is in this file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use crate::directory::{ENGINE, Lock, NoteFile, create_dir, sync_dir};
use crate::sled_store::layout::{self, Head, WHOLE_MAX};
use crate::store::Page;
use crate::{Change, Error, Note, Result, Stored};

/// How often the collector is told to go on after a chunk. Fifty made 300 checkpoints of 10,000 keys stay at 61 MB
/// where none made 4 GB.
const DRAINS: usize = 50;

/// How often a lock of sled's own is tried that a store closed a moment ago may still hold: its threads let go
/// of it a little after it is dropped.
const LOCK_TRIES: usize = 100;
const LOCK_WAIT: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Engine {
    // Dropped in this order: the lock last.
    db: sled::Db,
    db_file: Arc<Mutex<File>>,
    note: NoteFile,
    path: PathBuf,
    _lock: Lock,
}

/// Opens sled in its folder, created if need be.
pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<sled::Db> {
    let is_other = |found: std::fs::Metadata| !found.is_dir();
    if dir
        .metadata()
        .or(dir.symlink_metadata())
        .is_ok_and(is_other)
    {
        return Err(Error::damaged(dir, "it is no directory"));
    }
    create_dir(dir)?;
    delete_interrupted_snapshots(dir)?;
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(cache_bytes)
        // We decide when, and hear of it when it fails.
        .flush_every_ms(None);
    let db = open_patiently(&config, dir)?;
    // Each time: whoever created it may have been killed before this, and what is durable costs little.
    for name in ["conf", "db"] {
        let path = dir.join(name);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        file.sync_all().map_err(Error::io("sync", &path))?;
    }
    sync_dir(dir)?;
    if let Some(parent) = dir.parent() {
        sync_dir(parent)?;
    }
    Ok(db)
}

fn open_patiently(config: &sled::Config, dir: &Path) -> Result<sled::Db> {
    let mut tries = 0;
    loop {
        match config.open() {
            Ok(db) => return Ok(db),
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                tries += 1;
                if tries == LOCK_TRIES {
                    let owner = "a process that does not know our lock".to_owned();
                    return Err(Error::InUse {
                        path: dir.to_path_buf(),
                        owner,
                    });
                }
                std::thread::park_timeout(LOCK_WAIT);
            }
            Err(error) => return Err(translate("open", dir, error)),
        }
    }
}

/// A kill amid a snapshot leaves its half under a name that the next open takes for the newest snapshot.
fn delete_interrupted_snapshots(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let path = entry.map_err(Error::io("list", dir))?.path();
        let is_half = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating"));
        if is_half {
            std::fs::remove_file(&path).map_err(Error::io("delete", &path))?;
        }
    }
    Ok(())
}

/// How far the store in a folder has followed the log.
pub(super) fn stored(db: &sled::Db, path: &Path) -> Result<Option<Stored>> {
    let found = db
        .get(layout::STORED)
        .map_err(|error| translate("read", path, error))?;
    let decoded = found.map(|found| layout::decode_stored(&found)).transpose();
    decoded.map_err(|error| Error::damaged(path, error.to_string()))
}

impl Engine {
    /// Takes the opened parts, and clears up after an interrupted pass.
    pub(super) fn new(dir: &Path, lock: Lock, note: NoteFile, db: sled::Db) -> Result<Self> {
        let path = dir.join(ENGINE);
        let db_path = path.join("db");
        let db_file = File::open(&db_path).map_err(Error::io("open", &db_path))?;
        let engine = Self {
            db,
            db_file: Arc::new(Mutex::new(db_file)),
            note,
            path,
            _lock: lock,
        };
        let whole = engine.stored()?.map(|stored| stored.epoch);
        if engine.note().newest > whole {
            engine.sweep()?;
        }
        Ok(engine)
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self
            .db
            .get(layout::element_key(key))
            .map_err(|error| self.failed("read", error))?
        {
            Some(stored) => self.value(key, &stored).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Page> {
        let prefix = layout::element_key(prefix);
        let elements = match after.map(layout::element_key) {
            Some(after) if after >= prefix => {
                // The next key there is.
                let mut from = after;
                from.push(0);
                self.db.range(from..)
            }
            _ => self.db.range(prefix.clone()..),
        };
        let mut page = Page::new();
        let mut bytes = 0;
        for element in elements.take(limit) {
            let (key, stored) = element.map_err(|error| self.failed("read", error))?;
            if !key.starts_with(&prefix) {
                break;
            }
            let key = Bytes::copy_from_slice(key.get(1..).unwrap_or_default());
            let value = self.value(&key, &stored)?;
            bytes += key.len() + value.len();
            page.push((key, value));
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(page)
    }

    /// Writes element by element: big batches starve the collector.
    pub(super) fn write(&self, changes: &[Change]) -> Result<()> {
        for change in changes {
            self.write_one(change)
                .map_err(|error| self.failed("write", error))?;
        }
        for _ in 0..DRAINS {
            crossbeam_epoch::pin().flush();
        }
        Ok(())
    }

    fn write_one(&self, Change { key, value }: &Change) -> sled::Result<()> {
        let element = layout::element_key(key);
        let before = self.db.get(&element)?;
        let before = before.as_deref().map(layout::head).and_then(Result::ok);
        let before = match before {
            Some(Head::Chunked { generation, .. }) => Some(generation),
            _ => None,
        };
        let long = value.as_ref().filter(|value| value.len() > WHOLE_MAX);
        let prefix = layout::chunks_prefix(key);
        let generation = before.map_or(0, |generation| generation.wrapping_add(1));
        let mut chunks = 0;
        if let Some(value) = long {
            for chunk in value.chunks(WHOLE_MAX) {
                self.db
                    .insert(layout::chunk_key(&prefix, generation, chunks), chunk)?;
                chunks += 1;
            }
        }
        match value {
            Some(value) if chunks > 0 => self
                .db
                .insert(element, layout::chunked(value, generation))?,
            Some(value) => self.db.insert(element, layout::whole(value))?,
            None => self.db.remove(element)?,
        };
        if chunks > 0 || before.is_some() {
            self.remove_chunks(&prefix, |_, at, index| at == generation && index < chunks)?;
        }
        Ok(())
    }

    /// Removes the chunks under a prefix that are not to be kept.
    fn remove_chunks(
        &self,
        prefix: &[u8],
        keep: impl Fn(&[u8], u32, u32) -> bool,
    ) -> sled::Result<()> {
        for chunk in self.db.scan_prefix(prefix).keys() {
            let chunk = chunk?;
            let kept = layout::split_chunk_key(&chunk)
                .is_some_and(|(key, generation, index)| keep(key, generation, index));
            if !kept {
                self.db.remove(chunk)?;
            }
        }
        Ok(())
    }

    /// Removes the chunks that no head names: an interrupted pass leaves some.
    fn sweep(&self) -> Result<()> {
        let named = |key: &[u8], at: u32, index: u32| match self.db.get(layout::element_key(key)) {
            Ok(Some(head)) => match layout::head(&head) {
                Ok(Head::Chunked {
                    generation, chunks, ..
                }) => at == generation && index < chunks,
                _ => false,
            },
            Ok(None) => false,
            // Found out by who reads it.
            Err(_) => true,
        };
        self.remove_chunks(b"c", named)
            .map_err(|error| self.failed("sweep", error))
    }

    /// Hands everything to the kernel. It is durable once the returned file, at its path, is synced: that takes
    /// long, and reads need not wait for it.
    pub(super) fn flush(&self) -> Result<(Arc<Mutex<File>>, PathBuf)> {
        self.db
            .flush()
            .map_err(|error| self.failed("flush", error))?;
        Ok((self.db_file.clone(), self.path.join("db")))
    }

    pub(super) fn stored(&self) -> Result<Option<Stored>> {
        stored(&self.db, &self.path)
    }

    pub(super) fn set_stored(&self, stored: Stored) -> Result<()> {
        self.db
            .insert(layout::STORED, layout::encode_stored(stored))
            .map_err(|error| self.failed("write", error))?;
        Ok(())
    }

    pub(super) fn note(&self) -> Note {
        self.note.get()
    }

    pub(super) fn set_note(&mut self, note: Note) -> Result<()> {
        self.note.set(note)
    }

    pub(super) fn clear(&mut self) -> Result<()> {
        let note = Note {
            has_stored: false,
            ..self.note.get()
        };
        self.note.set(note)?;
        self.db
            .clear()
            .map_err(|error| self.failed("clear", error))?;
        Ok(())
    }

    pub(super) fn size(&self) -> Result<u64> {
        self.db
            .size_on_disk()
            .map_err(|error| self.failed("measure", error))
    }

    /// The value whose head is `stored`.
    fn value(&self, key: &[u8], stored: &[u8]) -> Result<Bytes> {
        let damaged = |what: String| Error::damaged(&self.path, what);
        let head = layout::head(stored).map_err(|error| damaged(error.to_string()))?;
        let (generation, chunks, bytes) = match head {
            Head::Whole(value) => return Ok(Bytes::copy_from_slice(value)),
            Head::Chunked {
                generation,
                chunks,
                bytes,
            } => (generation, chunks, bytes),
        };
        let prefix = layout::chunks_prefix(key);
        let mut value = Vec::new();
        for index in 0..chunks {
            let chunk = self
                .db
                .get(layout::chunk_key(&prefix, generation, index))
                .map_err(|error| self.failed("read", error))?
                .ok_or_else(|| damaged(format!("a value misses chunk {index} of {chunks}")))?;
            value.extend_from_slice(&chunk);
        }
        if value.len() as u64 != bytes {
            return Err(damaged(format!(
                "a value has {} bytes instead of {bytes}",
                value.len()
            )));
        }
        Ok(value.into())
    }

    fn failed(&self, doing: &'static str, error: sled::Error) -> Error {
        translate(doing, &self.path, error)
    }
}

/// The error of the operating system in what sled says of it: what it passes on or panics over is how
/// [`Debug`] writes it, `Os { code: 28, .. }`.
pub(super) fn system_error(text: &str) -> Option<std::io::Error> {
    let (_, rest) = text.split_once("Os { code: ")?;
    let (code, _) = rest.split_once(',')?;
    Some(std::io::Error::from_raw_os_error(code.parse().ok()?))
}

/// Tells a medium that refuses from files that are not what was written: only the latter are set aside.
fn translate(doing: &'static str, path: &Path, error: sled::Error) -> Error {
    use std::io::ErrorKind;
    match error {
        // What sled reads and cannot make sense of also comes as an I/O error, of these kinds.
        sled::Error::Io(source)
            if source.raw_os_error().is_none()
                && matches!(
                    source.kind(),
                    ErrorKind::UnexpectedEof
                        | ErrorKind::InvalidData
                        | ErrorKind::InvalidInput
                        | ErrorKind::Other
                ) =>
        {
            let what = format!("the engine cannot {doing} it");
            Error::Damaged {
                path: path.to_path_buf(),
                what,
                source: Some(source.into()),
            }
        }
        sled::Error::Io(source) => Error::Io {
            doing,
            path: path.to_path_buf(),
            source: system_error(&source.to_string()).unwrap_or(source),
        },
        other => {
            let what = format!("the engine cannot {doing} it");
            Error::Damaged {
                path: path.to_path_buf(),
                what,
                source: Some(Box::new(other)),
            }
        }
    }
}

#[cfg(test)]
impl Engine {
    /// Lets every later sync fail, as on a disk that does.
    pub(super) fn break_syncs(&mut self) -> Result<()> {
        let path = Path::new("/dev/null");
        let file = File::open(path).map_err(Error::io("open", path))?;
        self.db_file = Arc::new(Mutex::new(file));
        Ok(())
    }
}
