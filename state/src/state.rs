//! The state of one task: what is committed, what is in flight, and where to read it.

mod read;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Mutex as AsyncMutex;

pub(crate) use self::read::PAGE;
use crate::gauge::Part;
use crate::overlay::Overlay;
use crate::registry::TableSpec;
use crate::{
    Delta, Digest, Epoch, Error, Note, OpenedStore, Result, StateStore, Stateful, Stored, TableId,
    WriteBehind,
};

/// Bounds of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateOptions {
    /// Bytes that may be committed and not yet written behind, before [`State::is_full`] says so.
    pub dirty_bytes_max: usize,
    /// Elements written to the store at once. A read that misses waits for one such chunk at most.
    pub chunk_elements: usize,
    /// Bytes written to the store at once.
    pub chunk_bytes: usize,
}

impl Default for StateOptions {
    fn default() -> Self {
        Self {
            // Some 230,000 small changes: two seconds of writing behind.
            dirty_bytes_max: 48 << 20,
            // About 2 ms of the store's thread.
            chunk_elements: 256,
            chunk_bytes: 256 << 10,
        }
    }
}

/// What was found when a state was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The newest epoch that is in the store as a whole; `None` if it is empty.
    pub epoch: Option<Epoch>,
    /// From where the changelog is to be redone; 0 if the store is empty.
    pub changelog_offset: u64,
    /// The newest epoch the store may hold anything of.
    ///
    /// The engine compares both with the log's last marker. Newer than that marker means that the *log* lost
    /// something: halt.
    pub note_newest: Option<Epoch>,
    /// About the store, and whether a damaged one was set aside.
    pub store: OpenedStore,
}

impl Recovered {
    /// The newest epoch that this store has seen: no marker of the log may be older.
    pub fn newest(&self) -> Option<Epoch> {
        self.epoch.max(self.note_newest)
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn StateStore>,
    pub(crate) options: StateOptions,
    overlay: Mutex<Overlay>,
    dirty_bytes: Part,
    /// Held by a pass, and by whatever must not meet one.
    pub(crate) pass: AsyncMutex<()>,
}

impl Shared {
    /// Held for a look or a change, never across an await.
    pub(crate) fn overlay(&self) -> MutexGuard<'_, Overlay> {
        self.overlay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets others see how much waits to be written behind.
    pub(crate) fn show_dirty(&self) {
        let bytes = self.overlay().dirty_bytes();
        self.dirty_bytes.set(bytes);
    }
}

/// The state of one task.
///
/// # The life of a state
///
/// 1. [`open`](Self::open) over a store, compare what was [recovered](Recovered) with the log's last marker.
/// 2. [`redo`](Self::redo) every element of the changelog from there, then [`finish_redo`](Self::finish_redo).
/// 3. [`declare`](Self::declare) the tables, build them, [`load_all`](Self::load_all).
/// 4. For each epoch: operators change their tables, [`close_epoch`](Self::close_epoch) makes the delta, the log
///    commits it, [`committed`](Self::committed). If it cannot be committed: [`rollback`](Self::rollback),
///    `forget` and load the tables again.
/// 5. Now and then a [`WriteBehind::pass`], beside it all.
#[derive(Debug)]
pub struct State {
    pub(crate) shared: Arc<Shared>,
}

impl State {
    /// Opens the state over a store.
    ///
    /// A store whose first pass was interrupted holds nothing that could be told apart and is cleared.
    ///
    /// # Errors
    ///
    /// If the store cannot be read or written.
    pub async fn open(
        store: Arc<dyn StateStore>,
        options: StateOptions,
    ) -> Result<(Self, Recovered)> {
        let found = store.note().await?;
        let stored = store.stored().await?;
        if stored.is_none() && !store.scan(Bytes::new(), None, 1).await?.is_empty() {
            tracing::warn!(store = ?store.opened().path, "cleared what an interrupted first pass left");
            store.clear().await?;
        }
        let note = Note {
            open: true,
            has_stored: found.has_stored && stored.is_some(),
            ..found
        };
        store.set_note(note).await?;
        let recovered = Recovered {
            epoch: stored.map(|stored| stored.epoch),
            changelog_offset: stored.map_or(0, |stored| stored.changelog_offset),
            note_newest: found.newest,
            store: store.opened(),
        };
        let shared = Shared {
            store,
            options,
            overlay: Mutex::new(Overlay::new(stored, found.open, note)),
            pass: AsyncMutex::new(()),
            dirty_bytes: Part::new(|| metrics::gauge!("tidemill_state_dirty_bytes")),
        };
        Ok((
            Self {
                shared: Arc::new(shared),
            },
            recovered,
        ))
    }

    /// Puts one element of the changelog back: a whole value, or `None` for a tombstone.
    ///
    /// Elements must come in the order of the log, from [`Recovered::changelog_offset`] on.
    pub fn redo(&self, key: Bytes, value: Option<Bytes>) {
        self.shared.overlay().put(key, value);
    }

