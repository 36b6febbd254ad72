//! What can go wrong, and what a caller may do about it.

use std::path::PathBuf;

use crate::{Generation, Group, InvalidName, Offset, Topic, TopicPartition};

/// An error of a driver or of the system, kept as the cause.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A result of a broker.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller may do about an [`Error`].
///
/// Matched exhaustively on purpose: another class is another thing to do, which every caller has to decide.
/// Errors themselves may become more, and each says its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The same call may succeed later without anything else changing.
    Transient,
    /// The same call fails again.
    Permanent,
    /// Somebody else owns what the caller took for its own.
    Fenced,
    /// The call may have had its effect.
    UnknownOutcome,
}

/// Why a broker did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The broker could not be reached, or dropped the connection.
    #[error("{broker} is unavailable")]
    Unavailable {
        /// The kind of broker.
        broker: &'static str,
        /// The cause.
        source: Source,
    },
    /// No such topic.
    #[error("unknown topic `{topic}`")]
    UnknownTopic {
        /// The topic.
        topic: Topic,
    },
    /// The topic has no such partition.
    #[error("topic `{}` has no partition {}", at.topic, at.partition)]
    UnknownPartition {
        /// The partition asked for.
        at: TopicPartition,
    },
    /// A topic of that name is there already.
    #[error("topic `{topic}` exists already")]
    TopicExists {
        /// The topic.
        topic: Topic,
    },
    /// The topic was deleted, and perhaps created again, under its reader.
    #[error("topic `{topic}` was deleted while in use")]
    TopicDeleted {
        /// The topic.
        topic: Topic,
    },
    /// The offset is not, or no longer, kept.
    #[error("offset {asked} of {at} is out of range: the log holds {low} up to {high}")]
    OutOfRange {
        /// The partition.
        at: TopicPartition,
        /// The offset asked for.
        asked: Offset,
        /// The first offset kept.
        low: Offset,
        /// The end of the log.
        high: Offset,
    },
    /// The group has committed nothing for a partition and no start was given.
    #[error("group `{group}` has no committed offset for {at}")]
    NoCommittedOffset {
        /// The group.
        group: Group,
        /// The partition.
        at: TopicPartition,
    },
    /// The record is larger than the broker takes.
    #[error("record {index} for {at} has {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// The partition.
        at: TopicPartition,
        /// The record's index in its set.
        index: usize,
        /// Its size.
        bytes: usize,
        /// The largest size.
        limit: usize,
    },
    /// The partition is not assigned to this consumer.
    #[error("{at} is not assigned to this consumer")]
    NotAssigned {
        /// The partition.
        at: TopicPartition,
    },
    /// Somebody else owns what the caller took for its own.
    #[error("fenced: {what}")]
    Fenced {
        /// What is owned by whom.
        what: String,
    },
    /// Offsets were committed under an assignment that is no longer the group's, or for partitions
    /// that it does not hold.
    #[error("stale generation of group `{group}`: {what}")]
    StaleGeneration {
        /// The group.
        group: Group,
        /// The generation that was given.
        generation: Option<Generation>,
        /// What the group holds instead.
        what: String,
    },
    /// The call may have had its effect; only the log can tell.
    #[error("outcome unknown: {what}")]
    UnknownOutcome {
        /// What was asked, and what happened.
        what: String,
    },
    /// The broker cannot do this at all.
    #[error("{broker} does not support {what}")]
    Unsupported {
        /// The kind of broker.
        broker: &'static str,
        /// What was asked.
        what: &'static str,
    },
    /// The request makes no sense.
    #[error("invalid request: {what}")]
    Invalid {
        /// What is wrong with it.
        what: String,
    },
    /// A name was refused.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// The directory has another owner.
    #[error("{} is in use by {owner}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who holds it.
        owner: String,
    },
    /// The file system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done, as a verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// What is stored is not what was written.
    #[error("{} is damaged at byte {at}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The byte.
        at: u64,
        /// What was found, and what was expected.
        what: String,
    },
    /// The directory was written by a newer version.
    #[error("{} has format {found}; this version reads up to {known}", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// An earlier failure left this handle unusable; open it again.
    #[error("the broker stopped after an earlier failure: {what}")]
    Poisoned {
        /// The earlier failure.
        what: String,
    },
}

/// Whether the process, or the machine, has as many files open as it may: nothing was done, and the same
/// call works once others are closed. The standard library has no kind for it.
fn is_out_of_handles(error: &std::io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

impl Error {
    /// What a caller may do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Unavailable { .. } => Class::Transient,
            Self::Io { source, .. } if is_out_of_handles(source) => Class::Transient,
            Self::Fenced { .. } | Self::StaleGeneration { .. } => Class::Fenced,
            Self::UnknownOutcome { .. } => Class::UnknownOutcome,
            Self::UnknownTopic { .. }
            | Self::UnknownPartition { .. }
            | Self::TopicExists { .. }
            | Self::TopicDeleted { .. }
            | Self::OutOfRange { .. }
            | Self::NoCommittedOffset { .. }
            | Self::TooLarge { .. }
            | Self::NotAssigned { .. }
            | Self::Unsupported { .. }
            | Self::Invalid { .. }
            | Self::InvalidName(_)
            | Self::InUse { .. }
            | Self::Io { .. }
            | Self::Damaged { .. }
            | Self::NewerFormat { .. }
            | Self::Poisoned { .. } => Class::Permanent,
        }
    }

    /// Whether the same call may succeed later without anything else changing.
    pub fn is_transient(&self) -> bool {
        self.class() == Class::Transient
    }

    /// Whether somebody else owns what the caller took for its own.
    pub fn is_fenced(&self) -> bool {
        self.class() == Class::Fenced
    }

    /// Whether it refuses this very generation of this group as stale.
    pub fn is_stale(&self, of: &Group, given: Option<&Generation>) -> bool {
        matches!(self, Self::StaleGeneration { group, generation, .. }
            if group == of && generation.as_ref() == given)
    }

    /// Whether what is stored contradicts what was written: a person must look.
    pub fn is_integrity(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. }
                | Self::NewerFormat { .. }
                | Self::OutOfRange { .. }
                | Self::TopicDeleted { .. }
        )
    }
}
