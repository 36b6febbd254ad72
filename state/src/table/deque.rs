//! Elements in the order in which they were pushed, under each key.

mod queue;

use self::queue::Queue;
use crate::key::{self, KeyError};
use crate::table::expiry::{self, Expiry, Found, Timed};
use crate::table::slots::{At, Slots};
use crate::table::{Element, Expired, Stateful};
use crate::{Changes, Kind, Result, StateValue, TableId};

/// Elements in the order in which they were pushed, under each key. One pushed element is written alone.
///
/// All elements of a key are in memory together or not at all.
///
/// With a time to live, elements are popped once the watermark has passed the event time of their last write by that
/// much, and each lives at least as long as those before it: [`set_time`](Self::set_time) says when a record's writes
/// happen, [`expire`](Self::expire) pops what is due. Such a table has all keys in memory, outside its bound, to know
/// when they are.
#[derive(Debug)]
pub struct DequeTable<V> {
    id: TableId,
    slots: Slots<Queue<V>>,
    // By key: when its front is due.
    expiry: Expiry,
}

impl<V: StateValue> DequeTable<V> {
    /// A table with nothing in memory, that keeps unchanged keys up to `bytes_max`.
    ///
    /// Load it before use: [`State::load_all`](crate::State::load_all).
    pub fn new(id: TableId, bytes_max: usize) -> Self {
        Self {
            id,
            slots: Slots::new(bytes_max),
            expiry: Expiry::new(None),
        }
    }

    /// The same with a time to live of each element, in milliseconds of event time.
    pub fn with_ttl(id: TableId, bytes_max: usize, ttl_ms: u64) -> Self {
        Self {
            expiry: Expiry::new(Some(ttl_ms)),
            ..Self::new(id, bytes_max)
        }
    }

    /// Says the event time (milliseconds) of the writes that follow. Only tables with a time to live care.
    pub fn set_time(&mut self, event_time: i64) {
        self.expiry.set_time(event_time);
    }

    /// Adds an element at the back.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first, or is too long.
    pub fn push_back(&mut self, key: &[u8], value: V) -> Result<(), KeyError> {
        let at = match self.at(key)? {
            Some(at) => at,
            None => {
                key::check(self.id, key)?;
                self.slots.insert(key, Queue::default(), 0)
            }
        };
        let Some(slot) = self.slots.change(at) else {
            return Ok(());
        };
        let queue = &mut slot.item;
        let before = queue.items.back().map(|cell| cell.time);
        let time = self.expiry.stamp(before);
        if before.is_none() {
            self.expiry.list(key, time);
        }
        queue.push(value, time);
        let heap = queue.heap;
        self.slots.reweigh(at, heap);
        Ok(())
    }

    /// Takes the element at the front.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    pub fn pop_front(&mut self, key: &[u8]) -> Result<Option<V>, KeyError> {
        if self.is_empty(key)? {
            return Ok(None);
        }
        let Some(at) = self.at(key)? else {
            return Ok(None);
        };
        let Some(slot) = self.slots.change(at) else {
            return Ok(None);
        };
        let queue = &mut slot.item;
        let value = queue.pop();
        let heap = queue.heap;
        self.slots.reweigh(at, heap);
        Ok(value)
    }

    /// The element at the front.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    pub fn front(&self, key: &[u8]) -> Result<Option<&V>, KeyError> {
        Ok(self
            .queue(key)?
            .and_then(|queue| queue.items.front())
            .map(|cell| &cell.value))
    }

    /// The element at the back.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    pub fn back(&self, key: &[u8]) -> Result<Option<&V>, KeyError> {
        Ok(self
            .queue(key)?
            .and_then(|queue| queue.items.back())
            .map(|cell| &cell.value))
    }

    /// The element at the back, to be changed.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    pub fn back_mut(&mut self, key: &[u8]) -> Result<Option<&mut V>, KeyError> {
        if self.is_empty(key)? {
            return Ok(None);
        }
        let Some(at) = self.at(key)? else {
            return Ok(None);
        };
        let Some(slot) = self.slots.change(at) else {
            return Ok(None);
        };
        let back = slot.item.change_back();
        Ok(back.map(|cell| {
            cell.time = self.expiry.stamp(Some(cell.time));
            &mut cell.value
        }))
    }

    /// The number of elements under a key.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    pub fn len(&self, key: &[u8]) -> Result<usize, KeyError> {
        Ok(self.queue(key)?.map_or(0, |queue| queue.items.len()))
    }

    /// Whether nothing is under a key.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    pub fn is_empty(&self, key: &[u8]) -> Result<bool, KeyError> {
        Ok(self.len(key)? == 0)
    }

    /// The elements under a key, front to back.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    pub fn iter(&self, key: &[u8]) -> Result<impl Iterator<Item = &V>, KeyError> {
        Ok(self
            .queue(key)?
            .into_iter()
            .flat_map(|queue| &queue.items)
            .map(|cell| &cell.value))
    }

    /// The keys in memory that have elements, sorted. All there are if the table is complete.
    ///
    /// Sorts on each call: for results and tests, not for the path of a record.
    pub fn keys(&self) -> Vec<&[u8]> {
        let live = self.slots.iter().filter(|slot| !slot.item.items.is_empty());
        let mut keys: Vec<_> = live.map(|slot| slot.key()).collect();
        keys.sort_unstable();
        keys
    }

    /// Keys to be loaded before [`expire`](Self::expire) with the same arguments, at most `most` at once: load them
    /// and ask again, until there are none.
    pub fn due(&mut self, watermark: i64, most: usize) -> Vec<Box<[u8]>> {
        let keys = expiry::due(self, watermark, most);
        keys.iter().map(|key| key[..].into()).collect()
    }

    /// Pops the first `most` elements that the watermark has passed by the time to live. Returns them with their keys,
    /// in the order in which they were due, then of their keys, then of the deque.
    ///
    /// # Errors
    ///
    /// If a key that is [due](Self::due) must be loaded first. Then nothing was popped.
    pub fn expire(&mut self, watermark: i64, most: usize) -> Result<Vec<Expired<V>>, KeyError> {
        expiry::expire(self, watermark, most)
    }

    fn at(&self, key: &[u8]) -> Result<Option<At>, KeyError> {
        match self.slots.find(key) {
            Some(at) => Ok(Some(at)),
            None if self.slots.is_complete() => Ok(None),
            None => Err(KeyError::NotLoaded { table: self.id.0 }),
        }
    }

    fn queue(&self, key: &[u8]) -> Result<Option<&Queue<V>>, KeyError> {
        Ok(self
            .at(key)?
            .and_then(|at| self.slots.get(at))
            .map(|slot| &slot.item))
    }
}