    /// Says that the changelog was redone up to the marker of `epoch`, with what that marker says.
    ///
    /// The digest is adopted; [`WriteBehind::verify`] compares it.
    ///
    /// # Errors
    ///
    /// If the store is newer than the marker: the log lost something. Or if the registry of tables is damaged.
    pub async fn finish_redo(
        &self,
        epoch: Epoch,
        changelog_offset: u64,
        digest: Digest,
    ) -> Result<()> {
        let (newest, redoing) = {
            let overlay = self.shared.overlay();
            (
                overlay
                    .stored
                    .map(|stored| stored.epoch)
                    .max(overlay.note.newest),
                overlay.redoing,
            )
        };
        if !redoing {
            return Err(Error::invalid("the changelog was redone twice"));
        }
        if let Some(newest) = newest.filter(|newest| *newest > epoch) {
            return Err(Error::Ahead {
                path: self.path(),
                seen: newest,
                ends: epoch,
            });
        }
        let tables = self.collect(TableId::REGISTRY.prefix()).await?;
        let mut overlay = self.shared.overlay();
        for (name, value) in &tables {
            let name = name.get(2..).unwrap_or_default();
            overlay
                .registry
                .restore(name, value)
                .map_err(|source| Error::Decode {
                    table: TableId::REGISTRY.0,
                    source,
                })?;
        }
        overlay.committed = Stored {
            epoch,
            changelog_offset,
            digest,
        };
        overlay.redoing = false;
        // Nothing was ever committed that it could differ from.
        overlay.unverified &= epoch > Epoch::NONE;
        Ok(())
    }

    /// Checks the tables of the program against the stored ones, and numbers new ones. The numbers come in the
    /// order of `specs`. New tables are part of the next epoch's delta.
    ///
    /// # Errors
    ///
    /// If a table is stored in another way than it is declared.
    pub fn declare(&self, specs: &[TableSpec]) -> Result<Vec<TableId>> {
        let mut overlay = self.shared.overlay();
        if overlay.redoing {
            return Err(Error::invalid(
                "tables were declared before the changelog was redone",
            ));
        }
        overlay.registry.declare(specs)
    }

    /// The tables known so far, declared or stored, sorted by name. One that is stored and not declared was
    /// dropped or renamed by the program.
    pub fn tables(&self) -> Vec<(TableId, TableSpec)> {
        self.shared.overlay().registry.tables()
    }

    /// Closes the open epoch: takes what its tables changed, once per element, in key order.
    ///
    /// # Errors
    ///
    /// If epochs do not rise.
    pub fn close_epoch(&self, epoch: Epoch, tables: &mut [&mut dyn Stateful]) -> Result<Delta> {
        let delta = self.shared.overlay().close(epoch, tables)?;
        let bounded = tables.iter().filter(|table| table.bytes_max() < usize::MAX);
        let bytes: usize = bounded.map(|table| table.bytes()).sum();
        metrics::histogram!("tidemill_state_table_bytes").record(bytes as f64);
        Ok(delta)
    }

    /// Says that the oldest closed epoch is committed, and an offset of the changelog from which all that comes
    /// after it can be redone: at or before its end, such as where it begins itself, as redoing it again changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// If it is not the oldest closed epoch.
    pub fn committed(&self, epoch: Epoch, changelog_offset: u64) -> Result<()> {
        self.shared.overlay().commit(epoch, changelog_offset)?;
        self.shared.show_dirty();
        Ok(())
    }

    /// Drops what was closed and not committed. What is read from here on is exactly the committed state.
    ///
    /// Tables must [`forget`](Stateful::forget) and be loaded again.
    pub fn rollback(&self) {
        self.shared.overlay().rollback();
    }

    /// The last committed epoch, from where the changelog is to be redone after it, and its digest.
    pub fn last_committed(&self) -> Stored {
        self.shared.overlay().committed
    }

    /// Whether more is waiting to be written behind than may.
    pub fn is_full(&self) -> bool {
        self.dirty_bytes() > self.shared.options.dirty_bytes_max
    }

    /// Whether anything was committed since the last pass that came to its end.
    pub fn has_committed(&self) -> bool {
        let overlay = self.shared.overlay();
        overlay.stored != Some(overlay.committed)
    }

    /// Whether there is no need to [`WriteBehind::verify`] the store. There is after an unclean end, where it came
    /// back older than it was, and where it was built anew; until that was done, also by a later owner.
    pub fn is_verified(&self) -> bool {
        !self.shared.overlay().unverified
    }

    /// Bytes that are closed or committed, and not yet written behind.
    pub fn dirty_bytes(&self) -> usize {
        self.shared.overlay().dirty_bytes()
    }

    /// The handle that writes behind. One per state is enough; passes wait for each other.
    pub fn write_behind(&self) -> WriteBehind {
        WriteBehind {
            shared: self.shared.clone(),
        }
    }

    /// Closes the store. What was not written behind is redone from the changelog when it is opened again; a
    /// [`WriteBehind::pass`] before makes that nothing. One that was to be verified and was not is as not closed for
    /// whoever opens it next.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn close(self) -> Result<()> {
        let _pass = self.shared.pass.lock().await;
        let store = &self.shared.store;
        store.sync().await?;
        let note = {
            let mut overlay = self.shared.overlay();
            overlay.note.open = overlay.unverified;
            overlay.note.has_stored |= overlay.stored.is_some();
            overlay.note
        };
        store.set_note(note).await?;
        store.close().await
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.shared.store.opened().path.unwrap_or_default()
    }
}
