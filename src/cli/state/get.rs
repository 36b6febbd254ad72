//! `tidemill state get`: what is remembered under a key.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tidemill_state::{
    Identity, SledOptions, SledStore, State, StateStore, TableId, TableSpec, read_identity,
};

use super::super::number::whole;
use super::place::{Access, Store, resolve, task_of};
use super::{Console, Exit, Failure, World, owner};
use crate::config::Plan;
use crate::pipeline::show;

/// Elements read from a store at once.
const PAGE: usize = 1_024;

/// Show the elements of a table
///
/// With the pipeline's file keys are shown as text and values as JSON: a window as the event it would
/// make now, an id with its event time, a held event as it is. Without it, or where the table is not
/// of this file, both are shown in hexadecimal.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidemill state get pipelines/bars.toml second                  the first elements of a table
  tidemill state get pipelines/bars.toml second BTCUSD           every window of a key
  tidemill state get pipelines/bars.toml tidemill.time --json    how far event time has come
  tidemill state get .tidemill/bars/0 second 0x8000              by the start of a key

`tidemill state ls` names the tables.")]
pub(super) struct GetArgs {
    /// The pipeline's file, or a directory of state
    #[arg(value_name = "FILE|DIR")]
    path: PathBuf,
    /// The table
    table: String,
    /// Only this key: its fields joined by `|`, or the start of its bytes as 0x and digits
    key: Option<String>,
    /// Only this task, such as 0-0 [default: all]
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// At most this many elements
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = whole::<usize>(0..=u64::MAX))]
    limit: usize,
    /// The state lies here [default: where the file says, else .tidemill/PIPELINE]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Print one JSON document per element
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    task: String,
    /// Of the instance.
    directory: String,
    /// Whether another instance has come further with this task.
    behind: bool,
    key: String,
    key_hex: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
}

pub(super) async fn run(
    args: &GetArgs,
    console: &mut Console<'_>,
    world: &World<'_>,
) -> Result<Exit, Failure> {
    if let Some(key) = &args.key
        && let Some(digits) = key.strip_prefix("0x")
        && !digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    {
        let message = format!("`{key}` is not hexadecimal");
        return Err(Failure::usage(message).help("after `0x` come digits from 0 to 9 and a to f"));
    }
    let paths = [args.path.clone()];
    let state_dir = args.state_dir.as_deref();
    let place = resolve(&paths, state_dir, Access::Look, "get", world)?;
    if let Some(task) = &args.task {
        let tasks: Vec<String> = place
            .stores
            .iter()
            .map(|store| task_of(&store.dir))
            .collect();
        if !tasks.is_empty() && !tasks.contains(task) {
            return Err(Failure::usage(format!("there is no task `{task}`"))
                .help(format!("the tasks are {}", tasks.join(", "))));
        }
    }
    let mut found = Vec::new();
    let mut known = std::collections::BTreeSet::new();
    let mut has_table = false;
    for at in &place.stores {
        let Store { dir, .. } = at;
        if args.task.as_ref().is_some_and(|task| *task != task_of(dir)) {
            continue;
        }
        let Some(identity) = read_identity(dir)? else {
            continue;
        };
        let store = open(dir, identity).await?;
        let plan = place.plan.as_ref();
        let read = read(args, plan, at, &store, &mut known, &mut found).await;
        store.close().await?;
        has_table |= read?;
    }
    if !has_table {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let message = format!("there is no table `{}`", args.table);
        return Err(Failure::usage(message).help(match known.as_slice() {
            [] => "no store holds any yet: a run brings them up, also to what was committed before one was killed".to_owned(),
            known => format!("the tables are {}", known.join(", ")),
        }));
    }
    tell(args, &found, place.is_several(), console)?;
    Ok(Exit::Ok)
}

async fn open(dir: &Path, identity: Identity) -> Result<SledStore, Failure> {
    let options = SledOptions {
        path: dir.to_owned(),
        identity,
        owner: owner("get"),
        // There is a store: none is made.
        new_id: 0,
        cache_bytes: SledOptions::CACHE_BYTES,
    };
    Ok(SledStore::open_strict(options).await?)
}

/// Reads the table of one store; false if it has no such table.
async fn read(
    args: &GetArgs,
    plan: Option<&Plan>,
    at: &Store,
    store: &SledStore,
    known: &mut std::collections::BTreeSet<String>,
    found: &mut Vec<Found>,
) -> Result<bool, Failure> {
    let mut table: Option<(TableId, TableSpec)> = None;
    for (id, spec) in State::stored_tables(store).await? {
        known.insert(spec.name.clone());
        if spec.name == args.table {
            table = Some((id, spec));
        }
    }
    let Some((id, spec)) = table else {
        return Ok(false);
    };
    let mut after: Option<Bytes> = None;
    while found.len() < args.limit {
        let page = store.scan(id.prefix(), after.clone(), PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        for (key, value) in &page {
            let key = key.get(2..).unwrap_or_default();
            let one = element(plan, &spec, at, key, value)?;
            let is_asked = args.key.as_ref().is_none_or(|asked| {
                one.key == *asked
                    || asked.starts_with("0x")
                        && one.key_hex.starts_with(&asked.to_ascii_lowercase())
            });
            if is_asked && found.len() < args.limit {
                found.push(one);
            }
        }
    }
    Ok(true)
}

fn element(
    plan: Option<&Plan>,
    spec: &TableSpec,
    at: &Store,
    key: &[u8],
    value: &[u8],
) -> Result<Found, Failure> {
    let hex = |bytes: &[u8]| {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("0x{digits}")
    };
    let task = task_of(&at.dir);
    let shown = show(plan, spec, key, value).map_err(|error| {
        let message = format!(
            "an element of table `{}` of task {task} is damaged",
            spec.name
        );
        Failure::new(Exit::Integrity, message)
            .because(error)
            .help("`tidemill state fsck` tells what to do")
    })?;
    let (text, json) = shown.map_or((None, None), |shown| {
        (Some(shown.key), RawValue::from_string(shown.value).ok())
    });
    Ok(Found {
        task,
        directory: at.instance(),
        behind: at.behind,
        key: text.unwrap_or_else(|| hex(key)),
        key_hex: hex(key),
        value_hex: json.is_none().then(|| hex(value)),
        value: json,
    })
}

fn tell(
    args: &GetArgs,
    found: &[Found],
    is_several: bool,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    if args.json {
        for one in found {
            let line = serde_json::to_string(one).map_err(|error| {
                Failure::new(Exit::Internal, "cannot write an element").because(error)
            })?;
            console.line(line)?;
        }
        return Ok(());
    }
    if found.is_empty() {
        console.line(match args.key {
            Some(_) => "there is nothing under this key",
            None => "the table is empty",
        })?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|one| {
            let value = one.value.as_ref().map(|value| value.get().to_owned());
            let mut row = vec![
                one.task.clone(),
                one.key.clone(),
                value.or_else(|| one.value_hex.clone()).unwrap_or_default(),
            ];
            if is_several {
                let behind = if one.behind { " (behind)" } else { "" };
                row.push(format!("{}{behind}", one.directory));
            }
            row
        })
        .collect();
    let titles = ["task", "key", "value", "instance"];
    let shown = if is_several { 4 } else { 3 };
    console.table(&titles[..shown], &rows)?;
    if found.len() == args.limit {
        writeln!(console.errors, "perhaps there are more; see `--limit`")?;
    }
    Ok(())
}
