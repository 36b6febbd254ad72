//! Savepoints of a pipeline's tasks, and the way back: where stores meet the log outside a run.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemill_broker::{Broker, Offset, TopicPartition};
use tidemill_state::{
    Epoch, Identity, Savepoint, State, Watch, chain, check_savepoint, delete_restored, restore,
    set_aside,
};

use super::error::Doing;
use super::memory::state_options;
use super::open::Stores;
use super::recovery::{last_marker, own_topic, retrying};
use super::redo::recover;
use super::topics::{describe, source_topic, tasks_of};
use super::topology::sub_topologies;
use super::{Error, Kind, Marker, Result, SledStores, TaskId};
use crate::config::Plan;

/// A task of a pipeline, and where its changelog lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskLog {
    /// The task.
    pub task: TaskId,
    /// Its changelog.
    pub at: TopicPartition,
}

/// The tasks of a pipeline, in order, as its inputs are now. An input that does not outlive a process, as
/// standard input, need not be there.
///
/// # Errors
///
/// If an input or the changelog is missing, or their partitions do not fit each other.
pub async fn task_logs(plan: &Plan, brokers: &[Arc<dyn Broker>]) -> Result<Vec<TaskLog>> {
    let mut partitions = Vec::with_capacity(plan.sources.len());
    for source in &plan.sources {
        partitions.push(source_topic(plan, source, brokers).await?.0);
    }
    let counts = tasks_of(plan, &sub_topologies(plan), &partitions)?;
    let topic = own_topic(&plan.name, "changelog")?;
    let Some(found) = describe(&*brokers[plan.home()], &topic).await? else {
        return Err(Error::Plan {
            what: format!("there is no topic `{topic}`: the pipeline has never run here"),
        });
    };
    let count = counts.iter().sum();
    if found.partitions != count {
        return Err(Error::PartitionCount {
            topic,
            found: found.partitions,
            expected: count,
            why: "the pipeline's inputs have another number of partitions than when its state was written; `tidemill offsets reset` makes it start anew".into(),
        });
    }
    let tasks = counts
        .iter()
        .enumerate()
        .flat_map(|(sub_topology, &count)| {
            (0..count).map(move |partition| TaskId {
                sub_topology,
                partition,
            })
        });
    Ok(tasks
        .zip(0..)
        .map(|(task, ordinal)| TaskLog {
            task,
            at: TopicPartition::new(topic.clone(), ordinal),
        })
        .collect())
}

/// Brings a task's store up to its last marker, as a run does when it begins; none if there is no
/// marker.
async fn catch_up(
    plan: &Plan,
    outputs: &dyn Broker,
    stores: &dyn Stores,
    log: &TaskLog,
    watch: Watch<'_>,
) -> Result<Option<(State, Marker)>> {
    let task = log.task;
    let failed = |source| Error::State { task, source };
    let opened = stores.open(plan.name.as_str(), &task.to_string()).await;
    let store = opened.map_err(failed)?;
    let options = state_options(plan);
    let go_on = |headway| {
        watch(headway);
        Ok(())
    };
    match recover(outputs, &log.at, task, store, options, &go_on).await? {
        (state, Some(marker)) => Ok(Some((state, marker))),
        (state, None) => {
            state.close().await.map_err(failed)?;
            Ok(None)
        }
    }
}

/// Writes a savepoint of a task as of its last marker, into the directory `to`, and brings its store
/// up to there. None if it has never committed.
///
/// The log may be open for reading alone: readers see only what is durable. A store that is damaged
/// is rebuilt from the log first.
///
/// # Errors
///
/// If log and store contradict each other, or the file cannot be written.
pub async fn savepoint(
    plan: &Plan,
    outputs: &dyn Broker,
    stores: &dyn Stores,
    log: &TaskLog,
    to: &Path,
    watch: Watch<'_>,
) -> Result<Option<Savepoint>> {
    match try_savepoint(plan, outputs, stores, log, to, watch).await {
        Err(error) if error.is_store_damage() => {
            let task = log.task;
            let (name, why) = (task.to_string(), chain(&error));
            let aside = stores.set_aside(&name, &why).await;
            aside.map_err(|source| Error::State { task, source })?;
            try_savepoint(plan, outputs, stores, log, to, watch).await
        }
        ended => ended,
    }
}

async fn try_savepoint(
    plan: &Plan,
    outputs: &dyn Broker,
    stores: &dyn Stores,
    log: &TaskLog,
    to: &Path,
    watch: Watch<'_>,
) -> Result<Option<Savepoint>> {
    let failed = |source| Error::State {
        task: log.task,
        source,
    };
    let Some((state, marker)) = catch_up(plan, outputs, stores, log, watch).await? else {
        return Ok(None);
    };
    let identity = Identity {
        pipeline: plan.name.to_string(),
        task: log.task.to_string(),
    };
    let durable = |_| async { Ok::<(), Infallible>(()) };
    let saved = state
        .write_behind()
        .savepoint(to, &identity, |_| marker.encode(), durable, watch)
        .await;
    let closed = state.close().await;
    let saved = saved.map_err(failed)?;
    closed.map_err(failed)?;
    Ok(Some(saved))
}

