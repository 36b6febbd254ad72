//! `tidemill state restore`: goes on from a copy.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tidemill_broker::Broker;

use super::super::bar::Bar;
use super::super::reset::open_all;
use super::place::{Access, resolve};
use super::savepoint::{dir_of, needs_file};
use super::{Console, Exit, Failure, World, counted, owner};
use crate::config::plan::STATE_ROOT;
use crate::pipeline::{Instance, OpenBroker, restorable, restore_task, task_logs};

/// Make a task's store anew from a savepoint, and bring it up to the log
///
/// The log stays the truth: the store is made from the savepoint, follows the changelog from there to
/// its end, and is compared with the digest of the last commit. So the pipeline goes on where it was;
/// to read records again, see `tidemill offsets reset`. The store before is set aside, not deleted. A
/// savepoint newer than the log is refused. Without `--yes` it only tells what it would do, and
/// ends with code 2.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidemill state savepoint pipelines/bars.toml --list
  tidemill state restore pipelines/bars.toml --from savepoint-00000000000000000042.tms
  tidemill state restore pipelines/bars.toml --from savepoint-00000000000000000042.tms --yes")]
pub(super) struct RestoreArgs {
    /// The files of one pipeline
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The savepoint; more than one for more than one task
    #[arg(long, required = true, value_name = "PATH")]
    from: Vec<PathBuf>,
    /// The state lies here [default: where the file says, else .tidemill/PIPELINE]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Do it
    #[arg(long)]
    yes: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    args: &RestoreArgs,
    console: &mut Console<'_>,
    world: &World<'_>,
) -> Result<Exit, Failure> {
    let place = resolve(
        &args.files,
        args.state_dir.as_deref(),
        match args.yes {
            true => Access::Change,
            false => Access::DryRun,
        },
        "restore",
        world,
    )?;
    let Some(plan) = place.plan else {
        return Err(needs_file());
    };
    let open = open_all(&plan, false).await?;
    let brokers: Vec<Arc<dyn Broker>> = open.iter().map(OpenBroker::broker).collect();
    let outputs = brokers[plan.home()].clone();
    let logs = task_logs(&plan, &brokers).await?;
    let bar = Bar::new(console.terminals.errors);
    let watch = |headway| bar.headway(headway);
    let mut found = Vec::new();
    for path in &args.from {
        found.push(restorable(&plan, &*outputs, &logs, path, &watch).await?);
    }
    let mut instances = place.instances;
    if instances.is_empty() && args.yes {
        let dir = args.state_dir.as_deref().or(plan.state_dir.as_deref());
        let root = Path::new(STATE_ROOT);
        instances.push(Instance::take_first(
            root,
            plan.name.as_str(),
            dir,
            &owner("restore"),
        )?);
    }
    let mut told = Vec::new();
    for one in &found {
        let mut aside = None;
        if args.yes {
            let dir = dir_of(&instances, &one.log.task.to_string())?;
            aside = restore_task(&plan, &*outputs, dir, rand::random(), one, &watch).await?;
        }
        bar.clear();
        told.push(json!({
            "task": one.savepoint.task,
            "savepointEpoch": one.savepoint.epoch.0,
            "elements": one.elements,
            "logEpoch": one.last.0,
            "setAside": aside.map(|path| path.display().to_string()),
        }));
        if !args.json {
            let what = if args.yes {
                "restored from"
            } else {
                "would be restored from"
            };
            console.line(format_args!(
                "task {} {what} epoch {}, {}, and follows the log to epoch {}",
                one.savepoint.task,
                one.savepoint.epoch,
                counted(one.elements, "element"),
                one.last
            ))?;
        }
    }
    drop((brokers, outputs));
    for broker in open {
        broker.close().await?;
    }
    if args.json {
        console.json(&json!({ "done": args.yes, "tasks": told }))?;
    }
    match args.yes {
        true => Ok(Exit::Ok),
        false => Err(Failure::not_confirmed()),
    }
}
