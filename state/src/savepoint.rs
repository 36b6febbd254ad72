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

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidemill_crash_point::crash_point;

use crate::directory::{ENGINE, RESTORING, crc32c, create_dir, sync_dir};
use crate::error::Source;
use crate::off_thread::off_thread;
use crate::sled_store::Mode;
use crate::state::PAGE;
use crate::store::Page;
use crate::{
    Change, Digest, Epoch, Error, Identity, Note, Result, Share, SledOptions, SledStore,
    StateStore, Stored, WriteBehind,
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
    /// Where the changelog goes on after it.
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
            writer = off_thread(move || writer.block(&page)).await?;
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
            prune(&dir)
        })
        .await?;
        Ok(manifest)
    }
}

fn file_name(epoch: Epoch) -> String {
    format!("savepoint-{:020}.tms", epoch.0)
}

/// Deletes all but the newest savepoints.
fn prune(dir: &Path) -> Result<()> {
    let mut names = names(dir)?;
    names.reverse();
    for path in names.iter().skip(SAVEPOINTS_MAX) {
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
pub fn check_savepoint(path: &Path) -> Result<(Savepoint, u64)> {
    let mut reader = Reader::open(path)?;
    while reader.block()?.is_some() {}
    Ok((reader.head, reader.elements))
}

/// Makes a new store in a directory that holds none, from a savepoint, which is checked as a whole before.
///
/// Interrupted, it leaves a store that the next opening sets aside.
///
/// # Errors
///
/// If the savepoint is damaged, of another pipeline or task, or the directory holds a store already.
pub async fn restore(savepoint: &Path, options: SledOptions) -> Result<Savepoint> {
    let (head, _) = check_savepoint(savepoint)?;
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
    if dir.join("identity.json").exists() || dir.join(ENGINE).exists() {
        return Err(Error::invalid(format!(
            "{} holds a state already; move it away first",
            dir.display()
        )));
    }
    create_dir(&dir)?;
    let restoring = dir.join(RESTORING);
    File::create(&restoring).map_err(Error::io("create", &restoring))?;
    sync_dir(&dir)?;
    let store = SledStore::open_with(options, Mode::Restore).await?;
    store
        .set_note(Note {
            newest: Some(head.epoch),
            open: true,
        })
        .await?;
    let mut reader = Reader::open(savepoint)?;
    while let Some(page) = reader.block()? {
        let changes = page.into_iter().map(|(key, value)| Change {
            key,
            value: Some(value),
        });
        store.write(changes.collect()).await?;
        crash_point!("restore.block");
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
        })
        .await?;
    store.close().await?;
    std::fs::remove_file(&restoring).map_err(Error::io("delete", &restoring))?;
    sync_dir(&dir)?;
    Ok(head)
}

/// Writes a savepoint under another name.
struct Writer {
    file: File,
    temporary: PathBuf,
    elements: u64,
    digest: Digest,
}

impl Writer {
    fn create(head: &Savepoint) -> Result<Self> {
        let temporary = head.path.with_extension("tmp");
        if let Some(dir) = head.path.parent() {
            create_dir(dir)?;
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(Error::io("create", &temporary))?;
        let manifest = serde_json::to_vec(head)
            .map_err(|error| Error::io("encode", &temporary)(error.into()))?;
        let mut checked = FORMAT.to_le_bytes().to_vec();
        let length = u32::try_from(manifest.len()).unwrap_or(u32::MAX);
        if length > MANIFEST_MAX {
            return Err(Error::invalid(format!(
                "{} bytes are attached; too many",
                manifest.len()
            )));
        }
        checked.extend_from_slice(&length.to_le_bytes());
        checked.extend_from_slice(&manifest);
        let mut writer = Self {
            file,
            temporary,
            elements: 0,
            digest: Digest::EMPTY,
        };
        writer.write(MAGIC)?;
        writer.write(&checked)?;
        writer.write(&crc32c(&checked).to_le_bytes())?;
        Ok(writer)
    }

    fn block(mut self, page: &Page) -> Result<Self> {
        let mut block = vec![0; 8];
        let mut scratch = Vec::new();
        for (key, value) in page {
            for part in [key, value] {
                let length = u32::try_from(part.len())
                    .map_err(|_| Error::invalid("a value has 4 GiB or more"))?;
                scratch.extend_from_slice(&length.to_le_bytes());
            }
            block.append(&mut scratch);
            block.extend_from_slice(key);
            block.extend_from_slice(value);
            self.digest.add(Share::of(key, value));
            self.elements += 1;
            // A page of long values is cut into several blocks.
            if block.len() > (BLOCK_MAX / 4) as usize {
                self.frame(&mut block)?;
            }
        }
        if block.len() > 8 {
            self.frame(&mut block)?;
        }
        Ok(self)
    }

    /// Writes a block whose first 8 bytes are left for length and checksum.
    fn frame(&mut self, block: &mut Vec<u8>) -> Result<()> {
        let length = u32::try_from(block.len() - 8).unwrap_or(u32::MAX);
        if length > BLOCK_MAX {
            return Err(Error::invalid(format!(
                "an element has {length} bytes or more"
            )));
        }
        let crc = crc32c(&block[8..]);
        block[..4].copy_from_slice(&length.to_le_bytes());
        block[4..8].copy_from_slice(&crc.to_le_bytes());
        self.write(block)?;
        block.truncate(8);
        Ok(())
    }

    fn finish(mut self, path: &Path) -> Result<()> {
        let mut end = self.elements.to_le_bytes().to_vec();
        end.extend_from_slice(&self.digest.0.to_le_bytes());
        self.write(&0_u32.to_le_bytes())?;
        self.write(&crc32c(&end).to_le_bytes())?;
        self.write(&end)?;
        self.file
            .sync_all()
            .map_err(Error::io("sync", &self.temporary))?;
        crash_point!("savepoint.synced");
        std::fs::rename(&self.temporary, path).map_err(Error::io("rename to", path))?;
        crash_point!("savepoint.rename");
        match path.parent() {
            Some(dir) => sync_dir(dir),
            None => Ok(()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(Error::io("write", &self.temporary))
    }
}

/// Reads a savepoint, checking as it goes.
struct Reader {
    file: BufReader<File>,
    head: Savepoint,
    at: u64,
    elements: u64,
    digest: Digest,
}

impl Reader {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let nothing = Savepoint {
            pipeline: String::new(),
            task: String::new(),
            epoch: Epoch::NONE,
            changelog_offset: 0,
            digest: Digest::EMPTY,
            attached: Vec::new(),
            path: path.to_path_buf(),
        };
        let mut reader = Self {
            file: BufReader::new(file),
            head: nothing,
            at: 0,
            elements: 0,
            digest: Digest::EMPTY,
        };
        if reader.array::<8>()? != *MAGIC {
            return Err(reader.damaged("it is not a savepoint"));
        }
        let format = reader.number()?;
        if format > FORMAT {
            let path = path.to_path_buf();
            return Err(Error::NewerFormat {
                path,
                found: format,
                known: FORMAT,
            });
        }
        let length = reader.number()?;
        let manifest = reader.bytes(length, MANIFEST_MAX)?;
        let mut checked = format.to_le_bytes().to_vec();
        checked.extend_from_slice(&length.to_le_bytes());
        checked.extend_from_slice(&manifest);
        if reader.number()? != crc32c(&checked) {
            return Err(reader.damaged("the checksum of its manifest is wrong"));
        }
        let head: Savepoint = serde_json::from_slice(&manifest)
            .map_err(|error| reader.damaged(format!("its manifest cannot be read: {error}")))?;
        reader.head = Savepoint {
            path: path.to_path_buf(),
            ..head
        };
        Ok(reader)
    }

    /// The next block, or `None` at an end that agrees with what was read.
    fn block(&mut self) -> Result<Option<Page>> {
        let length = self.number()?;
        let crc = self.number()?;
        if length == 0 {
            let end = self.bytes(24, 24)?;
            let mut expected = self.elements.to_le_bytes().to_vec();
            expected.extend_from_slice(&self.digest.0.to_le_bytes());
            if crc != crc32c(&end) || end != expected || self.digest != self.head.digest {
                return Err(self.damaged("its end does not agree with what was read"));
            }
            return match self.file.read(&mut [0]) {
                Ok(0) => Ok(None),
                Ok(_) => Err(self.damaged("it goes on after its end")),
                Err(error) => Err(Error::io("read", &self.head.path)(error)),
            };
        }
        let block = Bytes::from(self.bytes(length, BLOCK_MAX)?);
        if crc != crc32c(&block) {
            return Err(self.damaged("the checksum of a block is wrong"));
        }
        let mut page = Page::new();
        let mut rest = block.clone();
        while !rest.is_empty() {
            let split = || {
                let (key, more) = rest.split_first_chunk::<4>()?;
                let (value, _) = more.split_first_chunk::<4>()?;
                let key = u32::from_le_bytes(*key) as usize;
                let end = key
                    .checked_add(u32::from_le_bytes(*value) as usize)?
                    .checked_add(8)?;
                (end <= rest.len()).then_some((8 + key, end))
            };
            let Some((middle, end)) = split() else {
                return Err(self.damaged("an element does not fit into its block"));
            };
            let (key, value) = (rest.slice(8..middle), rest.slice(middle..end));
            rest = rest.slice(end..);
            self.digest.add(Share::of(&key, &value));
            self.elements += 1;
            page.push((key, value));
        }
        Ok(Some(page))
    }

    fn number(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, length: u32, max: u32) -> Result<Vec<u8>> {
        if length > max {
            return Err(self.damaged(format!("a length of {length} is beyond {max}")));
        }
        // What a damaged length promises is not allocated before it is there.
        let mut bytes = Vec::new();
        let read = self
            .file
            .by_ref()
            .take(u64::from(length))
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", &self.head.path))?;
        self.at += read as u64;
        if read < length as usize {
            return Err(self.damaged("it is cut short"));
        }
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        match self.file.read_exact(bytes) {
            Ok(()) => {
                self.at += bytes.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it is cut short"))
            }
            Err(error) => Err(Error::io("read", &self.head.path)(error)),
        }
    }

    fn damaged(&self, what: impl std::fmt::Display) -> Error {
        Error::damaged(&self.head.path, format!("{what} (at byte {})", self.at))
    }
}
