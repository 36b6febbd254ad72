//! `tumbling_window`: aggregates per key over equal stretches of event time.

mod bar;

use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::Timestamp;
use tidemill_state::{DecodeError, StateValue as _, Stateful, Table};

pub use self::bar::Window;
use self::bar::{Bar, OVERFLOW, told};
use super::aggregate::{self, Accumulator};
use super::key_list::KeyList;
use super::window_due::{Due, WindowDue};
use super::{Ahead, Context, Operator, key};
use crate::config::plan::{Aggregate, Unplaced};
use crate::events::{Identity, Rows, Schema, in_range};

/// Number of the encoding of [`Window`] in the store.
pub const CODEC: u32 = 1;

/// How a [`TumblingWindow`] works.
#[derive(Debug, Clone)]
pub struct TumblingWindowOptions {
    /// Name of the stage: part of the identity of what it makes.
    pub name: Arc<str>,
    /// The slots of the key.
    pub key: Vec<usize>,
    /// Length of a window.
    pub size: Duration,
    /// How long after its end a window still takes late events.
    pub lateness: Duration,
    /// What becomes of later ones.
    pub late: Unplaced,
    /// The aggregates.
    pub aggregates: Vec<Aggregate>,
    /// Events as they come in.
    pub input: Arc<Schema>,
    /// Events as they go out: the key's fields, start, end, then the aggregates'.
    pub output: Arc<Schema>,
}

/// Aggregates per key over windows [start, end) of event time, aligned to 1970-01-01T00:00:00Z.
///
/// A window fires once the watermark has reached its end, and again for each event that comes later
/// but within the lateness; windows fire in the order of their end, then of their key. A window
/// without events does not fire. The event time of what it makes is the window's end. Sums are kept in
/// 128 bits; where a result does not fit its field as the window fires, what the window makes goes to
/// the dead letters as `window.overflow`, without that field; and so does an event whose window is not within
/// the years 0000 to 9999.
///
/// Where one record closes more windows than are fired at once, they fire in pieces, each of which
/// may be an epoch of its own; before all have, no further record comes in.
///
/// # Delivery
///
/// Firing depends on event time alone, so results are the same live and replayed, however batches
/// and epochs were cut. State: one entry for each key and open window.
#[derive(Debug)]
pub struct TumblingWindow {
    options: TumblingWindowOptions,
    size: i64,
    identity: Identity,
    // By end and key: the key in the table is the end, then the key's fields.
    windows: Table<Window>,
    // The keys of the table, by when they are due.
    due: WindowDue,
    watermark: i64,
    // Closed by earlier options, where these would take what is later still.
    closed: i64,
    scratch: Vec<u8>,
    empty: Box<[Accumulator]>,
}

impl TumblingWindow {
    /// An operator over the table that keeps its windows.
    pub fn new(options: TumblingWindowOptions, windows: Table<Window>) -> Self {
        Self {
            size: micros(options.size).max(1),
            due: WindowDue::new(micros(options.lateness)),
            identity: Identity::of("window").text(&options.name),
            empty: aggregate::empty(&options.aggregates),
            options,
            windows,
            watermark: i64::MIN,
            closed: i64::MIN,
            scratch: Vec::new(),
        }
    }

    /// Reads what is kept under a key: the event it would make now, keyed like that, and how often it
    /// has fired.
    ///
    /// # Errors
    ///
    /// If key or value is not what an operator of these options keeps.
    pub fn look(
        options: &TumblingWindowOptions,
        key: &[u8],
        value: &[u8],
    ) -> Result<(Rows, u32), DecodeError> {
        let window = Window::decode(value)?;
        let wrong = || DecodeError::new(format!("no window has this key of {} bytes", key.len()));
        let (end, fields) = split_key(key).ok_or_else(wrong)?;
        let mut rows = Rows::new(options.output.clone());
        let bar = Bar::of(options, end, &window);
        bar.put(options, fields, None, (end, 0), &mut rows)
            .ok_or_else(wrong)?;
        Ok((rows, window.firings))
    }

