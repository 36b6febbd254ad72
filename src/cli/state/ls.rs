//! `tidemill state ls`: what is there.

use serde_json::json;
use tidemill_state::{Fsck, fsck};

use super::super::bar::Bar;
use super::place::{Access, PlaceArgs, Store, task_of};
use super::{Console, Exit, Failure, World, owner};

/// List tasks and their tables: elements, bytes, epoch and digest
///
/// Every element is read and the digest computed anew. A task whose last run did not end cleanly is
/// behind its log; the next run, or `state savepoint`, brings it up to there. Where several instances
/// have run, each has a store of its own; those that another has overtaken are called `behind`. One that
/// is `to be compared` ended uncleanly or was built anew: the next run compares it with its log.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidemill state ls pipelines/bars.toml
  tidemill state ls .tidemill/bars/0 --json")]
pub(super) struct LsArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    args: &LsArgs,
    console: &mut Console<'_>,
    world: &World<'_>,
) -> Result<Exit, Failure> {
    let place = args.place.resolve(Access::Look, "ls", world)?;
    let mut found = Vec::new();
    let mut exit = Exit::Ok;
    let bar = Bar::new(console.terminals.errors);
    let watch = |headway| bar.headway(headway);
    for store in &place.stores {
        let Store { dir, .. } = store;
        match fsck(dir, &owner("ls"), &watch).await {
            Ok(report) => {
                if !report.findings.is_empty() {
                    exit = Exit::Integrity;
                }
                found.push((store, report));
            }
            Err(error) if error.is_integrity() => {
                exit = Exit::Integrity;
                let failure = Failure::from(error);
                bar.clear();
                writeln!(console.errors, "task {}: {failure}", task_of(dir))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    bar.clear();
    if exit != Exit::Ok {
        writeln!(
            console.errors,
            "some state is damaged; `tidemill state fsck` tells what to do"
        )?;
    }
    if args.json {
        let tasks: Vec<_> = found
            .iter()
            .map(|(store, report)| json(store, report))
            .collect();
        console.json(&json!({ "tasks": tasks }))?;
        return Ok(exit);
    }
    if found.is_empty() {
        console.line("there is no state")?;
        return Ok(exit);
    }
    let mut tasks = Vec::new();
    let mut tables = Vec::new();
    for (store, report) in &found {
        tasks.push(vec![
            report.identity.task.clone(),
            report
                .stored
                .map_or("-".into(), |stored| stored.epoch.to_string()),
            report.elements.to_string(),
            report.bytes.to_string(),
            report.digest.to_string(),
            state_of(store, report).to_owned(),
            store.at.display().to_string(),
        ]);
        for table in &report.tables {
            let spec = table.spec.as_ref();
            tables.push(vec![
                report.identity.task.clone(),
                spec.map_or_else(|| format!("({})", table.id), |spec| spec.name.clone()),
                spec.map_or("-".into(), |spec| spec.kind.to_string()),
                table.elements.to_string(),
                table.bytes.to_string(),
            ]);
        }
    }
    console.table(
        &[
            "task",
            "epoch",
            "elements",
            "bytes",
            "digest",
            "state",
            "directory",
        ],
        &tasks,
    )?;
    console.line("")?;
    console.table(&["task", "table", "kind", "elements", "bytes"], &tables)?;
    Ok(exit)
}

fn state_of(store: &Store, report: &Fsck) -> &'static str {
    if !report.findings.is_empty() {
        "damaged"
    } else if store.behind {
        "behind"
    } else if report.note.open && report.compared {
        // Closed or not, it is one whole epoch; that the log says the same of that is still to be seen.
        "to be compared"
    } else if report.note.open {
        "not closed"
    } else {
        "clean"
    }
}

pub(super) fn json(store: &Store, report: &Fsck) -> serde_json::Value {
    let tables: Vec<_> = report
        .tables
        .iter()
        .map(|table| {
            json!({
                "name": table.spec.as_ref().map(|spec| spec.name.as_str()),
                "id": table.id.get(),
                "kind": table.spec.as_ref().map(|spec| spec.kind.to_string()),
                "codec": table.spec.as_ref().map(|spec| spec.codec),
                "elements": table.elements,
                "bytes": table.bytes,
            })
        })
        .collect();
    json!({
        "pipeline": report.identity.pipeline,
        "task": report.identity.task,
        "directory": store.at.display().to_string(),
        "epoch": report.stored.map(|stored| stored.epoch.0),
        "elements": report.elements,
        "bytes": report.bytes,
        "digest": report.digest.to_string(),
        "compared": report.compared,
        "clean": !report.note.open,
        "behind": store.behind,
        "findings": report.findings,
        "tables": tables,
    })
}
