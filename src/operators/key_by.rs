//! `key_by`: sets the key from fields.

use std::sync::Arc;

use super::{Context, Operator, key};
use crate::events::Rows;

/// Sets the key of each row to the text of some of its fields. Several are joined by `|`, and have a `\`
/// before each `|` and `\` of their own.
///
/// Keeps order, holds nothing. State keyed by the new key needs all its records in one partition,
/// so a file in which keyed state follows a key change is refused unless its source has one
/// partition.
#[derive(Debug)]
pub struct KeyBy {
    slots: Vec<usize>,
    scratch: Vec<u8>,
}

impl KeyBy {
    /// Keys by these slots, in this order.
    pub fn new(slots: Vec<usize>) -> Self {
        Self {
            slots,
            scratch: Vec::new(),
        }
    }
}

impl Operator for KeyBy {
    fn process(&mut self, _input: usize, rows: Arc<Rows>, cx: &mut Context) {
        let mut rows = Arc::unwrap_or_clone(rows);
        for row in 0..rows.len() {
            self.scratch.clear();
            key::write_text(&rows, row, &self.slots, &mut self.scratch);
            let key = rows.add_text(&self.scratch);
            rows.heads_mut()[row].key = Some(key);
        }
        cx.emit(0, rows);
    }
}
