//! Why a pipeline stopped.

use std::any::Any;
use std::path::PathBuf;

use tidemill_broker as broker;
use tidemill_broker::{Offset, Topic, TopicPartition};
use tokio::task::JoinError;

use super::TaskId;
use crate::config::Changes;

/// Why a pipeline, or one of its tasks, stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A broker refused.
    #[error("{doing}")]
    Broker {
        /// What was being done.
        doing: String,
        /// The cause.
        source: broker::Error,
    },
    /// The state store refused.
    #[error("the state of task {task} failed")]
    State {
        /// The task.
        task: TaskId,
        /// The cause.
        source: tidemill_state::Error,
    },
    /// A savepoint cannot be used.
    #[error("the savepoint {} cannot be used", path.display())]
    Savepoint {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: tidemill_state::Error,
    },
    /// A topic that is read is not there.
    #[error(
        "topic `{topic}` of source `{source_name}` does not exist; create it with {create}, or give it `partitions` in the file"
    )]
    MissingTopic {
        /// The topic.
        topic: Topic,
        /// The source.
        source_name: String,
        /// What creates it, on the broker where it is looked for: a command, or a call.
        create: String,
    },
    /// A topic that was written to is not there any more.
    #[error(
        "topic `{topic}` of {writer} is gone, and with it what was written there, which is not written a second time; create it with {create} to go on with what comes next, or write all anew after `tidemill offsets reset FILE --to earliest --drop-state`"
    )]
    LostOutput {
        /// The topic.
        topic: Topic,
        /// What wrote there, in words.
        writer: String,
        /// What creates it, on the broker where it is looked for: a command, or a call.
        create: String,
    },
    /// The changelog lies on another broker than the one that the file makes the pipeline's home.
    #[error(
        "broker `{was}` holds `{changelog}`, and so what this pipeline has done, but its home is `{home}`, where it would begin anew; write `home = \"{was}\"` in `[pipeline]`, or `tidemill offsets reset` makes it start anew on `{home}`"
    )]
    Moved {
        /// The changelog.
        changelog: Topic,
        /// The broker that holds it.
        was: String,
        /// The home.
        home: String,
    },
    /// A topic has another number of partitions than it must have.
    #[error("topic `{topic}` has {found} partitions where {expected} are needed: {why}")]
    PartitionCount {
        /// The topic.
        topic: Topic,
        /// What it has.
        found: u32,
        /// What it must have.
        expected: u32,
        /// Why.
        why: String,
    },
    /// Retention has removed records that were not yet read.
    #[error(
        "records of {at} from offset {asked} are gone: the log begins at {low}; set `on_gap = \"skip\"` on the source to go on there, or reset with `tidemill offsets reset`"
    )]
    Gap {
        /// The partition.
        at: TopicPartition,
        /// The next offset to read.
        asked: Offset,
        /// Where the log begins.
        low: Offset,
    },
    /// The log ends before what was read from it, or is another one.
    #[error(
        "{at} is not the log this pipeline has read: {what}; `tidemill offsets reset` makes it start anew"
    )]
    OtherLog {
        /// The partition.
        at: TopicPartition,
        /// How that shows.
        what: String,
    },
    /// A topic that is read was deleted.
    #[error(
        "topic `{topic}`, which this pipeline reads, was deleted; restore it, or create it again, and `tidemill offsets reset` makes the pipeline start anew"
    )]
    LostInput {
        /// The topic.
        topic: Topic,
    },
    /// State and log contradict each other.
    #[error("task {task} cannot go on: {what}")]
    Contradiction {
        /// The task.
        task: TaskId,
        /// What contradicts what.
        what: String,
    },
    /// The pipeline's file is not the one that wrote the state.
    #[error(
        "the pipeline has changed since its state was written ({was:016x}, now {now:016x}); go on with `--accept-new-version`, or reset with `tidemill offsets reset`"
    )]
    Changed {
        /// Hash of the file that wrote the state.
        was: u64,
        /// Hash of this one.
        now: u64,
    },
    /// The same, where the log tells what has changed.
    #[error("the pipeline has changed since its state was written: {changes}")]
    ChangedIn {
        /// What has changed, and what that means for the state.
        changes: Changes,
    },
    /// Somebody else runs this pipeline.
    #[error("{what}")]
    Fenced {
        /// Who owns what.
        what: String,
    },
    /// Another process holds the instance's directory.
    #[error("{} is in use by {owner}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who holds it.
        owner: String,
    },
    /// The directory of all instances was given for that of one.
    #[error("{} is where the instances of `{pipeline}` have their directories, one each", path.display())]
    NotAnInstance {
        /// The directory.
        path: PathBuf,
        /// The pipeline.
        pipeline: String,
    },
    /// A file of the pipeline's own could not be used.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A part that runs beside others ended before its time.
    #[error("{part} stopped before its time")]
    Gone {
        /// The part.
        part: &'static str,
    },
    /// A task panicked.
    #[error(
        "task {task} panicked: {what}; this is a mistake in tidemill, and what it had committed stays"
    )]
    Panicked {
        /// The task.
        task: TaskId,
        /// What it said.
        what: String,
    },
    /// An epoch was dropped because its assignment broke.
    #[error("an epoch was dropped because its assignment broke")]
    Dropped,
    /// The plan asks for something that cannot be built.
    #[error("{what}")]
    Plan {
        /// What.
        what: String,
    },
}

