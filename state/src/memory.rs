//! A store in this process, that crashes and fails when told to: for tests and simulation.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Poison;
use crate::store::{Identity, Page};
use crate::{Change, Digest, Error, Note, OpenedStore, Result, Share, StateStore, Stored};

/// A call that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// Any read.
    Read,
    /// [`StateStore::write`] and [`StateStore::set_stored`].
    Write,
    /// [`StateStore::sync`].
    Sync,
    /// [`StateStore::set_note`].
    Note,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The medium fails (EIO).
    Medium,
    /// The medium is full (ENOSPC).
    Full,
}

/// What a crash leaves of what was not synced.
///
/// The choices are the caller's, so that a seed decides them.
pub enum Survivors<'a> {
    /// Nothing.
    None,
    /// Everything, as when only the process dies.
    All,
    /// The first so many changes; given how many there are.
    Prefix(Box<dyn FnOnce(usize) -> usize + 'a>),
    /// Those for which it says so, in order.
    Subset(Box<dyn FnMut() -> bool + 'a>),
}

impl fmt::Debug for Survivors<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::All => "All",
            Self::Prefix(_) => "Prefix(_)",
            Self::Subset(_) => "Subset(_)",
        })
    }
}

/// One step of what was written and not synced.
#[derive(Debug, Clone)]
enum Step {
    Change(Change),
    Stored(Stored),
}

#[derive(Debug, Default)]
struct Content {
    elements: BTreeMap<Bytes, Bytes>,
    stored: Option<Stored>,
}

impl Content {
    fn apply(&mut self, step: Step) {
        match step {
            Step::Change(Change {
                key,
                value: Some(value),
            }) => {
                self.elements.insert(key, value);
            }
            Step::Change(Change { key, value: None }) => {
                self.elements.remove(&key);
            }
            Step::Stored(stored) => self.stored = Some(stored),
        }
    }
}

#[derive(Debug, Default)]
struct Disk {
    owner: Option<Identity>,
    /// What readers see.
    seen: Content,
    /// What is synced.
    durable: Content,
    unsynced: Vec<Step>,
    note: Note,
    /// Which opening is the living one; 0 if none is.
    living: u64,
    openings: u64,
    faults: VecDeque<(Call, u64, Fault)>,
    poisoned: Option<Poison>,
    latency: Duration,
    reads: u64,
}

/// The medium of a [`MemoryStore`]: outlives the stores that are opened over it. Clones are the same medium.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    disk: Arc<Mutex<Disk>>,
}

impl MemoryDisk {
    /// An empty medium.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses power: the store that is open over it is dead, and of what was not synced only `survivors` stay.
    pub fn crash(&self, survivors: Survivors<'_>) {
        let mut disk = self.lock();
        let disk = &mut *disk;
        let unsynced = std::mem::take(&mut disk.unsynced);
        let count = unsynced.len();
        match survivors {
            Survivors::None => {}
            Survivors::All => unsynced
                .into_iter()
                .for_each(|step| disk.durable.apply(step)),
            Survivors::Prefix(choose) => {
                let kept = choose(count);
                unsynced
                    .into_iter()
                    .take(kept)
                    .for_each(|step| disk.durable.apply(step));
            }
            Survivors::Subset(mut choose) => {
                let kept = unsynced.into_iter().filter(|_| choose());
                kept.for_each(|step| disk.durable.apply(step));
            }
        }
        disk.seen = Content {
            elements: disk.durable.elements.clone(),
            stored: disk.durable.stored,
        };
        disk.living = 0;
        disk.poisoned = None;
        disk.faults.clear();
    }

    /// Makes the `nth` call of that kind from now on (from 1) fail.
    pub fn fail(&self, call: Call, nth: u64, fault: Fault) {
        self.lock().faults.push_back((call, nth.max(1), fault));
    }

    /// Makes each call take so long, by tokio's clock, before it has its effect.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Ends latency and the failures that still wait. A store that has failed stays so until it is opened again.
    pub fn heal(&self) {
        let mut disk = self.lock();
        disk.latency = Duration::ZERO;
        disk.faults.clear();
    }

    /// How often elements were read, whatever number of them at once.
    pub fn reads(&self) -> u64 {
        self.lock().reads
    }

    /// How many changes are written and not synced.
    pub fn unsynced(&self) -> usize {
        self.lock().unsynced.len()
    }

