//! What a record that is set aside already says of itself: that it is cut, whose trace it is part of,
//! and which deaths it died before.

use tidemill_broker::{Headers, RecordRef};

use super::{WHOLE_BYTES, cut};

/// Longest trace context, in bytes: that of W3C's first version has 55.
const TRACE_BYTES_MAX: usize = 128;

/// Most earlier deaths that are told.
pub(super) const HISTORY_MAX: usize = 8;

/// Longest line about one of them, in bytes: all together stay below a header's KiB.
pub(super) const HISTORY_BYTES_MAX: usize = 120;

/// What the headers of a record that comes in say of it.
#[derive(Default)]
pub(super) struct Earlier<'a> {
    /// Bytes of the whole payload, if this is only its beginning.
    pub(super) whole: Option<u64>,
    pub(super) trace: Option<&'a [u8]>,
    // Of the death before, if it is a dead letter.
    pub(super) id: Option<&'a [u8]>,
    stage: Option<&'a str>,
    class: Option<&'a str>,
    place: Option<&'a str>,
    history: Option<&'a str>,
}

/// Copies a record's own headers, and reads those that mean something here. Anybody may send any of
/// them: only what is well formed is believed, and nothing of any length is taken over.
pub(super) fn keep<'a>(record: RecordRef<'a>, headers: &mut Headers) -> Earlier<'a> {
    let mut earlier = Earlier::default();
    let text = |value| std::str::from_utf8(value).ok();
    for (name, value) in record.headers() {
        match name {
            "dl-id" if is_id(value) => earlier.id = Some(value),
            "dl-stage" => earlier.stage = text(value),
            "dl-class" => earlier.class = text(value),
            "dl-src" => earlier.place = text(value),
            "dl-history" => earlier.history = text(value),
            WHOLE_BYTES => earlier.whole = text(value).and_then(|text| text.parse().ok()),
            "traceparent" if value.len() <= TRACE_BYTES_MAX => earlier.trace = Some(value),
            "dl-trace" if value.len() <= TRACE_BYTES_MAX => {
                earlier.trace = earlier.trace.or(Some(value));
            }
            _ => {}
        }
        // What is said of an earlier death is replaced.
        if !name.starts_with("dl-") {
            headers.push(name, value);
        }
    }
    earlier
}

/// Whether it is what an id of ours looks like.
fn is_id(value: &[u8]) -> bool {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    value.len() == 32 && value.iter().all(is_digit)
}

impl Earlier<'_> {
    /// Writes the deaths before this one, a line each, the last one first; false if there are none.
    pub(super) fn write_history(&self, text: &mut Vec<u8>) -> bool {
        let (Some(class), Some(place)) = (self.class, self.place) else {
            return false;
        };
        text.clear();
        let stage = self.stage.unwrap_or("-");
        let last = format!("{class} {stage} {place}").replace('\n', " ");
        let before = self.history.unwrap_or_default().lines();
        for line in std::iter::once(&*last).chain(before).take(HISTORY_MAX) {
            if !text.is_empty() {
                text.push(b'\n');
            }
            text.extend_from_slice(cut(line, HISTORY_BYTES_MAX).as_bytes());
        }
        true
    }
}
