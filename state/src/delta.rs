//! What an epoch changed.

use std::sync::Arc;

use bytes::Bytes;

use crate::digest::FRAME;
use crate::{Digest, Epoch, Share};

/// One element, as it is after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The encoded key.
    pub key: Bytes,
    /// The whole new value, or `None` if the element was removed.
    pub value: Option<Bytes>,
}

impl Change {
    /// Bytes of key and value.
    pub fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// What an epoch changed: each changed element once, in key order. Cheap to clone.
///
/// Two runs that process the same input in the same epochs make equal deltas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    epoch: Epoch,
    changes: Arc<[Change]>,
    bytes: usize,
    digest: Digest,
}

impl Delta {
    pub(crate) fn new(epoch: Epoch, mut changes: Vec<Change>, digest: Digest) -> Self {
        // Tables close in the order they are given and hand in what changed in any order; the sort makes it one.
        changes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        debug_assert!(changes.windows(2).all(|pair| pair[0].key < pair[1].key));
        let bytes = changes.iter().map(Change::bytes).sum();
        Self {
            epoch,
            changes: changes.into(),
            bytes,
            digest,
        }
    }

    /// The epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The changed elements, in key order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The digest of the whole state after this epoch; belongs in the marker.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Change> {
        let at = self
            .changes
            .binary_search_by(|change| change.key.as_ref().cmp(key))
            .ok()?;
        self.changes.get(at)
    }
}

/// Collects what an epoch changed while its tables close.
#[derive(Debug)]
pub struct Changes {
    changes: Vec<Change>,
    digest: Digest,
    scratch: Vec<u8>,
}

impl Changes {
    pub(crate) fn new(digest: Digest) -> Self {
        Self {
            changes: Vec::new(),
            digest,
            scratch: Vec::new(),
        }
    }

    /// Takes in an element whose value `encode` appends, unless it is what it was.
    ///
    /// `was` is the element's share in the digest before; the result is its share now.
    pub(crate) fn set(
        &mut self,
        was: Share,
        encode_key: impl FnOnce(&mut Vec<u8>),
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Share {
        self.scratch.clear();
        self.scratch.extend_from_slice(&[0; FRAME]);
        encode_key(&mut self.scratch);
        let value_at = self.scratch.len();
        let key_bytes = ((value_at - FRAME) as u32).to_le_bytes();
        self.scratch[..FRAME].copy_from_slice(&key_bytes);
        encode(&mut self.scratch);
        let share = Share::of_framed(&self.scratch);
        if share == was {
            return share;
        }
        self.digest.subtract(was);
        self.digest.add(share);
        let framed = Bytes::copy_from_slice(&self.scratch);
        self.changes.push(Change {
            key: framed.slice(FRAME..value_at),
            value: Some(framed.slice(value_at..)),
        });
        share
    }

    /// Takes in the removal of an element, unless it was not there.
    pub(crate) fn remove(&mut self, was: Share, encode_key: impl FnOnce(&mut Vec<u8>)) {
        if was == Share::ABSENT {
            return;
        }
        self.digest.subtract(was);
        self.scratch.clear();
        encode_key(&mut self.scratch);
        self.changes.push(Change {
            key: Bytes::copy_from_slice(&self.scratch),
            value: None,
        });
    }

    pub(crate) fn finish(self, epoch: Epoch) -> Delta {
        Delta::new(epoch, self.changes, self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_what_it_was_is_no_change() {
        let was = Share::of(b"k", b"v");
        let mut changes = Changes::new(Digest::EMPTY);
        changes.set(was, |key| key.push(b'k'), |value| value.push(b'v'));
        assert!(changes.finish(Epoch(1)).changes().is_empty());
    }

    #[test]
    fn setting_and_removing_leaves_the_digest_as_it_was() {
        let mut changes = Changes::new(Digest(7));
        let share = changes.set(
            Share::ABSENT,
            |key| key.push(b'k'),
            |value| value.push(b'v'),
        );
        let digest = changes.finish(Epoch(1)).digest();
        let mut changes = Changes::new(digest);
        changes.remove(share, |key| key.push(b'k'));
        let delta = changes.finish(Epoch(2));
        assert_eq!(delta.digest(), Digest(7));
        assert_eq!(delta.changes()[0].value, None);
    }
}
