//! `dedupe`: drops events whose id was seen before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::Timestamp;
use tidemill_state::{DecodeError, Stateful, Table};

use super::{Ahead, Context, Operator, key};
use crate::events::{RowHead, Rows, Schema};

/// Number of the encoding of the table: event time by key and id.
pub const CODEC: u32 = 1;

// Ids by event time: (event time, key in the table).
type ByTime = BTreeSet<(i64, Box<[u8]>)>;

/// Lets the first event of each id through and drops the rest, within a window of event time.
///
/// An id is some fields of the event, within its key. It is remembered until the
/// watermark has passed its event time by the window, and at most `count_max` ids per key, the
/// oldest forgotten first. An event older than that cannot be told from a repeat: it goes to the
/// dead letters as `dedupe.late`, never silently either way.
///
/// # Delivery
///
/// Keeps order. What it remembers is committed with the input's offsets, so a repeat is known
/// across a crash. State: one entry for each id.
#[derive(Debug)]
pub struct Dedupe {
    id: Vec<usize>,
    window: i64,
    count_max: usize,
    // Event time by length of the key (4 bytes), key, id.
    seen: Table<i64>,
    // Event times of the ids seen, with their key in the table: what is forgotten when.
    by_time: ByTime,
    // For each key of a record, its ids by event time.
    by_key: BTreeMap<Box<[u8]>, ByTime>,
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
            by_time: BTreeSet::new(),
            by_key: BTreeMap::new(),
            watermark: i64::MIN,
            scratch: Vec::new(),
        }
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
        let time = <i64 as tidemill_state::StateValue>::decode(value)?;
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
        match self.seen.get(&self.scratch) {
            Ok(Some(_)) => {
                cx.count_dropped();
                return false;
            }
            Ok(None) => {}
            Err(error) => {
                cx.set_aside(rows, row, "dedupe.key", error.to_string());
                return false;
            }
        }
        if let Err(error) = self.seen.insert(&self.scratch, time) {
            cx.set_aside(rows, row, "dedupe.key", error.to_string());
            return false;
        }
        let entry: Box<[u8]> = self.scratch.as_slice().into();
        let key = record_key(&entry).unwrap_or_default();
        let ids = self.by_key.entry(key.into()).or_default();
        ids.insert((time, entry.clone()));
        let oldest = if ids.len() > self.count_max {
            ids.pop_first()
        } else {
            None
        };
        self.by_time.insert((time, entry));
        if let Some(oldest) = oldest {
            self.remove(&oldest.1);
            self.by_time.remove(&oldest);
        }
        true
    }

    fn remove(&mut self, entry: &[u8]) {
        if let Err(error) = self.seen.remove(entry) {
            tracing::error!(%error, "an id to be forgotten was not loaded");
        }
    }

    fn move_to(&mut self, watermark: i64) {
        if watermark <= self.watermark {
            return;
        }
        self.watermark = watermark;
        while let Some((time, _)) = self.by_time.first()
            && time.saturating_add(self.window) <= watermark
        {
            let Some(old) = self.by_time.pop_first() else {
                break;
            };
            self.remove(&old.1);
            let key = record_key(&old.1).unwrap_or_default();
            if let Some(ids) = self.by_key.get_mut(key) {
                ids.remove(&old);
                if ids.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
    }
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
            self.move_to(rows.head(row).watermark);
            keep.push(self.is_first(&rows, row, cx));
        }
        if keep.iter().all(|keep| *keep) {
            cx.emit(0, rows);
        } else {
            cx.emit(0, rows.select(|row| keep[row]));
        }
    }

    fn advance(&mut self, watermark: Timestamp, _cx: &mut Context) {
        self.move_to(watermark.0);
    }

    fn missing(&mut self, ahead: Ahead<'_>, wanted: &mut Vec<(usize, Box<[u8]>)>) {
        let (Ahead::Rows { watermark, .. } | Ahead::Time { watermark, .. }) = ahead else {
            return;
        };
        for (rows, row) in ahead
            .rows()
            .iter()
            .flat_map(|(_, rows)| (0..rows.len()).map(move |row| (*rows, row)))
        {
            self.write_key(rows, row);
            if !self.seen.knows(&self.scratch) {
                wanted.push((0, self.scratch.as_slice().into()));
            }
            // The ids that this one may push out.
            if let Some(ids) = self.by_key.get(rows.key(row).unwrap_or_default())
                && ids.len() + rows.len() > self.count_max
            {
                let out = ids.len() + rows.len() - self.count_max;
                wanted.extend(ids.iter().take(out).map(|(_, entry)| (0, entry.clone())));
            }
        }
        for (time, entry) in &self.by_time {
            if time.saturating_add(self.window) > watermark.0 {
                break;
            }
            wanted.push((0, entry.clone()));
        }
    }

    fn tables(&mut self) -> Vec<&mut dyn Stateful> {
        vec![&mut self.seen]
    }

    fn restore(&mut self, _table: usize, key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
        let time = <i64 as tidemill_state::StateValue>::decode(value)?;
        let Some(record_key) = record_key(key) else {
            return Err(DecodeError::new(format!(
                "an id's key has {} bytes",
                key.len()
            )));
        };
        self.by_key
            .entry(record_key.into())
            .or_default()
            .insert((time, key.into()));
        self.by_time.insert((time, key.into()));
        Ok(())
    }

    fn forget(&mut self) {
        self.by_time.clear();
        self.by_key.clear();
        self.watermark = i64::MIN;
    }
}
