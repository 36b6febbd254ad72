//! Elements by an element key, under each key.

mod group;

use std::ops::Bound;

use self::group::Group;
use crate::key::{self, KeyError};
use crate::table::expiry::{self, Expiry, Found, Timed};
use crate::table::slots::{At, Slots};
use crate::table::{Element, Stateful};
use crate::{Changes, Kind, Result, StateValue, TableId};

/// A key, the key of an element under it, and the value that had.
pub type ExpiredElement<V> = (Box<[u8]>, Box<[u8]>, V);

/// Elements by an element key, in its order, under each key. One changed element is written alone.
///
/// All elements of a key are in memory together or not at all.
///
/// With a time to live, each element is removed once the watermark has passed the event time of its own last write by
/// that much: [`set_time`](Self::set_time) says when a record's writes happen, [`expire`](Self::expire) removes what
/// is due. Such a table has the keys of all elements in memory, outside its bound, to know when they are.
#[derive(Debug)]
pub struct MapTable<V> {
    id: TableId,
    slots: Slots<Group<V>>,
    // By key and element, one after the other as in the store.
    expiry: Expiry,
}

impl<V: StateValue> MapTable<V> {
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

    /// The value of an element.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    pub fn get(&self, key: &[u8], element: &[u8]) -> Result<Option<&V>, KeyError> {
        Ok(self
            .group(key)?
            .and_then(|group| group.elements.get(element)?.value.as_ref()))
    }

    /// The value of an element, to be changed.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    pub fn get_mut(&mut self, key: &[u8], element: &[u8]) -> Result<Option<&mut V>, KeyError> {
        if self.get(key, element)?.is_none() {
            return Ok(None);
        }
        let Some(at) = self.at(key)? else {
            return Ok(None);
        };
        let Some(slot) = self.slots.change(at) else {
            return Ok(None);
        };
        let cell = slot.item.change(element);
        cell.time = self.expiry.stamp(Some(cell.time));
        Ok(cell.value.as_mut())
    }

    /// Sets the value of an element. Returns the one before.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first, or one of the keys is too long.
    pub fn insert(&mut self, key: &[u8], element: &[u8], value: V) -> Result<Option<V>, KeyError> {
        key::check(self.id, element)?;
        let at = match self.at(key)? {
            Some(at) => at,
            None => {
                key::check(self.id, key)?;
                self.slots.insert(key, Group::default(), 0)
            }
        };
        let Some(slot) = self.slots.change(at) else {
            return Ok(None);
        };
        let group = &mut slot.item;
        let heap = value.heap();
        let cell = group.change(element);
        let before_heap = std::mem::replace(&mut cell.heap, heap);
        let before = cell.value.replace(value);
        cell.time = self.expiry.stamp(before.is_some().then_some(cell.time));
        if before.is_none() && self.expiry.is_timed() {
            self.expiry.list(&place(key, element), cell.time);
        }
        group.heap = group.heap - before_heap + heap;
        group.live += usize::from(before.is_none());
        let heap = group.heap;
        self.slots.reweigh(at, heap);
        Ok(before)
    }

    /// Removes an element. Returns its value.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    pub fn remove(&mut self, key: &[u8], element: &[u8]) -> Result<Option<V>, KeyError> {
        if self.get(key, element)?.is_none() {
            return Ok(None);
        }
        let Some(at) = self.at(key)? else {
            return Ok(None);
        };
        let Some(slot) = self.slots.change(at) else {
            return Ok(None);
        };
        let before = slot.item.change(element).value.take();
        slot.item.live -= usize::from(before.is_some());
        Ok(before)
    }

    /// The number of elements under a key.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    pub fn len(&self, key: &[u8]) -> Result<usize, KeyError> {
        Ok(self.group(key)?.map_or(0, |group| group.live))
    }

    /// Whether nothing is under a key.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    pub fn is_empty(&self, key: &[u8]) -> Result<bool, KeyError> {
        Ok(self.len(key)? == 0)
    }

    /// The elements under a key, in the order of their keys.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    pub fn iter(&self, key: &[u8]) -> Result<impl Iterator<Item = (&[u8], &V)>, KeyError> {
        self.range(key, (Bound::Unbounded, Bound::Unbounded))
    }

    /// The elements under a key between two element keys, in order.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    pub fn range(
        &self,
        key: &[u8],
        (from, to): (Bound<&[u8]>, Bound<&[u8]>),
    ) -> Result<impl Iterator<Item = (&[u8], &V)>, KeyError> {
        // A tree refuses a range that ends before it starts; here it is an empty one.
        let sane = match (from, to) {
            (Bound::Excluded(a), Bound::Excluded(b)) => a < b,
            (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => {
                a <= b
            }
            _ => true,
        };
        let group = self.group(key)?.filter(|_| sane);
        Ok(group
            .into_iter()
            .flat_map(move |group| group.elements.range::<[u8], _>((from, to)))
            .filter_map(|(element, cell)| Some((&**element, cell.value.as_ref()?))))
    }

    /// The first element under a key.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    pub fn first(&self, key: &[u8]) -> Result<Option<(&[u8], &V)>, KeyError> {
        Ok(self.iter(key)?.next())
    }

    /// The keys in memory that have elements, sorted. All there are if the table is complete.
    ///
    /// Sorts on each call: for results and tests, not for the path of a record.
    pub fn keys(&self) -> Vec<&[u8]> {
        let mut keys: Vec<_> = self
            .slots
            .iter()
            .filter(|slot| slot.item.live > 0)
            .map(|slot| slot.key())
            .collect();
        keys.sort_unstable();
        keys
    }

    /// Keys to be loaded before [`expire`](Self::expire) with the same arguments, at most `most` at once: load them
    /// and ask again, until there are none.
    pub fn due(&mut self, watermark: i64, most: usize) -> Vec<Box<[u8]>> {
        let mut keys: Vec<Box<[u8]>> = expiry::due(self, watermark, most)
            .iter()
            .filter_map(|place| Some(key::decode(Kind::Map, place)?.0.into()))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Removes the first `most` elements that the watermark has passed by the time to live. Returns them, in the
    /// order in which they were due, then of the length of their key, their key, and their own.
    ///
    /// # Errors
    ///
    /// If a key that is [due](Self::due) must be loaded first. Then nothing was removed.
    pub fn expire(
        &mut self,
        watermark: i64,
        most: usize,
    ) -> Result<Vec<ExpiredElement<V>>, KeyError> {
        expiry::expire(self, watermark, most)
    }

    fn at(&self, key: &[u8]) -> Result<Option<At>, KeyError> {
        match self.slots.find(key) {
            Some(at) => Ok(Some(at)),
            None if self.slots.is_complete() => Ok(None),
            None => Err(KeyError::NotLoaded { table: self.id.0 }),
        }
    }

    fn group(&self, key: &[u8]) -> Result<Option<&Group<V>>, KeyError> {
        Ok(self
            .at(key)?
            .and_then(|at| self.slots.get(at))
            .map(|slot| &slot.item))
    }
}

