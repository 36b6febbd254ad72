//! What a window of one key holds, and what it makes.

use serde::{Deserialize, Serialize};
use tidemill_state::{DecodeError, Postcard, StateValue};

use super::{TumblingWindowOptions, micros};
use crate::events::{RowHead, Rows};
use crate::operators::aggregate::{self, Accumulator, Overflow};
use crate::operators::key;

/// Class of a dead letter: a result that its field cannot hold.
pub(super) const OVERFLOW: &str = "window.overflow";

/// What a window of one key holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// How often it has fired.
    pub(super) firings: u32,
    pub(super) accumulators: Box<[Accumulator]>,
}

impl StateValue for Window {
    fn encode(&self, out: &mut Vec<u8>) {
        // Writing plain data to memory cannot fail.
        if let Ok(written) = postcard::to_extend(self, std::mem::take(out)) {
            *out = written;
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Postcard::decode(bytes).map(|Postcard(window)| window)
    }

    fn heap(&self) -> usize {
        std::mem::size_of_val::<[Accumulator]>(&self.accumulators)
    }
}

/// The slots of the key in what is made: they come first. There are no more fields than bits of a mask.
const FIRST: [usize; 64] = {
    let mut slots = [0; 64];
    let mut slot = 0;
    while slot < 64 {
        slots[slot] = slot;
        slot += 1;
    }
    slots
};

/// What a window makes as it fires, but for its key.
#[derive(Debug)]
pub(super) struct Bar {
    end: i64,
    slots: Vec<i64>,
    present: u64,
    /// A result that does not fit its field, which is absent.
    pub(super) overflow: Option<Overflow>,
}

impl Bar {
    /// What a window that ends at `end` makes of what it holds.
    pub(super) fn of(options: &TumblingWindowOptions, end: i64, window: &Window) -> Self {
        let output = &options.output;
        let mut slots = vec![0; output.width()];
        let keys = options.key.len();
        slots[keys] = end.saturating_sub(micros(options.size).max(1));
        slots[keys + 1] = end;
        let (aggregated, overflow) = aggregate::finish(
            &options.aggregates,
            &window.accumulators,
            &options.input,
            output,
            &mut slots,
        );
        Self {
            end,
            slots,
            present: aggregated | 0b11 << keys,
            overflow,
        }
    }

    /// Adds it to rows: of the key with these fields, under an identity where it has one, at a watermark
    /// because of a record. Nothing if these are no fields of the key.
    pub(super) fn put(
        mut self,
        options: &TumblingWindowOptions,
        fields: &[u8],
        id: Option<u128>,
        (watermark, record): (i64, u32),
        rows: &mut Rows,
    ) -> Option<()> {
        let keys = options.key.len();
        let of_key = key::read_state(fields, &options.output, keys, rows, &mut self.slots)?;
        let head = RowHead {
            present: self.present | of_key,
            time: self.end,
            watermark,
            key: None,
            record,
        };
        match id {
            Some(id) => rows.push_made(id, head, &self.slots),
            None => rows.push(head, &self.slots),
        }
        key::put_text(rows, rows.len() - 1, &FIRST[..keys]);
        Some(())
    }
}

/// What is told of a result that does not fit.
pub(super) fn told(options: &TumblingWindowOptions, overflow: Overflow) -> String {
    let output = options.aggregates[overflow.aggregate].output;
    let field = &options.output.fields[output];
    format!("`{}` does not fit {}", field.name, field.ty)
}
