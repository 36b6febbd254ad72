//! Keys made of fields: as text for records, as bytes for state.

use crate::events::{Rows, Schema, Text, Type};
use crate::market::decimal;

/// Appends the text of fields: the key of a record. Several are joined by `|`, and have a `\` before each
/// `|` and `\` of their own, so that different fields are different keys.
pub(super) fn write_text(rows: &Rows, row: usize, slots: &[usize], target: &mut Vec<u8>) {
    for (index, &slot) in slots.iter().enumerate() {
        if index > 0 {
            target.push(b'|');
        }
        let start = target.len();
        write_field(rows, row, slot, target);
        if slots.len() > 1 {
            escape(target, start);
        }
    }
}

/// Puts a `\` before each `|` and `\` from `start` on.
fn escape(target: &mut Vec<u8>, start: usize) {
    let mut at = start;
    while let Some(found) = memchr::memchr2(b'|', b'\\', &target[at..]) {
        target.insert(at + found, b'\\');
        at += found + 2;
    }
}

/// Gives a row that is there already the text of its fields as its key.
pub(super) fn put_text(rows: &mut Rows, row: usize, slots: &[usize]) {
    let mut text = Vec::new();
    write_text(rows, row, slots, &mut text);
    let text = rows.add_text(&text);
    rows.heads_mut()[row].key = Some(text);
}

fn write_field(rows: &Rows, row: usize, slot: usize, target: &mut Vec<u8>) {
    let Some(value) = rows.number(row, slot) else {
        return;
    };
    match rows.schema().fields[slot].ty {
        Type::Text => target.extend_from_slice(rows.bytes(Text::from_slot(value))),
        Type::Decimal(scale) => decimal::write_decimal(value, scale, target),
        Type::Bool => target.extend_from_slice(if value == 0 { b"false" } else { b"true" }),
        Type::Int | Type::Time => decimal::write_decimal(value, 0, target),
    }
}

/// Appends fields such that [`read_state`] gets them back: a mask byte per field, text with its
/// length, numbers in 8 bytes big endian.
pub(super) fn write_state(rows: &Rows, row: usize, slots: &[usize], target: &mut Vec<u8>) {
    for &slot in slots {
        match rows.number(row, slot) {
            None => target.push(0),
            Some(value) => {
                target.push(1);
                if rows.schema().fields[slot].ty == Type::Text {
                    let text = rows.bytes(Text::from_slot(value));
                    target.extend_from_slice(&(text.len() as u32).to_be_bytes());
                    target.extend_from_slice(text);
                } else {
                    target.extend_from_slice(&value.to_be_bytes());
                }
            }
        }
    }
}

/// Reads fields written by [`write_state`] into the first slots of a new row of `target`; returns
/// the mask of those that are there, or `None` if the bytes are not such fields.
pub(super) fn read_state(
    mut bytes: &[u8],
    schema: &Schema,
    fields: usize,
    target: &mut Rows,
    slots: &mut [i64],
) -> Option<u64> {
    let mut present = 0;
    for (slot, target_slot) in slots.iter_mut().enumerate().take(fields) {
        let (&there, rest) = bytes.split_first()?;
        bytes = rest;
        if there == 0 {
            continue;
        }
        present |= 1 << slot;
        if schema.fields[slot].ty == Type::Text {
            let (len, rest) = bytes.split_first_chunk::<4>()?;
            let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
            *target_slot = target.add_text(text).to_slot();
            bytes = rest;
        } else {
            let (value, rest) = bytes.split_first_chunk::<8>()?;
            *target_slot = i64::from_be_bytes(*value);
            bytes = rest;
        }
    }
    bytes.is_empty().then_some(present)
}

/// An instant as bytes whose order is the order of time.
pub(super) fn time_to_bytes(time: i64) -> [u8; 8] {
    ((time as u64) ^ (1 << 63)).to_be_bytes()
}

/// Undoes [`time_to_bytes`].
pub(super) fn time_from_bytes(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ (1 << 63)) as i64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::events::{Field, RowHead};

    /// The key of a row of these fields.
    fn key(fields: &[String]) -> String {
        let field = |index| Field {
            name: format!("f{index}").into(),
            ty: Type::Text,
            required: true,
        };
        let schema = Schema {
            name: "X".into(),
            fields: (0..fields.len()).map(field).collect(),
            time: None,
        };
        let mut rows = Rows::new(Arc::new(schema));
        let texts: Vec<i64> = fields
            .iter()
            .map(|field| rows.add_text(field.as_bytes()).to_slot())
            .collect();
        let head = RowHead {
            present: u64::MAX,
            time: 0,
            watermark: 0,
            key: None,
            record: 0,
        };
        rows.push(head, &texts);
        let mut target = Vec::new();
        let slots: Vec<usize> = (0..fields.len()).collect();
        write_text(&rows, 0, &slots, &mut target);
        String::from_utf8(target).unwrap()
    }

    fn fields() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("[a|\\\\]{0,3}", 2..4)
    }

    proptest! {
        /// `A|B`, `C` and `A`, `B|C` were once one key: of two events with the same id one was dropped.
        #[test]
        fn different_fields_are_different_keys(one in fields(), other in fields()) {
            prop_assert_eq!(key(&one) == key(&other), one == other);
        }
    }

    #[test]
    fn a_key_of_several_fields_is_read_as_it_is_written() {
        let key = |fields: &[&str]| {
            key(&fields
                .iter()
                .map(|field| field.to_string())
                .collect::<Vec<_>>())
        };
        assert_eq!(key(&["BTC-USD", "kraken"]), "BTC-USD|kraken");
        assert_eq!(key(&["A|B", "C"]), "A\\|B|C");
        assert_eq!(key(&["A", "B|C"]), "A|B\\|C");
        // One field is the key as it is.
        assert_eq!(key(&["A|B"]), "A|B");
    }
}
