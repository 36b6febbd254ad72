//! Why a verb failed, and with which code.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Write};

use tidemill_broker as broker;

use super::load::tell;
use super::{Exit, printable};
use crate::config::{Changes, Problems};
use crate::pipeline;

/// Why a verb failed.
#[derive(Debug)]
pub struct Failure {
    /// The code to end with.
    pub exit: Exit,
    /// What failed: lower case, no full stop.
    message: String,
    help: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    /// What is wrong with the pipeline's files, if that is why.
    problems: Option<Problems>,
}

impl Failure {
    /// A failure without a deeper cause.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            help: None,
            source: None,
            problems: None,
        }
    }

    /// The files of a pipeline cannot be used.
    pub fn problems(problems: Problems) -> Self {
        let exit = match problems.unreadable() {
            true => Exit::Io,
            false => Exit::Findings,
        };
        Self {
            problems: Some(problems),
            ..Self::new(exit, "the pipeline's files cannot be used")
        }
    }

    /// The command was asked for something that makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// What changes or loses something was not asked for twice.
    pub fn not_confirmed() -> Self {
        Self::usage("not confirmed: nothing was done").help("give `--yes` to do it")
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Tells it to a person.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub(super) fn tell(&self, colour: bool, to: &mut dyn Write) -> io::Result<()> {
        if let Some(problems) = &self.problems {
            return tell(problems, colour, to);
        }
        let (red, reset) = match colour {
            true => ("\x1b[31m", "\x1b[0m"),
            false => ("", ""),
        };
        // What was found in a file is part of it.
        let told = self.to_string();
        let lines: Vec<String> = told.split('\n').map(printable).collect();
        writeln!(to, "{red}error{reset}: {}", lines.join("\n"))
    }

    /// For machines, beside the results: `{"error": {...}}`.
    pub(super) fn to_json(&self) -> serde_json::Value {
        let problems = self.problems.as_ref().map(Problems::to_json);
        serde_json::json!({ "error": {
            "exit": self.exit as u8,
            "message": self.with_causes(),
            "help": self.help,
            "problems": problems.unwrap_or_else(|| serde_json::json!([])),
        } })
    }

    fn with_causes(&self) -> String {
        let mut message = self.message.clone();
        let mut cause = StdError::source(self);
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        message
    }

    /// Nobody reads our output any more, as after `| head`: a reason to stop, not to complain.
    pub fn is_closed_pipe(&self) -> bool {
        let source = self.source.as_ref();
        let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
        io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_causes())?;
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.source {
            Some(source) => Some(&**source),
            None => None,
        }
    }
}

/// Writing to the terminal or the pipe failed.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Io, "cannot write the output").because(error)
    }
}

