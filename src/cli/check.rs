//! `tidemill check`: is the file right?

use std::path::PathBuf;

use super::{Console, Exit, Failure, World};
use crate::config::{Pipeline, Problems, Severity};

/// Check pipeline files
///
/// Reads the files as one pipeline and tells everything that is wrong with them at once: where, what,
/// and what to do about it. Connects to nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidemill check pipelines/bars.toml
  tidemill check brokers.toml bars.toml         several files make one pipeline
  tidemill check --deny bars.toml               warnings fail too, for continuous integration
  tidemill check --json bars.toml               one object per problem, for editors")]
pub(super) struct CheckArgs {
    /// The files of one pipeline
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Treat warnings as errors
    #[arg(long)]
    deny: bool,
    /// Print one JSON document: {"ok": ..., "problems": [...]}
    #[arg(long)]
    json: bool,
}

pub(super) fn run(
    args: &CheckArgs,
    console: &mut Console<'_>,
    world: &World<'_>,
) -> Result<Exit, Failure> {
    let (problems, ok) = match Pipeline::load(&args.files, world.env) {
        Ok(pipeline) => (pipeline.warnings, true),
        Err(problems) => (problems, false),
    };
    let ok = ok && (problems.is_empty() || !args.deny);
    if args.json {
        let document = serde_json::json!({ "ok": ok, "problems": problems.to_json() });
        console.json(&document)?;
    } else if console.terminals.output {
        write!(console.output, "{}", problems.pretty(world.colour))?;
        console.line(summary(&problems))?;
    } else if !problems.is_empty() {
        // One line each, as editors and scripts want them.
        console.line(&problems)?;
    }
    Ok(if ok { Exit::Ok } else { Exit::Findings })
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