impl<V: StateValue> Timed for DequeTable<V> {
    type Expired = Expired<V>;

    fn clock(&mut self) -> (&mut Expiry, impl Fn(&[u8]) -> Found) {
        let slots = &self.slots;
        let find = move |key: &[u8]| {
            let Some(at) = slots.find(key) else {
                return slots.unknown();
            };
            let front = slots.get(at).and_then(|slot| slot.item.items.front());
            front.map_or(Found::Gone, |cell| Found::Written(cell.time))
        };
        (&mut self.expiry, find)
    }

    fn take(&mut self, key: &[u8]) -> Result<Option<Expired<V>>, KeyError> {
        Ok(self.pop_front(key)?.map(|value| (key.into(), value)))
    }
}

impl<V: StateValue> Stateful for DequeTable<V> {
    fn id(&self) -> TableId {
        self.id
    }

    fn kind(&self) -> Kind {
        Kind::Deque
    }

    fn close(&mut self, changes: &mut Changes) {
        let (id, timed) = (self.id, self.expiry.is_timed());
        for at in self.slots.take_changed() {
            let Some(slot) = self.slots.get_mut(at) else {
                continue;
            };
            let prefix = key::encoded(Kind::Deque, id, slot.key());
            let queue = &mut slot.item;
            queue.close(&prefix, timed, changes);
            let (heap, empty) = (queue.heap, queue.items.is_empty());
            self.slots.reweigh(at, heap);
            if empty && self.slots.is_complete() {
                self.slots.remove(at);
            }
        }
        self.slots.trim();
    }

    fn forget(&mut self) {
        self.slots.clear();
        self.expiry.clear();
    }

    fn load(&mut self, user: &[u8], elements: &[Element<'_>]) -> Result<()> {
        if self.slots.find(user).is_some() {
            return Ok(());
        }
        let queue = Queue::load(self.id, user, self.expiry.is_timed(), elements)?;
        let heap = queue.heap;
        self.slots.insert(user, queue, heap);
        Ok(())
    }

    fn observe(&mut self, user: &[u8], elements: &[Element<'_>]) -> Result<()> {
        match elements.first() {
            Some((_, stored)) => self.expiry.observe(self.id, user, stored),
            None => Ok(()),
        }
    }

    fn knows(&self, user: &[u8]) -> bool {
        self.slots.is_complete() || self.slots.find(user).is_some()
    }

    fn trim(&mut self) {
        self.slots.trim();
    }

    fn set_complete(&mut self) {
        self.slots.set_complete();
    }

    fn is_complete(&self) -> bool {
        self.slots.is_complete()
    }

    fn bytes(&self) -> usize {
        self.slots.bytes()
    }

    fn bytes_max(&self) -> usize {
        self.slots.bytes_max()
    }

    fn observes_all(&self) -> bool {
        self.expiry.is_timed()
    }
}