    /// The digest of the elements on it, as readers see them.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::EMPTY;
        for (key, value) in &self.lock().seen.elements {
            digest.add(Share::of(key, value));
        }
        digest
    }

    /// Changes an element behind everybody's back, as a bad disk does.
    pub fn damage(&self, key: &[u8], value: &[u8]) {
        let mut disk = self.lock();
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        disk.durable.elements.insert(key.clone(), value.clone());
        disk.seen.elements.insert(key, value);
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A store over a [`MemoryDisk`]: no threads, the same calls give the same results.
#[derive(Debug)]
pub struct MemoryStore {
    disk: MemoryDisk,
    opening: u64,
}

impl MemoryStore {
    /// Opens the store on a medium.
    ///
    /// # Errors
    ///
    /// If another store is open over it, or it holds another task's state.
    pub fn open(disk: &MemoryDisk, identity: &Identity) -> Result<Self> {
        let mut locked = disk.lock();
        if locked.living != 0 {
            return Err(Error::InUse {
                path: path(),
                owner: "another store".to_owned(),
            });
        }
        match &locked.owner {
            Some(owner) if owner != identity => {
                return Err(Error::Foreign {
                    path: path(),
                    found: owner.to_string(),
                    expected: identity.to_string(),
                });
            }
            Some(_) => {}
            None => locked.owner = Some(identity.clone()),
        }
        locked.openings += 1;
        locked.living = locked.openings;
        Ok(Self {
            disk: disk.clone(),
            opening: locked.openings,
        })
    }

    /// Waits as told, then checks that this store may go on, and whether the call is to fail.
    async fn enter(&self, call: Call) -> Result<MutexGuard<'_, Disk>> {
        let latency = self.disk.lock().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let mut disk = self.disk.lock();
        if disk.living != self.opening {
            return Err(Error::Closed);
        }
        disk.reads += u64::from(call == Call::Read);
        if let Some(poison) = &disk.poisoned {
            return Err(poison.clone().into());
        }
        let mut fault = None;
        for (at, left, kind) in &mut disk.faults {
            if *at == call {
                *left -= 1;
                if *left == 0 {
                    fault = Some(*kind);
                }
            }
        }
        disk.faults.retain(|(_, left, _)| *left > 0);
        if let Some(fault) = fault {
            let error = failure(call, fault);
            disk.poisoned = Some(error.poisons());
            return Err(error);
        }
        Ok(disk)
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        // The process dies, the medium stays: what was written and not synced is still seen by the next owner.
        let mut disk = self.disk.lock();
        if disk.living == self.opening {
            disk.living = 0;
            disk.poisoned = None;
        }
    }
}

fn path() -> PathBuf {
    PathBuf::from("mem:")
}

fn failure(call: Call, fault: Fault) -> Error {
    let doing = match call {
        Call::Read => "read",
        Call::Write => "write",
        Call::Sync => "sync",
        Call::Note => "write the note of",
    };
    let source = match fault {
        Fault::Medium => io::Error::other("input/output error"),
        Fault::Full => io::Error::from(io::ErrorKind::StorageFull),
    };
    Error::Io {
        doing,
        path: path(),
        source,
    }
}

#[async_trait]
impl StateStore for MemoryStore {
    fn opened(&self) -> OpenedStore {
        OpenedStore {
            id: 0,
            path: None,
            set_aside: None,
        }
    }

    async fn get_many(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>> {
        let disk = self.enter(Call::Read).await?;
        Ok(keys
            .iter()
            .map(|key| disk.seen.elements.get(key).cloned())
            .collect())
    }

    async fn scan(&self, prefix: Bytes, after: Option<Bytes>, limit: usize) -> Result<Page> {
        let disk = self.enter(Call::Read).await?;
        let from = match after {
            Some(after) if after >= prefix => std::ops::Bound::Excluded(after),
            _ => std::ops::Bound::Included(prefix.clone()),
        };
        let range = disk.seen.elements.range((from, std::ops::Bound::Unbounded));
        Ok(range
            .take_while(|(key, _)| key.starts_with(&prefix))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    async fn get_prefixes(&self, prefixes: Vec<Bytes>) -> Result<Vec<Page>> {
        let disk = self.enter(Call::Read).await?;
        let under = |prefix: &Bytes| {
            let range = disk.seen.elements.range(prefix.clone()..);
            range
                .take_while(|(key, _)| key.starts_with(prefix))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        Ok(prefixes.iter().map(under).collect())
    }

    async fn write(&self, changes: Vec<Change>) -> Result<()> {
        let mut disk = self.enter(Call::Write).await?;
        for change in changes {
            disk.seen.apply(Step::Change(change.clone()));
            disk.unsynced.push(Step::Change(change));
        }
        Ok(())
    }

    async fn sync(&self) -> Result<()> {
        let mut disk = self.enter(Call::Sync).await?;
        let disk = &mut *disk;
        disk.unsynced
            .drain(..)
            .for_each(|step| disk.durable.apply(step));
        Ok(())
    }

    async fn stored(&self) -> Result<Option<Stored>> {
        Ok(self.enter(Call::Read).await?.seen.stored)
    }

    async fn set_stored(&self, stored: Stored) -> Result<()> {
        let mut disk = self.enter(Call::Write).await?;
        disk.seen.stored = Some(stored);
        disk.unsynced.push(Step::Stored(stored));
        Ok(())
    }

    async fn note(&self) -> Result<Note> {
        Ok(self.enter(Call::Read).await?.note)
    }

    async fn set_note(&self, note: Note) -> Result<()> {
        self.enter(Call::Note).await?.note = note;
        Ok(())
    }

    async fn clear(&self) -> Result<()> {
        let mut disk = self.enter(Call::Write).await?;
        disk.note.has_stored = false;
        disk.seen = Content::default();
        disk.durable = Content::default();
        disk.unsynced.clear();
        Ok(())
    }

    async fn size(&self) -> Result<u64> {
        let disk = self.enter(Call::Read).await?;
        Ok(disk
            .seen
            .elements
            .iter()
            .map(|(key, value)| (key.len() + value.len()) as u64)
            .sum())
    }

    async fn close(&self) -> Result<()> {
        self.enter(Call::Read).await?.living = 0;
        Ok(())
    }
}