/// Where an element lies: as in the store, behind the table.
fn place(key: &[u8], element: &[u8]) -> Vec<u8> {
    // Checked against KEY_MAX when the key entered its table.
    let mut place = (key.len() as u16).to_be_bytes().to_vec();
    place.extend_from_slice(key);
    place.extend_from_slice(element);
    place
}

impl<V: StateValue> Timed for MapTable<V> {
    type Expired = ExpiredElement<V>;

    fn clock(&mut self) -> (&mut Expiry, impl Fn(&[u8]) -> Found) {
        let slots = &self.slots;
        let find = move |place: &[u8]| {
            let Some((key, element)) = key::decode(Kind::Map, place) else {
                return Found::Gone;
            };
            let Some(at) = slots.find(key) else {
                return slots.unknown();
            };
            let group = slots.get(at).map(|slot| &slot.item);
            let cell = group.and_then(|group| group.elements.get(element));
            cell.filter(|cell| cell.value.is_some())
                .map_or(Found::Gone, |cell| Found::Written(cell.time))
        };
        (&mut self.expiry, find)
    }

    fn take(&mut self, place: &[u8]) -> Result<Option<ExpiredElement<V>>, KeyError> {
        let Some((key, element)) = key::decode(Kind::Map, place) else {
            return Ok(None);
        };
        let taken = self.remove(key, element)?;
        Ok(taken.map(|value| (key.into(), element.into(), value)))
    }
}

impl<V: StateValue> Stateful for MapTable<V> {
    fn id(&self) -> TableId {
        self.id
    }

    fn kind(&self) -> Kind {
        Kind::Map
    }

    fn close(&mut self, changes: &mut Changes) {
        let (id, timed) = (self.id, self.expiry.is_timed());
        for at in self.slots.take_changed() {
            let Some(slot) = self.slots.get_mut(at) else {
                continue;
            };
            let prefix = key::encoded(Kind::Map, id, slot.key());
            let group = &mut slot.item;
            group.close(&prefix, timed, changes);
            let (heap, empty) = (group.heap, group.elements.is_empty());
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
        let group = Group::load(self.id, user, self.expiry.is_timed(), elements)?;
        let heap = group.heap;
        self.slots.insert(user, group, heap);
        Ok(())
    }

    fn observe(&mut self, user: &[u8], elements: &[Element<'_>]) -> Result<()> {
        if self.expiry.is_timed() {
            for (element, stored) in elements {
                let place = place(user, element);
                self.expiry.observe(self.id, &place, stored)?;
            }
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
        self.expiry.is_timed()
    }
}
