//! The bytes of files, as they are read and as they are durable.

use std::collections::BTreeSet;

use rand::Rng;
use rand::rngs::SmallRng;

/// What of a write survives a loss of power by itself, and what leaves the cache by itself.
const PAGE_BYTES: usize = 4_096;

/// A real disk has written back by then what nobody synced.
const PENDING_MAX: usize = 4_096;

/// One file.
#[derive(Clone, Default)]
pub(super) struct Inode {
    /// What is read: the page cache.
    now: Vec<u8>,
    durable: Vec<u8>,
    /// What the next sync writes: dirty pages.
    pending: Vec<Change>,
    /// Pages of a sync that failed: the cache takes them for clean, and the disk may not have them.
    unwritten: BTreeSet<usize>,
}

#[derive(Clone)]
pub(super) enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => write(to, *at, bytes),
            Self::Truncate(len) => to.resize(*len, 0),
        }
    }

    fn pages(&self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Write { at, bytes } => at / PAGE_BYTES..=(at + bytes.len()) / PAGE_BYTES,
            // Only its own: what was cut off is no page any more.
            Self::Truncate(len) => len / PAGE_BYTES..=len / PAGE_BYTES,
        }
    }
}

fn write(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if to.len() < at + bytes.len() {
        to.resize(at + bytes.len(), 0);
    }
    to[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Inode {
    /// A file that holds this, durably.
    pub(super) fn holding(bytes: Vec<u8>) -> Self {
        Self {
            now: bytes.clone(),
            durable: bytes,
            ..Self::default()
        }
    }

    /// What is read now.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.now
    }

    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.pending.push(change);
        if self.pending.len() > PENDING_MAX {
            let oldest = self.pending.remove(0);
            oldest.apply(&mut self.durable);
        }
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// A sync that failed: no later one writes what this one was about.
    pub(super) fn fail_to_sync(&mut self) {
        for change in self.pending.drain(..) {
            self.unwritten.extend(change.pages());
        }
    }

    /// Lets go of cached pages that are taken for clean, as when memory runs short: of those that the
    /// disk never got, what it has instead is read from then on.
    pub(super) fn evict(&mut self, rng: &mut SmallRng) {
        if self.unwritten.is_empty() {
            return;
        }
        let mut stored = self.durable.clone();
        for change in &self.pending {
            change.apply(&mut stored);
        }
        match rng.random_range(0..3) {
            0 => {}
            1 => {
                self.now = stored;
                self.unwritten.clear();
            }
            _ => {
                stored.resize(self.now.len(), 0);
                let now = &mut self.now;
                self.unwritten.retain(|page| {
                    let start = now.len().min(page * PAGE_BYTES);
                    let end = now.len().min(start + PAGE_BYTES);
                    let kept: bool = rng.random();
                    if !kept {
                        now[start..end].copy_from_slice(&stored[start..end]);
                    }
                    kept
                });
            }
        }
    }

    /// What a loss of power may leave.
    pub(super) fn crashed(&self, rng: &mut SmallRng) -> Vec<u8> {
        let mut left = self.durable.clone();
        match rng.random_range(0..4) {
            0 => {}
            1 => {
                let whole = rng.random_range(0..=self.pending.len());
                for change in &self.pending[..whole] {
                    change.apply(&mut left);
                }
                if let Some(Change::Write { at, bytes }) = self.pending.get(whole) {
                    let part = rng.random_range(0..=bytes.len());
                    write(&mut left, *at, &bytes[..part]);
                }
            }
            2 => left = self.now.clone(),
            _ => {
                // The disk may have got pages all the same of which it said that it had not.
                let mut pages = self.unwritten.clone();
                for change in &self.pending {
                    if let Change::Write { .. } = change {
                        pages.extend(change.pages());
                    }
                }
                if rng.random() {
                    left.resize(self.now.len(), 0);
                }
                for page in pages {
                    let start = page * PAGE_BYTES;
                    let end = (start + PAGE_BYTES).min(left.len()).min(self.now.len());
                    if rng.random() && start < end {
                        left[start..end].copy_from_slice(&self.now[start..end]);
                    }
                }
            }
        }
        left
    }
}
