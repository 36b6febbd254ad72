//! Records as JSON lines, which lose nothing: for machines.

use serde::Serialize;
use serde_json::value::RawValue;
use tidemill_broker::{RecordRef, TopicPartition};

use super::hex;
use crate::cli::{Exit, Failure, time};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonRecord<'a> {
    topic: &'a str,
    partition: u32,
    offset: u64,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<JsonHeader<'a>>,
}

#[derive(Serialize)]
struct JsonHeader<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
}

/// UTF-8 as it is, other bytes in hexadecimal.
fn text_or_hex(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(hex(bytes))),
    }
}

pub(super) fn json_line(at: &TopicPartition, record: &RecordRef<'_>) -> Result<String, Failure> {
    let (key, key_hex) = record.key.map_or((None, None), text_or_hex);
    let (text, value_hex) = record.value.map_or((None, None), text_or_hex);
    let value = text.and_then(json_value);
    let line = JsonRecord {
        topic: at.topic.as_str(),
        partition: at.partition,
        offset: record.offset.0,
        timestamp: time::show(record.timestamp.0),
        key,
        key_hex,
        value_text: text.filter(|_| value.is_none()),
        value,
        value_hex,
        headers: record
            .headers()
            .map(|(name, value)| {
                let (value, hex) = text_or_hex(value);
                JsonHeader { name, value, hex }
            })
            .collect(),
    };
    serde_json::to_string(&line).map_err(|error| {
        Failure::new(Exit::Internal, "cannot write a record as JSON").because(error)
    })
}

/// Deepest nesting of JSON that is handed on as JSON: what common readers take.
const DEPTH_MAX: usize = 128;

/// Whether brackets are nested deeper than most readers of JSON can follow.
fn is_too_deep(text: &str) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

/// JSON as it stands, digit by digit, on one line.
fn json_value(text: &str) -> Option<Box<RawValue>> {
    if is_too_deep(text) {
        return None;
    }
    // Inside strings line ends are escaped; elsewhere they are blanks like any other.
    RawValue::from_string(text.replace(['\n', '\r'], " ")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_that_is_nested_too_deep_is_handed_on_as_text() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(json_value(&nested(DEPTH_MAX)).is_some());
        assert!(json_value(&nested(DEPTH_MAX + 1)).is_none());
        let text = format!("\"\\\"{}\"", "[".repeat(200));
        assert!(json_value(&text).is_some(), "brackets in text nest nothing");
    }
}
