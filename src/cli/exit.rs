//! Exit codes: one table for all verbs.

use std::process::ExitCode;

use crate::pipeline::Kind;

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Done, and there is something to look at: problems in a file.
    Findings = 1,
    /// The command was asked for something that makes no sense, or for something that is done only with
    /// `--yes`.
    Usage = 2,
    /// The file system refused.
    Io = 3,
    /// What is stored is not what was written, is missing, or contradicts the file: a person must look.
    Integrity = 6,
    /// Somebody else owns what the command needs.
    Fenced = 7,
    /// Something may or may not have happened; the log can tell.
    OutcomeUnknown = 8,
    /// A mistake in this program.
    Internal = 70,
    /// Interrupted a second time: left at once.
    Interrupted = 130,
}

impl Exit {
    /// All codes, for the help.
    pub const ALL: [(Self, &str); 9] = [
        (Self::Ok, "done"),
        (Self::Findings, "done, with findings"),
        (Self::Usage, "wrong usage, or not confirmed"),
        (Self::Io, "the file system refused"),
        (
            Self::Integrity,
            "refused: data is damaged, missing, or contradicts the file",
        ),
        (Self::Fenced, "somebody else owns it"),
        (Self::OutcomeUnknown, "the outcome is unknown"),
        (Self::Internal, "a mistake in tidemill"),
        (Self::Interrupted, "interrupted twice"),
    ];
}

impl From<Kind> for Exit {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Usage => Self::Usage,
            // No broker of this program is anywhere but on a disk.
            Kind::Io | Kind::Connectivity => Self::Io,
            Kind::Integrity => Self::Integrity,
            Kind::Fenced => Self::Fenced,
            Kind::Unknown => Self::OutcomeUnknown,
            Kind::Internal => Self::Internal,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
