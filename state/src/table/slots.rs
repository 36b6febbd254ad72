//! Entries found by bytes, with the ones changed in the open epoch, and a clock hand that evicts the others.

use std::cell::Cell;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::table::expiry::Found;

/// Bytes the allocator and the index take for an entry beside the slot itself.
const OVERHEAD: usize = 40;

/// Fewer places than this are not worth being given back.
const SHRINK_MIN: usize = 1 << 12;

/// An entry.
#[derive(Debug)]
pub(super) struct Slot<T> {
    key: Box<[u8]>,
    pub(super) item: T,
    hash: u64,
    /// Heap bytes of the item at the last count.
    heap: usize,
    dirty: bool,
    /// Whether it was used since the hand last passed.
    recent: Cell<bool>,
}

impl<T> Slot<T> {
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }
}

/// Where an entry is, until the next call that may evict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At(u32);

/// Entries by key.
#[derive(Debug)]
pub(super) struct Slots<T> {
    index: HashTable<u32>,
    slots: Vec<Option<Slot<T>>>,
    free: Vec<u32>,
    dirty: Vec<u32>,
    hand: usize,
    bytes: usize,
    bytes_max: usize,
    complete: bool,
    /// Whether changes are listed, for whoever closes the epoch.
    tracked: bool,
    // Fixed, so that two runs take the same path. Keys come from the outside; who can choose them to collide can
    // slow his own pipeline, and foldhash gives no cheaper way.
    hasher: FixedState,
}