    /// The end of the window of an event; `None` where its start or end could not be written.
    fn end_of(&self, time: i64) -> Option<i64> {
        let start = time.checked_sub(time.rem_euclid(self.size))?;
        let end = start.checked_add(self.size)?;
        (in_range(start).is_ok() && in_range(end).is_ok()).then_some(end)
    }

    fn write_key(&mut self, rows: &Rows, row: usize, end: i64) {
        self.scratch.clear();
        self.scratch.extend_from_slice(&key::time_to_bytes(end));
        key::write_state(rows, row, &self.options.key, &mut self.scratch);
    }

    fn take(
        &mut self,
        rows: &Arc<Rows>,
        row: usize,
        made: &mut Rows,
        late: &mut Vec<usize>,
        cx: &mut Context,
    ) {
        let Some(end) = self.end_of(rows.head(row).time) else {
            let why = "its window reaches beyond the years 0000 to 9999";
            cx.set_aside(rows, row, OVERFLOW, why);
            return;
        };
        if self.due.closes_at(end) <= self.watermark || end <= self.closed {
            match &self.options.late {
                Unplaced::DeadLetter => {
                    cx.set_aside(rows, row, "window.late", why_late(end, self.watermark))
                }
                Unplaced::Port(_) => late.push(row),
                Unplaced::Drop { .. } => cx.count_dropped(),
            }
            return;
        }
        self.write_key(rows, row, end);
        let record = rows.head(row).record;
        if end <= self.watermark && self.has_backlog() {
            // It is due and has yet to fire: before this event, which is late.
            let key = std::mem::take(&mut self.scratch);
            self.fire(&key, end, record, Firing::First, made, cx);
            self.scratch = key;
        }
        let mut new = false;
        let empty = &self.empty;
        let window = self.windows.get_or_insert_with(&self.scratch, || {
            new = true;
            Window {
                firings: 0,
                accumulators: empty.clone(),
            }
        });
        let window = match window {
            Ok(window) => window,
            Err(error) => {
                cx.set_aside(rows, row, "window.key", error.to_string());
                return;
            }
        };
        let added = aggregate::add(
            &self.options.aggregates,
            &mut window.accumulators,
            rows,
            row,
        );
        if let Err(overflow) = added {
            cx.set_aside(rows, row, OVERFLOW, told(&self.options, overflow));
            if !new {
                return;
            }
        }
        if new {
            cx.count_kept(self.scratch.len() + size_of_val(&*self.empty));
        }
        if new && end <= self.watermark {
            self.due.add_fired(end, &self.scratch);
        } else if new {
            self.due.add_open(end, &self.scratch);
        }
        if end <= self.watermark {
            let key = std::mem::take(&mut self.scratch);
            // What is due and has yet to fire is not late behind it.
            let watermark = self.held_at().unwrap_or(Timestamp(self.watermark));
            self.fire(&key, watermark.0, record, Firing::Any, made, cx);
            self.scratch = key;
        }
    }

    /// Moves event time on, and does what that makes due: unless it is too much, or something is left
    /// already.
    fn move_to(&mut self, watermark: i64, record: u32, made: &mut Rows, cx: &mut Context) {
        if watermark <= self.watermark {
            return;
        }
        let had_backlog = self.has_backlog();
        self.watermark = watermark;
        if !self.has_backlog() {
            return;
        }
        let due = self.due.count(watermark, cx.most());
        if had_backlog || !self.is_due_loaded() || !cx.allows(record, due) {
            return;
        }
        self.work(usize::MAX, record, made, cx);
    }

    /// Does `most` of what is due.
    fn work(&mut self, most: usize, record: u32, made: &mut Rows, cx: &mut Context) {
        let mut left = most;
        while let Some(due) = self.due.take(self.watermark, left) {
            match due {
                Due::Fire { end, keys } => {
                    left -= keys.len();
                    for key in keys.sorted() {
                        self.fire(key, end, record, Firing::First, made, cx);
                    }
                    if self.due.closes_at(end) > self.watermark {
                        self.due.append_fired(end, keys);
                    } else {
                        self.let_go(&keys);
                    }
                }
                Due::LetGo(keys) => {
                    left -= keys.len();
                    self.let_go(&keys);
                }
            }
        }
    }

