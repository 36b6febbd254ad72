//! One value per key.

use crate::key::{self, KeyError};
use crate::table::expiry::{self, Expiry, Found, Timed};
use crate::table::slots::{At, Slots};
use crate::table::{Element, Stateful};
use crate::{Changes, Kind, Result, Share, StateValue, TableId};

/// A key and the value it had.
pub type Expired<V> = (Box<[u8]>, V);

#[derive(Debug)]
struct Entry<V> {
    /// `None`: known to be absent.
    value: Option<V>,
    /// What it gave to the digest when the last epoch closed.
    share: Share,
    /// The newest event time at which it was written; tables with a time to live only.
    time: i64,
}

/// One value per key, by the bytes of the key.
///
/// With a time to live, an entry is removed once the watermark has passed the event time of its last write by that
/// much: [`set_time`](Self::set_time) says when a record's writes happen, [`expire`](Self::expire) removes what is
/// due. Such a table has all keys in memory, outside its bound, to know when they are.
#[derive(Debug)]
pub struct Table<V> {
    id: TableId,
    slots: Slots<Entry<V>>,
    expiry: Expiry,
}

impl<V: StateValue> Table<V> {
    /// A table with nothing in memory, that keeps unchanged entries up to `bytes_max`.
    ///
    /// Load it before use: [`State::load_all`](crate::State::load_all).
    pub fn new(id: TableId, bytes_max: usize) -> Self {
        Self {
            id,
            slots: Slots::new(bytes_max),
            expiry: Expiry::new(None),
        }
    }

    /// An empty table in memory alone: ready for use, without a [`State`](crate::State), a bound or a store behind
    /// it. What it holds goes with it; an epoch that closes over it finds no changes.
    pub fn in_memory() -> Self {
        Self {
            id: TableId(0),
            slots: Slots::alone(),
            expiry: Expiry::new(None),
        }
    }

    /// As [`new`](Self::new), with a time to live in milliseconds of event time.
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

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Result<Option<&V>, KeyError> {
        match self.at(key)? {
            Some(at) => Ok(self.slots.get(at).and_then(|slot| slot.item.value.as_ref())),
            None => Ok(None),
        }
    }

    /// The value of a key, to be changed.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    #[inline]
    pub fn get_mut(&mut self, key: &[u8]) -> Result<Option<&mut V>, KeyError> {
        let Some(at) = self.at(key)? else {
            return Ok(None);
        };
        if self
            .slots
            .get(at)
            .is_none_or(|slot| slot.item.value.is_none())
        {
            return Ok(None);
        }
        self.stamp(at);
        Ok(self
            .slots
            .change(at)
            .and_then(|slot| slot.item.value.as_mut()))
    }

    /// The value of a key, to be changed, put there by `make` if it was absent.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first, or is too long.
    #[inline]
    pub fn get_or_insert_with(
        &mut self,
        key: &[u8],
        make: impl FnOnce() -> V,
    ) -> Result<&mut V, KeyError> {
        let at = self.place(key)?;
        self.stamp(at);
        let table = self.id.0;
        match self.slots.change(at) {
            Some(slot) => Ok(slot.item.value.get_or_insert_with(make)),
            // `place` found it.
            None => Err(KeyError::NotLoaded { table }),
        }
    }

    /// Sets the value of a key. Returns the one before.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first, or is too long.
    pub fn insert(&mut self, key: &[u8], value: V) -> Result<Option<V>, KeyError> {
        let at = self.place(key)?;
        self.stamp(at);
        let heap = value.heap();
        let before = self
            .slots
            .change(at)
            .and_then(|slot| slot.item.value.replace(value));
        self.slots.reweigh(at, heap);
        Ok(before)
    }

    /// Removes a key. Returns its value.
    ///
    /// # Errors
    ///
    /// If the key must be loaded first.
    pub fn remove(&mut self, key: &[u8]) -> Result<Option<V>, KeyError> {
        let Some(at) = self.at(key)? else {
            return Ok(None);
        };
        let Some(item) = self.slots.get(at).map(|slot| &slot.item) else {
            return Ok(None);
        };
        if item.value.is_none() {
            return Ok(None);
        }
        // Made in the open epoch and gone before its end: nothing to tell when it closes, which would
        // otherwise hold the task up for each of them at once.
        if item.share == Share::ABSENT && self.slots.is_complete() {
            return Ok(self.slots.remove(at).and_then(|item| item.value));
        }
        let before = self
            .slots
            .change(at)
            .and_then(|slot| slot.item.value.take());
        self.slots.reweigh(at, 0);
        Ok(before)
    }

    /// Lets go of what is known of a key that is absent, and was when the last epoch closed: whoever uses
    /// it next must load it. Else it is kept up to the epoch's end, where all such go at once. A key that
    /// is not of that kind stays as it is.
    pub fn release(&mut self, key: &[u8]) {
        let Some(at) = self.slots.find(key) else {
            return;
        };
        let is_absent = |item: &Entry<V>| item.value.is_none() && item.share == Share::ABSENT;
        if self.slots.get(at).is_some_and(|slot| is_absent(&slot.item)) {
            self.slots.remove(at);
        }
    }

