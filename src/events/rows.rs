//! Rows: a batch of decoded events, without lifetimes and with few allocations.
//!
//! A row has one 64-bit slot for each field of its schema. Text in a slot is a range of the batch's
//! slab; what enters state is copied, so a slab is never pinned.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tidemill_broker::{Batch, Timestamp};

use super::{Schema, Type};

/// A range of a batch's slab, packed into a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    /// First byte.
    pub start: u32,
    /// Byte after the last.
    pub end: u32,
}

impl Text {
    /// The empty text.
    pub const EMPTY: Self = Self { start: 0, end: 0 };

    /// As a slot.
    pub fn to_slot(self) -> i64 {
        (u64::from(self.start) | (u64::from(self.end) << 32)) as i64
    }

    /// From a slot.
    pub fn from_slot(slot: i64) -> Self {
        Self {
            start: slot as u64 as u32,
            end: ((slot as u64) >> 32) as u32,
        }
    }
}

/// What every row carries besides its slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowHead {
    /// One bit per field that is there.
    pub present: u64,
    /// Event time, microseconds.
    pub time: i64,
    /// The watermark of the row's stream once this row has been seen, microseconds: set by the
    /// source, [`i64::MIN`] until then. Kept per row so that what is late does not depend on how
    /// batches were cut.
    pub watermark: i64,
    /// The key, as a range of the slab; `None` for events without one.
    pub key: Option<Text>,
    /// Index of the record in [`Rows::source`] that this row was made of, or of the record that
    /// caused it.
    pub record: u32,
}

impl RowHead {
    /// An event without a key, all of whose fields are there, in a stream in order of event time: no
    /// earlier one comes after it. Bits beyond the schema's fields mean nothing.
    pub fn at(time: Timestamp) -> Self {
        Self {
            present: u64::MAX,
            time: time.0,
            watermark: time.0,
            key: None,
            record: 0,
        }
    }
}

/// A batch of events of one schema.
#[derive(Debug, Clone)]
pub struct Rows {
    schema: Arc<Schema>,
    // Text below its length lies here, the rest in `made`: decoding copies no text.
    base: Bytes,
    made: Vec<u8>,
    slots: Vec<i64>,
    heads: Vec<RowHead>,
    // One per row where an operator made them; empty where their records identify them.
    ids: Vec<u128>,
    source: Option<Batch>,
    incarnation: u64,
    // Tells rows that came this way from the same ones that came another; 0 where there is one way.
    way: u64,
}

impl Rows {
    /// No rows, with room for text made by operators.
    pub fn new(schema: Arc<Schema>) -> Self {
        Self {
            schema,
            base: Bytes::new(),
            made: Vec::new(),
            slots: Vec::new(),
            heads: Vec::new(),
            ids: Vec::new(),
            source: None,
            incarnation: 0,
            way: 0,
        }
    }

    /// No rows, over the slab of the records they will be decoded from.
    pub fn over(schema: Arc<Schema>, source: Batch) -> Self {
        Self {
            base: source.slab().clone(),
            source: Some(source),
            ..Self::new(schema)
        }
    }

    /// The schema.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The records these rows were decoded from, if they come straight from a source.
    pub fn source(&self) -> Option<&Batch> {
        self.source.as_ref()
    }

    /// Which incarnation of their topic those records are of: offsets begin anew with each.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Says which incarnation of their topic the records are of.
    #[must_use]
    pub fn of_incarnation(mut self, incarnation: u64) -> Self {
        self.incarnation = incarnation;
        self
    }

    /// The same rows, with identities of their own: for one of several ways by which a record comes to
    /// the same operator.
    #[must_use]
    pub fn by_way(&self, way: u64) -> Self {
        Self {
            way: self.way.rotate_left(1) ^ way,
            ..self.clone()
        }
    }

