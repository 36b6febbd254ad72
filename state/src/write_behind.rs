//! Writing committed state to the store, beside the work.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use tidemill_crash_point::crash_point;

use crate::error::Source;
use crate::headway::Counted;
use crate::state::{PAGE, Shared};
use crate::{Digest, Doing, Epoch, Error, Note, Result, Share, Watch};

/// What a pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// The epoch that is in the store as a whole now.
    pub epoch: Epoch,
    /// Elements written.
    pub elements: u64,
    /// Bytes written, keys and values.
    pub bytes: u64,
}

/// Writes the committed state of a task to its store.
///
/// # The pass
///
/// E is the last committed epoch. Everything that was committed since the last pass is taken, as it is at E; what
/// is committed from here on waits for the next pass. Then, in this order:
///
/// 1. The log is made durable up to E.
/// 2. The store's note says E, durably: the store may hold something of E from here on.
/// 3. The elements are written, chunk by chunk, and synced.
/// 4. The store says that it is at E.
///
/// So the store is never ahead of the durable log. Interrupted anywhere, it still says the epoch before; redoing
/// the changelog from there puts every element that the pass could have touched, because deltas carry whole values.
/// A note newer than the log's last marker means that the log lost something.
#[derive(Debug, Clone)]
pub struct WriteBehind {
    pub(crate) shared: Arc<Shared>,
}

impl WriteBehind {
    /// Runs one pass. `durable` makes the log durable up to the epoch it is given.
    ///
    /// The task goes on meanwhile: it reads, closes and commits epochs.
    ///
    /// # Errors
    ///
    /// If the log or the store fails. A store that failed is poisoned: stop, and recover from the log.
    ///
    /// # Cancel safety
    ///
    /// A pass that is dropped leaves the store as an interrupted one does; the next pass writes the rest.
    pub async fn pass<F, D, E>(&self, durable: F) -> Result<Pass>
    where
        F: FnOnce(Epoch) -> D,
        D: Future<Output = Result<(), E>>,
        E: Into<Source>,
    {
        let _pass = self.shared.pass.lock().await;
        self.pass_locked(durable).await
    }

    /// A pass, for who holds the lock.
    pub(crate) async fn pass_locked<F, D, E>(&self, durable: F) -> Result<Pass>
    where
        F: FnOnce(Epoch) -> D,
        D: Future<Output = Result<(), E>>,
        E: Into<Source>,
    {
        let (store, options) = (&self.shared.store, &self.shared.options);
        let (target, note, has_stored) = {
            let mut overlay = self.shared.overlay();
            if overlay.redoing {
                return Err(Error::invalid(
                    "a pass began before the changelog was redone",
                ));
            }
            let has_stored = overlay.stored.is_some();
            (overlay.begin_pass(), overlay.note, has_stored)
        };
        let mut pass = Pass {
            epoch: target.epoch,
            elements: 0,
            bytes: 0,
        };
        if self.shared.overlay().stored == Some(target) {
            return Ok(pass);
        }
        crate::planted!(P3, {} else {
            durable(target.epoch).await.map_err(|source| Error::Log {
                source: source.into(),
            })?;
        });
        crash_point!("write_behind.durable");
        self.note(note, target.epoch).await?;
        crash_point!("write_behind.noted");
        loop {
            let chunk = self
                .shared
                .overlay()
                .next_chunk(options.chunk_elements, options.chunk_bytes);
            if chunk.is_empty() {
                break;
            }
            pass.elements += chunk.len() as u64;
            pass.bytes += chunk
                .iter()
                .map(|change| change.bytes() as u64)
                .sum::<u64>();
            store.write(chunk).await?;
            crash_point!("write_behind.chunk");
            self.chunk_written();
        }
        store.sync().await?;
        // What the store said before is durable from here on, and the next note says so.
        self.shared.overlay().note.has_stored |= has_stored;
        crash_point!("write_behind.flushed");
        store.set_stored(target).await?;
        crash_point!("write_behind.stored");
        self.shared.overlay().stored = Some(target);
        metrics::counter!("tidemill_state_written_elements_total").increment(pass.elements);
        metrics::counter!("tidemill_state_written_bytes_total").increment(pass.bytes);
        Ok(pass)
    }

    /// While the changelog is redone: writes what was redone so far to the store, if it has outgrown its bound.
    ///
    /// `last` is the epoch of the log's last marker, which must be durable. The store says no newer epoch for it; interrupted, it is redone
    /// from where it was.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn spill(&self, last: Epoch) -> Result<()> {
        let _pass = self.shared.pass.lock().await;
        let (store, options) = (&self.shared.store, &self.shared.options);
        let note = {
            let mut overlay = self.shared.overlay();
            if overlay.dirty_bytes() <= options.dirty_bytes_max {
                return Ok(());
            }
            overlay.begin_pass();
            overlay.note
        };
        self.note(note, last).await?;
        loop {
            let chunk = self
                .shared
                .overlay()
                .next_chunk(options.chunk_elements, options.chunk_bytes);
            if chunk.is_empty() {
                return Ok(());
            }
            store.write(chunk).await?;
            crash_point!("redo.spill");
            self.chunk_written();
        }
    }

    /// Reads the whole store and compares its digest with the one that was committed. Passes wait meanwhile; the
    /// task does not. Returns the number of elements.
    ///
    /// # Errors
    ///
    /// If the digests differ. If no pass has completed since the state was opened over a store that may hold
    /// parts of a newer epoch; run one before.
    pub async fn verify(&self, watch: Watch<'_>) -> Result<u64> {
        let _pass = self.shared.pass.lock().await;
        let (stored, newest) = {
            let overlay = self.shared.overlay();
            (overlay.stored, overlay.note.newest)
        };
        let Some(stored) = stored.filter(|stored| newest <= Some(stored.epoch)) else {
            return Err(Error::invalid(
                "the store is between two epochs; run a pass first",
            ));
        };
        let mut digest = Digest::EMPTY;
        let mut elements = 0;
        let mut counted = Counted::begin(watch, Doing::Comparing, None);
        let mut after: Option<Bytes> = None;
        loop {
            let page = self
                .shared
                .store
                .scan(Bytes::new(), after.clone(), PAGE)
                .await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            elements += page.len() as u64;
            counted.add(page.len() as u64);
            for (key, value) in &page {
                digest.add(Share::of(key, value));
            }
        }
        if digest != stored.digest {
            return Err(Error::DigestMismatch {
                epoch: stored.epoch,
                expected: stored.digest,
                found: digest,
            });
        }
        self.shared.overlay().unverified = false;
        Ok(elements)
    }

    /// Bytes that are closed or committed, and not yet written behind.
    pub fn dirty_bytes(&self) -> usize {
        self.shared.overlay().dirty_bytes()
    }

    async fn note(&self, note: Note, epoch: Epoch) -> Result<()> {
        if note.newest < Some(epoch) {
            let note = Note {
                newest: Some(epoch),
                ..note
            };
            self.shared.store.set_note(note).await?;
            self.shared.overlay().note = note;
        }
        Ok(())
    }

    fn chunk_written(&self) {
        self.shared.overlay().chunk_written();
        self.shared.show_dirty();
    }
}
