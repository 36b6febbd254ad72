//! `tidemill state fsck`: is it whole?

use std::path::Path;

use serde_json::json;
use tidemill_state::{Error, Watch, check_savepoint, fsck, set_aside};

use super::super::bar::Bar;
use super::place::{Access, PlaceArgs, Store, task_of};
use super::{Console, Exit, Failure, World, counted, ls, owner};

/// Check state and savepoints as a whole
///
/// Reads every element, compares the digest with the one that was committed, and reads every
/// savepoint. Changes nothing, unless told to set damaged stores aside. Ends with code 6 on damage.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidemill state fsck pipelines/bars.toml
  tidemill state fsck .tidemill/bars/0/tasks/0-0              one task
  tidemill state fsck pipelines/bars.toml --set-aside         so that the next run rebuilds")]
pub(super) struct FsckArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Move damaged stores out of the way: the next run rebuilds them from the log
    #[arg(long)]
    set_aside: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What was found of one task.
struct Checked {
    task: String,
    /// In which instance, in words, if there are several.
    place: String,
    dir: String,
    /// What is wrong, and what to do about it.
    findings: Vec<(String, String)>,
    /// Where the store was moved to.
    aside: Option<String>,
    /// In words, if nothing is wrong.
    sound: String,
    report: Option<serde_json::Value>,
}

pub(super) async fn run(
    args: &FsckArgs,
    console: &mut Console<'_>,
    world: &World<'_>,
) -> Result<Exit, Failure> {
    let access = match args.set_aside {
        true => Access::Change,
        false => Access::Look,
    };
    let place = args.place.resolve(access, "fsck", world)?;
    let mut all = Vec::new();
    let bar = Bar::new(console.terminals.errors);
    let watch = |headway| bar.headway(headway);
    let pipeline = place.plan.as_ref().map(|plan| plan.name.as_str());
    for store in &place.stores {
        let mut one = check(store, pipeline, args.set_aside, &watch).await?;
        if place.is_several() {
            one.place = format!(" in {}", store.instance());
        }
        all.push(one);
    }
    bar.clear();
    let damaged = all.iter().any(|one| !one.findings.is_empty());
    if args.json {
        let tasks: Vec<_> = all
            .iter()
            .map(|one| {
                let findings: Vec<_> = one
                    .findings
                    .iter()
                    .map(|(what, help)| json!({ "what": what, "help": help }))
                    .collect();
                json!({
                    "task": one.task,
                    "directory": one.dir,
                    "findings": findings,
                    "setAside": one.aside,
                    "content": one.report,
                })
            })
            .collect();
        console.json(&json!({ "ok": !damaged, "tasks": tasks }))?;
    } else {
        for one in &all {
            let task = format!("{}{}", one.task, one.place);
            if one.findings.is_empty() {
                console.line(format_args!("task {task}: {}", one.sound))?;
            }
            for (what, help) in &one.findings {
                console.line(format_args!("task {task}: {what}\n  help: {help}"))?;
            }
            if let Some(aside) = &one.aside {
                console.line(format_args!("task {task}: set aside as {aside}"))?;
            }
        }
        if all.is_empty() {
            console.line("there is no state")?;
        }
    }
    Ok(if damaged { Exit::Integrity } else { Exit::Ok })
}

const LEAVE: &str = "leave it to the version or pipeline that wrote it";

const REBUILD: &str = "set it aside with `tidemill state fsck --set-aside`: nothing is deleted, and the next run rebuilds it from the log";

/// Checks a store, which is to be of `pipeline` where that is known.
async fn check(
    store: &Store,
    pipeline: Option<&str>,
    put_aside: bool,
    watch: Watch<'_>,
) -> Result<Checked, Failure> {
    let Store { dir, at, behind } = store;
    let mut checked = Checked {
        task: task_of(dir),
        place: String::new(),
        dir: at.display().to_string(),
        findings: Vec::new(),
        aside: None,
        sound: String::new(),
        report: None,
    };
    let mut is_broken = false;
    match fsck(dir, &owner("fsck"), watch).await {
        Ok(report) => {
            is_broken = !report.findings.is_empty();
            for what in &report.findings {
                let what = format!("{}: {what}", at.display());
                checked.findings.push((what, REBUILD.into()));
            }
            if pipeline.is_some_and(|pipeline| report.identity.pipeline != pipeline) {
                let what = format!("{} holds the state of {}", at.display(), report.identity);
                checked.findings.push((what, LEAVE.into()));
            }
            checked.sound = match (report.stored, report.compared) {
                (None, _) => "empty; the next run builds it from the log".into(),
                (Some(stored), true) => format!(
                    "{}, {}, the digest is that of epoch {}",
                    counted(report.elements, "element"),
                    counted(report.bytes, "byte"),
                    stored.epoch
                ),
                (Some(stored), false) => format!(
                    "{}, {}, between two epochs after {}: not compared; the next run, or `tidemill state savepoint`, brings it up to the log",
                    counted(report.elements, "element"),
                    counted(report.bytes, "byte"),
                    stored.epoch
                ),
            };
            if *behind {
                checked
                    .sound
                    .push_str("; behind another instance, and so behind the log");
            }
            checked.report = Some(ls::json(store, &report));
        }
        Err(error @ (Error::NewerFormat { .. } | Error::Foreign { .. })) => {
            // Not ours to judge, and not to be moved.
            checked
                .findings
                .push((Failure::from(error).to_string(), LEAVE.into()));
        }
        Err(error) if error.is_integrity() => {
            is_broken = true;
            checked
                .findings
                .push((Failure::from(error).to_string(), REBUILD.into()));
        }
        // What is left once a store was set aside.
        Err(Error::Invalid { .. }) => {
            checked.sound = "empty; the next run builds it from the log".into();
        }
        Err(error) => return Err(error.into()),
    }
    if is_broken && put_aside {
        let aside = set_aside(dir, "`state fsck` found it damaged")?;
        checked.aside = Some(aside.path.display().to_string());
    }
    for path in savepoint_files(&at.join("savepoints"))? {
        match check_savepoint(&path, watch).await {
            Ok(_) => {}
            Err(error) if error.is_integrity() => {
                let help =
                    "delete it: it cannot be gone back to; the state itself is not concerned";
                checked
                    .findings
                    .push((Failure::from(error).to_string(), help.into()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(checked)
}

fn savepoint_files(dir: &Path) -> Result<Vec<std::path::PathBuf>, Failure> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let message = format!("cannot list {}", dir.display());
            return Err(Failure::new(Exit::Io, message).because(error));
        }
    };
    let mut found: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "tms"))
        .collect();
    found.sort();
    Ok(found)
}
