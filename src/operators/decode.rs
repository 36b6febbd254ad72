//! Decoding: records to rows, with their watermark.

use std::time::Duration;

use tidemill_broker::{Batch, Timestamp};

use super::key;
use crate::events::{JsonDecoder, Poison, Rows, Text};

/// Decodes the records of one partition and keeps their watermark: the greatest event time seen,
/// less how far event time may run backwards.
///
/// Each row carries the watermark as it is once that row has been seen, so what is late does not
/// depend on how batches were cut.
#[derive(Debug)]
pub struct Decode {
    decoder: JsonDecoder,
    key: Vec<usize>,
    out_of_order: i64,
    watermark: i64,
}

impl Decode {
    /// Decodes with `decoder`; event time may run backwards by `out_of_order`.
    pub fn new(decoder: JsonDecoder, out_of_order: Duration) -> Self {
        let out_of_order = i64::try_from(out_of_order.as_micros()).unwrap_or(i64::MAX);
        Self {
            decoder,
            key: Vec::new(),
            out_of_order,
            watermark: i64::MIN,
        }
    }

    /// Keys each row by the text of these required text fields, joined by `|`, whether or not its
    /// record has a key; with no fields the record's own key stays.
    pub fn keyed_by(mut self, key: Vec<usize>) -> Self {
        self.key = key;
        self
    }

    /// The watermark after what was decoded so far.
    pub fn watermark(&self) -> Timestamp {
        Timestamp(self.watermark)
    }

    /// Goes on from a committed watermark, or back to none.
    pub fn restore(&mut self, watermark: Timestamp) {
        self.watermark = watermark.0;
    }

    /// Decodes a batch. Records that are poison are handed to `poison` with their index.
    pub fn decode(&mut self, batch: &Batch, poison: &mut dyn FnMut(usize, Poison)) -> Rows {
        let mut rows = self.decoder.decode(batch, poison);
        match self.key[..] {
            [] => {}
            // The text is there already.
            [slot] => {
                for row in 0..rows.len() {
                    let text = rows.number(row, slot).map(Text::from_slot);
                    rows.heads_mut()[row].key = text;
                }
            }
            _ => {
                for row in 0..rows.len() {
                    key::put_text(&mut rows, row, &self.key);
                }
            }
        }
        let mut watermark = self.watermark;
        for head in rows.heads_mut() {
            watermark = watermark.max(head.time.saturating_sub(self.out_of_order));
            head.watermark = watermark;
        }
        self.watermark = watermark;
        rows
    }
}
