//! `tidemill state`: what a pipeline remembers.

mod copied;
mod fsck;
mod get;
mod ls;
mod place;
mod restore;
mod savepoint;

pub(super) use copied::held_unless_writable;

use super::{Console, Exit, Failure, World, counted};

/// Look at what a pipeline remembers, check it, save it and go back to it
///
/// State is a cache of the log: a store that is lost or set aside is rebuilt from the changelog topic
/// by the next run. These verbs need the pipeline to stand still; while it runs they name its owner. Only
/// `savepoint --list` does not.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidemill state ls pipelines/bars.toml                       tables, elements, bytes, epoch, digest
  tidemill state get pipelines/bars.toml second BTCUSD        what is open for a key
  tidemill state fsck pipelines/bars.toml                     is all of it whole?
  tidemill state savepoint pipelines/bars.toml                keep a copy
  tidemill state restore pipelines/bars.toml --from FILE      go on from a copy

Where FILE stands, a directory of state does too: of a pipeline, of an instance or of one task.")]
pub(super) struct StateArgs {
    #[command(subcommand)]
    verb: StateVerb,
}

#[derive(Debug, clap::Subcommand)]
enum StateVerb {
    Ls(ls::LsArgs),
    Get(get::GetArgs),
    Fsck(fsck::FsckArgs),
    Savepoint(savepoint::SavepointArgs),
    Restore(restore::RestoreArgs),
}

pub(super) async fn run(
    args: StateArgs,
    console: &mut Console<'_>,
    world: &World<'_>,
) -> Result<Exit, Failure> {
    match args.verb {
        StateVerb::Ls(args) => ls::run(&args, console, world).await,
        StateVerb::Get(args) => get::run(&args, console, world).await,
        StateVerb::Fsck(args) => fsck::run(&args, console, world).await,
        StateVerb::Savepoint(args) => savepoint::run(&args, console, world).await,
        StateVerb::Restore(args) => restore::run(&args, console, world).await,
    }
}

/// Who works on a store, for the message to whoever else wants it.
fn owner(verb: &str) -> String {
    format!("tidemill state {verb}")
}
