//! Every id that is remembered, by its bytes, by its key and by its event time: all that a dedupe
//! needs to know, in little more than twice what the ids themselves take.
//!
//! It holds them once: [`arena`](super::arena) has the bytes and times, everything else says where
//! they lie. What is forgotten next, of a key and of all, is decided by (event time, bytes of the
//! entry) and by nothing else, so it depends neither on how ids came here nor on how batches were cut.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::arena::{Arena, NONE};
use super::order::Order;
use super::{record_key, tree};

/// An id by its bytes. The hash is kept so that a growing table need not read them all.
#[derive(Debug, Clone, Copy)]
struct Known {
    at: u32,
    hash: u32,
}

/// The ids of a record's key.
#[derive(Debug, Clone, Copy)]
struct Keyed {
    root: u32,
    count: u32,
    hash: u32,
}

/// All ids that are remembered.
#[derive(Debug)]
pub(super) struct Index {
    arena: Arena,
    ids: HashTable<Known>,
    keys: HashTable<Keyed>,
    order: Order,
    // What was restored and is in neither tree nor order yet: it came sorted by something else.
    restored: Vec<(i64, u32)>,
    // Fixed, so that two runs take the same path.
    hasher: FixedState,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            arena: Arena::default(),
            ids: HashTable::new(),
            keys: HashTable::new(),
            order: Order::default(),
            restored: Vec::new(),
            hasher: FixedState::with_seed(0x6465_6475_7065),
        }
    }
}

impl Index {
    /// The event time of an entry, if it is remembered.
    pub(super) fn time(&self, entry: &[u8]) -> Option<i64> {
        self.find(entry).map(|at| self.arena.time(at))
    }

    /// Remembers an entry that is not remembered yet. Returns how many its key then has.
    pub(super) fn insert(&mut self, time: i64, entry: &[u8]) -> usize {
        self.settle();
        let at = self.add(time, entry);
        self.arrange(at)
    }

    /// Remembers an entry of many that come in no order of time, before any other call. Returns how many
    /// its key then has.
    pub(super) fn restore(&mut self, time: i64, entry: &[u8]) -> usize {
        if self.find(entry).is_none() {
            let at = self.add(time, entry);
            self.restored.push((time, at));
            let hash = self.key_hash(at);
            keyed(&mut self.keys, &self.arena, hash, at).count += 1;
        }
        self.count_of(record_key(entry).unwrap_or_default())
    }

    /// How many entries of a record's key are remembered.
    pub(super) fn count_of(&self, key: &[u8]) -> usize {
        let found = find_key(&self.keys, &self.arena, key, self.hash(key));
        found.map_or(0, |keyed| keyed.count as usize)
    }

    /// Whether an entry that is not remembered goes before all that are remembered of its key.
    pub(super) fn is_oldest(&mut self, time: i64, entry: &[u8]) -> bool {
        self.settle();
        let key = record_key(entry).unwrap_or_default();
        let found = find_key(&self.keys, &self.arena, key, self.hash(key));
        found.is_none_or(|keyed| {
            let oldest = tree::first(&self.arena, keyed.root);
            (time, entry) < (self.arena.time(oldest), self.arena.entry(oldest))
        })
    }

    /// Forgets an entry.
    pub(super) fn remove(&mut self, entry: &[u8]) {
        self.settle();
        if let Some(at) = self.find(entry) {
            self.take(at);
        }
    }

    /// Forgets the oldest entry of a record's key. Puts it into `entry` and returns its event time.
    pub(super) fn pop_of_key(&mut self, key: &[u8], entry: &mut Vec<u8>) -> Option<i64> {
        self.settle();
        let hash = self.hash(key);
        let found = find_key(&self.keys, &self.arena, key, hash)?;
        Some(self.pop_at(tree::first(&self.arena, found.root), entry))
    }

    /// Forgets the oldest entry of all, unless it is newer than `time`. Puts it into `entry` and
    /// returns its event time.
    pub(super) fn pop_until(&mut self, time: i64, entry: &mut Vec<u8>) -> Option<i64> {
        self.settle();
        let oldest = self.order.first()?;
        (self.arena.time(oldest) <= time).then(|| self.pop_at(oldest, entry))
    }

    /// The least event time of all.
    pub(super) fn oldest(&self) -> Option<i64> {
        let restored = self.restored.iter().map(|(time, _)| *time).min();
        let arranged = self.order.first().map(|at| self.arena.time(at));
        restored.into_iter().chain(arranged).min()
    }

    /// How many entries are not newer than `time`: looks at each stretch of their order, and into one.
    pub(super) fn count_until(&self, time: i64) -> usize {
        let restored = self.restored.iter().filter(|(of, _)| *of <= time);
        restored.count() + self.order.count_until(&self.arena, time)
    }

    /// How many entries are remembered.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Bytes of memory it has taken.
    pub(super) fn bytes(&self) -> usize {
        self.arena.bytes()
            + self.order.bytes()
            + self.ids.allocation_size()
            + self.keys.allocation_size()
            + self.restored.capacity() * size_of::<(i64, u32)>()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn hash(&self, bytes: &[u8]) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(bytes);
        hasher.finish() as u32
    }

    fn find(&self, entry: &[u8]) -> Option<u32> {
        let hash = self.hash(entry);
        let is_it = |known: &Known| known.hash == hash && self.arena.entry(known.at) == entry;
        self.ids.find(spread(hash), is_it).map(|known| known.at)
    }

