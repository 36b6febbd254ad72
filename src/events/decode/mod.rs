//! From JSON to rows.
//!
//! Records of a topic mostly look alike: the same names in the same order, the same punctuation.
//! [`JsonDecoder`] remembers such layouts and only compares; a record that fits none goes through
//! the [strict] reader, which alone decides what is refused and why.

mod layout;
mod scan;
mod strict;

use std::sync::Arc;

use tidemill_broker::Batch;

use self::layout::Layout;
use self::scan::{Minute, PAD};
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

impl Limits {
    /// The largest payload that may be asked for: what brokers take by default.
    pub const RECORD_MAX: usize = 16 << 20;
}

impl Default for Limits {
    /// 1 MiB, strings of 256 KiB, 64 levels, arrays of 100,000.
    fn default() -> Self {
        Self {
            record: 1 << 20,
            string: 256 << 10,
            depth: 64,
            array: 100_000,
        }
    }
}

/// Layouts remembered at a time: producers of one topic differ, and optional fields come and go.
const LAYOUTS_MAX: usize = 4;

/// Records in a row without a match after which layouts are learned from every
/// [`LEARN_EVERY`]th only: some topics have none.
const MISSES_MAX: u32 = 16;

/// See [`MISSES_MAX`].
const LEARN_EVERY: u32 = 64;

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
    /// What a member of this name is; `likely` is the slot of the field that it most likely is.
    fn target(&self, name: &str, likely: usize) -> Target {
        let fields = &self.schema.fields;
        if fields.get(likely).is_some_and(|field| *field.name == *name) {
            return Target::Field(likely);
        }
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
    // Slots that may hold something.
    dirty: u64,
    rounded: u64,
    predicted: u64,
    layouts: Vec<Layout>,
    // The layout that matched last.
    last: usize,
    // Records since one matched.
    misses: u32,
    minute: Minute,
    // A payload at the end of a slab, with room behind it.
    padded: Vec<u8>,
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
            dirty: 0,
            rounded: 0,
            predicted: 0,
            layouts: Vec::new(),
            last: 0,
            misses: 0,
            minute: Minute::default(),
            padded: Vec::new(),
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

    /// Records read by a remembered layout so far; the rest took the strict reader, several times
    /// slower.
    pub fn predicted(&self) -> u64 {
        self.predicted
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

    /// Holds one payload to what records are held to, without making a row of it.
    ///
    /// # Errors
    ///
    /// What [`decode`](Self::decode) would refuse it for.
    pub fn check(&self, payload: &[u8]) -> Result<(), Poison> {
        self.check_size(payload)?;
        let mut rows = Rows::new(self.spec.schema.clone());
        let mut slots = vec![0; self.slots.len()];
        Strict::read(&self.spec, payload, 0, &mut rows, &mut slots).map(drop)
    }

    fn check_size(&self, payload: &[u8]) -> Result<(), Poison> {
        let (size, limit) = (payload.len(), self.spec.limits.record);
        if size <= limit {
            return Ok(());
        }
        let message = format!(
            "{size} bytes: at most {limit} are read; `record_max` of the topic sets how many"
        );
        Err(Poison::new(class::TOO_LARGE, message))
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
        self.check_size(payload)?;
        if let Some(present) = self.predict(batch, start, end) {
            self.predicted += 1;
            self.misses = 0;
            return Ok(present);
        }
        self.misses = self.misses.saturating_add(1);
        self.slots.fill(0);
        self.dirty = u64::MAX;
        let read = Strict::read(&self.spec, payload, start, rows, &mut self.slots)?;
        self.rounded += read.rounded;
        // Learned only from what was taken: a layout never matches what the strict reader refuses.
        if read.rounded == 0
            && (self.misses <= MISSES_MAX || self.misses.is_multiple_of(LEARN_EVERY))
        {
            self.learn(payload, start, read.present);
        }
        Ok(read.present)
    }

    /// Reads a record by a remembered layout.
    #[inline]
    fn predict(&mut self, batch: &Batch, start: u32, end: u32) -> Option<u64> {
        if self.layouts.is_empty() {
            return None;
        }
        let slab = batch.slab();
        let payload = match slab.get(start as usize..end as usize + PAD) {
            Some(payload) => payload,
            None => {
                self.padded.clear();
                self.padded
                    .extend_from_slice(&slab[start as usize..end as usize]);
                self.padded.resize(self.padded.len() + PAD, 0);
                &self.padded
            }
        };
        let limits = &self.spec.limits;
        for turn in 0..self.layouts.len() {
            // The last one first, then the others.
            let at = match turn {
                0 => self.last,
                turn if turn <= self.last => turn - 1,
                turn => turn,
            };
            let layout = &mut self.layouts[at];
            if self.dirty & !layout.present != 0 {
                self.slots.fill(0);
                self.dirty = 0;
            }
            self.dirty |= layout.present;
            let (minute, slots) = (&mut self.minute, &mut self.slots);
            if layout.read(payload, start, limits, minute, slots).is_some() {
                layout.hits = layout.hits.saturating_add(1);
                self.last = at;
                return Some(layout.present);
            }
        }
        None
    }

    /// Remembers the layout of a record that was read into `self.slots`, if it reads that record
    /// the same way.
    #[cold]
    fn learn(&mut self, payload: &[u8], start: u32, present: u64) {
        let Some(layout) = Layout::learn(&self.spec, payload) else {
            return;
        };
        self.padded.clear();
        self.padded.extend_from_slice(payload);
        self.padded.resize(payload.len() + PAD, 0);
        let mut slots = vec![0; self.slots.len()];
        let limits = &self.spec.limits;
        let read = layout.read(&self.padded, start, limits, &mut self.minute, &mut slots);
        if read.is_none() || layout.present != present || slots != self.slots {
            return;
        }
        if self.layouts.len() < LAYOUTS_MAX {
            self.last = self.layouts.len();
            self.layouts.push(layout);
            return;
        }
        let rarest = (0..LAYOUTS_MAX).min_by_key(|&at| self.layouts[at].hits);
        for layout in &mut self.layouts {
            layout.hits /= 2;
        }
        self.last = rarest.unwrap_or_default();
        self.layouts[self.last] = layout;
    }
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