    fn let_go(&mut self, keys: &KeyList) {
        for key in keys.iter() {
            if let Err(error) = self.windows.remove(key) {
                tracing::error!(%error, stage = %self.options.name, "a window was not loaded");
            }
        }
    }

    /// Whether all that is due is in memory.
    fn is_due_loaded(&self) -> bool {
        let mut keys = self.due.keys(self.watermark, usize::MAX);
        self.windows.is_complete() || keys.all(|key| self.windows.knows(key))
    }

    fn fire(
        &mut self,
        key: &[u8],
        watermark: i64,
        record: u32,
        firing: Firing,
        made: &mut Rows,
        cx: &mut Context,
    ) {
        let window = match self.windows.get_mut(key) {
            Ok(Some(window)) if firing == Firing::First && window.firings > 0 => return,
            Ok(Some(window)) => window,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, stage = %self.options.name, "a window was not loaded");
                return;
            }
        };
        window.firings += 1;
        let Some((end, fields)) = split_key(key) else {
            return;
        };
        let id = self
            .identity
            .clone()
            .bytes(fields)
            .number(end as u64)
            .number(self.size as u64)
            .number(u64::from(window.firings))
            .finish();
        let options = &self.options;
        let bar = Bar::of(options, end, window);
        let at = (watermark, record);
        let Some(overflow) = bar.overflow else {
            bar.put(options, fields, Some(id), at, made);
            return;
        };
        let mut aside = Rows::new(options.output.clone());
        if bar.put(options, fields, Some(id), at, &mut aside).is_some() {
            cx.set_aside(&Arc::new(aside), 0, OVERFLOW, told(options, overflow));
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The end of the window under a key of the table, and the fields of the record's key.
fn split_key(key: &[u8]) -> Option<(i64, &[u8])> {
    let (end, fields) = key.split_first_chunk::<8>()?;
    Some((key::time_from_bytes(*end), fields))
}

/// Which firing of a window is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Firing {
    /// The first, unless it was.
    First,
    /// Another.
    Any,
}

impl Operator for TumblingWindow {
    fn process(&mut self, _input: usize, rows: Arc<Rows>, cx: &mut Context) {
        let mut made = Rows::new(self.options.output.clone());
        let mut late = Vec::new();
        for row in 0..rows.len() {
            // First event time, then the row: rows that went another way have moved it too, and
            // whether they came in this batch must not matter.
            let head = rows.head(row);
            while let Some(by) = cx.next_move(head.record) {
                self.move_to(by.watermark, by.record, &mut made, cx);
            }
            self.move_to(head.watermark, head.record, &mut made, cx);
            self.take(&rows, row, &mut made, &mut late, cx);
        }
        cx.emit(0, made);
        if let (Unplaced::Port(port), false) = (&self.options.late, late.is_empty()) {
            let mut late = late.into_iter().peekable();
            cx.emit(*port, rows.select(|row| late.next_if_eq(&row).is_some()));
        }
    }

    fn advance(&mut self, watermark: Timestamp, cx: &mut Context) {
        let mut made = Rows::new(self.options.output.clone());
        while let Some(by) = cx.next_move(u32::MAX) {
            self.move_to(by.watermark, by.record, &mut made, cx);
        }
        self.move_to(watermark.0, u32::MAX, &mut made, cx);
        cx.emit(0, made);
    }

    fn due(&self, watermark: Timestamp, most: usize) -> usize {
        self.due.count(watermark.0, most)
    }

    fn has_backlog(&self) -> bool {
        self.due.is_any(self.watermark)
    }

    fn work_off(&mut self, cx: &mut Context) {
        let mut made = Rows::new(self.options.output.clone());
        self.work(cx.most(), u32::MAX, &mut made, cx);
        cx.emit(0, made);
    }

