//! What of a state is not in its store yet.
//!
//! Newest first: *in flight* (closed, not committed), *unflushed* (committed since the running pass began),
//! *flushing* (what the running pass has still to write) and *writing* (the chunk under way). A pass takes the
//! whole of unflushed at once, so what it writes is the state of one epoch, exactly.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use crate::registry::Registry;
use crate::{Change, Changes, Delta, Digest, Epoch, Error, Note, Result, Stateful, Stored};

/// Bytes an unwritten change takes beside key and value.
const OVERHEAD: usize = 96;

/// The state of one task above its store.
#[derive(Debug)]
pub(crate) struct Overlay {
    pub(crate) registry: Registry,
    in_flight: VecDeque<Delta>,
    unflushed: BTreeMap<Bytes, Option<Bytes>>,
    flushing: BTreeMap<Bytes, Option<Bytes>>,
    writing: Vec<Change>,
    /// Bytes in unflushed, flushing and writing.
    unwritten: usize,
    /// The last committed epoch.
    pub(crate) committed: Stored,
    /// The last epoch that is in the store as a whole.
    pub(crate) stored: Option<Stored>,
    pub(crate) note: Note,
    /// Whether the changelog is still being redone.
    pub(crate) redoing: bool,
    /// Whether the store is still to be compared with its digest.
    pub(crate) unverified: bool,
}

impl Overlay {
    pub(crate) fn new(stored: Option<Stored>, was_open: bool, note: Note) -> Self {
        let nothing = Stored {
            epoch: Epoch::NONE,
            changelog_offset: 0,
            digest: Digest::EMPTY,
        };
        Self {
            registry: Registry::default(),
            in_flight: VecDeque::new(),
            unflushed: BTreeMap::new(),
            flushing: BTreeMap::new(),
            writing: Vec::new(),
            unwritten: 0,
            committed: stored.unwrap_or(nothing),
            stored,
            note,
            redoing: true,
            // What an unclean end left, what came back older than it was, and what is built anew.
            unverified: was_open || stored.is_none_or(|stored| Some(stored.epoch) < note.newest),
        }
    }

    /// The digest and number of the last closed epoch.
    pub(crate) fn last_closed(&self) -> (Epoch, Digest) {
        match self.in_flight.back() {
            Some(delta) => (delta.epoch(), delta.digest()),
            None => (self.committed.epoch, self.committed.digest),
        }
    }

    pub(crate) fn close(
        &mut self,
        epoch: Epoch,
        tables: &mut [&mut dyn Stateful],
    ) -> Result<Delta> {
        if self.redoing {
            return Err(Error::invalid(
                "an epoch was closed before the changelog was redone",
            ));
        }
        let (last, digest) = self.last_closed();
        if epoch <= last {
            return Err(Error::invalid(format!(
                "epoch {epoch} was closed after epoch {last}"
            )));
        }
        let mut changes = Changes::new(digest);
        self.registry.close(epoch, &mut changes);
        for table in tables {
            table.close(&mut changes);
        }
        let delta = changes.finish(epoch);
        self.in_flight.push_back(delta.clone());
        Ok(delta)
    }

    pub(crate) fn commit(&mut self, epoch: Epoch, changelog_offset: u64) -> Result<()> {
        match self.in_flight.pop_front() {
            Some(delta) if delta.epoch() == epoch => {
                self.committed = Stored {
                    epoch,
                    changelog_offset,
                    digest: delta.digest(),
                };
                self.registry.committed(epoch);
                for change in delta.changes() {
                    self.put(change.key.clone(), change.value.clone());
                }
                Ok(())
            }
            Some(delta) => {
                let oldest = delta.epoch();
                self.in_flight.push_front(delta);
                Err(Error::invalid(format!(
                    "epoch {epoch} was committed before epoch {oldest}"
                )))
            }
            None => Err(Error::invalid(format!(
                "epoch {epoch} was committed but not closed"
            ))),
        }
    }

    pub(crate) fn rollback(&mut self) {
        self.in_flight.clear();
        self.registry.rollback();
    }

    /// Sets a committed element.
    pub(crate) fn put(&mut self, key: Bytes, value: Option<Bytes>) {
        self.unwritten += cost(&key, value.as_ref());
        let key_bytes = key.len();
        if let Some(before) = self.unflushed.insert(key, value) {
            self.unwritten -= OVERHEAD + key_bytes + before.as_ref().map_or(0, Bytes::len);
        }
    }

