//! What an append that failed has left: nothing, or something that only the log can tell.

use tidemill_broker::Error;

use crate::format::frame;

/// The largest frame: far more than a transaction should hold, far less than what overflows a
/// reader's memory.
pub(super) const FRAME_BYTES_MAX: u64 = 1 << 30;

/// Why nothing, or perhaps something, was appended.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was appended.
    Refused(Error),
    /// It may be found in the log when that is opened again.
    Unknown(Error),
}

impl Failure {
    /// The error to give to somebody who cannot be told of the difference.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Refused(error) => error,
            Self::Unknown(error) => unknown(&error),
        }
    }
}

pub(super) fn too_much(bytes: u64) -> Error {
    Error::Invalid {
        what: format!(
            "a commit of {bytes} bytes; the limit is {FRAME_BYTES_MAX}, and {} for group offsets",
            frame::HEAD_BYTES_MAX
        ),
    }
}

/// An outcome that only the log can tell.
pub(crate) fn unknown(error: &Error) -> Error {
    let cause =
        std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
    Error::UnknownOutcome {
        what: format!("the append failed half-way ({error}{cause}); open the log again to see"),
    }
}
