//! How much may wait in a run.

use tidemill_state::StateOptions;

/// How much may wait in a run, for each task unless said otherwise. The defaults are for production.
///
/// What an epoch may hold is the file's to say, and so is what a task keeps in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Batches on the way to a task, at least one. A task that is slow stops its own partitions when
    /// there are more.
    pub inbox_batches: usize,
    /// State that is waiting to be written behind, and the bounds of its chunks: what fits the memory that
    /// the file allows, unless said here. A task takes no more input while more of it waits.
    pub state: Option<StateOptions>,
    /// How much of what event time makes due a stage does at once, at least one: windows that fire or
    /// are let go, events that were held, which count once more for each 16 KiB they have. Where one record
    /// makes more due, it is done in pieces of as many, and epochs are closed between them. In which order
    /// the rows of several stages meet in another, or in a topic, may depend on it.
    pub due_at_once: usize,
    /// For the whole run: epochs of several tasks go into one transaction up to this many bytes,
    /// and the rest into the next. The epoch of one task always goes in as a whole.
    pub transaction_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            // Enough that a task need not wait for the intake to be scheduled.
            inbox_batches: 16,
            state: None,
            due_at_once: 4_096,
            // Far below what any broker takes at once, and far more than costs a commit of its own.
            transaction_bytes: 64 << 20,
        }
    }
}
