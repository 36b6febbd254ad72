//! Elements in the order in which they were pushed, under each key.

use std::collections::{BTreeMap, VecDeque};

use crate::key::{self, KeyError};
use crate::table::expiry::{self, Expiry, Found};
use crate::table::slots::{At, Slots};
use crate::table::{Element, Expired, Stateful};
use crate::{Changes, DecodeError, Error, Kind, Result, Share, StateValue, TableId};

#[derive(Debug)]
struct Cell<V> {
    value: V,
    /// What it gave to the digest when the last epoch closed.
    share: Share,
    dirty: bool,
    heap: usize,
    /// When it was written last, by event time, and no earlier than what lies before it; tables with a time to live
    /// only. So what lies in front is due first.
    time: i64,
}

#[derive(Debug)]
struct Queue<V> {
    /// The number of the front element. Back to 0 whenever the queue runs empty, so that the numbers are told by
    /// the calls alone and not by what was in memory when.
    front: u64,
    items: VecDeque<Cell<V>>,
    /// Elements of the last epoch that were popped in the open one.
    gone: BTreeMap<u64, Share>,
    /// Numbers of the elements changed in the open epoch.
    dirty: Vec<u64>,
    heap: usize,
}

impl<V> Default for Queue<V> {
    fn default() -> Self {
        Self {
            front: 0,
            items: VecDeque::new(),
            gone: BTreeMap::new(),
            dirty: Vec::new(),
            heap: 0,
        }
    }
}

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
    expiry: Option<Expiry>,
}

impl<V: StateValue> DequeTable<V> {
    /// A table with nothing in memory, that keeps unchanged keys up to `bytes_max`.
    ///
    /// Load it before use: [`State::load_all`](crate::State::load_all).
    pub fn new(id: TableId, bytes_max: usize) -> Self {
        Self {
            id,
            slots: Slots::new(bytes_max),
            expiry: None,
        }
    }

    /// The same with a time to live of each element, in milliseconds of event time.
    pub fn with_ttl(id: TableId, bytes_max: usize, ttl_ms: u64) -> Self {
        Self {
            expiry: Some(Expiry::new(ttl_ms)),
            ..Self::new(id, bytes_max)
        }
    }

