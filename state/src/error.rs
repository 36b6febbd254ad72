//! What can go wrong with state, and whether a person must look.

use std::path::PathBuf;

use crate::{DecodeError, Digest, Epoch, KeyError};

/// An error of the file system or of the engine, kept as the cause.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why state could not be read, written or trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory has another owner.
    #[error("{} is in use by {owner}; stop it, or give this instance another directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who holds it.
        owner: String,
    },
    /// The file system refused. A store that met one is poisoned.
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
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file or directory.
        path: PathBuf,
        /// What was found, and what was expected.
        what: String,
        /// The cause, where another layer found it.
        source: Option<Source>,
    },
    /// The store is newer than the log that it follows: the log lost something.
    #[error("{}: the store has seen epoch {seen}, but the log ends at epoch {ends}: the log lost something; restore it, or take this store away to go on from the log", path.display())]
    Ahead {
        /// The store.
        path: PathBuf,
        /// The newest epoch it has seen.
        seen: Epoch,
        /// The log's last.
        ends: Epoch,
    },
    /// The file was written by a newer version. It was left as it is.
    #[error("{} has format {found}; this version reads up to {known}; run the version that wrote it", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// The store belongs to another pipeline or task. It was left as it is.
    #[error("{} holds the state of {found}, not of {expected}; give this instance another directory", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose state was found.
        found: String,
        /// Whose state was asked for.
        expected: String,
    },
    /// An earlier failure left this store unusable; open it again.
    #[error("the state store stopped after an earlier failure: {what}")]
    Poisoned {
        /// The earlier failure, with its causes.
        what: String,
        /// Why the file system refused, if that was it.
        kind: Option<std::io::ErrorKind>,
    },
    /// The store was closed.
    #[error("the state store is closed")]
    Closed,
    /// A table is declared in another way than it was stored.
    #[error(
        "table `{table}` is stored as {stored}, but declared as {declared}; give it a new name, or restore the program that wrote it"
    )]
    TableChanged {
        /// The table.
        table: String,
        /// As stored.
        stored: String,
        /// As declared now.
        declared: String,
    },
    /// The digest of what is stored is not the one that was committed.
    #[error("the state of epoch {epoch} has digest {found}, but {expected} was committed")]
    DigestMismatch {
        /// The epoch.
        epoch: Epoch,
        /// The digest committed.
        expected: Digest,
        /// The digest recomputed.
        found: Digest,
    },
    /// A stored value does not decode.
    #[error("a value of table {table} does not decode")]
    Decode {
        /// The table's number.
        table: u16,
        /// The cause.
        source: DecodeError,
    },
    /// A table was asked for a key it cannot answer for.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Making the log durable failed, so nothing of it was written behind.
    #[error("the log could not be made durable before its state was written behind")]
    Log {
        /// The cause.
        source: Source,
    },
    /// The calls came in an order that makes no sense.
    #[error("invalid use of state: {what}")]
    Invalid {
        /// What is wrong.
        what: String,
    },
}

/// The first failure of a store, which it repeats.
#[derive(Debug, Clone)]
pub(crate) struct Poison {
    what: String,
    kind: Option<std::io::ErrorKind>,
}

impl From<Poison> for Error {
    fn from(Poison { what, kind }: Poison) -> Self {
        Self::Poisoned { what, kind }
    }
}

impl Error {
    /// Whether what is stored contradicts what was written: a person must look.
    pub fn is_integrity(&self) -> bool {
        match self {
            Self::Damaged { .. }
            | Self::Ahead { .. }
            | Self::NewerFormat { .. }
            | Self::Foreign { .. }
            | Self::TableChanged { .. }
            | Self::DigestMismatch { .. }
            | Self::Decode { .. } => true,
            Self::InUse { .. }
            | Self::Io { .. }
            | Self::Poisoned { .. }
            | Self::Closed
            | Self::Key(_)
            | Self::Log { .. }
            | Self::Invalid { .. } => false,
        }
    }

    /// Whether the disk has no room left.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(
                source.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }

    pub(crate) fn damaged(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.into(),
            what: what.into(),
            source: None,
        }
    }

    /// Says what was being done to which file when the file system refused.
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }

    /// What a store that met this error says to later calls.
    pub(crate) fn poisons(&self) -> Poison {
        let kind = match self {
            Self::Io { source, .. } => Some(source.kind()),
            _ => None,
        };
        Poison {
            what: chain(self),
            kind,
        }
    }
}

/// An error with all its causes on one line, for where only text can be left.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let told: Vec<String> = causes.map(ToString::to_string).collect();
    told.join(": ")
}