impl<T> Slots<T> {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            hand: 0,
            bytes: 0,
            bytes_max,
            complete: false,
            tracked: true,
            hasher: FixedState::with_seed(0x7469_6465_6d69_6c6c),
        }
    }

    /// All there is, without a store behind it and without epochs: nothing is listed as changed, so that a table
    /// which nobody closes does not grow by it.
    pub(super) fn alone() -> Self {
        Self {
            complete: true,
            tracked: false,
            ..Self::new(usize::MAX)
        }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        // One write of the bytes: the length prefix that `Hash for [u8]` adds tells nothing apart here.
        use std::hash::Hasher;
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        hasher.finish()
    }

    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> Option<At> {
        let hash = self.hash(key);
        let slots = &self.slots;
        self.index
            .find(
                hash,
                |&at| matches!(slots.get(at as usize), Some(Some(slot)) if *slot.key == *key),
            )
            .map(|&at| At(at))
    }

    /// The entry, marked as used.
    #[inline]
    pub(super) fn get(&self, at: At) -> Option<&Slot<T>> {
        let slot = self.slots.get(at.0 as usize)?.as_ref()?;
        slot.recent.set(true);
        Some(slot)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, at: At) -> Option<&mut Slot<T>> {
        let slot = self.slots.get_mut(at.0 as usize)?.as_mut()?;
        slot.recent.set(true);
        Some(slot)
    }

    /// The entry, marked as changed in the open epoch.
    #[inline]
    pub(super) fn change(&mut self, at: At) -> Option<&mut Slot<T>> {
        let slot = self.slots.get_mut(at.0 as usize)?.as_mut()?;
        slot.recent.set(true);
        if !slot.dirty && self.tracked {
            slot.dirty = true;
            self.dirty.push(at.0);
        }
        Some(slot)
    }

    /// Adds an entry for a key that is not there.
    pub(super) fn insert(&mut self, key: &[u8], item: T, heap: usize) -> At {
        let hash = self.hash(key);
        let slot = Slot {
            key: key.into(),
            item,
            hash,
            heap,
            dirty: false,
            recent: Cell::new(true),
        };
        self.bytes += Self::weight(&slot);
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = Some(slot);
                at
            }
            None => {
                // Four billion entries do not fit into memory.
                let at = self.slots.len() as u32;
                self.slots.push(Some(slot));
                at
            }
        };
        let slots = &self.slots;
        self.index.insert_unique(hash, at, |&at| {
            slots
                .get(at as usize)
                .and_then(Option::as_ref)
                .map_or(0, |slot| slot.hash)
        });
        At(at)
    }

    /// Counts an entry's heap bytes anew.
    pub(super) fn reweigh(&mut self, at: At, heap: usize) {
        if let Some(Some(slot)) = self.slots.get_mut(at.0 as usize) {
            self.bytes = self.bytes - slot.heap + heap;
            slot.heap = heap;
        }
    }

    /// Takes the list of changed entries; each is unchanged from here on.
    pub(super) fn take_changed(&mut self) -> Vec<At> {
        let mut changed = std::mem::take(&mut self.dirty);
        changed.retain(|&at| match self.slots.get_mut(at as usize) {
            Some(Some(slot)) => std::mem::replace(&mut slot.dirty, false),
            _ => false,
        });
        changed.into_iter().map(At).collect()
    }

    /// Removes an entry. If it was changed in the open epoch, that is forgotten with it.
    pub(super) fn remove(&mut self, at: At) -> Option<T> {
        let slot = self.slots.get_mut(at.0 as usize)?.take()?;
        self.bytes -= Self::weight(&slot);
        if let Ok(entry) = self.index.find_entry(slot.hash, |&other| other == at.0) {
            entry.remove();
        }
        self.free.push(at.0);
        Some(slot.item)
    }

    /// Evicts unchanged entries, those not used lately first, until the rest is within the bound.
    pub(super) fn trim(&mut self) -> usize {
        let mut evicted = 0;
        // Two rounds: the first takes the second chances away.
        let mut steps = 2 * self.slots.len();
        while self.bytes > self.bytes_max && steps > 0 {
            steps -= 1;
            self.hand = if self.hand + 1 < self.slots.len() {
                self.hand + 1
            } else {
                0
            };
            let Some(Some(slot)) = self.slots.get(self.hand) else {
                continue;
            };
            if slot.dirty || slot.recent.replace(false) {
                continue;
            }
            self.remove(At(self.hand as u32));
            evicted += 1;
        }
        if evicted > 0 {
            self.complete = false;
        }
        self.shrink();
        evicted
    }

    /// Gives back the places of what has gone, once most are: keys that come all at once would else take their
    /// room for as long as the table lives.
    fn shrink(&mut self) {
        let live = self.index.len();
        if self.slots.len() <= SHRINK_MIN || live > self.slots.len() / 8 {
            return;
        }
        let mut slots = Vec::with_capacity(2 * live);
        slots.extend(
            std::mem::take(&mut self.slots)
                .into_iter()
                .filter(Option::is_some),
        );
        let numbered = || (0_u32..).zip(slots.iter().flatten());
        self.index = HashTable::with_capacity(2 * live);
        for (at, slot) in numbered() {
            // Within the capacity, so that nothing is hashed again.
            self.index.insert_unique(slot.hash, at, |_| slot.hash);
        }
        let dirty = numbered().filter(|(_, slot)| slot.dirty);
        self.dirty = dirty.map(|(at, _)| at).collect();
        self.slots = slots;
        self.free = Vec::new();
        self.hand = 0;
    }

    pub(super) fn clear(&mut self) {
        self.index.clear();
        self.slots.clear();
        self.free.clear();
        self.dirty.clear();
        self.hand = 0;
        self.bytes = 0;
        self.complete = !self.tracked;
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn set_complete(&mut self) {
        self.complete = true;
    }

    /// What there is to say of a key that was not found.
    pub(super) fn unknown(&self) -> Found {
        if self.complete {
            Found::Gone
        } else {
            Found::NotLoaded
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Entries in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot<T>> {
        self.slots.iter().flatten()
    }

    fn weight(slot: &Slot<T>) -> usize {
        size_of::<Option<Slot<T>>>() + OVERHEAD + slot.key.len() + slot.heap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(keys: u32, bytes_max: usize) -> Slots<u32> {
        let mut slots = Slots::new(bytes_max);
        for key in 0..keys {
            slots.insert(&key.to_be_bytes(), key, 0);
        }
        slots
    }

    #[test]
    fn what_was_used_lately_outlives_what_was_not() {
        let mut slots = slots(100, usize::MAX);
        let each = slots.bytes() / 100;
        // A first round takes all second chances away.
        slots.bytes_max = 99 * each;
        slots.trim();
        let kept: Vec<u32> = slots.iter().map(|slot| slot.item).collect();
        let used = kept[kept.len() / 2];
        let at = slots.find(&used.to_be_bytes()).unwrap();
        slots.get(at);
        slots.bytes_max = 10 * each;
        slots.trim();
        assert!(slots.find(&used.to_be_bytes()).is_some());
        assert_eq!(slots.iter().count(), 10);
        assert!(!slots.is_complete());
    }

    #[test]
    fn what_changed_stays_and_the_places_of_the_evicted_are_used_again() {
        let mut slots = slots(50, 0);
        let at = slots.find(&7_u32.to_be_bytes()).unwrap();
        slots.change(at).unwrap().item = 70;
        slots.trim();
        assert_eq!(slots.iter().map(|slot| slot.item).collect::<Vec<_>>(), [70]);
        for key in 100..149_u32 {
            slots.insert(&key.to_be_bytes(), key, 0);
        }
        assert_eq!(slots.slots.len(), 50);
        assert_eq!(slots.take_changed(), [at]);
        slots.trim();
        assert_eq!(slots.bytes(), 0);
    }

    /// Their places stayed for good.
    #[test]
    fn the_room_of_keys_that_came_all_at_once_is_given_back() {
        let mut slots = slots(100_000, usize::MAX);
        for key in 10..100_000_u32 {
            let at = slots.find(&key.to_be_bytes()).unwrap();
            slots.remove(at);
        }
        let changed = slots.find(&7_u32.to_be_bytes()).unwrap();
        slots.change(changed).unwrap().item = 70;
        slots.trim();
        assert!(slots.slots.capacity() <= SHRINK_MIN);
        assert!(slots.index.capacity() <= SHRINK_MIN);
        assert!(slots.free.capacity() <= SHRINK_MIN);
        // What is left is found where it is now, and is changed if it was.
        let items: Vec<u32> = (0..10_u32)
            .map(|key| slots.find(&key.to_be_bytes()).unwrap())
            .map(|at| slots.get(at).unwrap().item)
            .collect();
        assert_eq!(items, [0, 1, 2, 3, 4, 5, 6, 70, 8, 9]);
        let changed = slots.find(&7_u32.to_be_bytes()).unwrap();
        assert_eq!(slots.take_changed(), [changed]);
        assert_eq!(slots.find(&10_u32.to_be_bytes()), None);
        let new = slots.insert(&10_u32.to_be_bytes(), 10, 0);
        assert_eq!(slots.get(new).unwrap().item, 10);
    }

    #[test]
    fn slots_alone_list_no_changes_and_stay_complete() {
        let mut slots = Slots::alone();
        for key in 0..3_u32 {
            let at = slots.insert(&key.to_be_bytes(), key, 0);
            slots.change(at).unwrap();
            slots.remove(at);
        }
        assert!(slots.dirty.is_empty());
        slots.clear();
        assert!(slots.is_complete());
    }

    #[test]
    fn an_entry_that_is_changed_and_removed_leaves_its_place_unchanged_to_the_next() {
        let mut slots = slots(1, usize::MAX);
        for key in [1_u32, 2] {
            let at = slots.insert(&key.to_be_bytes(), key, 0);
            slots.change(at).unwrap();
            assert_eq!(slots.remove(at), Some(key));
        }
        let loaded = slots.insert(&3_u32.to_be_bytes(), 3, 0);
        assert_eq!(slots.slots.len(), 2);
        assert_eq!(slots.take_changed(), []);
        slots.change(loaded).unwrap();
        assert_eq!(slots.take_changed(), [loaded]);
    }
}