    fn add(&mut self, time: i64, entry: &[u8]) -> u32 {
        let hash = self.hash(entry);
        let at = self.arena.add(time, entry);
        let known = Known { at, hash };
        self.ids
            .insert_unique(spread(hash), known, |known| spread(known.hash));
        at
    }

    /// Puts an id into the tree of its key and into the order of all. Returns how many its key has.
    fn arrange(&mut self, at: u32) -> usize {
        self.order.insert(&self.arena, at);
        let hash = self.key_hash(at);
        let keyed = keyed(&mut self.keys, &self.arena, hash, at);
        keyed.count += 1;
        // Alone it is its tree.
        if keyed.count > 1 {
            keyed.root = tree::insert(&mut self.arena, keyed.root, at);
        }
        keyed.count as usize
    }

    fn key_hash(&self, at: u32) -> u32 {
        self.hash(key_at(&self.arena, at))
    }

    /// Arranges what was restored, oldest first: that takes a fraction of what any order would.
    pub(super) fn settle(&mut self) {
        if self.restored.is_empty() {
            return;
        }
        let mut restored = std::mem::take(&mut self.restored);
        // They were only counted; now they are counted into their trees.
        self.keys.clear();
        let arena = &self.arena;
        restored.sort_unstable_by(|(a_time, a), (b_time, b)| {
            let by_bytes = || arena.entry(*a).cmp(arena.entry(*b));
            a_time.cmp(b_time).then_with(by_bytes)
        });
        for (_, at) in restored {
            self.arrange(at);
        }
    }

    fn pop_at(&mut self, at: u32, entry: &mut Vec<u8>) -> i64 {
        entry.clear();
        entry.extend_from_slice(self.arena.entry(at));
        let time = self.arena.time(at);
        self.take(at);
        time
    }

    fn take(&mut self, at: u32) {
        self.order.remove(&self.arena, at);
        let entry = self.arena.entry(at);
        let (hash, key_hash) = (
            self.hash(entry),
            self.hash(record_key(entry).unwrap_or_default()),
        );
        if let Ok(known) = self.ids.find_entry(spread(hash), |known| known.at == at) {
            known.remove();
        }
        let key = record_key(entry).unwrap_or_default();
        let arena = &self.arena;
        let is_it = |keyed: &Keyed| keyed.hash == key_hash && key_at(arena, keyed.root) == key;
        if let Ok(mut found) = self.keys.find_entry(spread(key_hash), is_it) {
            let keyed = found.get_mut();
            keyed.root = tree::remove(&mut self.arena, keyed.root, at);
            keyed.count -= 1;
            if keyed.root == NONE {
                found.remove();
            }
        }
        self.arena.remove(at);
        shrink(&mut self.ids, |known| known.hash);
        shrink(&mut self.keys, |keyed| keyed.hash);
        let mut steps = STEPS;
        while let Some(last) = self.arena.give_back(&mut steps) {
            self.move_down(last);
        }
    }

    /// Moves the id at the last place to a free one, and drops the last.
    fn move_down(&mut self, from: u32) {
        let to = self.arena.copy(from);
        self.order.relocate(&self.arena, from, to);
        let entry = self.arena.entry(from);
        let hash = self.hash(entry);
        let known = self.ids.find_mut(spread(hash), |known| known.at == from);
        if let Some(known) = known {
            known.at = to;
        }
        // Out of the tree and in again: how high it is there depends on its place.
        let hash = self.key_hash(from);
        let keyed = keyed(&mut self.keys, &self.arena, hash, from);
        let others = tree::remove(&mut self.arena, keyed.root, from);
        keyed.root = tree::insert(&mut self.arena, others, to);
        self.arena.drop_last();
    }
}

/// Places looked at with each id that goes, once most are free: more than make up for the one, so that
/// their number goes down with that of the ids, and few enough that nobody waits for it.
const STEPS: usize = 8;

/// Fewer entries than this are not worth a smaller table.
const SHRINK_MIN: usize = 1 << 12;

/// Gives memory back once a table is nearly empty.
fn shrink<T>(table: &mut HashTable<T>, hash: impl Fn(&T) -> u32) {
    if table.capacity() > SHRINK_MIN && table.len() < table.capacity() / 8 {
        let twice = 2 * table.len();
        table.shrink_to(twice, |one| spread(hash(one)));
    }
}

fn key_at(arena: &Arena, at: u32) -> &[u8] {
    record_key(arena.entry(at)).unwrap_or_default()
}

/// What is kept of the key of an id: of a new key, no count, and the id as its tree.
fn keyed<'k>(keys: &'k mut HashTable<Keyed>, arena: &Arena, hash: u32, at: u32) -> &'k mut Keyed {
    let key = key_at(arena, at);
    let is_it = |keyed: &Keyed| keyed.hash == hash && key_at(arena, keyed.root) == key;
    let new = || Keyed {
        root: at,
        count: 0,
        hash,
    };
    keys.entry(spread(hash), is_it, |keyed| spread(keyed.hash))
        .or_insert_with(new)
        .into_mut()
}

fn find_key(keys: &HashTable<Keyed>, arena: &Arena, key: &[u8], hash: u32) -> Option<Keyed> {
    let is_it = |keyed: &Keyed| keyed.hash == hash && key_at(arena, keyed.root) == key;
    keys.find(spread(hash), is_it).copied()
}

/// A hash over 64 bits, of which a table takes the lowest and the highest.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
