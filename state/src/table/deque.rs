//! Elements in the order in which they were pushed, under each key.

use std::collections::{BTreeMap, VecDeque};

use crate::key::{self, KeyError};
use crate::table::slots::{At, Slots};
use crate::table::{Element, Stateful};
use crate::{Changes, DecodeError, Error, Kind, Result, Share, StateValue, TableId};

#[derive(Debug)]
struct Cell<V> {
    value: V,
    /// What it gave to the digest when the last epoch closed.
    share: Share,
    dirty: bool,
    heap: usize,
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
#[derive(Debug)]
pub struct DequeTable<V> {
    id: TableId,
    slots: Slots<Queue<V>>,
}

impl<V: StateValue> DequeTable<V> {
    /// A table with nothing in memory, that keeps unchanged keys up to `bytes_max`.
    ///
    /// Load it before use: [`State::load_all`](crate::State::load_all).
    pub fn new(id: TableId, bytes_max: usize) -> Self {
        Self {
            id,
            slots: Slots::new(bytes_max),
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
        queue.heap += heap + size_of::<Cell<V>>();
        queue.items.push_back(Cell {
            value,
            share,
            dirty: true,
            heap,
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

impl<V: StateValue> Stateful for DequeTable<V> {
    fn id(&self) -> TableId {
        self.id
    }

    fn kind(&self) -> Kind {
        Kind::Deque
    }

    fn close(&mut self, changes: &mut Changes) {
        let id = self.id;
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
                    |out| cell.value.encode(out),
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
            let value = V::decode(stored).map_err(|source| Error::Decode {
                table: self.id.0,
                source,
            })?;
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
            });
        }
        let heap = queue.heap;
        self.slots.insert(user, queue, heap);
        Ok(())
    }

    fn observe(&mut self, _: &[u8], _: &[Element<'_>]) -> Result<()> {
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
}
