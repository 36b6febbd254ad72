//! `dedupe`: drops events whose id was seen before.

mod arena;
mod index;
mod order;
mod tree;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_broker::Timestamp;
use tidemill_state::{DecodeError, KEY_MAX, KeyError, StateValue, Stateful, Table};

use self::index::Index;
use super::{Context, Operator, key};
use crate::events::{RowHead, Rows, Schema};

/// Number of the encoding of the table: event time by key and id.
pub const CODEC: u32 = 1;

/// Lets the first event of each id through and drops the rest, within a window of event time.
///
/// An id is some fields of the event, within its key. It is remembered until the
/// watermark has passed its event time by the window, and at most `count_max` ids per key, the
/// oldest forgotten first: by event time, and among ids of one time by their bytes. An event that is
/// not remembered and older than that cannot be told from a repeat: older than the window, or than all
/// that are remembered of a key which has `count_max`. It goes to the dead letters as `dedupe.late`,
/// never silently either way. So no event passes twice; one that comes again with a later event time
/// than it had is another.
///
/// Restored with a shorter window or a lower `count_max` than it had, it forgets what that makes too
/// many before the next event comes, in pieces as everything that falls due. With a longer window or a
/// higher `count_max` it remembers more from then on, but not what it had forgotten by then: a repeat
/// of that passes as a first.
///
/// # Delivery
///
/// Keeps order. What it remembers is committed with the input's offsets, so a repeat is known
/// across a crash. State: one entry for each id.
///
/// # Memory
///
/// All ids are in memory, once, in an index that also knows which is forgotten next; see
/// [`bytes`](Self::bytes). So nothing is ever read from the store while it runs, and its table is
/// only where what an epoch changes is collected: it needs no room for more.
#[derive(Debug)]
pub struct Dedupe {
    id: Vec<usize>,
    window: i64,
    count_max: usize,
    // Event time by length of the key (4 bytes), key, id.
    seen: Table<i64>,
    // The same, whole.
    index: Index,
    // Keys that were restored with more ids than they may have: a former version of the file allowed them.
    crowded: BTreeSet<Box<[u8]>>,
    watermark: i64,
    scratch: Vec<u8>,
}

impl Dedupe {
    /// Remembers ids made of the slots `id` for `window`, at most `count_max` per key.
    pub fn new(id: Vec<usize>, window: Duration, count_max: usize, seen: Table<i64>) -> Self {
        Self {
            id,
            window: i64::try_from(window.as_micros()).unwrap_or(i64::MAX),
            count_max: count_max.max(1),
            seen,
            index: Index::default(),
            crowded: BTreeSet::new(),
            watermark: i64::MIN,
            scratch: Vec::new(),
        }
    }

    /// How many ids it remembers.
    pub fn remembered(&self) -> usize {
        self.index.len()
    }

    /// Bytes of memory that the ids it remembers take, outside its table: for each the bytes of its
    /// key and id, and some 60 to 100 beside them.
    pub fn bytes(&self) -> usize {
        self.index.bytes()
    }

    /// How many ids are to be forgotten at a watermark.
    fn count_due(&self, watermark: i64) -> usize {
        self.last_due(watermark)
            .map_or(0, |time| self.index.count_until(time))
    }

    /// Forgets ids that are due, at most so many, by event time, then by key and id. What is due and
    /// not yet forgotten passes for forgotten everywhere else. Returns how many more it might have been.
    fn forget_due(&mut self, most: usize) -> usize {
        let Some(last) = self.last_due(self.watermark) else {
            return most;
        };
        let mut left = most;
        let mut entry = std::mem::take(&mut self.scratch);
        while left > 0 {
            let Some(time) = self.index.pop_until(last, &mut entry) else {
                break;
            };
            self.erase(&entry, time);
            left -= 1;
            if !self.crowded.is_empty() {
                let key = record_key(&entry).unwrap_or_default();
                // It had too many, and has no more.
                if self.index.count_of(key) <= self.count_max {
                    self.crowded.remove(key);
                }
            }
        }
        self.scratch = entry;
        left
    }

    /// Forgets ids that their keys have too many of, at most so many: key by key, the oldest first. They
    /// too pass for forgotten before they are.
    fn forget_crowded(&mut self, most: usize) {
        let mut left = most;
        while left > 0
            && let Some(key) = self.crowded.pop_first()
        {
            left = self.thin_out(&key, left);
            if self.index.count_of(&key) > self.count_max {
                self.crowded.insert(key);
            }
        }
    }