    /// All values in memory, sorted by key. All there are if the table is complete.
    ///
    /// Sorts on each call: for results and tests, not for the path of a record.
    pub fn sorted(&self) -> Vec<(&[u8], &V)> {
        let mut all: Vec<_> = self
            .slots
            .iter()
            .filter_map(|slot| Some((slot.key(), slot.item.value.as_ref()?)))
            .collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }

    /// Keys to be loaded before [`expire`](Self::expire) with the same arguments, at most `most` at once: load them
    /// and ask again, until there are none.
    pub fn due(&mut self, watermark: i64, most: usize) -> Vec<Box<[u8]>> {
        let keys = expiry::due(self, watermark, most);
        keys.iter().map(|key| key[..].into()).collect()
    }

    /// Removes the first `most` entries that the watermark has passed by the time to live. Returns them, in the order
    /// in which they were due, then of their keys.
    ///
    /// # Errors
    ///
    /// If a key that is [due](Self::due) must be loaded first. Then nothing was removed.
    pub fn expire(&mut self, watermark: i64, most: usize) -> Result<Vec<Expired<V>>, KeyError> {
        expiry::expire(self, watermark, most)
    }

    #[inline]
    fn at(&self, key: &[u8]) -> Result<Option<At>, KeyError> {
        match self.slots.find(key) {
            Some(at) => Ok(Some(at)),
            None if self.slots.is_complete() => Ok(None),
            None => Err(self.not_loaded()),
        }
    }

    /// The entry of a key, added if it is known to be absent.
    fn place(&mut self, key: &[u8]) -> Result<At, KeyError> {
        if let Some(at) = self.at(key)? {
            return Ok(at);
        }
        key::check(self.id, key)?;
        let entry = Entry {
            value: None,
            share: Share::ABSENT,
            time: i64::MIN,
        };
        Ok(self.slots.insert(key, entry, 0))
    }

    /// Notes the event time of a write.
    #[inline]
    fn stamp(&mut self, at: At) {
        if !self.expiry.is_timed() {
            return;
        }
        let Some(slot) = self.slots.get_mut(at) else {
            return;
        };
        let before = slot.item.value.is_some().then_some(slot.item.time);
        slot.item.time = self.expiry.stamp(before);
        if before.is_none() {
            self.expiry.list(slot.key(), slot.item.time);
        }
    }

    fn not_loaded(&self) -> KeyError {
        KeyError::NotLoaded { table: self.id.0 }
    }
}

impl<V: StateValue> Timed for Table<V> {
    type Expired = Expired<V>;

    fn clock(&mut self) -> (&mut Expiry, impl Fn(&[u8]) -> Found) {
        let slots = &self.slots;
        let find = move |key: &[u8]| {
            let Some(at) = slots.find(key) else {
                return slots.unknown();
            };
            let item = slots.get(at).map(|slot| &slot.item);
            item.filter(|item| item.value.is_some())
                .map_or(Found::Gone, |item| Found::Written(item.time))
        };
        (&mut self.expiry, find)
    }

    fn take(&mut self, key: &[u8]) -> Result<Option<Expired<V>>, KeyError> {
        Ok(self.remove(key)?.map(|value| (key.into(), value)))
    }
}

impl<V: StateValue> Stateful for Table<V> {
    fn id(&self) -> TableId {
        self.id
    }

    fn kind(&self) -> Kind {
        Kind::Value
    }

    fn close(&mut self, changes: &mut Changes) {
        let (id, timed) = (self.id, self.expiry.is_timed());
        for at in self.slots.take_changed() {
            let Some(slot) = self.slots.get_mut(at) else {
                continue;
            };
            let (key, was) = (slot.key(), slot.item.share);
            let Some(value) = &slot.item.value else {
                changes.remove(was, |out| key::encode(Kind::Value, id, key, out));
                slot.item.share = Share::ABSENT;
                if self.slots.is_complete() {
                    self.slots.remove(at);
                }
                continue;
            };
            let time = timed.then_some(slot.item.time);
            let share = changes.set(
                was,
                |out| key::encode(Kind::Value, id, key, out),
                |out| expiry::encode(value, time, out),
            );
            let heap = value.heap();
            slot.item.share = share;
            self.slots.reweigh(at, heap);
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
        let entry = match elements.first() {
            None => Entry {
                value: None,
                share: Share::ABSENT,
                time: i64::MIN,
            },
            Some((_, stored)) => {
                let (time, value) = expiry::decode(self.id, self.expiry.is_timed(), stored)?;
                let share = Share::of(&key::encoded(Kind::Value, self.id, user), stored);
                Entry {
                    value: Some(value),
                    share,
                    time,
                }
            }
        };
        let heap = entry.value.as_ref().map_or(0, StateValue::heap);
        self.slots.insert(user, entry, heap);
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
