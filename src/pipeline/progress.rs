//! What a run has done so far, for whoever watches it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidemill_broker::Timestamp;
use tidemill_state::Headway;

use super::TaskId;

/// Counts of one run, readable while it goes on.
#[derive(Debug, Default)]
pub struct Progress {
    taken: AtomicU64,
    committed: AtomicU64,
    written: AtomicU64,
    dead: AtomicU64,
    transactions: AtomicU64,
    windows_closed: AtomicU64,
    closed_at: Mutex<Option<Timestamp>>,
    has_ended: AtomicBool,
    // By task, how far the changelog was redone when it was opened last.
    redone: Mutex<BTreeMap<TaskId, Headway>>,
}

/// A look at [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Input records taken, committed or not.
    pub taken: u64,
    /// Input records whose epoch is committed.
    pub committed: u64,
    /// Records written to sinks, committed or not.
    pub written: u64,
    /// Dead letters written, committed or not.
    pub dead: u64,
    /// Transactions committed.
    pub transactions: u64,
    /// Windows that fired before event time had come to their end, as every input had ended: what comes
    /// later for them is late.
    pub windows_closed: u64,
    /// How far event time was moved on for that, and for events that were held back.
    pub closed_at: Option<Timestamp>,
    /// Whether the run went on to the end of every input, as it was asked to.
    pub has_ended: bool,
    /// How much of the changelogs was redone, in offsets: what tasks do before they take anything.
    pub redone: u64,
    /// How much there is to redo, of the tasks that have begun with it.
    pub to_redo: u64,
}

impl Progress {
    /// The counts now. They are not taken at one instant.
    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (mut redone, mut to_redo) = (0, 0);
        for headway in self.redone_by_task().values() {
            redone += headway.done;
            to_redo += headway.total.unwrap_or_default();
        }
        Counts {
            taken: get(&self.taken),
            committed: get(&self.committed),
            written: get(&self.written),
            dead: get(&self.dead),
            transactions: get(&self.transactions),
            windows_closed: get(&self.windows_closed),
            closed_at: *self.closed_at(),
            has_ended: self.has_ended.load(Ordering::Relaxed),
            redone,
            to_redo,
        }
    }

    pub(crate) fn took(&self, records: u64) {
        self.taken.fetch_add(records, Ordering::Relaxed);
        metrics::counter!("tidemill_records_taken_total").increment(records);
    }

    pub(crate) fn wrote(&self, records: u64) {
        self.written.fetch_add(records, Ordering::Relaxed);
        metrics::counter!("tidemill_records_written_total").increment(records);
    }

    pub(crate) fn set_aside(&self, records: u64) {
        self.dead.fetch_add(records, Ordering::Relaxed);
        metrics::counter!("tidemill_records_set_aside_total").increment(records);
    }

    pub(crate) fn committed(&self, records: u64) {
        self.committed.fetch_add(records, Ordering::Relaxed);
        metrics::counter!("tidemill_records_committed_total").increment(records);
    }

    /// Every input of a task has ended, so that it fires what is open.
    pub(crate) fn closes(&self, windows: u64, event_time: Timestamp) {
        self.windows_closed.fetch_add(windows, Ordering::Relaxed);
        let mut at = self.closed_at();
        *at = (*at).max(Some(event_time));
    }

    /// Every input of every task has ended.
    pub(crate) fn reached_end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    /// How far a task that is being opened has come with its changelog.
    pub(crate) fn redone(&self, task: TaskId, headway: Headway) {
        self.redone_by_task().insert(task, headway);
    }

    /// A task was not opened after all.
    pub(crate) fn not_redone(&self, task: TaskId) {
        self.redone_by_task().remove(&task);
    }

    fn redone_by_task(&self) -> MutexGuard<'_, BTreeMap<TaskId, Headway>> {
        self.redone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed_at(&self) -> MutexGuard<'_, Option<Timestamp>> {
        self.closed_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn transaction(&self) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("tidemill_commits_total").increment(1);
    }
}