    /// Says the event time (milliseconds) of the writes that follow. Only tables with a time to live care.
    pub fn set_time(&mut self, event_time: i64) {
        if let Some(expiry) = &mut self.expiry {
            expiry.set_time(event_time);
        }
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
        let number = queue.front + queue.items.len() as u64;
        let share = queue.gone.remove(&number).unwrap_or_default();
        let heap = value.heap();
        let mut time = i64::MIN;
        if let Some(expiry) = &mut self.expiry {
            let before = queue.items.back().map(|cell| cell.time);
            time = expiry.stamp(before);
            if before.is_none() {
                expiry.list(key, time);
            }
        }
        queue.heap += heap + size_of::<Cell<V>>();
        queue.items.push_back(Cell {
            value,
            share,
            dirty: true,
            heap,
            time,
        });
        queue.dirty.push(number);
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
        let Some(cell) = queue.items.pop_front() else {
            return Ok(None);
        };
        if cell.share != Share::ABSENT {
            queue.gone.insert(queue.front, cell.share);
        }
        queue.front = if queue.items.is_empty() {
            0
        } else {
            queue.front + 1
        };
        queue.heap -= cell.heap + size_of::<Cell<V>>();
        let heap = queue.heap;
        self.slots.reweigh(at, heap);
        Ok(Some(cell.value))
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
        let Queue {
            front,
            items,
            dirty,
            ..
        } = &mut slot.item;
        let number = *front + (items.len() as u64).saturating_sub(1);
        Ok(items.back_mut().map(|cell| {
            if let Some(expiry) = &self.expiry {
                cell.time = expiry.stamp(Some(cell.time));
            }
            if !cell.dirty {
                cell.dirty = true;
                dirty.push(number);
            }
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
        let (slots, expiry) = (&self.slots, self.expiry.as_mut());
        let wanted = expiry.map(|expiry| expiry.wanted(watermark, most, |key| find(slots, key)));
        let keys = wanted.unwrap_or_default().into_iter();
        keys.map(|key| key[..].into()).collect()
    }

    /// Pops the first `most` elements that the watermark has passed by the time to live. Returns them with their keys,
    /// in the order in which they were due, then of their keys, then of the deque.
    ///
    /// # Errors
    ///
    /// If a key that is [due](Self::due) must be loaded first. Then nothing was popped.
    pub fn expire(&mut self, watermark: i64, most: usize) -> Result<Vec<Expired<V>>, KeyError> {
        if !self.due(watermark, most).is_empty() {
            return Err(KeyError::NotLoaded { table: self.id.0 });
        }
        let mut expired = Vec::new();
        while expired.len() < most {
            let (slots, expiry) = (&self.slots, self.expiry.as_mut());
            let first = expiry.and_then(|expiry| expiry.first(watermark, |key| find(slots, key)));
            let Some(key) = first else { break };
            let Some(value) = self.pop_front(&key)? else {
                break;
            };
            expired.push((key[..].into(), value));
        }
        Ok(expired)
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

    fn number(&self, element: &[u8]) -> Result<u64> {
        let found = element.len();
        let bytes = element.try_into().map_err(|_| Error::Decode {
            table: self.id.0,
            source: DecodeError::new(format!(
                "expected an element number of 8 bytes, found {found}"
            )),
        })?;
        Ok(u64::from_be_bytes(bytes))
    }
}

/// What the clock is to know of a key.
fn find<V>(slots: &Slots<Queue<V>>, key: &[u8]) -> Found {
    let Some(at) = slots.find(key) else {
        return slots.unknown();
    };
    let front = slots.get(at).and_then(|slot| slot.item.items.front());
    front.map_or(Found::Gone, |cell| Found::Written(cell.time))
}

impl<V: StateValue> Stateful for DequeTable<V> {
    fn id(&self) -> TableId {
        self.id
    }

    fn kind(&self) -> Kind {
        Kind::Deque
    }

    fn close(&mut self, changes: &mut Changes) {
        let (id, timed) = (self.id, self.expiry.is_some());
        for at in self.slots.take_changed() {
            let Some(slot) = self.slots.get_mut(at) else {
                continue;
            };
            let prefix = key::encoded(Kind::Deque, id, slot.key());
            let queue = &mut slot.item;
            for (number, share) in std::mem::take(&mut queue.gone) {
                changes.remove(share, |out| {
                    out.extend_from_slice(&prefix);
                    out.extend_from_slice(&number.to_be_bytes());
                });
            }
            for number in std::mem::take(&mut queue.dirty) {
                // It may have been popped since, and its number used again.
                let Some(index) = number.checked_sub(queue.front) else {
                    continue;
                };
                let Some(cell) = queue.items.get_mut(index as usize) else {
                    continue;
                };
                if !std::mem::replace(&mut cell.dirty, false) {
                    continue;
                }
                cell.share = changes.set(
                    cell.share,
                    |out| {
                        out.extend_from_slice(&prefix);
                        out.extend_from_slice(&number.to_be_bytes());
                    },
                    |out| expiry::encode(&cell.value, timed.then_some(cell.time), out),
                );
                let heap = cell.value.heap();
                queue.heap = queue.heap - std::mem::replace(&mut cell.heap, heap) + heap;
            }
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
        if let Some(expiry) = &mut self.expiry {
            expiry.clear();
        }
    }

    fn load(&mut self, user: &[u8], elements: &[Element<'_>]) -> Result<()> {
        if self.slots.find(user).is_some() {
            return Ok(());
        }
        let prefix = key::encoded(Kind::Deque, self.id, user);
        let mut queue = Queue::default();
        let mut full = prefix.to_vec();
        for (element, stored) in elements {
            let number = self.number(element)?;
            if queue.items.is_empty() {
                queue.front = number;
            }
            // Half of the numbers are out of reach of any queue that is pushed to.
            if number > u64::MAX / 2
                || number.checked_sub(queue.front) != Some(queue.items.len() as u64)
            {
                let what = format!("a deque has element {number} where it should go on");
                return Err(Error::Decode {
                    table: self.id.0,
                    source: DecodeError::new(what),
                });
            }
            let (time, value) = expiry::decode::<V>(self.id, self.expiry.is_some(), stored)?;
            // What lies behind is never due first: the front says when to look.
            if queue.items.back().is_some_and(|cell| cell.time > time) {
                let what = format!("element {number} of a deque is older than the one before it");
                return Err(Error::Decode {
                    table: self.id.0,
                    source: DecodeError::new(what),
                });
            }
            full.truncate(prefix.len());
            full.extend_from_slice(element);
            let share = Share::of(&full, stored);
            let heap = value.heap();
            queue.heap += heap + size_of::<Cell<V>>();
            queue.items.push_back(Cell {
                value,
                share,
                dirty: false,
                heap,
                time,
            });
        }
        let heap = queue.heap;
        self.slots.insert(user, queue, heap);
        Ok(())
    }

    fn observe(&mut self, user: &[u8], elements: &[Element<'_>]) -> Result<()> {
        if let (Some(expiry), Some((_, stored))) = (&mut self.expiry, elements.first()) {
            expiry.list(user, expiry::time_of(self.id, stored)?);
        }
        Ok(())
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
        self.expiry.is_some()
    }
}