    fn held_at(&self) -> Option<Timestamp> {
        let end = self.due.first_end()?;
        (end <= self.watermark).then_some(Timestamp(end))
    }

    fn missing(&mut self, ahead: Ahead<'_>, wanted: &mut Vec<(usize, Box<[u8]>)>) {
        if let Some((_, rows)) = ahead.rows() {
            for row in 0..rows.len() {
                let Some(end) = self.end_of(rows.head(row).time) else {
                    continue;
                };
                self.write_key(rows, row, end);
                if !self.windows.knows(&self.scratch) {
                    wanted.push((0, self.scratch.as_slice().into()));
                }
            }
        }
        let windows = &self.windows;
        let mut want = |key: &[u8]| {
            if !windows.knows(key) {
                wanted.push((0, key.into()));
            }
        };
        match ahead {
            // As much is due before the last move at most, and as much is done at that one.
            Ahead::Rows {
                watermark, most, ..
            }
            | Ahead::Time { watermark, most } => {
                let keys = self.due.keys(watermark.0, most.saturating_mul(2));
                keys.for_each(want);
            }
            Ahead::Backlog { most } => self.due.first(self.watermark, most, &mut want),
        }
    }

    fn tables(&mut self) -> Vec<&mut dyn Stateful> {
        vec![&mut self.windows]
    }

    fn restore(&mut self, _table: usize, key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
        let window = Window::decode(value)?;
        let Some((end, _)) = split_key(key) else {
            return Err(DecodeError::new(format!(
                "a window's key has {} bytes",
                key.len()
            )));
        };
        if window.accumulators.len() != self.options.aggregates.len() {
            return Err(DecodeError::new(
                "a window has another number of aggregates",
            ));
        }
        if window.firings > 0 {
            self.due.add_fired(end, key);
        } else {
            self.due.add_open(end, key);
        }
        Ok(())
    }

    fn closed(&self) -> Option<Timestamp> {
        let by_lateness = self.due.last_closed(self.watermark).unwrap_or(i64::MIN);
        Some(Timestamp(by_lateness.max(self.closed)))
    }

    fn restore_closed(&mut self, closed: Timestamp) {
        self.closed = self.closed.max(closed.0);
    }

    fn forget(&mut self) {
        self.due.clear();
        self.watermark = i64::MIN;
        self.closed = i64::MIN;
    }

    fn horizon(&self) -> Option<Timestamp> {
        self.due.last_end().map(Timestamp)
    }

    fn windows_open(&self) -> u64 {
        self.due.open()
    }
}

/// Why an event of the window with this end is late.
fn why_late(end: i64, watermark: i64) -> String {
    match (watermark.abs_diff(end), watermark < end) {
        // At the end of an input windows close before the watermark has come to them.
        (_, true) => "its window has been closed".into(),
        (0, _) => "its window ended where the watermark is".into(),
        (micros, _) if micros.is_multiple_of(1_000_000) => {
            format!(
                "its window ended {} s before the watermark",
                micros / 1_000_000
            )
        }
        (micros, _) if micros.is_multiple_of(1_000) => {
            format!(
                "its window ended {} ms before the watermark",
                micros / 1_000
            )
        }
        (micros, _) => format!("its window ended {micros} µs before the watermark"),
    }
}

#[cfg(test)]
mod why_late_tests {
    use super::why_late;

    /// It said "0 µs before the watermark", and counted how far the watermark was behind as how far it was
    /// ahead.
    #[test]
    fn why_an_event_is_late_is_told_in_the_coarsest_unit_that_is_exact() {
        let told = [
            (0, "its window ended where the watermark is"),
            (1, "its window ended 1 µs before the watermark"),
            (2_000, "its window ended 2 ms before the watermark"),
            (90_000_000, "its window ended 90 s before the watermark"),
            (-1, "its window has been closed"),
        ];
        for (ahead, said) in told {
            assert_eq!(why_late(60_000_000, 60_000_000 + ahead), said);
        }
    }
}
