//! `tidemill offsets reset`: sets a pipeline back or forward.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tidemill_broker::{Broker, Offset, SystemClock, Timestamp};
use tidemill_state::{Epoch, read_note, set_aside};

use super::load::load;
use super::number::whole;
use super::state::held_unless_writable;
use super::{Console, Exit, Failure, World, counted};
use crate::config::Plan;
use crate::config::plan::{BrokerUrl, STATE_ROOT};
use crate::events::parse_time;
use crate::pipeline::{Instance, OpenBroker, Reset, ResetOptions, ResetTo, Resetting};

/// Set what a pipeline reads next, and decide what becomes of its state
///
/// Without `--yes` it only tells what it would do, and ends with code 2. A reset is one transaction: new markers, the
/// group's offsets and, with `--drop-state`, the removal of every element of state, event time
/// included. What was written to sinks stays; records read again are written again, with the same
/// event ids.
///
/// It is also the way on when an input was deleted and created again, has another number of
/// partitions, lost records that were not yet read, when the file has changed, or when the topic of a
/// sink is gone and all of it is to be written again. Standard input is read by each run from its first
/// line, over the state of the runs before: of such a source only the state can be reset.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("what_becomes_of_state").required(true),
    after_help = "\
Examples:
  tidemill offsets reset pipelines/bars.toml --to earliest --drop-state          only tells
  tidemill offsets reset pipelines/bars.toml --to earliest --drop-state --yes    starts anew
  tidemill offsets reset pipelines/bars.toml --to latest --keep-state --yes      skips the unread
  tidemill offsets reset pipelines/bars.toml --to 2024-03-11T13:30:00Z --drop-state
  tidemill offsets reset pipelines/bars.toml --to 1200 --partition 0 --keep-state

