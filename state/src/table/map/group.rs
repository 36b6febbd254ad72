//! All elements of one key of a map.

use std::collections::BTreeMap;

use crate::key;
use crate::table::{Element, expiry};
use crate::{Changes, Kind, Result, Share, StateValue, TableId};

/// Bytes an element takes in its tree beside key and value.
const OVERHEAD: usize = 48;

#[derive(Debug)]
pub(super) struct Cell<V> {
    /// `None`: removed in the open epoch.
    pub(super) value: Option<V>,
    /// What it gave to the digest when the last epoch closed.
    share: Share,
    dirty: bool,
    pub(super) heap: usize,
    /// The newest event time at which it was written; tables with a time to live only.
    pub(super) time: i64,
}

#[derive(Debug)]
pub(super) struct Group<V> {
    pub(super) elements: BTreeMap<Box<[u8]>, Cell<V>>,
    /// Elements that are there.
    pub(super) live: usize,
    /// Keys of the elements changed in the open epoch, each once.
    dirty: Vec<Box<[u8]>>,
    pub(super) heap: usize,
}

impl<V> Default for Group<V> {
    fn default() -> Self {
        Self {
            elements: BTreeMap::new(),
            live: 0,
            dirty: Vec::new(),
            heap: 0,
        }
    }
}

impl<V: StateValue> Group<V> {
    /// The element's cell, added if need be, marked as changed.
    pub(super) fn change(&mut self, element: &[u8]) -> &mut Cell<V> {
        if !self.elements.contains_key(element) {
            self.heap += OVERHEAD + element.len() + size_of::<Cell<V>>();
        }
        let cell = self.elements.entry(element.into()).or_insert_with(|| Cell {
            value: None,
            share: Share::ABSENT,
            dirty: false,
            heap: 0,
            time: i64::MIN,
        });
        if !cell.dirty {
            cell.dirty = true;
            self.dirty.push(element.into());
        }
        cell
    }

    /// Takes in what is stored of a key.
    pub(super) fn load(
        id: TableId,
        user: &[u8],
        timed: bool,
        elements: &[Element<'_>],
    ) -> Result<Self> {
        let prefix = key::encoded(Kind::Map, id, user);
        let mut group = Self {
            live: elements.len(),
            ..Self::default()
        };
        let mut full = prefix.to_vec();
        for (element, stored) in elements {
            let (time, value) = expiry::decode::<V>(id, timed, stored)?;
            full.truncate(prefix.len());
            full.extend_from_slice(element);
            let heap = value.heap();
            group.heap += heap + OVERHEAD + element.len() + size_of::<Cell<V>>();
            let share = Share::of(&full, stored);
            let cell = Cell {
                value: Some(value),
                share,
                dirty: false,
                heap,
                time,
            };
            group.elements.insert((*element).into(), cell);
        }
        Ok(group)
    }

    /// Hands over what changed; what its keys start with in the store is `prefix`.
    pub(super) fn close(&mut self, prefix: &[u8], timed: bool, changes: &mut Changes) {
        for element in std::mem::take(&mut self.dirty) {
            let Some(cell) = self.elements.get_mut(&element) else {
                continue;
            };
            cell.dirty = false;
            let encode_key = |out: &mut Vec<u8>| {
                out.extend_from_slice(prefix);
                out.extend_from_slice(&element);
            };
            if let Some(value) = &cell.value {
                let time = timed.then_some(cell.time);
                cell.share = changes.set(cell.share, encode_key, |out| {
                    expiry::encode(value, time, out);
                });
                let heap = value.heap();
                self.heap = self.heap - std::mem::replace(&mut cell.heap, heap) + heap;
            } else {
                changes.remove(cell.share, encode_key);
                self.heap -= cell.heap + OVERHEAD + element.len() + size_of::<Cell<V>>();
                self.elements.remove(&element);
            }
        }
    }
}
