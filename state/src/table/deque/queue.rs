//! All elements of one key of a deque.

use std::collections::{BTreeMap, VecDeque};

use crate::key;
use crate::table::{Element, expiry};
use crate::{Changes, DecodeError, Error, Kind, Result, Share, StateValue, TableId};

/// Room for fewer elements than this is not worth being given back.
const SHRINK_MIN: usize = 64;

#[derive(Debug)]
pub(super) struct Cell<V> {
    pub(super) value: V,
    /// What it gave to the digest when the last epoch closed.
    share: Share,
    dirty: bool,
    heap: usize,
    /// When it was written last, by event time, and no earlier than what lies before it; tables with a time to live
    /// only. So what lies in front is due first.
    pub(super) time: i64,
}

#[derive(Debug)]
pub(super) struct Queue<V> {
    /// The number of the front element. Back to 0 whenever the queue runs empty, so that the numbers are told by
    /// the calls alone and not by what was in memory when.
    front: u64,
    pub(super) items: VecDeque<Cell<V>>,
    /// Elements of the last epoch that were popped in the open one.
    gone: BTreeMap<u64, Share>,
    /// Numbers of the elements changed in the open epoch.
    dirty: Vec<u64>,
    pub(super) heap: usize,
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

impl<V: StateValue> Queue<V> {
    /// Adds an element at the back, written at this event time.
    pub(super) fn push(&mut self, value: V, time: i64) {
        let number = self.front + self.items.len() as u64;
        let share = self.gone.remove(&number).unwrap_or_default();
        let heap = value.heap();
        self.heap += heap + size_of::<Cell<V>>();
        self.items.push_back(Cell {
            value,
            share,
            dirty: true,
            heap,
            time,
        });
        self.dirty.push(number);
    }

    /// Takes the element at the front.
    pub(super) fn pop(&mut self) -> Option<V> {
        let cell = self.items.pop_front()?;
        if cell.share != Share::ABSENT {
            self.gone.insert(self.front, cell.share);
        }
        self.front = if self.items.is_empty() {
            0
        } else {
            self.front + 1
        };
        self.heap -= cell.heap + size_of::<Cell<V>>();
        Some(cell.value)
    }

    /// The element at the back, marked as changed.
    pub(super) fn change_back(&mut self) -> Option<&mut Cell<V>> {
        let number = self.front + (self.items.len() as u64).saturating_sub(1);
        let cell = self.items.back_mut()?;
        if !cell.dirty {
            cell.dirty = true;
            self.dirty.push(number);
        }
        Some(cell)
    }

    /// Takes in what is stored of a key.
    pub(super) fn load(
        id: TableId,
        user: &[u8],
        timed: bool,
        elements: &[Element<'_>],
    ) -> Result<Self> {
        let prefix = key::encoded(Kind::Deque, id, user);
        let mut queue = Self::default();
        let mut full = prefix.to_vec();
        for (element, stored) in elements {
            let number = number(id, element)?;
            if queue.items.is_empty() {
                queue.front = number;
            }
            // Half of the numbers are out of reach of any queue that is pushed to.
            if number > u64::MAX / 2
                || number.checked_sub(queue.front) != Some(queue.items.len() as u64)
            {
                let what = format!("a deque has element {number} where it should go on");
                return Err(Error::Decode {
                    table: id.0,
                    source: DecodeError::new(what),
                });
            }
            let (time, value) = expiry::decode::<V>(id, timed, stored)?;
            // What lies behind is never due first: the front says when to look.
            if queue.items.back().is_some_and(|cell| cell.time > time) {
                let what = format!("element {number} of a deque is older than the one before it");
                return Err(Error::Decode {
                    table: id.0,
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
        Ok(queue)
    }

    /// Hands over what changed; what its keys start with in the store is `prefix`.
    pub(super) fn close(&mut self, prefix: &[u8], timed: bool, changes: &mut Changes) {
        for (number, share) in std::mem::take(&mut self.gone) {
            changes.remove(share, |out| {
                out.extend_from_slice(prefix);
                out.extend_from_slice(&number.to_be_bytes());
            });
        }
        for number in std::mem::take(&mut self.dirty) {
            // It may have been popped since, and its number used again.
            let Some(index) = number.checked_sub(self.front) else {
                continue;
            };
            let Some(cell) = self.items.get_mut(index as usize) else {
                continue;
            };
            if !std::mem::replace(&mut cell.dirty, false) {
                continue;
            }
            cell.share = changes.set(
                cell.share,
                |out| {
                    out.extend_from_slice(prefix);
                    out.extend_from_slice(&number.to_be_bytes());
                },
                |out| expiry::encode(&cell.value, timed.then_some(cell.time), out),
            );
            let heap = cell.value.heap();
            self.heap = self.heap - std::mem::replace(&mut cell.heap, heap) + heap;
        }
        // A key that once had many elements keeps no room for them.
        if self.items.capacity() > SHRINK_MIN && self.items.len() < self.items.capacity() / 8 {
            self.items.shrink_to(2 * self.items.len());
        }
    }
}

fn number(id: TableId, element: &[u8]) -> Result<u64> {
    let found = element.len();
    let bytes = element.try_into().map_err(|_| Error::Decode {
        table: id.0,
        source: DecodeError::new(format!(
            "expected an element number of 8 bytes, found {found}"
        )),
    })?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Digest, Epoch};

    #[test]
    fn a_key_that_once_had_many_elements_keeps_no_room_for_them() {
        let mut queue = Queue::<u64>::default();
        for value in 0..10_000 {
            queue.push(value, 0);
        }
        while queue.items.len() > 3 {
            queue.pop();
        }
        let mut changes = Changes::new(Digest::EMPTY);
        queue.close(b"d", false, &mut changes);
        assert!(queue.items.capacity() <= SHRINK_MIN);
        // Those that are left are told, and no trace of the others.
        assert_eq!(changes.finish(Epoch(1)).changes().len(), 3);
        assert_eq!(queue.pop(), Some(9_997));
    }
}