With --keep-state event time is kept too: records read again are late for windows that have closed,
and records that were counted and are read again count twice in what is still open."
)]
pub(super) struct ResetArgs {
    /// The files of one pipeline
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// `earliest`, `latest`, an instant (RFC 3339), or an offset
    #[arg(long, value_name = "WHERE", value_parser = reset_to)]
    to: ResetTo,
    /// Only this source, by its name in the file [default: all]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only this partition [default: all]
    #[arg(long, value_name = "N", value_parser = whole::<u32>(0..=u32::MAX.into()))]
    partition: Option<u32>,
    /// Keep the state as it is: results may count records twice, or never
    #[arg(long, group = "what_becomes_of_state")]
    keep_state: bool,
    /// Drop the state of the tasks concerned, and event time with it
    #[arg(long, group = "what_becomes_of_state")]
    drop_state: bool,
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

fn reset_to(text: &str) -> Result<ResetTo, String> {
    match text {
        "earliest" => Ok(ResetTo::Earliest),
        "latest" => Ok(ResetTo::Latest),
        _ => match (text.parse(), parse_time(text.as_bytes())) {
            (Ok(offset), _) => Ok(ResetTo::Offset(Offset(offset))),
            (_, Ok(time)) => Ok(ResetTo::Time(Timestamp(time))),
            (_, Err(error)) => Err(format!(
                "neither `earliest`, `latest`, an offset nor an instant such as 2013-10-07T13:30:00Z ({error})"
            )),
        },
    }
}

pub(super) async fn run(
    args: ResetArgs,
    console: &mut Console<'_>,
    world: &World<'_>,
) -> Result<Exit, Failure> {
    let pipeline = load(&args.files, world)?;
    let plan = pipeline.plan;
    let dir = args.state_dir.as_deref().or(plan.state_dir.as_deref());
    let root = Path::new(STATE_ROOT);
    let of_plan = root.join(plan.name.as_str());
    let read_only = match args.yes {
        true => None,
        // Only tells: on a disk that cannot be written too.
        false => held_unless_writable(dir.unwrap_or(&of_plan))?,
    };
    // Held to the end: no instance can start meanwhile.
    let (instances, stores, _held) = match read_only {
        Some((found, held)) => (Vec::new(), noted(found)?, held),
        None => {
            let verb = "tidemill offsets reset";
            let instances = Instance::take_all(root, plan.name.as_str(), dir, verb)?;
            let stores = stores(&instances)?;
            (instances, stores, Vec::new())
        }
    };
    let open = open_all(&plan, args.yes).await?;
    let brokers: Vec<Arc<dyn Broker>> = open.iter().map(OpenBroker::broker).collect();
    let options = ResetOptions {
        to: args.to,
        source: args.source.clone(),
        partition: args.partition,
        drop_state: args.drop_state,
    };
    let newest = stores.iter().filter_map(|store| store.newest).max();
    let name = plan.name.clone();
    let resetting = Resetting::look(plan, brokers, options, newest).await?;
    let unfit = unfit(&stores, resetting.reset());
    let reset = if args.yes {
        // First, so that no store is ever read together with a log it does not belong to.
        for store in &unfit {
            set_aside(&store.dir, "its pipeline was reset")?;
        }
        let mut names: Vec<String> = instances.iter().map(|one| one.name().to_owned()).collect();
        if names.is_empty() {
            names.push("0".into());
        }
        resetting.apply(&names, rand::random()).await?
    } else {
        resetting.reset().clone()
    };
    for broker in open {
        broker.close().await?;
    }
    report(&args, name.as_str(), &reset, &unfit, console)?;
    match args.yes {
        true => Ok(Exit::Ok),
        false => Err(Failure::not_confirmed()),
    }
}

/// A store on this machine.
struct Store {
    dir: PathBuf,
    task: String,
    /// The newest epoch it has seen.
    newest: Option<Epoch>,
}

fn stores(instances: &[Instance]) -> Result<Vec<Store>, Failure> {
    let mut found = Vec::new();
    for instance in instances {
        found.extend(instance.stores()?);
    }
    noted(found)
}

fn noted(dirs: Vec<PathBuf>) -> Result<Vec<Store>, Failure> {
    let mut found = Vec::with_capacity(dirs.len());
    for dir in dirs {
        let task = dir.file_name().unwrap_or_default();
        let task = task.to_string_lossy().into_owned();
        // A damaged note is set aside with its store when the pipeline runs.
        let note = match read_note(&dir) {
            Err(error) if error.is_integrity() => None,
            note => note?,
        };
        let newest = note.and_then(|note| note.newest);
        found.push(Store { dir, task, newest });
    }
    Ok(found)
}

/// The stores that cannot follow the log to where the reset leaves it: all, if the changelog is made
/// anew; else those that have seen more than the log holds.
fn unfit<'a>(stores: &'a [Store], reset: &Reset) -> Vec<&'a Store> {
    let is_ahead = |store: &&Store| {
        let mut tasks = reset.tasks.iter();
        let task = tasks.find(|task| task.task.to_string() == store.task);
        task.is_some_and(|task| store.newest.filter(|newest| *newest > Epoch::NONE) > task.was)
    };
    let all = stores.iter();
    all.filter(|store| reset.rebuilt.is_some() || is_ahead(store))
        .collect()
}

/// Opens the brokers of a plan whose state outlives a run, to read them or to change them. One that does
/// not outlive it, as standard input, is as a run begins with it: empty.
pub(super) async fn open_all(plan: &Plan, change: bool) -> Result<Vec<OpenBroker>, Failure> {
    if !plan.outlives_process(plan.home()) {
        return Err(Failure::usage(format!(
            "broker `{}` keeps the state of this pipeline and does not outlive a run: each begins anew, without state",
            plan.brokers[plan.home()].name
        ))
        .help("to keep state, write results or dead letters to `file://DIRECTORY`"));
    }
    let mut open = Vec::with_capacity(plan.brokers.len());
    for (index, broker) in plan.brokers.iter().enumerate() {
        match &broker.url {
            BrokerUrl::File { path, .. } if !path.exists() => {
                let message = format!("there is no directory `{}`", path.display());
                return Err(Failure::new(Exit::Io, message)
                    .help("the pipeline has never run here: there is nothing to work on"));
            }
            BrokerUrl::File { .. } | BrokerUrl::Memory | BrokerUrl::Stdio => {}
        }
        let clock = Arc::new(SystemClock);
        // What is only read may belong to somebody else meanwhile.
        open.push(match change && plan.writes_to(index) {
            true => OpenBroker::open(&broker.url, clock).await?,
            false => OpenBroker::open_reader(&broker.url, clock).await?,
        });
    }
    Ok(open)
}