    /// What is above the store for a key: `None` if nothing is.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        for delta in self.in_flight.iter().rev() {
            if let Some(change) = delta.get(key) {
                return Some(change.value.clone());
            }
        }
        if let Some(value) = self.unflushed.get(key).or_else(|| self.flushing.get(key)) {
            return Some(value.clone());
        }
        let at = self
            .writing
            .binary_search_by(|change| change.key.as_ref().cmp(key))
            .ok()?;
        self.writing.get(at).map(|change| change.value.clone())
    }

    /// What is above the store under `prefix` after the key `after`: about `limit` elements, and the key up to
    /// which that is everything (`None`: to the end).
    pub(crate) fn range(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> (BTreeMap<Bytes, Option<Bytes>>, Option<Bytes>) {
        let mut found = BTreeMap::new();
        let mut end: Option<Bytes> = None;
        let inside = |key: &Bytes| key.starts_with(prefix) && after.is_none_or(|at| &key[..] > at);
        let mut layer = |changes: &mut dyn Iterator<Item = (&Bytes, &Option<Bytes>)>| {
            let mut last = None;
            for (taken, (key, value)) in changes.take_while(|(key, _)| inside(key)).enumerate() {
                if taken == limit {
                    // This layer goes on beyond here, so nothing is known beyond its last key.
                    if end.is_none() || last < end {
                        end = last;
                    }
                    break;
                }
                last = Some(key.clone());
                found.insert(key.clone(), value.clone());
            }
        };
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let start = |changes: &[Change]| match from {
            Bound::Excluded(at) => changes.partition_point(|change| &change.key[..] <= at),
            _ => changes.partition_point(|change| &change.key[..] < prefix),
        };
        // Oldest first, so that newer layers overwrite.
        let writing = self.writing.get(start(&self.writing)..).unwrap_or_default();
        layer(&mut writing.iter().map(|change| (&change.key, &change.value)));
        layer(&mut self.flushing.range::<[u8], _>((from, Bound::Unbounded)));
        layer(&mut self.unflushed.range::<[u8], _>((from, Bound::Unbounded)));
        for delta in &self.in_flight {
            let changes = delta
                .changes()
                .get(start(delta.changes())..)
                .unwrap_or_default();
            layer(&mut changes.iter().map(|change| (&change.key, &change.value)));
        }
        (found, end)
    }

    /// Bytes committed or in flight that the store does not hold yet.
    pub(crate) fn dirty_bytes(&self) -> usize {
        self.unwritten + self.in_flight.iter().map(Delta::bytes).sum::<usize>()
    }

    /// Takes everything committed for a pass and says up to which epoch that is.
    pub(crate) fn begin_pass(&mut self) -> Stored {
        self.reclaim();
        self.flushing = std::mem::take(&mut self.unflushed);
        crate::planted!(P3_uncommitted, {
            for delta in &self.in_flight {
                for change in delta.changes() {
                    self.unwritten += cost(&change.key, change.value.as_ref());
                    self.flushing
                        .insert(change.key.clone(), change.value.clone());
                }
            }
            let (epoch, digest) = self.last_closed();
            return Stored {
                epoch,
                digest,
                ..self.committed
            };
        });
        self.committed
    }

    /// Takes back what a pass that was given up has left. What was changed since is newer and stays.
    pub(crate) fn reclaim(&mut self) {
        let left = std::mem::take(&mut self.flushing);
        let writing = std::mem::take(&mut self.writing);
        let writing = writing.into_iter().map(|change| (change.key, change.value));
        for (key, value) in left.into_iter().chain(writing) {
            let cost = cost(&key, value.as_ref());
            match self.unflushed.entry(key) {
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(value);
                }
                std::collections::btree_map::Entry::Occupied(_) => self.unwritten -= cost,
            }
        }
    }

    /// The next chunk of the running pass, bounded by changes and bytes; empty at its end.
    pub(crate) fn next_chunk(&mut self, changes_max: usize, bytes_max: usize) -> Vec<Change> {
        let mut bytes = 0;
        while self.writing.len() < changes_max && bytes < bytes_max {
            let Some((key, value)) = self.flushing.pop_first() else {
                break;
            };
            let change = Change { key, value };
            bytes += change.bytes();
            self.writing.push(change);
        }
        self.writing.clone()
    }

    /// The chunk is in the store.
    pub(crate) fn chunk_written(&mut self) {
        for change in std::mem::take(&mut self.writing) {
            self.unwritten -= cost(&change.key, change.value.as_ref());
        }
    }
}

fn cost(key: &Bytes, value: Option<&Bytes>) -> usize {
    OVERHEAD + key.len() + value.map_or(0, Bytes::len)
}
