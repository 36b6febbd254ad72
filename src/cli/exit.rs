//! Exit codes: one table for all verbs.

use std::process::ExitCode;

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Done, and there is something to look at: problems in a file.
    Findings = 1,
    /// The command was asked for something that makes no sense.
    Usage = 2,
    /// The file system refused.
    Io = 3,
    /// A broker could not be reached.
    Connectivity = 4,
    /// What is stored is not what was written: a person must look.
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
    pub const ALL: [(Self, &str); 10] = [
        (Self::Ok, "done"),
        (Self::Findings, "done, with findings"),
        (Self::Usage, "wrong usage"),
        (Self::Io, "the file system refused"),
        (Self::Connectivity, "a broker could not be reached"),
        (Self::Integrity, "stored data is damaged or missing"),
        (Self::Fenced, "somebody else owns it"),
        (Self::OutcomeUnknown, "the outcome is unknown"),
        (Self::Internal, "a mistake in tidemill"),
        (Self::Interrupted, "interrupted twice"),
    ];
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
