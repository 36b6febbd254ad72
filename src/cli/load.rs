//! Loading the files of a pipeline for a verb that needs them right.

use std::path::PathBuf;

use super::check::summary;
use super::{Console, Failure, World};
use crate::config::Pipeline;

/// Loads a pipeline, or tells its problems and returns none.
pub(super) fn load(
    paths: &[PathBuf],
    console: &mut Console<'_>,
    world: &World<'_>,
) -> Result<Option<Pipeline>, Failure> {
    match Pipeline::load(paths, world.env) {
        Ok(pipeline) => Ok(Some(pipeline)),
        Err(problems) => {
            if console.terminals.errors {
                write!(console.errors, "{}", problems.pretty(world.colour))?;
                writeln!(console.errors, "{}", summary(&problems))?;
            } else {
                writeln!(console.errors, "{problems}")?;
            }
            Ok(None)
        }
    }
}
