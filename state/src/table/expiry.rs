//! When entries are due to expire: the time to live of every kind of table.
//!
//! What lives is an entry of a value table, an element of a map, an element of a deque: each of them dies once the
//! watermark has passed the event time of its last write by the time to live. That time is stored before its value
//! (8 bytes, big endian, milliseconds), so what is due when depends on what is stored and on nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::{DecodeError, Error, KeyError, Result, StateValue, Stateful, TableId};

/// Bytes of the event time before a value.
const TIME: usize = 8;

/// Fewer places than this are not worth a smaller index.
const SHRINK_MIN: usize = 1 << 12;

/// What a table says of a place: of where something lies that can expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It must be loaded to tell.
    NotLoaded,
    /// Nothing is there.
    Gone,
    /// What is there first was written at this event time.
    Written(i64),
}

/// A table, as its clock sees it.
pub(super) trait Timed: Stateful {
    /// What it gives of what has expired.
    type Expired;

    /// Its clock, and what there is to know of a place.
    fn clock(&mut self) -> (&mut Expiry, impl Fn(&[u8]) -> Found);

    /// Takes away what lies first at a place.
    fn take(&mut self, place: &[u8]) -> std::result::Result<Option<Self::Expired>, KeyError>;
}

/// The places to be loaded before [`expire`], at most `most`.
pub(super) fn due(table: &mut impl Timed, watermark: i64, most: usize) -> Vec<Arc<[u8]>> {
    let (expiry, find) = table.clock();
    expiry.wanted(watermark, most, find)
}

/// Takes away the first `most` that the watermark has passed by the time to live: by due time, then by place. If
/// something must be loaded first, nothing.
pub(super) fn expire<T: Timed>(
    table: &mut T,
    watermark: i64,
    most: usize,
) -> std::result::Result<Vec<T::Expired>, KeyError> {
    if !due(table, watermark, most).is_empty() {
        return Err(KeyError::NotLoaded {
            table: table.id().0,
        });
    }
    let mut expired = Vec::new();
    while expired.len() < most {
        let (expiry, find) = table.clock();
        let Some(place) = expiry.first(watermark, find) else {
            break;
        };
        let Some(taken) = table.take(&place)? else {
            break;
        };
        expired.push(taken);
    }
    Ok(expired)
}

/// Which places may be due when, by event time. Of a table without a time to live, none ever is.
///
/// Lazy: a place stays where it was listed while later writes move its real time on; when its time comes the table
/// looks and lists it again. So a further write costs nothing here. Each place is listed once, and never too late.
#[derive(Debug)]
pub(super) struct Expiry {
    /// None: nothing expires.
    ttl_ms: Option<i64>,
    /// The event time of the writes that follow.
    now: i64,
    due: BTreeSet<(i64, Arc<[u8]>)>,
    // Only ever asked for one place, so its order does not matter.
    listed: HashMap<Arc<[u8]>, i64, FixedState>,
}

impl Expiry {
    pub(super) fn new(ttl_ms: Option<u64>) -> Self {
        Self {
            ttl_ms: ttl_ms.map(|ttl| i64::try_from(ttl).unwrap_or(i64::MAX)),
            now: i64::MIN,
            due: BTreeSet::new(),
            listed: HashMap::with_hasher(FixedState::with_seed(0x6578_7069_7279)),
        }
    }

    /// Whether there is a time to live.
    pub(super) fn is_timed(&self) -> bool {
        self.ttl_ms.is_some()
    }

    pub(super) fn set_time(&mut self, event_time: i64) {
        if self.is_timed() {
            self.now = event_time;
        }
    }

    /// The event time of a write to what was last written at `before`, if it was there: the newest counts.
    pub(super) fn stamp(&self, before: Option<i64>) -> i64 {
        before.map_or(self.now, |before| before.max(self.now))
    }

    /// Takes note of a place that was written at this event time.
    pub(super) fn list(&mut self, place: &[u8], written: i64) {
        let Some(at) = self.due_at(written) else {
            return;
        };
        match self.listed.get_key_value(place) {
            // Looked at again when that time comes.
            Some((_, listed)) if *listed <= at => {}
            Some((place, _)) => {
                let place = place.clone();
                self.move_to(place, Some(at));
            }
            None => self.move_to(place.into(), Some(at)),
        }
    }

    /// Takes note of a place where this is stored.
    pub(super) fn observe(&mut self, table: TableId, place: &[u8], stored: &[u8]) -> Result<()> {
        if self.is_timed() {
            self.list(place, time_of(table, stored)?);
        }
        Ok(())
    }

    /// When what was written at this event time is due.
    fn due_at(&self, written: i64) -> Option<i64> {
        Some(written.saturating_add(self.ttl_ms?))
    }

    /// The places that must be loaded to say which `most` of all expire first, unless `most` of them are not enough
    /// for that. Lists those that are known where they belong.
    pub(super) fn wanted(
        &mut self,
        watermark: i64,
        most: usize,
        find: impl Fn(&[u8]) -> Found,
    ) -> Vec<Arc<[u8]>> {
        let (mut wanted, mut moved, mut past) = (Vec::new(), Vec::new(), 0);
        for (at, place) in self.due.iter().take_while(|(at, _)| *at <= watermark) {
            if past + wanted.len() >= most {
                break;
            }
            match find(place) {
                Found::NotLoaded => wanted.push(place.clone()),
                Found::Gone => moved.push((place.clone(), None)),
                Found::Written(time) => match self.due_at(time) {
                    real if real > Some(*at) => moved.push((place.clone(), real)),
                    _ => past += 1,
                },
            }
        }
        for (place, at) in moved {
            self.move_to(place, at);
        }
        wanted
    }

