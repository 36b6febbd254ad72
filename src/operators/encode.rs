//! Encoding: rows to records.

use std::sync::Arc;

use tidemill_broker::{RecordSet, Timestamp};

use super::key;
use crate::events::identity::{self, EVENT_ID};
use crate::events::{JsonEncoder, Rows, Schema};

/// Writes rows as JSON records with key, event time and event id.
///
/// The event id is derived from what led to the record, so it is the same whenever the same input
/// is processed again.
#[derive(Debug)]
pub struct Encode {
    encoder: JsonEncoder,
    key: Vec<usize>,
    key_scratch: Vec<u8>,
    headers: Vec<u8>,
}

impl Encode {
    /// Writes events of `schema`; the record's key is the text of the slots `key`, or the row's own
    /// key if there are none.
    pub fn new(schema: Arc<Schema>, key: Vec<usize>) -> Self {
        let event_type = schema.name.clone();
        let encoder = JsonEncoder::new(schema, Some(&event_type));
        // One header, as `broker::Headers` encodes it: the id's 16 bytes are put in per record.
        let mut headers = Vec::with_capacity(8 + EVENT_ID.len() + 16);
        headers.extend_from_slice(&(EVENT_ID.len() as u32).to_le_bytes());
        headers.extend_from_slice(&16_u32.to_le_bytes());
        headers.extend_from_slice(EVENT_ID.as_bytes());
        headers.extend_from_slice(&[0; 16]);
        Self {
            encoder,
            key,
            key_scratch: Vec::new(),
            headers,
        }
    }

    /// The key that row `row` gets as a record.
    pub fn key<'a>(&'a mut self, rows: &'a Rows, row: usize) -> Option<&'a [u8]> {
        key_of(rows, row, &self.key, &mut self.key_scratch)
    }

    /// Appends row `row` to `set`. `edge` tells this way to the sink from every other.
    pub fn encode(&mut self, rows: &Rows, row: usize, edge: u64, set: &mut RecordSet) {
        let id = identity::derived(edge, rows.identity(row));
        let id_at = self.headers.len() - 16;
        self.headers[id_at..].copy_from_slice(&id.to_be_bytes());
        let key = key_of(rows, row, &self.key, &mut self.key_scratch);
        let encoder = &self.encoder;
        let time = Timestamp(rows.head(row).time);
        set.push_with(time, key, &self.headers, |slab| {
            encoder.write(rows, row, slab)
        });
    }
}

/// The text of the slots `key`, written to `scratch`, or the row's own key if there are none. Apart from [`Encode`],
/// whose other fields stay free to be read beside it.
fn key_of<'a>(
    rows: &'a Rows,
    row: usize,
    key: &[usize],
    scratch: &'a mut Vec<u8>,
) -> Option<&'a [u8]> {
    if key.is_empty() {
        return rows.key(row);
    }
    scratch.clear();
    key::write_text(rows, row, key, scratch);
    Some(scratch)
}
