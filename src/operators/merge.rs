//! `merge`: several inputs in order of event time.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_broker::Timestamp;
use tidemill_state::{DecodeError, KeyError, Postcard, StateValue, Stateful, Table, TableId};

use super::{Ahead, Context, Operator, key, weight};
use crate::events::{HeldRow, Rows, Schema};

/// Number of the encoding of the table: rows by event time, input, place in the input and number of their
/// arrival.
pub const CODEC: u32 = 1;

/// Where a key goes on behind event time and input: with a partition and an offset, or with this.
const OF_NO_RECORD: [u8; 4] = u32::MAX.to_be_bytes();

/// Bytes of a key up to the offset, or to the arrival of a row that has none.
const PLACE_BYTES: usize = 22;

/// More than the numbers and lengths of an event take in the store, beside its texts.
const BESIDE_TEXTS_BYTES: usize = 4 << 10;

/// Merges its inputs in order of event time; ties by input, then partition, then offset, then topic, then as
/// they came.
///
/// Holds each event until the watermarks of all inputs have passed it, so one silent input holds all
/// until it is idle. An event that comes after that is late: it goes out at once, and the next
/// stage sees that it is late.
///
/// # Delivery
///
/// What is held when an epoch closes is committed as state. State: one entry for each event held. An event
/// that is larger than what state is written to takes is set aside as `merge.too_large`.
#[derive(Debug)]
pub struct Merge {
    schema: Arc<Schema>,
    held: Table<HeldRow>,
    // The keys of the table, which sort as the rows are to go out, with what each counts for.
    order: BTreeMap<Box<[u8]>, usize>,
    record_bytes_max: usize,
    // More than that of any row held, so that the place of the next is nobody's.
    arrivals: u64,
    watermark: i64,
}

impl Merge {
    /// An operator over the table that holds its rows.
    pub fn new(schema: Arc<Schema>, held: Table<HeldRow>) -> Self {
        Self {
            schema,
            held,
            order: BTreeMap::new(),
            record_bytes_max: usize::MAX,
            arrivals: 0,
            watermark: i64::MIN,
        }
    }

    /// Where what is held is to fit into records of so many bytes: an event that does not is set aside as
    /// `merge.too_large`.
    pub fn in_records_of(mut self, bytes_max: usize) -> Self {
        self.record_bytes_max = bytes_max;
        self
    }

    /// Reads what is held under a key: the event, and the input it came from.
    ///
    /// # Errors
    ///
    /// If key or value is not what an operator of this schema holds.
    pub fn look(
        schema: &Arc<Schema>,
        key: &[u8],
        value: &[u8],
    ) -> Result<(Rows, u16), DecodeError> {
        let held = HeldRow::decode(value)?;
        let input = key.get(8..10).and_then(|bytes| bytes.try_into().ok());
        let Some(input) = input.map(u16::from_be_bytes) else {
            return Err(DecodeError::new(format!(
                "no held event has this key of {} bytes",
                key.len()
            )));
        };
        let mut rows = Rows::new(schema.clone());
        held.release(0, &mut rows);
        Ok((rows, input))
    }

    /// A place for a row that no other has: an input may bring rows of several topics, and a record more than
    /// once.
    fn place(&mut self, input: usize, rows: &Rows, row: usize) -> Box<[u8]> {
        let head = rows.head(row);
        let of_record = match (rows.id(row), rows.source()) {
            (None, Some(batch)) => Some((batch.at(), batch.get(head.record as usize).offset)),
            _ => None,
        };
        let topic = of_record.map_or("", |(at, _)| at.topic.as_str());
        let mut place = Vec::with_capacity(PLACE_BYTES + topic.len() + 8);
        place.extend_from_slice(&key::time_to_bytes(head.time));
        place.extend_from_slice(&(input as u16).to_be_bytes());
        match of_record {
            Some((at, offset)) => {
                place.extend_from_slice(&at.partition.to_be_bytes());
                place.extend_from_slice(&offset.0.to_be_bytes());
                place.extend_from_slice(topic.as_bytes());
            }
            None => place.extend_from_slice(&OF_NO_RECORD),
        }
        place.extend_from_slice(&self.arrivals.to_be_bytes());
        self.arrivals += 1;
        place.into()
    }

