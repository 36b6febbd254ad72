//! Loading the files of a pipeline for a verb that needs them right.

use std::io::{self, Write};
use std::path::PathBuf;

use super::{Failure, World};
use crate::config::{Pipeline, Problems, Severity};

/// Loads a pipeline; all its problems are the failure.
pub(super) fn load(paths: &[PathBuf], world: &World<'_>) -> Result<Pipeline, Failure> {
    Pipeline::load(paths, world.env).map_err(Failure::problems)
}

/// Tells problems to people, also through a pipe: whoever reads a log of a build needs the line, the
/// caret and what to do no less.
pub(super) fn tell(problems: &Problems, colour: bool, to: &mut dyn Write) -> io::Result<()> {
    write!(to, "{}", problems.pretty(colour))?;
    writeln!(to, "{}", summary(problems))
}

/// How many problems there are, and how to learn more.
pub(super) fn summary(problems: &Problems) -> String {
    let errors = problems
        .iter()
        .filter(|problem| problem.code.severity() == Severity::Error)
        .count();
    let warnings = problems.len() - errors;
    let count = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    let mut parts = Vec::new();
    if errors > 0 {
        parts.push(count(errors, "error"));
    }
    if warnings > 0 {
        parts.push(count(warnings, "warning"));
    }
    match problems.iter().next() {
        None => "no problems".to_owned(),
        Some(first) => format!(
            "{}; `tidemill explain {}` tells more",
            parts.join(", "),
            first.code.as_str()
        ),
    }
}
