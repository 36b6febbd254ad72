//! What a run has done so far, for whoever watches it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill_broker::{Offset, Timestamp};
use tidemill_state::Headway;

use super::TaskId;

/// Counts of one run, readable while it goes on.
#[derive(Debug, Default)]
pub struct Progress {
    taken: AtomicU64,
    committed: AtomicU64,
    written: AtomicU64,
    set_aside: AtomicU64,
    // Dead letters, by class.
    dead: Mutex<BTreeMap<&'static str, u64>>,
    transactions: AtomicU64,
    windows_closed: AtomicU64,
    closed_at: Mutex<Option<Timestamp>>,
    has_ended: AtomicBool,
    // By task, how far the changelog was redone when it was opened last.
    redone: Mutex<BTreeMap<TaskId, Headway>>,
    // By source, partition and task: the next record that is taken.
    next: Mutex<BTreeMap<(usize, u32, TaskId), Offset>>,
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
    /// Records, and results of stages, that were set aside, committed or not: each once, also where
    /// several stages did.
    pub set_aside: u64,
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
        for headway in locked(&self.redone).values() {
            redone += headway.done;
            to_redo += headway.total.unwrap_or_default();
        }
        Counts {
            taken: get(&self.taken),
            committed: get(&self.committed),
            written: get(&self.written),
            set_aside: get(&self.set_aside),
            dead: locked(&self.dead).values().sum(),
            transactions: get(&self.transactions),
            windows_closed: get(&self.windows_closed),
            closed_at: *locked(&self.closed_at),
            has_ended: self.has_ended.load(Ordering::Relaxed),
            redone,
            to_redo,
        }
    }

    /// How many dead letters there are of each class, such as `window.late`.
    pub fn dead_by_class(&self) -> Vec<(&'static str, u64)> {
        let dead = locked(&self.dead);
        dead.iter().map(|(class, count)| (*class, *count)).collect()
    }

    /// Where a partition of a source of the plan is taken next: by the task that is furthest behind, if several read
    /// it whole. `None` while no task reads it.
    pub(crate) fn next_of(&self, source: usize, partition: u32) -> Option<Offset> {
        let next = locked(&self.next);
        let of = next
            .iter()
            .filter(|((one, at, _), _)| (*one, *at) == (source, partition));
        of.map(|(_, next)| *next).min()
    }

    pub(crate) fn took(&self, records: u64) {
        self.taken.fetch_add(records, Ordering::Relaxed);
        metrics::counter!("tidemill_records_taken_total").increment(records);
    }

    pub(crate) fn wrote(&self, records: u64) {
        self.written.fetch_add(records, Ordering::Relaxed);
        metrics::counter!("tidemill_records_written_total").increment(records);
    }

    /// So many records were set aside, as dead letters of these classes.
    pub(crate) fn set_aside(&self, records: u64, classes: impl Iterator<Item = &'static str>) {
        self.set_aside.fetch_add(records, Ordering::Relaxed);
        metrics::counter!("tidemill_records_set_aside_total").increment(records);
        let mut dead = locked(&self.dead);
        for class in classes {
            *dead.entry(class).or_default() += 1;
        }
    }

    pub(crate) fn committed(&self, records: u64) {
        self.committed.fetch_add(records, Ordering::Relaxed);
        metrics::counter!("tidemill_records_committed_total").increment(records);
    }

    /// Every input of a task has ended, so that it fires what is open.
    pub(crate) fn closes(&self, windows: u64, event_time: Timestamp) {
        self.windows_closed.fetch_add(windows, Ordering::Relaxed);
        let mut at = locked(&self.closed_at);
        *at = (*at).max(Some(event_time));
    }

    /// Every input of every task has ended.
    pub(crate) fn reached_end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    /// How far a task that is being opened has come with its changelog.
    pub(crate) fn redone(&self, task: TaskId, headway: Headway) {
        locked(&self.redone).insert(task, headway);
    }

    /// A task was not opened after all.
    pub(crate) fn not_redone(&self, task: TaskId) {
        locked(&self.redone).remove(&task);
    }

    pub(crate) fn transaction(&self) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("tidemill_commits_total").increment(1);
    }
}

/// What a task has taken of its inputs, for as long as it is there.
#[derive(Debug)]
pub(crate) struct Taken {
    progress: Arc<Progress>,
    task: TaskId,
}

impl Taken {
    pub(crate) fn new(progress: Arc<Progress>, task: TaskId) -> Self {
        Self { progress, task }
    }

    /// The next record it takes of a partition of a source of the plan.
    pub(crate) fn comes_to(&self, source: usize, partition: u32, next: Offset) {
        locked(&self.progress.next).insert((source, partition, self.task), next);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        locked(&self.progress.next).retain(|(_, _, task), _| *task != self.task);
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_furthest_behind_says_what_is_taken_and_who_has_left_does_not() {
        let progress = Arc::new(Progress::default());
        let task = |partition| TaskId {
            sub_topology: 0,
            partition,
        };
        assert_eq!(progress.next_of(1, 0), None);
        let first = Taken::new(progress.clone(), task(0));
        let second = Taken::new(progress.clone(), task(1));
        first.comes_to(1, 0, Offset(7));
        second.comes_to(1, 0, Offset(3));
        second.comes_to(2, 0, Offset(1));
        assert_eq!(progress.next_of(1, 0), Some(Offset(3)));
        drop(second);
        assert_eq!(progress.next_of(1, 0), Some(Offset(7)));
        assert_eq!(progress.next_of(2, 0), None);
    }
}