    /// Holds a row until event time has passed it. If it cannot, says of which class that is, and why.
    fn hold(
        &mut self,
        place: Box<[u8]>,
        row: HeldRow,
        cx: &mut Context,
    ) -> Result<(), (&'static str, String)> {
        if let Some(bytes) = self.too_large(&place, &row) {
            let most = self.record_bytes_max;
            let why = format!(
                "it takes {bytes} bytes while it is held, and the changelog takes records of {most} at most"
            );
            return Err(("merge.too_large", why));
        }
        let wrong = |error: KeyError| ("merge.key", error.to_string());
        let weight = weight(row.bytes());
        cx.count_kept(place.len() + row.bytes());
        // A new place: the table need only learn that nothing is there, and not by looking.
        if !self.held.is_complete() {
            let known = self.held.load(&place, &[]);
            known.map_err(|error| ("merge.key", error.to_string()))?;
        }
        self.held.insert(&place, row).map_err(wrong)?;
        self.order.insert(place, weight);
        Ok(())
    }

    /// The bytes of the record that holds a row, if they are too many.
    fn too_large(&self, place: &[u8], row: &HeldRow) -> Option<usize> {
        let key = size_of::<TableId>() + place.len();
        if key + row.bytes() + BESIDE_TEXTS_BYTES <= self.record_bytes_max {
            return None;
        }
        let mut value = Vec::new();
        row.encode(&mut value);
        let bytes = key + value.len();
        (bytes > self.record_bytes_max).then_some(bytes)
    }

    /// Moves event time on, and lets go out what it has passed: unless that is too much, or something
    /// is left already.
    fn move_to(&mut self, watermark: i64, record: u32, made: &mut Rows, cx: &mut Context) {
        if watermark <= self.watermark {
            return;
        }
        let had_backlog = self.has_backlog();
        self.watermark = watermark;
        let is_loaded =
            self.held.is_complete() || self.passed(watermark).all(|(at, _)| self.held.knows(at));
        let due = self.due(Timestamp(watermark), cx.most());
        if had_backlog || !is_loaded || !cx.allows(record, due) {
            return;
        }
        self.release(usize::MAX, record, made);
    }

    /// The places of what a watermark has passed, in order, with what each counts for: all of them where
    /// nothing can come any more.
    fn passed(&self, watermark: i64) -> impl Iterator<Item = (&[u8], usize)> {
        let end = key::time_to_bytes(watermark);
        let is_passed = move |(at, _): &(&[u8], usize)| at[..8] < end[..] || watermark == i64::MAX;
        let places = self.order.iter().map(|(at, weight)| (&**at, *weight));
        places.take_while(is_passed)
    }

    /// The first of what a watermark has passed that count for no more than `most`, or the one that does.
    fn first(&self, watermark: i64, most: usize) -> impl Iterator<Item = &[u8]> {
        let mut count = 0_usize;
        let first = self.passed(watermark).take_while(move |(_, weight)| {
            let is_first = count == 0;
            count = count.saturating_add(*weight);
            is_first || count <= most
        });
        first.map(|(at, _)| at)
    }

    /// Lets the [first](Self::first) of what event time has passed go out.
    fn release(&mut self, most: usize, record: u32, made: &mut Rows) {
        let count = self.first(self.watermark, most).count();
        for _ in 0..count {
            let Some((place, _)) = self.order.pop_first() else {
                return;
            };
            match self.held.remove(&place) {
                Ok(Some(row)) => row.release(record, made),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "a held event was not loaded"),
            }
        }
    }
}

impl StateValue for HeldRow {
    fn encode(&self, out: &mut Vec<u8>) {
        // Plain data: writing it to memory cannot fail.
        *out = postcard::to_extend(self, std::mem::take(out)).unwrap_or_default();
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Postcard(row) = Postcard::<Self>::decode(bytes)?;
        Ok(row)
    }

    fn heap(&self) -> usize {
        self.bytes()
    }
}