    /// By which of several ways the rows came.
    pub(super) fn way(&self) -> u64 {
        self.way
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// What row `row` carries besides its slots.
    pub fn head(&self, row: usize) -> &RowHead {
        &self.heads[row]
    }

    /// All heads.
    pub fn heads(&self) -> &[RowHead] {
        &self.heads
    }

    /// All heads, to change.
    pub fn heads_mut(&mut self) -> &mut [RowHead] {
        &mut self.heads
    }

    /// Event time of row `row`.
    pub fn time(&self, row: usize) -> Timestamp {
        Timestamp(self.heads[row].time)
    }

    /// The slots of row `row`; those of absent fields hold 0.
    pub fn slots(&self, row: usize) -> &[i64] {
        let width = self.schema.width();
        &self.slots[row * width..(row + 1) * width]
    }

    /// A number, truth or instant; `None` where the field is absent.
    pub fn number(&self, row: usize, slot: usize) -> Option<i64> {
        let there = self.heads[row].present & (1 << slot) != 0;
        there.then(|| self.slots[row * self.schema.width() + slot])
    }

    /// The bytes of a text field; `None` where the field is absent.
    pub fn text(&self, row: usize, slot: usize) -> Option<&[u8]> {
        self.number(row, slot)
            .map(|slot| self.bytes(Text::from_slot(slot)))
    }

    /// The key of row `row`.
    pub fn key(&self, row: usize) -> Option<&[u8]> {
        self.heads[row].key.map(|key| self.bytes(key))
    }

    /// A range of the slab.
    pub fn bytes(&self, text: Text) -> &[u8] {
        let (start, end) = (text.start as usize, text.end as usize);
        let split = self.base.len();
        if end <= split {
            &self.base[start..end]
        } else {
            &self.made[start - split..end - split]
        }
    }

    /// Adds text to the slab.
    pub fn add_text(&mut self, text: &[u8]) -> Text {
        let start = (self.base.len() + self.made.len()) as u32;
        self.made.extend_from_slice(text);
        Text {
            start,
            end: start + text.len() as u32,
        }
    }

    /// Adds a row; `slots` has one entry for each field, 0 where absent.
    ///
    /// # Panics
    ///
    /// If `slots` has another length than the schema.
    pub fn push(&mut self, head: RowHead, slots: &[i64]) {
        assert_eq!(slots.len(), self.schema.width(), "one slot for each field");
        self.heads.push(head);
        self.slots.extend_from_slice(slots);
    }

    /// Adds a row that an operator made, under an identity of its own.
    ///
    /// Rows of one batch either all have such an identity or none.
    ///
    /// # Panics
    ///
    /// If `slots` has another length than the schema.
    pub fn push_made(&mut self, id: u128, head: RowHead, slots: &[i64]) {
        self.push(head, slots);
        self.ids.push(id);
    }

    /// The identity of row `row` where an operator made it; otherwise its record identifies it.
    pub fn id(&self, row: usize) -> Option<u128> {
        self.ids.get(row).copied()
    }

    /// Makes room for `rows` more rows.
    pub fn reserve(&mut self, rows: usize) {
        self.heads.reserve(rows);
        self.slots.reserve(rows * self.schema.width());
    }

    /// Adds a row of absent fields and lends its slots, for decoders.
    pub fn push_empty(&mut self, head: RowHead) -> &mut [i64] {
        self.heads.push(head);
        let at = self.slots.len();
        self.slots.resize(at + self.schema.width(), 0);
        &mut self.slots[at..]
    }

    /// Takes back the last row, for decoders that met poison half-way.
    pub fn pop(&mut self) {
        if self.heads.pop().is_some() {
            self.slots.truncate(self.heads.len() * self.schema.width());
        }
    }

    /// Copies row `row` of `from`, which has the same schema, with its text.
    pub fn copy_row(&mut self, from: &Self, row: usize) {
        let mut head = *from.head(row);
        self.ids.extend(from.id(row));
        head.key = head.key.map(|key| self.add_text(from.bytes(key)));
        let at = self.slots.len();
        self.slots.extend_from_slice(from.slots(row));
        for (slot, field) in from.schema.fields.iter().enumerate() {
            if field.ty == Type::Text && head.present & (1 << slot) != 0 {
                let text = from.bytes(Text::from_slot(self.slots[at + slot]));
                let text = self.add_text(text);
                self.slots[at + slot] = text.to_slot();
            }
        }
        self.heads.push(head);
    }

    /// A copy of the rows for which `keep` is true, in order, over the same slab.
    #[must_use]
    pub fn select(&self, mut keep: impl FnMut(usize) -> bool) -> Self {
        self.gather((0..self.len()).filter(|row| keep(*row)))
    }

    /// A copy of the rows of `range`, over the same slab.
    ///
    /// # Panics
    ///
    /// If the range reaches beyond the last row.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        self.gather(range)
    }