impl Failure {
    /// A failure in the words of an error, its causes after it, and what to do about the last of them
    /// that says so.
    fn of(exit: Exit, error: &(dyn StdError + 'static)) -> Self {
        let mut message = error.to_string();
        let mut help = advice(error);
        let mut cause = error.source();
        while let Some(inner) = cause {
            message = format!("{message}: {inner}");
            help = advice(inner).or(help);
            cause = inner.source();
        }
        Self {
            help: help.map(Cow::into_owned),
            ..Self::new(exit, message)
        }
    }
}

/// What Unix calls `EMFILE`, which has no kind of its own.
const TOO_MANY_FILES: i32 = 24;

/// What to do about an error that does not say so itself.
fn advice(error: &(dyn StdError + 'static)) -> Option<Cow<'static, str>> {
    if let Some(pipeline::Error::ChangedIn { changes }) = error.downcast_ref() {
        return Some(go_on(changes).into());
    }
    if let Some(pipeline::Error::NotAnInstance { path, .. }) = error.downcast_ref() {
        let first = path.join("0");
        let advice = format!(
            "name one of them, such as `{}`, or a directory elsewhere",
            first.display()
        );
        return Some(advice.into());
    }
    short_advice(error).map(Cow::Borrowed)
}

/// What to do about a file that has changed, and what that does to state.
fn go_on(changes: &Changes) -> String {
    let mut becomes = Vec::new();
    for (states, what, rest) in [
        (&changes.kept, ["goes on", "go on"], " with what it holds"),
        (
            &changes.unfit,
            ["must be empty", "must be empty"],
            ", for what it holds means something else now",
        ),
        (&changes.unused, ["stays", "stay"], " as it is, unused"),
        (
            &changes.empty,
            ["begins", "begin"],
            " empty, at the records that come next",
        ),
    ] {
        let verb = match states.len() {
            0 => continue,
            1 => what[0],
            _ => what[1],
        };
        let rest = match states.len() {
            1 => rest.to_owned(),
            _ => rest.replace(" it ", " they ").replace("holds", "hold"),
        };
        becomes.push(format!("`{}` {verb}{rest}", states.join("`, `")));
    }
    let becomes = match becomes.is_empty() {
        true => String::new(),
        false => format!(" (state {})", becomes.join("; ")),
    };
    format!(
        "undo it; or run it with `--accept-new-version` to go on where the old one stopped{becomes}; or make it start anew with `tidemill offsets reset FILE --to earliest --drop-state --yes`"
    )
}

fn short_advice(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<broker::Error>() {
        return match error {
            broker::Error::Damaged { .. } => {
                Some("restore the file from a copy; nothing was changed")
            }
            broker::Error::NewerFormat { .. } => {
                Some("run the version that wrote it; nothing was changed")
            }
            broker::Error::InUse { .. } => Some("stop the other process, or use another directory"),
            _ => None,
        };
    }
    if let Some(pipeline::Error::InUse { .. }) = error.downcast_ref::<pipeline::Error>() {
        return Some("stop the other process, or give this one another `--state-dir`");
    }
    if let Some(tidemill_state::Error::Poisoned { kind, .. }) = error.downcast_ref() {
        return match kind {
            Some(kind) => advice_on(*kind),
            None => Some("run it again: the state is recovered from the log"),
        };
    }
    let error = error.downcast_ref::<std::io::Error>()?;
    if error.raw_os_error() == Some(TOO_MANY_FILES) {
        return Some("raise the limit of open files, as by `ulimit -n 4096`, and run it again");
    }
    advice_on(error.kind())
}

/// What to do where the file system refuses.
fn advice_on(kind: std::io::ErrorKind) -> Option<&'static str> {
    use std::io::ErrorKind;

    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Some("make room and run the same command again; what was committed is safe")
        }
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
            Some("make the directory writable, or use another; nothing was changed")
        }
        _ => None,
    }
}

impl From<broker::Error> for Failure {
    fn from(error: broker::Error) -> Self {
        Self::of(pipeline::Kind::of(&error).into(), &error)
    }
}

impl From<tidemill_state::Error> for Failure {
    fn from(error: tidemill_state::Error) -> Self {
        use tidemill_state::Error as E;

        let exit = match &error {
            error if error.is_integrity() => Exit::Integrity,
            E::InUse { .. } => Exit::Fenced,
            E::Io { .. } | E::Poisoned { .. } => Exit::Io,
            E::Invalid { .. } | E::Key(_) => Exit::Usage,
            _ => Exit::Internal,
        };
        Self::of(exit, &error)
    }
}

impl From<pipeline::Error> for Failure {
    fn from(error: pipeline::Error) -> Self {
        Self::of(error.kind().into(), &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_disk_that_fails_or_a_mistake_of_ours_can_cause_has_its_code() {
        let unknown = || broker::Error::UnknownOutcome {
            what: "no answer came".into(),
        };
        let wrapped = pipeline::Error::Broker {
            doing: "cannot write outputs".into(),
            source: unknown(),
        };
        let gone = pipeline::Error::Gone { part: "a task" };
        for (failure, exit, code) in [
            (Failure::from(unknown()), Exit::OutcomeUnknown, 8),
            (wrapped.into(), Exit::OutcomeUnknown, 8),
            (gone.into(), Exit::Internal, 70),
        ] {
            assert_eq!(
                (failure.exit, failure.exit as u8),
                (exit, code),
                "{failure}"
            );
        }
    }
}