/// What kind of end it was: each has an exit code of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The file asks for what is not there.
    Usage,
    /// A file or disk refused.
    Io,
    /// A broker could not be reached.
    Connectivity,
    /// Log and state contradict each other, or one is damaged.
    Integrity,
    /// Somebody else owns what we took for ours.
    Fenced,
    /// It is unknown whether a commit happened.
    Unknown,
    /// A fault of ours.
    Internal,
}

impl Error {
    /// Whether the store alone is wrong: the log can rebuild it.
    pub(crate) fn is_store_damage(&self) -> bool {
        use tidemill_state::Error as E;
        matches!(self, Self::State { source, .. }
            if matches!(source, E::Damaged { .. } | E::DigestMismatch { .. } | E::Decode { .. }))
    }

    /// Whether the store takes no call any more, after an earlier one that failed.
    pub(crate) fn is_poisoned_store(&self) -> bool {
        use tidemill_state::Error as E;
        matches!(self, Self::State { source, .. } if matches!(source, E::Poisoned { .. }))
    }

    /// A part of a task came to no end of its own.
    pub(crate) fn died(task: TaskId, error: JoinError) -> Self {
        match error.try_into_panic() {
            Ok(panic) => Self::panicked(task, &*panic),
            Err(_) => Self::Gone { part: "a task" },
        }
    }

    /// A task panicked with this payload.
    pub(crate) fn panicked(task: TaskId, panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Self::Panicked {
            task,
            what: text.unwrap_or("it did not say why").to_owned(),
        }
    }

    /// What kind of end it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Broker { source, .. } => Kind::of(source),
            Self::State { source, .. } | Self::Savepoint { source, .. }
                if source.is_integrity() =>
            {
                Kind::Integrity
            }
            Self::State {
                source: tidemill_state::Error::InUse { .. },
                ..
            } => Kind::Fenced,
            Self::State { .. } | Self::Savepoint { .. } | Self::Io { .. } => Kind::Io,
            Self::MissingTopic { .. } | Self::NotAnInstance { .. } | Self::Plan { .. } => {
                Kind::Usage
            }
            Self::PartitionCount { .. }
            | Self::LostOutput { .. }
            | Self::Moved { .. }
            | Self::Gap { .. }
            | Self::OtherLog { .. }
            | Self::LostInput { .. }
            | Self::Contradiction { .. }
            | Self::Changed { .. }
            | Self::ChangedIn { .. } => Kind::Integrity,
            Self::Fenced { .. } | Self::InUse { .. } | Self::Dropped => Kind::Fenced,
            Self::Gone { .. } | Self::Panicked { .. } => Kind::Internal,
        }
    }
}

impl Kind {
    /// What kind of end it is that a broker refused something.
    pub fn of(error: &broker::Error) -> Self {
        use broker::Error as E;

        match error {
            error if error.is_integrity() => Self::Integrity,
            E::UnknownTopic { .. }
            | E::UnknownPartition { .. }
            | E::TopicExists { .. }
            | E::NoCommittedOffset { .. }
            | E::TooLarge { .. }
            | E::Unsupported { .. }
            | E::Invalid { .. }
            | E::InvalidName(_) => Self::Usage,
            E::Io { .. } | E::Poisoned { .. } => Self::Io,
            E::InUse { .. } => Self::Fenced,
            error => match error.class() {
                broker::Class::Transient => Self::Connectivity,
                broker::Class::Fenced => Self::Fenced,
                broker::Class::UnknownOutcome => Self::Unknown,
                broker::Class::Permanent => Self::Internal,
            },
        }
    }
}

/// A result of the engine.
pub type Result<T> = std::result::Result<T, Error>;

/// Says what was being done when a broker refused.
pub(crate) trait Doing<T> {
    /// Wraps the error.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for broker::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Broker {
            doing: what(),
            source,
        })
    }
}
