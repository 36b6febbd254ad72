//! Why an import stopped.

use std::path::{Path, PathBuf};

use tidemill_broker as broker;

use super::lines::LINE_BYTES_MAX;

/// A result of an import.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an import stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
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
    /// The zip archive is not whole, or not one that is read here.
    #[error("{} is not a readable zip archive: {what}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// What was found, and what to do.
        what: String,
    },
    /// The file's layout, pair, date or zone could not be told.
    #[error("{}: {what}", path.display())]
    Unclear {
        /// The file.
        path: PathBuf,
        /// What is unclear, and which option says it.
        what: String,
    },
    /// A line is not what its layout says.
    #[error("{}:{line}:{column}: expected {expected}, found `{found}`", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The byte within the line, from 1.
        column: usize,
        /// What belongs there.
        expected: String,
        /// What is there, shortened.
        found: String,
    },
    /// A file's content changed between the check and the import.
    #[error("{} changed while it was being imported; run the import again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The same file was given twice.
    #[error("{} and {} hold the same; leave one out", first.display(), second.display())]
    Twice {
        /// One of them.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The topic holds the file already, from an import of other files or options.
    #[error(
        "{} is in topic `{topic}` already, as {earlier} of an earlier import; leave it out, skip \
         what is imported, or choose another topic",
        path.display()
    )]
    AlreadyImported {
        /// The file.
        path: PathBuf,
        /// Its name then.
        earlier: String,
        /// The topic.
        topic: broker::Topic,
    },
    /// An earlier import holds the file and did not finish.
    #[error(
        "{} belongs to an import into topic `{topic}` that did not finish; finish that one first, \
         with the same options and exactly these files: {files}",
        path.display()
    )]
    Unfinished {
        /// The file.
        path: PathBuf,
        /// The topic.
        topic: broker::Topic,
        /// The files of the earlier import.
        files: String,
    },
    /// Several files cannot be imported.
    #[error("{} files cannot be imported:{}", .0.len(), listed(.0))]
    Files(Vec<Error>),
    /// What was asked makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The log of imports holds something else.
    #[error("{topic}@{offset} is not an entry of a log of imports: {what}")]
    Log {
        /// The partition.
        topic: broker::TopicPartition,
        /// The record.
        offset: broker::Offset,
        /// What is wrong.
        what: String,
    },
    /// The broker refused.
    #[error(transparent)]
    Broker(#[from] broker::Error),
}

/// Most files that are named in one message.
const NAMED_MAX: usize = 20;

/// A line for each, with its cause.
fn listed(errors: &[Error]) -> String {
    let mut text = String::new();
    for error in errors.iter().take(NAMED_MAX) {
        text.push_str(&format!("\n  {error}"));
        if let Some(cause) = std::error::Error::source(error) {
            text.push_str(&format!(": {cause}"));
        }
    }
    if let Some(more) = errors.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        text.push_str(&format!("\n  and {more} more"));
    }
    text
}

/// What is wrong with a line; its file and number are added by the reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadLine {
    /// The byte within the line, from 1.
    pub(super) column: usize,
    /// What belongs there.
    pub(super) expected: String,
    /// What is there, shortened.
    pub(super) found: String,
}

/// Longest excerpt of a line in a message, in characters.
const EXCERPT_CHARS_MAX: usize = 40;

impl BadLine {
    /// `found` at byte `column` (from 1) where `expected` belongs.
    pub(super) fn new(column: usize, expected: impl Into<String>, found: &[u8]) -> Self {
        // A multiple of the longest character keeps the cut from hiding what follows it.
        let cut = &found[..found.len().min(EXCERPT_CHARS_MAX * 4)];
        Self {
            column,
            expected: expected.into(),
            found: String::from_utf8_lossy(cut)
                .chars()
                .take(EXCERPT_CHARS_MAX)
                .collect(),
        }
    }
}

impl BadLine {
    /// A line that is longer than any may be.
    pub(super) fn too_long() -> Self {
        let expected = format!("a line of at most {LINE_BYTES_MAX} bytes");
        Self::new(LINE_BYTES_MAX + 1, expected, b"a longer one")
    }

    /// With its place.
    pub(super) fn at(self, path: &Path, line: u64) -> Error {
        Error::Line {
            path: path.to_path_buf(),
            line,
            column: self.column,
            expected: self.expected,
            found: self.found,
        }
    }
}

impl std::fmt::Display for BadLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "column {}: expected {}, found `{}`",
            self.column, self.expected, self.found
        )
    }
}
