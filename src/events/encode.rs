//! From rows to JSON.

use std::sync::Arc;

use super::text::plain_len;
use super::time::write_time_json;
use super::{Rows, Schema, Type};
use crate::market::decimal::{write_decimal, write_int};

/// Writes rows of one schema as JSON objects: `eventType` first where asked for, then the fields
/// in the order of the schema, absent ones left out.
///
/// Decimals are exact and without exponent; instants are RFC 3339 in UTC with microseconds.
#[derive(Debug, Clone)]
pub struct JsonEncoder {
    schema: Arc<Schema>,
    head: Box<[u8]>,
    // `,"name":` of each field.
    names: Box<[Box<[u8]>]>,
}

impl JsonEncoder {
    /// An encoder for rows of `schema`; `event_type` is written first, if any.
    pub fn new(schema: Arc<Schema>, event_type: Option<&str>) -> Self {
        let name = |field: &str| {
            let mut name = vec![b','];
            write_text(field.as_bytes(), &mut name);
            name.push(b':');
            name
        };
        let mut head = Vec::new();
        if let Some(event_type) = event_type {
            head = name("eventType");
            write_text(event_type.as_bytes(), &mut head);
        }
        let names = schema.fields.iter().map(|field| name(&field.name).into());
        Self {
            names: names.collect(),
            head: head.into(),
            schema,
        }
    }

    /// The schema of the rows.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Appends row `row` as one object.
    ///
    /// # Panics
    ///
    /// If `rows` has fewer fields than the schema, or no such row.
    pub fn write(&self, rows: &Rows, row: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.head);
        let present = rows.head(row).present;
        let fields = self.schema.fields.iter().zip(&self.names);
        for (slot, ((field, name), &value)) in fields.zip(rows.slots(row)).enumerate() {
            if present & (1 << slot) == 0 {
                continue;
            }
            out.extend_from_slice(name);
            match field.ty {
                Type::Text => write_text(rows.bytes(super::Text::from_slot(value)), out),
                Type::Int => write_int(value, out),
                Type::Decimal(scale) => write_decimal(value, scale, out),
                Type::Bool if value != 0 => out.extend_from_slice(b"true"),
                Type::Bool => out.extend_from_slice(b"false"),
                Type::Time => write_time_json(value, out),
            }
        }
        // Every member was written with a comma before it; the first becomes the brace.
        match out.get_mut(start) {
            Some(first) => *first = b'{',
            None => out.push(b'{'),
        }
        out.push(b'}');
    }
}

/// Appends a JSON string with its quotes. `text` is UTF-8.
pub(crate) fn write_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text;
    loop {
        let plain = plain_len(rest);
        out.extend_from_slice(&rest[..plain]);
        let Some(&byte) = rest.get(plain) else {
            break;
        };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => {
                const HEX: [u8; 16] = *b"0123456789abcdef";
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
            // Not reached: `plain_len` stops nowhere else.
            byte => out.push(byte),
        }
        rest = &rest[plain + 1..];
    }
    out.push(b'"');
}
