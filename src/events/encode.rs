//! From rows to JSON.

use std::sync::Arc;

use super::text::plain_len;
use super::time::{Date, TIME_ROOM, put_time_json};
use super::{Rows, Schema, Text, Type};
use crate::market::decimal::{DECIMAL_ROOM, put_decimal};

/// Bytes of a name that are copied at once; longer ones take a second copy.
const NAME_ROOM: usize = 32;

/// Bytes of a text without escapes that fit the room of its value.
const TEXT_ROOM: usize = 64;

/// Writes rows of one schema as JSON objects: `eventType` first where asked for, then the fields
/// in the order of the schema, absent ones left out.
///
/// Decimals are exact and without exponent; instants are RFC 3339 in UTC with microseconds.
#[derive(Debug, Clone)]
pub struct JsonEncoder {
    schema: Arc<Schema>,
    head: Box<[u8]>,
    names: Box<[Name]>,
    // Bytes that may be touched from the start of a row to its end, longer texts aside.
    room: usize,
}

/// `,"name":` of a field.
#[derive(Debug, Clone)]
struct Name {
    start: [u8; NAME_ROOM],
    len: usize,
    rest: Box<[u8]>,
}

impl Name {
    fn new(name: &[u8]) -> Self {
        let mut start = [0; NAME_ROOM];
        let split = name.len().min(NAME_ROOM);
        start[..split].copy_from_slice(&name[..split]);
        Self {
            start,
            len: name.len(),
            rest: name[split..].into(),
        }
    }
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
        let names = schema
            .fields
            .iter()
            .map(|field| Name::new(&name(&field.name)));
        let names: Box<[Name]> = names.collect();
        // The last copy of a name or value reaches beyond what it leaves.
        let mut room = NAME_ROOM + TEXT_ROOM;
        for (field, name) in schema.fields.iter().zip(&names) {
            room += name.len
                + match field.ty {
                    Type::Text => TEXT_ROOM,
                    Type::Int | Type::Decimal(_) => 24,
                    Type::Time => 32,
                    Type::Bool => 8,
                };
        }
        Self {
            schema,
            head: head.into(),
            names,
            room,
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
        // Room is made once and then written in place: an append for each part costs as much again
        // as the part.
        let mut at = out.len();
        out.resize(at + self.room, 0);
        let mut date = Date::default();
        let present = rows.head(row).present;
        let fields = self.schema.fields.iter().zip(&self.names);
        for (slot, ((field, name), &value)) in fields.zip(rows.slots(row)).enumerate() {
            if present & (1 << slot) == 0 {
                continue;
            }
            out[at..at + NAME_ROOM].copy_from_slice(&name.start);
            if name.len > NAME_ROOM {
                out[at + NAME_ROOM..at + name.len].copy_from_slice(&name.rest);
            }
            at += name.len;
            let room = &mut out[at..];
            at += match field.ty {
                Type::Text => {
                    let text = rows.bytes(Text::from_slot(value));
                    match put_text(text, room) {
                        Some(len) => len,
                        None => {
                            out.truncate(at);
                            write_text(text, out);
                            let len = out.len() - at;
                            out.resize(at + len + self.room, 0);
                            len
                        }
                    }
                }
                Type::Int => room
                    .first_chunk_mut::<DECIMAL_ROOM>()
                    .map_or(0, |room| put_decimal(value, 0, room)),
                Type::Decimal(scale) => room
                    .first_chunk_mut::<DECIMAL_ROOM>()
                    .map_or(0, |room| put_decimal(value, scale, room)),
                Type::Time => room
                    .first_chunk_mut::<TIME_ROOM>()
                    .map_or(0, |room| put_time_json(value, &mut date, room)),
                Type::Bool => {
                    let word = if value != 0 { b"true\0" } else { b"false" };
                    room[..5].copy_from_slice(word);
                    if value != 0 { 4 } else { 5 }
                }
            };
        }
        out.truncate(at);
        // Every member was written with a comma before it; the first becomes the brace.
        match out.get_mut(start) {
            Some(first) => *first = b'{',
            None => out.push(b'{'),
        }
        out.push(b'}');
    }
}

/// Writes a short text without escapes as JSON to the start of `room`; answers where it ends.
fn put_text(text: &[u8], room: &mut [u8]) -> Option<usize> {
    let end = text.len() + 1;
    if end >= TEXT_ROOM || plain_len(text) < text.len() {
        return None;
    }
    room[0] = b'"';
    room[1..end].copy_from_slice(text);
    room[end] = b'"';
    Some(end + 1)
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
