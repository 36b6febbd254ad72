//! What a run has done so far, for whoever watches it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of one run, readable while it goes on.
#[derive(Debug, Default)]
pub struct Progress {
    taken: AtomicU64,
    committed: AtomicU64,
    written: AtomicU64,
    dead: AtomicU64,
    transactions: AtomicU64,
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
}

impl Progress {
    /// The counts now. They are not taken at one instant.
    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            taken: get(&self.taken),
            committed: get(&self.committed),
            written: get(&self.written),
            dead: get(&self.dead),
            transactions: get(&self.transactions),
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

    pub(crate) fn transaction(&self) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("tidemill_commits_total").increment(1);
    }
}
