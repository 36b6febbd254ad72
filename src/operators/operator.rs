//! What every operator is.

use std::fmt;
use std::sync::Arc;

use tidemill_broker::Timestamp;

use tidemill_state::{DecodeError, Stateful};

use crate::events::Rows;

/// A step between source and sink: takes batches of rows, hands on batches of rows.
///
/// An operator reads no clock, draws no chance and does no I/O, so the same rows in the same order
/// give the same output, live or replayed. What it remembers lies in the tables it declares.
pub trait Operator: fmt::Debug + Send {
    /// Takes a batch that came in through `input`, and moves event time on row by row: to each
    /// row's watermark, and before that to where [`Context::next_move`] says that rows which never
    /// came here have moved it.
    ///
    /// Every row it makes carries the record that led to it, and these never decrease from one row
    /// it hands on through a port to the next: where several streams meet, they are put in order
    /// by it. Every entry that [`missing`](Self::missing) named for this batch has been loaded.
    fn process(&mut self, input: usize, rows: Arc<Rows>, cx: &mut Context);

    /// Moves event time on without a row: what [`Context::next_move`] still has, then to
    /// `watermark`. No earlier event time is expected.
    fn advance(&mut self, watermark: Timestamp, cx: &mut Context) {
        let (_, _) = (watermark, cx);
    }

    /// How much event time would make due by moving to `watermark`, counted to `most` + 1 at most:
    /// rows to make, and entries of its tables to let go. A row that was held counts once more for each
    /// 16 KiB it has.
    fn due(&self, watermark: Timestamp, most: usize) -> usize {
        let (_, _) = (watermark, most);
        0
    }

    /// Whether it holds whole rows, so that what is due counts by their size.
    fn holds_rows(&self) -> bool {
        false
    }

    /// Whether event time has made more due than [`Context::most`] allowed to be done at once.
    /// No further record comes in before all of it has been [worked off](Self::work_off), only rows of
    /// the one that made it due; what is left follows from the tables and event time alone, so that a
    /// restart goes on in the middle.
    fn has_backlog(&self) -> bool {
        false
    }

    /// Does the first of what is due and left, as much as [`Context::most`] says, in order.
    fn work_off(&mut self, cx: &mut Context) {
        let _ = cx;
    }

    /// Where what is left holds event time back at for those after it; `None` if it makes no rows.
    fn held_at(&self) -> Option<Timestamp> {
        None
    }

    /// Names the keys of its tables that it will use for what is `ahead` and that are not in memory,
    /// each with the table's place in [`tables`](Self::tables). Asked only while a table is not
    /// complete.
    fn missing(&mut self, ahead: Ahead<'_>, wanted: &mut Vec<(usize, Box<[u8]>)>) {
        let (_, _) = (ahead, wanted);
    }

    /// What it remembers, always in the same order; empty for operators without memory.
    fn tables(&mut self) -> Vec<&mut dyn Stateful> {
        Vec::new()
    }

    /// Takes note of one key of its table number `table`, as committed: called for each before the
    /// first batch, and again after everything uncommitted was dropped, then with
    /// [`forget`](Self::forget) first.
    ///
    /// # Errors
    ///
    /// If the key or value is not one of this operator's.
    fn restore(&mut self, table: usize, key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
        let (_, _, _) = (table, key, value);
        Ok(())
    }

    /// Up to which end its windows are closed for good: what is of one that ended then or before is late.
    /// `None` if it has no windows. With the tables and event time, all of its state.
    fn closed(&self) -> Option<Timestamp> {
        None
    }

    /// Takes note of what [`closed`](Self::closed) said: of no earlier end is a window opened again,
    /// whatever the options are now.
    fn restore_closed(&mut self, closed: Timestamp) {
        let _ = closed;
    }

    /// Drops what it holds outside its tables.
    fn forget(&mut self) {}

    /// The watermark at which nothing it holds is left open; `None` if nothing is open.
    fn horizon(&self) -> Option<Timestamp> {
        None
    }

    /// How many windows it holds that have not fired.
    fn windows_open(&self) -> u64 {
        0
    }
}

/// Bytes for which a row that is held counts once more.
const WEIGHT_BYTES: usize = 16 << 10;

/// What a row of so many bytes counts for among what is done at once: so that is bounded in bytes too. Of the
/// row alone, wherever it was held meanwhile.
pub(crate) fn weight(bytes: usize) -> usize {
    1 + bytes / WEIGHT_BYTES
}

/// What an operator will be asked to do next.
#[derive(Debug, Clone, Copy)]
pub enum Ahead<'r> {
    /// [`process`](Operator::process) rows that come in through an input.
    Rows {
        /// The input.
        input: usize,
        /// The rows.
        rows: &'r Rows,
        /// Event time will move no further than this.
        watermark: Timestamp,
        /// As [`Context::most`].
        most: usize,
    },
    /// [`advance`](Operator::advance).
    Time {
        /// Event time will move no further than this.
        watermark: Timestamp,
        /// As [`Context::most`].
        most: usize,
    },
    /// [`work_off`](Operator::work_off).
    Backlog {
        /// As [`Context::most`].
        most: usize,
    },
}