    /// Forgets the oldest ids of a key, as long as it has too many, at most so many. Returns how many
    /// more it might have been.
    fn thin_out(&mut self, key: &[u8], most: usize) -> usize {
        let mut left = most;
        let mut oldest = Vec::new();
        while left > 0 && self.index.count_of(key) > self.count_max {
            let Some(time) = self.index.pop_of_key(key, &mut oldest) else {
                break;
            };
            self.erase(&oldest, time);
            left -= 1;
        }
        left
    }

    /// Reads what is kept under a key: the id's fields, keyed like their record, and the event time.
    ///
    /// # Errors
    ///
    /// If key or value is not what an operator with this id keeps.
    pub fn look(
        input: &Schema,
        id: &[usize],
        key: &[u8],
        value: &[u8],
    ) -> Result<(Rows, i64), DecodeError> {
        let time = i64::decode(value)?;
        let wrong = || DecodeError::new(format!("no id has this key of {} bytes", key.len()));
        let record_key = record_key(key).ok_or_else(wrong)?;
        let fields = id.iter().map(|slot| input.fields[*slot].clone());
        let schema = Schema {
            name: input.name.clone(),
            fields: fields.collect(),
            time: None,
        };
        let mut rows = Rows::new(Arc::new(schema.clone()));
        let mut slots = vec![0; id.len()];
        let bytes = &key[4 + record_key.len()..];
        let present = key::read_state(bytes, &schema, id.len(), &mut rows, &mut slots);
        let head = RowHead {
            present: present.ok_or_else(wrong)?,
            time,
            watermark: time,
            key: Some(rows.add_text(record_key)),
            record: 0,
        };
        rows.push(head, &slots);
        Ok((rows, time))
    }

    fn write_key(&mut self, rows: &Rows, row: usize) {
        let key = rows.key(row).unwrap_or_default();
        self.scratch.clear();
        self.scratch
            .extend_from_slice(&(key.len() as u32).to_be_bytes());
        self.scratch.extend_from_slice(key);
        key::write_state(rows, row, &self.id, &mut self.scratch);
    }

    /// Whether the event is the first of its id.
    fn is_first(&mut self, rows: &Arc<Rows>, row: usize, cx: &mut Context) -> bool {
        let time = rows.head(row).time;
        if time.saturating_add(self.window) <= self.watermark {
            cx.set_aside(
                rows,
                row,
                "dedupe.late",
                "older than the ids still remembered",
            );
            return false;
        }
        self.write_key(rows, row);
        let entry = std::mem::take(&mut self.scratch);
        let seen = self.remember(&entry, time);
        self.scratch = entry;
        match seen {
            Ok(Seen::First) => {
                cx.count_kept(self.scratch.len());
                return true;
            }
            Ok(Seen::Before) => cx.count_dropped(),
            Ok(Seen::Unknown) => cx.set_aside(
                rows,
                row,
                "dedupe.late",
                format!(
                    "older than the {} ids remembered of its key",
                    self.count_max
                ),
            ),
            Err(error) => cx.set_aside(rows, row, "dedupe.key", error.to_string()),
        }
        false
    }

    /// Remembers an entry, if it is the first of its id.
    fn remember(&mut self, entry: &[u8], time: i64) -> Result<Seen, KeyError> {
        if entry.len() > KEY_MAX {
            return Err(KeyError::TooLong {
                table: self.seen.id().get(),
                bytes: entry.len(),
            });
        }
        if !self.crowded.is_empty() {
            let key = record_key(entry).unwrap_or_default();
            if self.crowded.remove(key) {
                self.thin_out(key, usize::MAX);
            }
        }
        match self.index.time(entry) {
            Some(before) if before.saturating_add(self.window) > self.watermark => {
                return Ok(Seen::Before);
            }
            // Due, and not yet forgotten: as if it were.
            Some(before) => {
                self.index.remove(entry);
                self.erase(entry, before);
            }
            None => {}
        }
        let key = record_key(entry).unwrap_or_default();
        // Whatever this key has forgotten and the window has not is older than all it still has, which
        // are then `count_max`. Were one of them due, this would not be older.
        if self.index.count_of(key) >= self.count_max && self.index.is_oldest(time, entry) {
            return Ok(Seen::Unknown);
        }
        self.know(entry, None);
        self.seen.insert(entry, time)?;
        if self.index.insert(time, entry) > self.count_max {
            let mut oldest = Vec::new();
            if let Some(time) = self.index.pop_of_key(key, &mut oldest) {
                self.erase(&oldest, time);
            }
        }
        Ok(Seen::First)
    }

