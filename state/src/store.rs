//! The contract of a store: bytes by key, behind the log.

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Change, Digest, Epoch, Result};

/// How far a store has followed the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The newest epoch that is in the store as a whole.
    pub epoch: Epoch,
    /// From which offset of the changelog later epochs are redone.
    pub changelog_offset: u64,
    /// The digest of the state at that epoch.
    pub digest: Digest,
}

/// What is known of a store before its content is trusted. Durable before what it speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Note {
    /// The newest epoch the store may hold anything of.
    pub newest: Option<Epoch>,
    /// Whether somebody works on the store, or left without closing it.
    pub open: bool,
    /// Whether the store has said an epoch, durably. One that then says none is damaged, however well it
    /// opens.
    pub has_stored: bool,
}

/// Whose state a store holds. A store of somebody else is refused, not overwritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The pipeline's name.
    pub pipeline: String,
    /// The task's name within the pipeline.
    pub task: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pipeline `{}`, task `{}`", self.pipeline, self.task)
    }
}

/// What was found when a store was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedStore {
    /// The store's own number, drawn when it was created.
    pub id: u128,
    /// Where it lies, if on disk.
    pub path: Option<PathBuf>,
    /// Where an unusable predecessor was moved to, when it was opened. The store is then empty.
    pub set_aside: Option<SetAside>,
}

/// A store that could not be opened and was moved out of the way, with all it held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Where it is now.
    pub path: PathBuf,
    /// Why it could not be opened.
    pub why: String,
}

/// A page of elements in key order.
pub type Page = Vec<(Bytes, Bytes)>;

/// Bytes by key, on one engine.
///
/// # Contract
///
/// * A store is a cache of the log: losing it whole loses nothing. It holds one task's state.
/// * What [`write`](Self::write) wrote is read back at once, and survives the process. It survives power loss
///   once a later [`sync`](Self::sync) returned.
/// * A crash may undo what was not synced, all of it or part of it; then [`stored`](Self::stored) says an
///   epoch no newer than the last one whose [`set_stored`](Self::set_stored) followed a `sync`.
/// * Calls take effect in the order in which they were made, also when their future is dropped.
/// * After an I/O error every later call fails with [`Error::Poisoned`](crate::Error::Poisoned): an fsync that failed is never
///   tried again, because the kernel forgets which pages it failed to write.
///
/// # Cancel safety
///
/// A dropped call either takes effect as a whole later, in order, or not at all.
#[async_trait]
pub trait StateStore: fmt::Debug + Send + Sync + 'static {
    /// What was found when the store was opened.
    fn opened(&self) -> OpenedStore;

    /// The values of keys, in their order.
    async fn get_many(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>>;

    /// Up to `limit` elements whose key starts with `prefix`, in key order, beginning after the key `after`. A page
    /// may be shorter than what is left; only an empty one is the end.
    async fn scan(&self, prefix: Bytes, after: Option<Bytes>, limit: usize) -> Result<Page>;

    /// All elements under each prefix, in key order.
    async fn get_prefixes(&self, prefixes: Vec<Bytes>) -> Result<Vec<Page>>;

    /// Sets and removes elements. Not atomic.
    async fn write(&self, changes: Vec<Change>) -> Result<()>;

    /// Makes everything written so far durable.
    async fn sync(&self) -> Result<()>;

    /// How far the store has followed the log, or `None` if it holds nothing of use.
    async fn stored(&self) -> Result<Option<Stored>>;

    /// Sets how far the store has followed the log. May be undone by a crash until the next [`sync`](Self::sync).
    async fn set_stored(&self, stored: Stored) -> Result<()>;

    /// The note as last set.
    async fn note(&self) -> Result<Note>;

    /// Sets the note. Durable when it returns.
    async fn set_note(&self, note: Note) -> Result<()>;

    /// Removes everything but the note, durably. The note then says that nothing was stored.
    async fn clear(&self) -> Result<()>;

    /// Bytes taken on the medium.
    async fn size(&self) -> Result<u64>;

    /// Ends the store's work and waits until its files are free for another owner. Later calls fail with
    /// [`Error::Closed`](crate::Error::Closed). Writes nothing: what was not synced is as after a crash of the process.
    async fn close(&self) -> Result<()>;
}
