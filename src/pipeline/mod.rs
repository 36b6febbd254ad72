//! The engine: from a checked plan to a running program.
//!
//! A process has one *intake*, one *committer*, and a *task* for each set of co-partitioned input
//! partitions that is its own. A task takes batches, runs its operators inline and fills its open
//! epoch; a closed epoch is a value that the committer makes visible, with others, in one broker
//! transaction: outputs, dead letters, the state's changes, a marker, and the input's offsets. The
//! log is the truth; the stores on disk are written behind it and can only be older.

mod accept;
mod bounds;
mod build;
mod capable;
mod committer;
mod control;
mod dead_letter;
mod directives;
mod epoch;
mod error;
mod graph;
mod home;
mod input;
mod input_offsets;
mod instance;
mod intake;
mod keys;
mod lost;
mod marker;
mod memory;
mod missing;
mod open;
mod ordered;
mod progress;
mod reading;
mod recovery;
mod redo;
mod reset;
mod run;
mod savepoints;
mod shown;
mod sink;
mod task;
mod times;
mod topics;
mod topology;
mod version;

pub use bounds::Bounds;
pub use build::OpenBroker;
pub use committer::Cut;
pub use control::{Control, Step};
pub(crate) use dead_letter::WHOLE_BYTES;
pub use error::{Error, Kind, Result};
pub use input_offsets::{InputOffset, input_offsets};
pub use instance::{Instance, MemoryStores, SledStores};
pub use lost::{LostOutput, Writer};
pub use marker::{Attempt, MARKER_KEY, MarkedInput, Marker, MarkerError};
#[cfg(feature = "cli")]
pub(crate) use missing::what_creates;
pub use open::Stores;
pub(crate) use progress::Taken;
pub use progress::{Counts, Progress};
pub use reset::{InputReset, Reset, ResetOptions, ResetTo, Resetting, TaskReset};
pub use run::{Pipeline, RunOptions};
pub use savepoints::{Restorable, TaskLog, restorable, restore_task, savepoint, task_logs};
pub use shown::{Shown, show};
pub use topology::{SubTopology, TaskId, sub_topologies};

#[cfg(test)]
pub(crate) mod tests;