    /// Removes from the table what the index has forgotten.
    fn erase(&mut self, entry: &[u8], time: i64) {
        self.know(entry, Some(time));
        if let Err(error) = self.seen.remove(entry) {
            tracing::error!(%error, "an id to be forgotten was not loaded");
        }
        // Remembered and forgotten within an epoch: nothing to tell at its end, where going through
        // all such at once would hold the task up.
        self.seen.release(entry);
    }

    /// Tells the table what is stored of an entry, sparing it the way to the store: the index knows.
    /// Where the table holds the entry, it knows better, and stays as it is.
    fn know(&mut self, entry: &[u8], time: Option<i64>) {
        if self.seen.knows(entry) {
            return;
        }
        let stored = time.map(|time| {
            let mut stored = Vec::with_capacity(size_of::<i64>());
            time.encode(&mut stored);
            Bytes::from(stored)
        });
        let element = stored.as_ref().map(|stored| (&[][..], stored));
        if let Err(error) = self.seen.load(entry, element.as_slice()) {
            tracing::error!(%error, "an id's event time was not taken");
        }
    }

    /// The newest event time of which an id is forgotten at a watermark.
    fn last_due(&self, watermark: i64) -> Option<i64> {
        match watermark {
            i64::MAX => Some(i64::MAX),
            watermark => watermark.checked_sub(self.window),
        }
    }

    /// Moves event time on, and forgets what that makes due, unless it is more than `most`.
    fn move_to(&mut self, watermark: i64, most: usize) {
        if watermark <= self.watermark {
            return;
        }
        self.watermark = watermark;
        self.index.settle();
        if self.has_due() && (most == usize::MAX || self.count_due(watermark) <= most) {
            self.forget_due(usize::MAX);
        }
    }

    /// Whether any id is due and not forgotten.
    fn has_due(&self) -> bool {
        let last = self.last_due(self.watermark);
        last.is_some_and(|last| self.index.oldest().is_some_and(|oldest| oldest <= last))
    }
}

/// What is known of an id.
enum Seen {
    /// It never came before.
    First,
    /// It did.
    Before,
    /// It may have, and been forgotten.
    Unknown,
}

/// The record's key within a key of the table.
fn record_key(entry: &[u8]) -> Option<&[u8]> {
    let (length, rest) = entry.split_first_chunk::<4>()?;
    rest.get(..u32::from_be_bytes(*length) as usize)
}

impl Operator for Dedupe {
    fn process(&mut self, _input: usize, rows: Arc<Rows>, cx: &mut Context) {
        let mut keep = Vec::with_capacity(rows.len());
        for row in 0..rows.len() {
            // First event time, then the row: what is forgotten must not depend on how batches
            // were cut.
            self.move_to(rows.head(row).watermark, cx.most());
            keep.push(self.is_first(&rows, row, cx));
        }
        if keep.iter().all(|keep| *keep) {
            cx.emit(0, rows);
        } else {
            cx.emit(0, rows.select(|row| keep[row]));
        }
    }

    fn advance(&mut self, watermark: Timestamp, cx: &mut Context) {
        self.move_to(watermark.0, cx.most());
    }

    fn due(&self, watermark: Timestamp, most: usize) -> usize {
        let watermark = watermark.0.max(self.watermark);
        self.count_due(watermark).min(most.saturating_add(1))
    }

    fn has_backlog(&self) -> bool {
        self.has_due() || !self.crowded.is_empty()
    }

    fn work_off(&mut self, cx: &mut Context) {
        let left = self.forget_due(cx.most());
        self.forget_crowded(left);
    }

    fn tables(&mut self) -> Vec<&mut dyn Stateful> {
        vec![&mut self.seen]
    }

    fn restore(&mut self, _table: usize, key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
        let time = i64::decode(value)?;
        if record_key(key).is_none() || key.len() > KEY_MAX {
            let bytes = key.len();
            return Err(DecodeError::new(format!("an id's key has {bytes} bytes")));
        }
        if self.index.restore(time, key) == self.count_max.saturating_add(1) {
            self.crowded
                .insert(record_key(key).unwrap_or_default().into());
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.index.clear();
        self.crowded.clear();
        self.watermark = i64::MIN;
    }
}

#[cfg(test)]
mod tests;
