//! `tidemill check`: is the file right?

use std::path::PathBuf;

use super::load::tell;
use super::{Console, Exit, Failure, World};
use crate::config::Pipeline;

/// Check pipeline files
///
/// Reads the files as one pipeline and tells everything that is wrong with them at once: where, what,
/// and what to do about it. Connects to nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidemill check pipelines/bars.toml
  tidemill check brokers.toml bars.toml         several files make one pipeline
  tidemill check --deny pipelines/bars.toml     warnings fail too, for continuous integration
  tidemill check --json pipelines/bars.toml     one object per problem, for editors")]
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
    } else {
        tell(&problems, world.colour, console.output)?;
    }
    Ok(match ok {
        true => Exit::Ok,
        false if problems.unreadable() => Exit::Io,
        false => Exit::Findings,
    })
}