    /// The first place that is past at this watermark, by due time and then by its bytes. None before what must be
    /// loaded to tell. Whoever asks takes what lies there away, and asks again.
    pub(super) fn first(
        &mut self,
        watermark: i64,
        find: impl Fn(&[u8]) -> Found,
    ) -> Option<Arc<[u8]>> {
        loop {
            let (at, place) = self.due.first().filter(|(at, _)| *at <= watermark)?;
            let real = match find(place) {
                Found::NotLoaded => return None,
                Found::Gone => None,
                Found::Written(time) => self.due_at(time),
            };
            // None is listed too late, so what is listed where it belongs is before all others.
            if real.is_some_and(|real| real <= *at) {
                return Some(place.clone());
            }
            let place = place.clone();
            self.move_to(place, real);
        }
    }

    pub(super) fn clear(&mut self) {
        self.due.clear();
        self.listed.clear();
    }

    /// Lists a place at this due time, and nowhere else.
    fn move_to(&mut self, place: Arc<[u8]>, at: Option<i64>) {
        let before = match at {
            Some(at) => self.listed.insert(place.clone(), at),
            None => self.listed.remove(&place),
        };
        if let Some(before) = before {
            self.due.remove(&(before, place.clone()));
        }
        if let Some(at) = at {
            self.due.insert((at, place));
        } else if self.listed.capacity() > SHRINK_MIN
            && self.listed.len() < self.listed.capacity() / 8
        {
            self.listed.shrink_to(2 * self.listed.len());
        }
    }
}

/// Appends a value as it is stored: in a table with a time to live behind the event time of its last write.
pub(super) fn encode<V: StateValue>(value: &V, time: Option<i64>, out: &mut Vec<u8>) {
    if let Some(time) = time {
        out.extend_from_slice(&time.to_be_bytes());
    }
    value.encode(out);
}

/// Reads a value as it is stored, and the event time of its last write if the table is `timed`.
pub(super) fn decode<V: StateValue>(id: TableId, timed: bool, stored: &[u8]) -> Result<(i64, V)> {
    let (time, value) = if timed {
        (time_of(id, stored)?, stored.get(TIME..).unwrap_or_default())
    } else {
        (i64::MIN, stored)
    };
    let value = V::decode(value).map_err(|source| Error::Decode {
        table: id.0,
        source,
    })?;
    Ok((time, value))
}

/// The event time of the last write of what is stored in a table with a time to live.
fn time_of(id: TableId, stored: &[u8]) -> Result<i64> {
    match stored.first_chunk::<TIME>() {
        Some(time) => Ok(i64::from_be_bytes(*time)),
        None => Err(Error::Decode {
            table: id.0,
            source: DecodeError::new("the event time of its last write is missing"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_comes_and_goes_with_each_record_is_listed_once() {
        let mut expiry = Expiry::new(Some(100));
        for time in 0..1_000 {
            expiry.list(b"k", time % 7);
        }
        assert_eq!((expiry.due.len(), expiry.listed.len()), (1, 1));
        // Where its earliest write would be due: never too late.
        assert_eq!(expiry.due.first().map(|(at, _)| *at), Some(100));
    }

    #[test]
    fn what_is_gone_is_forgotten_with_the_room_it_took() {
        let mut expiry = Expiry::new(Some(1));
        for place in 0..100_000_u32 {
            expiry.list(&place.to_be_bytes(), 0);
        }
        assert_eq!(expiry.first(i64::MAX, |_| Found::Gone), None);
        assert_eq!((expiry.due.len(), expiry.listed.len()), (0, 0));
        assert!(expiry.listed.capacity() <= SHRINK_MIN);
    }

    #[test]
    fn no_more_is_to_be_loaded_at_once_than_is_asked_for() {
        let mut expiry = Expiry::new(Some(1));
        for place in 0..10_u8 {
            expiry.list(&[place], i64::from(place));
        }
        let unknown = |_: &[u8]| Found::NotLoaded;
        assert_eq!(expiry.wanted(i64::MAX, 3, unknown).len(), 3);
        assert_eq!(expiry.wanted(5, usize::MAX, unknown).len(), 5);
        // The first two were written again since, one is gone: three more must be looked at.
        let find = |place: &[u8]| match place[0] {
            0 | 1 => Found::Written(100),
            2 => Found::Gone,
            _ => Found::NotLoaded,
        };
        let wanted = expiry.wanted(i64::MAX, 3, find);
        assert_eq!(wanted, [3, 4, 5].map(|place| Arc::from([place])));
        assert_eq!(expiry.first(50, find), None);
        let known = |place: &[u8]| Found::Written(100 - i64::from(place[0]));
        assert_eq!(expiry.first(i64::MAX, known), Some(Arc::from([9])));
    }
}