fn report(
    args: &ResetArgs,
    pipeline: &str,
    reset: &Reset,
    unfit: &[&Store],
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    if args.json {
        let tasks: Vec<_> = reset
            .tasks
            .iter()
            .map(|task| {
                let inputs: Vec<_> = task
                    .inputs
                    .iter()
                    .map(|input| {
                        json!({
                            "source": input.source,
                            "topic": input.at.topic.as_str(),
                            "partition": input.at.partition,
                            "was": input.was.map(|was| was.0),
                            "next": input.next.0,
                            "low": input.low.0,
                            "end": input.end.0,
                            "recreated": input.recreated,
                        })
                    })
                    .collect();
                json!({
                    "task": task.task.to_string(),
                    "epoch": task.epoch.0,
                    "elements": task.elements,
                    "bytes": task.bytes,
                    "digest": task.digest.to_string(),
                    "inputs": inputs,
                })
            })
            .collect();
        let aside: Vec<_> = unfit
            .iter()
            .map(|store| store.dir.display().to_string())
            .collect();
        let lost: Vec<_> = reset
            .lost
            .iter()
            .map(|lost| json!({ "sink": lost.sink(), "topic": lost.topic.as_str() }))
            .collect();
        console.json(&json!({
            "pipeline": pipeline,
            "done": args.yes,
            "state": if args.drop_state { "dropped" } else { "kept" },
            "tasks": tasks,
            "beginAnew": reset.begin_anew,
            "lostOutputs": lost,
            "changelogPartitions": reset.rebuilt.map(|(was, now)| json!({ "was": was, "now": now })),
            "setAside": aside,
        }))?;
        return Ok(());
    }
    let mut rows = Vec::new();
    for task in &reset.tasks {
        for input in &task.inputs {
            rows.push(vec![
                task.task.to_string(),
                input.source.clone(),
                input.at.to_string(),
                match (input.was, input.recreated) {
                    (None, _) => "-".into(),
                    (Some(was), false) => was.to_string(),
                    (Some(was), true) => format!("{was} of a former topic"),
                },
                input.next.to_string(),
                format!("{}..{}", input.low, input.end),
            ]);
        }
    }
    let titles = [
        "task",
        "source",
        "input",
        "was to read",
        "reads next",
        "log holds",
    ];
    if !rows.is_empty() {
        console.table(&titles, &rows)?;
    }
    for source in &reset.begin_anew {
        console.line(format_args!(
            "source `{source}` does not outlive a run: each reads its own from the beginning"
        ))?;
    }
    let elements: u64 = reset.tasks.iter().map(|task| task.elements).sum();
    let bytes: u64 = reset.tasks.iter().map(|task| task.bytes).sum();
    let held = format!(
        "{}, {}",
        counted(elements, "element"),
        counted(bytes, "byte")
    );
    let done = |done: &'static str, would: &'static str| if args.yes { done } else { would };
    if args.drop_state {
        let what = done("dropped", "would be dropped");
        console.line(format_args!("state {what}: {held}; event time starts anew"))?;
    } else {
        let what = done("kept", "would be kept");
        console.line(format_args!(
            "state {what}: {held}; records that were counted and are read again count twice, or are late; records skipped never count"
        ))?;
    }
    for lost in &reset.lost {
        let what = done("made anew", "would be made anew");
        console.line(format_args!(
            "topic `{}` of {} is gone and {what}: it holds what is written from here on",
            lost.topic,
            lost.writer()
        ))?;
    }
    if let Some((was, now)) = reset.rebuilt {
        let what = done("made anew", "would be made anew");
        console.line(format_args!(
            "changelog and control topic {what}: {} become {now}",
            counted(was.into(), "partition")
        ))?;
    }
    for store in unfit {
        let what = done("set aside", "would be set aside");
        console.line(format_args!("{} {what}", store.dir.display()))?;
    }
    Ok(())
}
