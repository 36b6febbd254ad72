//! From JSON to rows.
//!
//! Records of a topic mostly look alike: the same names in the same order, the same punctuation.
//! [`JsonDecoder`] remembers such layouts and only compares; a record that fits none goes through
//! the [strict] reader, which alone decides what is refused and why.

mod strict;

use std::sync::Arc;

use tidemill_broker::Batch;

use self::strict::Strict;
use super::{Poison, RowHead, Rows, Schema, Text, class};

/// The newest version of the system's events that this program reads.
pub const VERSION_MAX: i64 = 1;

/// What a payload may ask of a decoder; beyond it the record is poison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a payload.
    pub record: usize,
    /// Bytes of a string between its quotes, as written.
    pub string: usize,
    /// Levels of objects and arrays, the event itself being the first.
    pub depth: usize,
    /// Elements of an array.
    pub array: usize,
}

impl Default for Limits {
    /// 16 MiB, strings of 256 KiB, 64 levels, arrays of 100,000.
    fn default() -> Self {
        Self {
            record: 16 << 20,
            string: 256 << 10,
            depth: 64,
            array: 100_000,
        }
    }
}

/// What is asked of a payload: fixed when the decoder is made.
#[derive(Debug, Clone)]
struct Spec {
    schema: Arc<Schema>,
    needed: u64,
    required: u64,
    limits: Limits,
    system: bool,
    round: bool,
}

impl Spec {
    /// What a member of this name is.
    fn target(&self, name: &str) -> Target {
        match self.schema.slot(name) {
            Some(slot) => Target::Field(slot),
            None if self.system && name == "eventType" => Target::EventType,
            None if self.system && name == "version" => Target::Version,
            None => Target::Unknown,
        }
    }
}

/// What a member of the object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Field(usize),
    EventType,
    Version,
    Unknown,
}

/// Decodes records of JSON objects into [`Rows`].
///
/// Refused are, with a [class] each: a payload that is missing, too large, not UTF-8, not JSON, not
/// an object, or followed by anything; nesting, strings and arrays beyond the [`Limits`], also in
/// members nobody reads; a declared field that is there twice, is required and missing or null, or
/// is needed and of another type; a number or instant that its slot cannot hold exactly.
///
/// Numbers are taken from strings too. `null` is absence. Members that are not declared are
/// ignored; declared ones that are not needed stay absent from the row, their type unseen.
#[derive(Debug)]
pub struct JsonDecoder {
    spec: Spec,
    slots: Vec<i64>,
    rounded: u64,
}

impl JsonDecoder {
    /// A decoder of the fields in the mask `needed`; the field of event time is always needed.
    pub fn new(schema: Arc<Schema>, needed: u64, limits: Limits) -> Self {
        let mut required = 0;
        for (slot, field) in schema.fields.iter().enumerate() {
            required |= u64::from(field.required) << slot;
        }
        let needed = schema.time.map_or(needed, |slot| needed | 1 << slot);
        Self {
            slots: vec![0; schema.width()],
            spec: Spec {
                schema,
                needed,
                required,
                limits,
                system: false,
                round: false,
            },
            rounded: 0,
        }
    }

    /// Also refuses a record whose `eventType` is there and not the schema's name, or whose
    /// `version` is above [`VERSION_MAX`]: for the system's own events.
    ///
    /// A field of such a name in the schema is an ordinary field and not checked.
    #[must_use]
    pub fn system_event(mut self) -> Self {
        self.spec.system = true;
        self
    }

    /// Rounds decimals beyond a field's scale half to even instead of refusing them, and counts
    /// them in [`rounded`](Self::rounded): for imports, which show the count.
    #[must_use]
    pub fn rounding(mut self) -> Self {
        self.spec.round = true;
        self
    }

    /// The schema of the rows.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.spec.schema
    }

    /// Numbers rounded so far.
    pub fn rounded(&self) -> u64 {
        self.rounded
    }

    /// Decodes each record of `batch` into a row, or hands its index and what is wrong with it to
    /// `poison`.
    ///
    /// Rows are in the order of the records and name theirs. Event time is the field the schema
    /// names, else (or where that field is absent) the record's timestamp. Text without escapes
    /// stays where it is in the batch's slab.
    pub fn decode(&mut self, batch: &Batch, poison: &mut dyn FnMut(usize, Poison)) -> Rows {
        let mut rows = Rows::over(self.spec.schema.clone(), batch.clone());
        rows.reserve(batch.len());
        for (index, record) in batch.iter().enumerate() {
            let mut head = RowHead {
                present: 0,
                time: record.timestamp.0,
                watermark: i64::MIN,
                key: batch
                    .key_range(index)
                    .map(|(start, end)| Text { start, end }),
                record: index as u32,
            };
            match self.record(batch, index, &mut rows) {
                Ok(present) => {
                    head.present = present;
                    if let Some(slot) = self.spec.schema.time
                        && present & (1 << slot) != 0
                    {
                        head.time = self.slots[slot];
                    }
                    rows.push(head, &self.slots);
                }
                Err(reason) => poison(index, reason),
            }
        }
        rows
    }

    /// Decodes one record into `self.slots`; answers which are there.
    fn record(&mut self, batch: &Batch, index: usize, rows: &mut Rows) -> Result<u64, Poison> {
        let Some((start, end)) = batch.value_range(index) else {
            return Err(Poison::new(
                class::EMPTY,
                "a tombstone: expected an event as a JSON object",
            ));
        };
        let payload = &batch.slab()[start as usize..end as usize];
        let limit = self.spec.limits.record;
        if payload.len() > limit {
            let size = payload.len();
            return Err(Poison::new(
                class::TOO_LARGE,
                format!("{size} bytes: at most {limit} are read"),
            ));
        }
        self.slots.fill(0);
        let read = Strict::read(&self.spec, payload, start, rows, &mut self.slots)?;
        self.rounded += read.rounded;
        Ok(read.present)
    }
}

#[cfg(test)]
mod tests;