impl<'r> Ahead<'r> {
    /// The rows that will come in.
    pub fn rows(self) -> Option<(usize, &'r Rows)> {
        match self {
            Self::Rows { input, rows, .. } => Some((input, rows)),
            Self::Time { .. } | Self::Backlog { .. } => None,
        }
    }
}

/// A row that was set aside.
#[derive(Debug)]
pub struct Dead {
    /// The batch it was in.
    pub rows: Arc<Rows>,
    /// Its index there.
    pub row: usize,
    /// A stable code of what went wrong, such as `window.late`.
    pub class: &'static str,
    /// What went wrong, without payload.
    pub message: String,
}

/// How far a record moved event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// The record, as an index of the batch at hand.
    pub record: u32,
    /// The watermark once it has been seen, microseconds.
    pub watermark: i64,
}

/// Where an operator puts what it makes, and where it learns what moves event time.
#[derive(Debug)]
pub struct Context {
    // Moves of the batch's source, and which is next.
    moves: Option<Arc<[Move]>>,
    next: usize,
    // What other inputs hold event time back at.
    limit: i64,
    most: usize,
    // How much has been done at a record.
    done: (u32, usize),
    emitted: Vec<(usize, Arc<Rows>)>,
    dead: Vec<Dead>,
    dropped: u64,
    kept: usize,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            moves: None,
            next: 0,
            limit: i64::MAX,
            most: usize::MAX,
            done: (0, 0),
            emitted: Vec::new(),
            dead: Vec::new(),
            dropped: 0,
            kept: 0,
        }
    }
}

impl Context {
    /// A context in which records move event time as in `moves`, in their order, and other inputs
    /// hold it back at `limit`.
    pub fn moved_by(moves: Arc<[Move]>, limit: Timestamp) -> Self {
        Self {
            moves: Some(moves),
            limit: limit.0,
            ..Self::default()
        }
    }

    /// The same, in which no more than `most` is done at one record of what event time makes due.
    pub fn at_most(mut self, most: usize) -> Self {
        self.most = most;
        self
    }

    /// How much an operator does at one record of what event time makes due. Of a move by which it is
    /// more it does nothing, and leaves it to [`Operator::work_off`]: without bound, unless said.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Whether so much more may be done at `record`; what may be counts as done.
    pub(super) fn allows(&mut self, record: u32, count: usize) -> bool {
        let (of, done) = self.done;
        let done = if of == record { done } else { 0 };
        let sum = done.saturating_add(count);
        let is_allowed = sum <= self.most;
        self.done = (record, if is_allowed { sum } else { done });
        is_allowed
    }

    /// The next move of event time by a record before `record`, whether or not a row of it came
    /// here; `None` once there is none. An operator that makes rows when event time moves asks
    /// before each row, so that what it makes does not depend on how batches were cut.
    pub fn next_move(&mut self, record: u32) -> Option<Move> {
        let next = self.moves.as_ref()?.get(self.next)?;
        if next.record >= record {
            return None;
        }
        self.next += 1;
        Some(Move {
            record: next.record,
            watermark: next.watermark.min(self.limit),
        })
    }

    /// Hands on rows through a port; empty batches are not handed on.
    pub fn emit(&mut self, port: usize, rows: impl Into<Arc<Rows>>) {
        let rows = rows.into();
        if !rows.is_empty() {
            self.emitted.push((port, rows));
        }
    }

    /// Sets a row aside with the reason.
    pub fn set_aside(
        &mut self,
        rows: &Arc<Rows>,
        row: usize,
        class: &'static str,
        message: impl Into<String>,
    ) {
        self.dead.push(Dead {
            rows: rows.clone(),
            row,
            class,
            message: message.into(),
        });
    }

    /// Counts a row that the file says to drop.
    pub fn count_dropped(&mut self) {
        self.dropped += 1;
    }

    /// Counts bytes that it remembers from now on, roughly: an epoch takes only so many.
    pub fn count_kept(&mut self, bytes: usize) {
        self.kept += bytes;
    }

    /// Takes what was handed on, in order.
    pub fn take_emitted(&mut self) -> Vec<(usize, Arc<Rows>)> {
        std::mem::take(&mut self.emitted)
    }

    /// Takes what was set aside, in order.
    pub fn take_dead(&mut self) -> Vec<Dead> {
        std::mem::take(&mut self.dead)
    }

    /// Takes the count of the bytes that are remembered.
    pub fn take_kept(&mut self) -> usize {
        std::mem::take(&mut self.kept)
    }

    /// Takes the count of what was dropped.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}
