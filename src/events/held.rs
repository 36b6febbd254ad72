//! Rows that outlive their batch: whole in themselves, so that no slab is pinned.

use serde::{Deserialize, Serialize};

use super::{RowHead, Rows, Text, Type};

/// A row held in state until its time comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRow {
    id: u128,
    present: u64,
    time: i64,
    key: Option<Vec<u8>>,
    // Numbers of the slots that are not text; texts come after, in slot order.
    slots: Vec<i64>,
    texts: Vec<Vec<u8>>,
}

impl HeldRow {
    /// Copies row `row`, with its identity.
    pub fn hold(rows: &Rows, row: usize) -> Self {
        let head = rows.head(row);
        let mut slots = Vec::with_capacity(rows.schema().width());
        let mut texts = Vec::new();
        for (slot, field) in rows.schema().fields.iter().enumerate() {
            match rows.number(row, slot) {
                None => {}
                Some(value) if field.ty == Type::Text => {
                    texts.push(rows.bytes(Text::from_slot(value)).to_vec());
                }
                Some(value) => slots.push(value),
            }
        }
        Self {
            id: rows.identity(row),
            present: head.present,
            time: head.time,
            key: rows.key(row).map(<[u8]>::to_vec),
            slots,
            texts,
        }
    }

    /// Bytes of its key, its texts and its numbers.
    pub fn bytes(&self) -> usize {
        let texts = self.texts.iter().chain(&self.key).map(Vec::len);
        texts.sum::<usize>() + self.slots.len() * size_of::<i64>()
    }

    /// Appends the row to `rows`, in its turn: nothing earlier comes after it.
    pub fn release(self, record: u32, rows: &mut Rows) {
        let watermark = self.time;
        self.put(watermark, record, rows);
    }

    /// Appends the row to `rows`, late: the watermark has passed it.
    pub fn release_late(self, watermark: i64, record: u32, rows: &mut Rows) {
        self.put(watermark, record, rows);
    }

    fn put(self, watermark: i64, record: u32, rows: &mut Rows) {
        let key = self.key.map(|key| rows.add_text(&key));
        let schema = rows.schema().clone();
        let (mut numbers, mut texts) = (self.slots.into_iter(), self.texts.into_iter());
        let mut present = 0;
        let mut slots = vec![0; schema.width()];
        for (slot, field) in schema.fields.iter().enumerate() {
            if self.present & (1 << slot) == 0 {
                continue;
            }
            let value = if field.ty == Type::Text {
                texts.next().map(|text| rows.add_text(&text).to_slot())
            } else {
                numbers.next()
            };
            if let Some(value) = value {
                slots[slot] = value;
                present |= 1 << slot;
            }
        }
        let head = RowHead {
            present,
            time: self.time,
            watermark,
            key,
            record,
        };
        rows.push_made(self.id, head, &slots);
    }
}