/// A savepoint that can be gone back to.
#[derive(Debug, Clone)]
pub struct Restorable {
    /// What it says about itself.
    pub savepoint: Savepoint,
    /// Its elements.
    pub elements: u64,
    /// The task.
    pub log: TaskLog,
    /// The task's last epoch in the log.
    pub last: Epoch,
}

/// Checks a savepoint as a whole, and that the log goes on from it.
///
/// # Errors
///
/// If it is damaged, of another pipeline, newer than the log, or so old that the log has forgotten
/// what was removed since.
pub async fn restorable(
    plan: &Plan,
    outputs: &dyn Broker,
    logs: &[TaskLog],
    path: &Path,
    watch: Watch<'_>,
) -> Result<Restorable> {
    let (savepoint, elements) =
        check_savepoint(path, watch)
            .await
            .map_err(|source| Error::Savepoint {
                path: path.to_owned(),
                source,
            })?;
    let log = logs
        .iter()
        .find(|log| log.task.to_string() == savepoint.task);
    let Some(log) = log.filter(|_| savepoint.pipeline == plan.name.as_str()) else {
        return Err(Error::Plan {
            what: format!(
                "{} is of task {} of pipeline `{}`, which is no task of `{}`",
                path.display(),
                savepoint.task,
                savepoint.pipeline,
                plan.name
            ),
        });
    };
    let contradiction = |what: String| Error::Contradiction {
        task: log.task,
        what: format!("the savepoint {} {what}", path.display()),
    };
    let last = last_marker(outputs, &log.at, Offset::START).await?;
    let last = last.map_or(Epoch::NONE, |(marker, _)| marker.epoch);
    let ends = retrying(|| outputs.watermarks(&log.at)).await;
    let ends = ends.doing(|| format!("cannot look at {}", log.at))?;
    if savepoint.epoch > last || savepoint.changelog_offset > ends.high.0 {
        return Err(contradiction(format!(
            "is of epoch {}, but {} ends at epoch {last}: it is newer than the log, or of another one",
            savepoint.epoch, log.at
        )));
    }
    if savepoint.changelog_offset < ends.tombstones_gone.0 {
        return Err(contradiction(format!(
            "goes on at offset {} of {}, which has forgotten what was removed below offset {}: take the store away instead, and the next run rebuilds it from the log",
            savepoint.changelog_offset, log.at, ends.tombstones_gone
        )));
    }
    Ok(Restorable {
        savepoint,
        elements,
        log: log.clone(),
        last,
    })
}

/// Makes a task's store anew from a savepoint, brings it up to the log's end and compares it with the
/// digest there. The store before is set aside; returns where, if there was one.
///
/// # Errors
///
/// If a file cannot be written. If savepoint and log together are not the state that was committed:
/// then what was made is set aside too, and the next run rebuilds the state from the log alone.
pub async fn restore_task(
    plan: &Plan,
    outputs: &dyn Broker,
    dir: &Path,
    run: u64,
    from: &Restorable,
    watch: Watch<'_>,
) -> Result<Option<PathBuf>> {
    let task = from.log.task;
    let failed = |source| Error::State { task, source };
    let stores = SledStores::new(dir.to_owned(), run);
    let options = stores.options(plan.name.as_str(), &task.to_string());
    let path = options.path.clone();
    // What is half restored is of no use to anybody.
    if path.join("restoring").exists() {
        delete_restored(&path).map_err(failed)?;
    }
    let aside = match path.join("identity.json").exists() || path.join("sled").exists() {
        true => Some(
            set_aside(&path, "replaced by a savepoint")
                .map_err(failed)?
                .path,
        ),
        false => None,
    };
    restore(&from.savepoint.path, options, watch)
        .await
        .map_err(failed)?;
    match follow(plan, outputs, &stores, from, watch).await {
        Ok(()) => Ok(aside),
        Err(error) => {
            match error.kind() {
                Kind::Integrity => {
                    set_aside(&path, &chain(&error)).map_err(failed)?;
                }
                // Not set aside: trying again, as on a full disk, would leave one more each time.
                Kind::Io => delete_restored(&path).map_err(failed)?,
                _ => {}
            }
            Err(error)
        }
    }
}

/// Brings what was restored up to the log's end, and compares it with the digest there.
async fn follow(
    plan: &Plan,
    outputs: &dyn Broker,
    stores: &SledStores,
    from: &Restorable,
    watch: Watch<'_>,
) -> Result<()> {
    let task = from.log.task;
    let failed = |source| Error::State { task, source };
    let Some((state, _)) = catch_up(plan, outputs, stores, &from.log, watch).await? else {
        return Ok(());
    };
    let write_behind = state.write_behind();
    let durable = |_| async { Ok::<(), Infallible>(()) };
    let verified = match write_behind.pass(durable).await {
        Ok(_) => write_behind.verify(watch).await.map(drop),
        Err(error) => Err(error),
    };
    drop(write_behind);
    let closed = state.close().await;
    verified.map_err(failed)?;
    closed.map_err(failed)
}