impl Operator for Merge {
    fn process(&mut self, input: usize, rows: Arc<Rows>, cx: &mut Context) {
        let mut made = Rows::new(self.schema.clone());
        for row in 0..rows.len() {
            // First: rows before it that never came here, dropped by an earlier stage, count. A row
            // by itself moves the watermark no further than its own time, so not past itself.
            let head = rows.head(row);
            while let Some(by) = cx.next_move(head.record) {
                self.move_to(by.watermark, by.record, &mut made, cx);
            }
            self.move_to(head.watermark, head.record, &mut made, cx);
            let held = HeldRow::hold(&rows, row);
            if head.time < self.watermark || self.watermark == i64::MAX {
                // What is due and has yet to go out is not late behind it.
                let watermark = self.held_at().unwrap_or(Timestamp(self.watermark));
                held.release_late(watermark.0, head.record, &mut made);
            } else {
                let place = self.place(input, &rows, row);
                if let Err((class, why)) = self.hold(place, held, cx) {
                    cx.set_aside(&rows, row, class, why);
                }
            }
        }
        cx.emit(0, made);
    }

    fn advance(&mut self, watermark: Timestamp, cx: &mut Context) {
        let mut made = Rows::new(self.schema.clone());
        while let Some(by) = cx.next_move(u32::MAX) {
            self.move_to(by.watermark, by.record, &mut made, cx);
        }
        self.move_to(watermark.0, u32::MAX, &mut made, cx);
        cx.emit(0, made);
    }

    fn holds_rows(&self) -> bool {
        true
    }

    fn due(&self, watermark: Timestamp, most: usize) -> usize {
        let mut count = 0_usize;
        for (_, weight) in self.passed(watermark.0) {
            count = count.saturating_add(weight);
            if count > most {
                return most.saturating_add(1);
            }
        }
        count
    }

    fn has_backlog(&self) -> bool {
        self.passed(self.watermark).next().is_some()
    }

    fn work_off(&mut self, cx: &mut Context) {
        let mut made = Rows::new(self.schema.clone());
        self.release(cx.most(), u32::MAX, &mut made);
        cx.emit(0, made);
    }

    fn held_at(&self) -> Option<Timestamp> {
        let (first, _) = self.passed(self.watermark).next()?;
        let time = <[u8; 8]>::try_from(&first[..8]).ok()?;
        Some(Timestamp(key::time_from_bytes(time)))
    }

    fn missing(&mut self, ahead: Ahead<'_>, wanted: &mut Vec<(usize, Box<[u8]>)>) {
        let (watermark, most) = match ahead {
            // As much is due before the last move at most, and as much is done at that one.
            Ahead::Rows {
                watermark, most, ..
            }
            | Ahead::Time { watermark, most } => (watermark.0, most.saturating_mul(2)),
            Ahead::Backlog { most } => (self.watermark, most),
        };
        let due = self.first(watermark, most);
        wanted.extend(
            due.filter(|place| !self.held.knows(place))
                .map(|place| (0, Box::from(place))),
        );
    }

    fn tables(&mut self) -> Vec<&mut dyn Stateful> {
        vec![&mut self.held]
    }

    fn restore(&mut self, _table: usize, key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
        let row = HeldRow::decode(value)?;
        let Some((before, arrival)) = key.split_last_chunk().filter(|_| key.len() >= PLACE_BYTES)
        else {
            return Err(DecodeError::new(format!(
                "a held event's key has {} bytes",
                key.len()
            )));
        };
        // Those of rows with an offset once ended with it.
        if before.ends_with(&OF_NO_RECORD) || key.len() > PLACE_BYTES {
            self.arrivals = self
                .arrivals
                .max(u64::from_be_bytes(*arrival).saturating_add(1));
        }
        self.order.insert(key.into(), weight(row.bytes()));
        Ok(())
    }

    fn forget(&mut self) {
        self.order.clear();
        self.arrivals = 0;
        self.watermark = i64::MIN;
    }

    fn horizon(&self) -> Option<Timestamp> {
        let (last, _) = self.order.last_key_value()?;
        let time = <[u8; 8]>::try_from(&last[..8]).ok()?;
        Some(Timestamp(key::time_from_bytes(time).saturating_add(1)))
    }
}

#[cfg(test)]
mod tests;