    fn gather(&self, rows: impl Iterator<Item = usize>) -> Self {
        let mut kept = Self {
            source: self.source.clone(),
            incarnation: self.incarnation,
            way: self.way,
            base: self.base.clone(),
            ..Self::new(self.schema.clone())
        };
        for row in rows {
            kept.heads.push(self.heads[row]);
            kept.ids.extend(self.id(row));
            kept.slots.extend_from_slice(self.slots(row));
            if !self.made.is_empty() {
                kept.take_made_text(self);
            }
        }
        kept
    }

    /// Copies the text of the last row that lies among what was made in `from`, of which it has been
    /// copied; the slab is shared.
    fn take_made_text(&mut self, from: &Self) {
        let split = from.base.len();
        let is_made = |text: Text| text.end as usize > split;
        let row = self.heads.len() - 1;
        if let Some(key) = self.heads[row].key.filter(|key| is_made(*key)) {
            self.heads[row].key = Some(self.add_text(from.bytes(key)));
        }
        let (at, present) = (row * self.schema.width(), self.heads[row].present);
        for slot in 0..self.schema.width() {
            let text = Text::from_slot(self.slots[at + slot]);
            let is_text = self.schema.fields[slot].ty == Type::Text;
            if is_text && present & (1 << slot) != 0 && is_made(text) {
                self.slots[at + slot] = self.add_text(from.bytes(text)).to_slot();
            }
        }
    }

    /// Keeps the rows for which `keep` is true, in order.
    pub fn retain(&mut self, mut keep: impl FnMut(&Self, usize) -> bool) {
        let width = self.schema.width();
        let mut kept = 0;
        for row in 0..self.len() {
            if keep(self, row) {
                if kept != row {
                    self.heads[kept] = self.heads[row];
                    if let Some(id) = self.id(row) {
                        self.ids[kept] = id;
                    }
                    self.slots
                        .copy_within(row * width..(row + 1) * width, kept * width);
                }
                kept += 1;
            }
        }
        self.heads.truncate(kept);
        self.ids.truncate(kept);
        self.slots.truncate(kept * width);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Field;

    fn schema() -> Arc<Schema> {
        let field = |name: &str, ty| Field {
            name: name.into(),
            ty,
            required: true,
        };
        Arc::new(Schema {
            name: "Trade".into(),
            fields: vec![field("pair", Type::Text), field("price", Type::Decimal(2))],
            time: None,
        })
    }

    #[test]
    fn rows_keep_their_text_when_copied_and_filtered() {
        let mut rows = Rows::new(schema());
        for (pair, price) in [("BTC-USD", 100), ("", 200), ("ETH-USD", 300)] {
            let pair = rows.add_text(pair.as_bytes());
            let head = RowHead {
                present: 0b11,
                time: price,
                watermark: i64::MIN,
                key: Some(pair),
                record: 0,
            };
            rows.push(head, &[pair.to_slot(), price]);
        }
        rows.retain(|rows, row| rows.number(row, 1) != Some(100));
        let mut copy = Rows::new(schema());
        copy.copy_row(&rows, 1);
        let slice = rows.slice(1..2);
        assert_eq!(slice.len(), 1);
        assert_eq!(slice.text(0, 0), Some(&b"ETH-USD"[..]));
        assert_eq!(slice.key(0), Some(&b"ETH-USD"[..]));
        assert_eq!(rows.select(|row| row == 0).text(0, 0), Some(&b""[..]));
        assert_eq!(rows.len(), 2);
        assert_eq!(rows.text(0, 0), Some(&b""[..]));
        assert_eq!(copy.text(0, 0), Some(&b"ETH-USD"[..]));
        assert_eq!(copy.key(0), Some(&b"ETH-USD"[..]));
        assert_eq!(copy.number(0, 1), Some(300));
    }
}
