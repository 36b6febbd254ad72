//! When entries are due to expire.

use std::collections::BTreeSet;

/// Which keys may be due when, by event time.
///
/// Lazy: a key stays where it was scheduled while later writes move its real time on; when its time comes the
/// table looks and schedules it again. So a write costs nothing here, and a key is listed about once.
#[derive(Debug)]
pub(super) struct Expiry {
    ttl_ms: i64,
    due: BTreeSet<(i64, Box<[u8]>)>,
}

impl Expiry {
    pub(super) fn new(ttl_ms: u64) -> Self {
        Self {
            ttl_ms: i64::try_from(ttl_ms).unwrap_or(i64::MAX),
            due: BTreeSet::new(),
        }
    }

    pub(super) fn schedule(&mut self, key: &[u8], written: i64) {
        self.due
            .insert((written.saturating_add(self.ttl_ms), key.into()));
    }

    pub(super) fn is_past(&self, written: i64, watermark: i64) -> bool {
        written.saturating_add(self.ttl_ms) <= watermark
    }

    pub(super) fn due(&self, watermark: i64) -> impl Iterator<Item = &Box<[u8]>> {
        self.due
            .iter()
            .take_while(move |(at, _)| *at <= watermark)
            .map(|(_, key)| key)
    }

    pub(super) fn pop(&mut self, watermark: i64) -> Option<Box<[u8]>> {
        if self.due.first()?.0 > watermark {
            return None;
        }
        self.due.pop_first().map(|(_, key)| key)
    }

    pub(super) fn clear(&mut self) {
        self.due.clear();
    }
}
