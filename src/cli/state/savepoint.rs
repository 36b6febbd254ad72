//! `tidemill state savepoint`: keeps a copy.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tidemill_broker::Broker;
use tidemill_state::{Savepoint, read_note, savepoints};

use super::super::bar::Bar;
use super::super::reset::open_all;
use super::place::{Access, Place, resolve};
use super::{Console, Exit, Failure, World, owner};
use crate::config::plan::STATE_ROOT;
use crate::pipeline::{Instance, Marker, OpenBroker, SledStores, savepoint, task_logs};

/// Write the state of every task to a file, as of its last commit, or list such files
///
/// A savepoint is a file of its own format, whole or not there; the newest three of a task are kept,
/// in `savepoints` beside its store. It can be moved, and is the way from one version of the store's
/// engine to another.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidemill state savepoint pipelines/bars.toml
  tidemill state savepoint pipelines/bars.toml --list
  tidemill state restore pipelines/bars.toml --from FILE     the way back")]
pub(super) struct SavepointArgs {
    /// The files of one pipeline
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// List the savepoints that are there, and write none
    #[arg(long)]
    list: bool,
    /// The state lies here [default: where the file says, else .tidemill/PIPELINE]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    args: &SavepointArgs,
    console: &mut Console<'_>,
    world: &World<'_>,
) -> Result<Exit, Failure> {
    let access = match args.list {
        true => Access::List,
        false => Access::Change,
    };
    let place = resolve(
        &args.files,
        args.state_dir.as_deref(),
        access,
        "savepoint",
        world,
    )?;
    if args.list {
        return list(args, &place, console);
    }
    let Some(plan) = place.plan else {
        return Err(needs_file());
    };
    let open = open_all(&plan, false).await?;
    let brokers: Vec<Arc<dyn Broker>> = open.iter().map(OpenBroker::broker).collect();
    let logs = task_logs(&plan, &brokers).await?;
    let mut instances = place.instances;
    if instances.is_empty() {
        let dir = args.state_dir.as_deref().or(plan.state_dir.as_deref());
        let root = Path::new(STATE_ROOT);
        instances.push(Instance::take_first(
            root,
            plan.name.as_str(),
            dir,
            &owner("savepoint"),
        )?);
    }
    let mut saved = Vec::new();
    let bar = Bar::new(console.terminals.errors);
    let watch = |headway| bar.headway(headway);
    for log in &logs {
        let task = log.task.to_string();
        let dir = dir_of(&instances, &task)?;
        let stores = SledStores::new(dir.to_owned(), rand::random());
        let to = SledStores::path(dir, &task).join("savepoints");
        let outputs = &*brokers[plan.home()];
        saved.extend(savepoint(&plan, outputs, &stores, log, &to, &watch).await?);
    }
    bar.clear();
    drop(brokers);
    for broker in open {
        broker.close().await?;
    }
    if saved.is_empty() && !args.json {
        console.line("no task has committed anything: there is nothing to save")?;
        return Ok(Exit::Ok);
    }
    tell(args, &saved, console)?;
    Ok(Exit::Ok)
}

pub(super) fn needs_file() -> Failure {
    Failure::usage("this needs the pipeline's file, to find its log")
        .help("give the file, and the directory as `--state-dir DIR`")
}

/// The instance whose store of a task has come furthest; else the first.
pub(super) fn dir_of<'a>(instances: &'a [Instance], task: &str) -> Result<&'a Path, Failure> {
    let mut best = None;
    for instance in instances {
        let note = match read_note(&SledStores::path(instance.dir(), task)) {
            Err(error) if error.is_integrity() => None,
            note => note?,
        };
        let newest = note.and_then(|note| note.newest);
        if best.is_none_or(|(_, other)| other < newest) {
            best = Some((instance.dir(), newest));
        }
    }
    best.map(|(dir, _)| dir)
        .ok_or_else(|| Failure::new(Exit::Internal, "no instance was taken"))
}

fn list(args: &SavepointArgs, place: &Place, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let mut found = Vec::new();
    let mut exit = Exit::Ok;
    for store in &place.stores {
        for one in savepoints(&store.at.join("savepoints"))? {
            match one {
                Ok(one) => found.push(one),
                Err(error) => {
                    exit = Exit::Integrity;
                    let failure = Failure::from(error);
                    writeln!(console.errors, "{failure}")?;
                }
            }
        }
    }
    if found.is_empty() && !args.json {
        console.line("there are no savepoints")?;
        return Ok(exit);
    }
    tell(args, &found, console)?;
    Ok(exit)
}

fn tell(
    args: &SavepointArgs,
    saved: &[Savepoint],
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    // What it goes on reading; a savepoint that something else wrote may have another attachment.
    let inputs = |one: &Savepoint| {
        Marker::decode(&one.attached).map_or_else(|_| Vec::new(), |marker| marker.inputs)
    };
    if args.json {
        let all: Vec<_> = saved
            .iter()
            .map(|one| {
                let inputs: Vec<_> = inputs(one)
                    .iter()
                    .map(|input| {
                        json!({
                            "source": input.source,
                            "topic": input.topic,
                            "partition": input.partition,
                            "next": input.next,
                        })
                    })
                    .collect();
                json!({
                    "task": one.task,
                    "epoch": one.epoch.0,
                    "digest": one.digest.to_string(),
                    "inputs": inputs,
                    "path": one.path.display().to_string(),
                })
            })
            .collect();
        console.json(&json!({ "savepoints": all }))?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = saved
        .iter()
        .map(|one| {
            let inputs = inputs(one);
            let next = inputs
                .iter()
                .map(|input| format!("{}/{}@{}", input.topic, input.partition, input.next));
            vec![
                one.task.clone(),
                one.epoch.to_string(),
                one.digest.to_string(),
                next.collect::<Vec<_>>().join(" "),
                one.path.display().to_string(),
            ]
        })
        .collect();
    console.table(&["task", "epoch", "digest", "reads next", "file"], &rows)?;
    Ok(())
}
