//! Whether a new version of a file can go on from what the one before has left.
//!
//! Looked at for all tasks before any begins: were it left to each, one that fits would go on as the new
//! version beside one that does not, and then neither file could run any more.

use std::collections::BTreeSet;

use bytes::Bytes;
use tidemill_broker::{Broker, Start, TopicPartition};
use tidemill_state::{TableId, TableSpec};

use super::recovery::Changelog;
use super::topics::{Topics, describe};
use super::topology::SubTopology;
use super::{Error, Marker, Result, TaskId, build, version};
use crate::config::Plan;
use crate::config::parts::Parts;

/// Refuses a plan that cannot go on from what its tasks have left. Reads only.
pub(crate) async fn refuse(
    plan: &Plan,
    topologies: &[SubTopology],
    topics: &Topics,
    outputs: &dyn Broker,
) -> Result<()> {
    if describe(outputs, &topics.changelog).await?.is_none() {
        return Ok(());
    }
    for task in topics.all_tasks() {
        let at = TopicPartition::new(topics.changelog.clone(), topics.ordinal(task));
        let Some(left) = version::left(outputs, &at).await? else {
            continue;
        };
        refuse_stranger(plan, topologies, topics, task, &left.marker)?;
        if left.marker.config_hash == plan.config_hash {
            continue;
        }
        let specs = left.tables.iter().map(|(_, spec)| spec);
        for unfit in unfit(plan, topologies, task, left.parts.as_ref(), specs) {
            let of = |(_, spec): &&(TableId, TableSpec)| spec.name == unfit.state;
            if let Some((table, _)) = left.tables.iter().find(of)
                && !is_empty(outputs, &at, *table).await?
            {
                return Err(unfit.refused(task));
            }
        }
    }
    Ok(())
}

/// Refuses a marker that was not written by what `task` is now: one that read other topics, or read them with keys
/// elsewhere. Its state would be taken for another's, and its inputs read once more.
pub(crate) fn refuse_stranger(
    plan: &Plan,
    topologies: &[SubTopology],
    topics: &Topics,
    task: TaskId,
    marker: &Marker,
) -> Result<()> {
    let refused = |what| Err(Error::Contradiction { task, what });
    let partitions = topics.tasks[task.sub_topology];
    if marker.partitions != partitions {
        return refused(format!(
            "its inputs have {partitions} partitions, and had {} when its state was written: keys have moved; `tidemill offsets reset` makes it start anew",
            marker.partitions
        ));
    }
    let Some(theirs) = others_topic(plan, topologies, task, marker) else {
        return Ok(());
    };
    let own = topologies[task.sub_topology].sources.iter();
    let own: Vec<&str> = own
        .map(|&source| plan.sources[source].topic.topic.as_str())
        .collect();
    refused(format!(
        "it reads `{}`, but the state in its place is of one that read `{theirs}`, which another task reads now: topics are divided among tasks otherwise than when it was written; undo what was changed, or `tidemill offsets reset FILE --to earliest --drop-state` makes the pipeline start anew",
        own.join("`, `"),
    ))
}

/// A topic that the one who wrote a marker has read, and that not `task`, in whose place it lies, but another reads
/// now.
pub(crate) fn others_topic<'a>(
    plan: &Plan,
    topologies: &[SubTopology],
    task: TaskId,
    marker: &'a Marker,
) -> Option<&'a str> {
    let own = &topologies[task.sub_topology];
    let topics = marker.inputs.iter().map(|input| input.topic.as_str());
    let mut theirs = topics.filter(|topic| !own.reads(plan, topic));
    theirs.find(|topic| topologies.iter().any(|other| other.divides(plan, topic)))
}

/// State that a new version cannot go on with, unless it is empty.
#[derive(Debug)]
pub(crate) struct Unfit {
    /// Its name.
    pub(crate) state: String,
    why: &'static str,
}

impl Unfit {
    /// What is said of it where it is not empty.
    pub(crate) fn refused(&self, task: TaskId) -> Error {
        Error::Contradiction {
            task,
            what: format!(
                "its state `{}` {}; a stage or state of another name begins empty, and `tidemill offsets reset --drop-state` makes the pipeline start anew",
                self.state, self.why
            ),
        }
    }
}

/// What a task has left that it cannot go on with: another version of the file, made of `parts` where that was
/// noted down, kept it in `tables`.
pub(crate) fn unfit<'a>(
    plan: &Plan,
    topologies: &[SubTopology],
    task: TaskId,
    parts: Option<&Parts>,
    tables: impl Iterator<Item = &'a TableSpec> + Clone,
) -> Vec<Unfit> {
    let now = Parts::of(plan);
    let otherwise = parts.map_or_else(Vec::new, |parts| parts.unfit(&now));
    let otherwise = otherwise.into_iter().map(|state| Unfit {
        state,
        why: "holds what means something else to the new version of the file",
    });
    // What it was made of was noted down by versions before the last, if at all.
    let is_older = |spec: &&TableSpec| {
        now.has_state(&spec.name) && parts.is_some_and(|parts| !parts.has_state(&spec.name))
    };
    let older = tables.clone().filter(is_older).map(|spec| Unfit {
        state: spec.name.clone(),
        why: "is of an older version of the file, and the last one has not gone on with it",
    });
    let keeps = |topology: &SubTopology, name: &str| {
        let specs = build::table_specs(plan, topology);
        specs.iter().any(|spec| spec.name == name)
    };
    let own = &topologies[task.sub_topology];
    let is_elsewhere = |spec: &&TableSpec| {
        !keeps(own, &spec.name) && topologies.iter().any(|other| keeps(other, &spec.name))
    };
    let moved = tables.filter(is_elsewhere).map(|spec| Unfit {
        state: spec.name.clone(),
        why: "is kept by another task now, whose stage reads other topics",
    });
    otherwise.chain(older).chain(moved).collect()
}

/// Whether a table holds nothing, as its changelog says.
async fn is_empty(broker: &dyn Broker, at: &TopicPartition, table: TableId) -> Result<bool> {
    let prefix = table.prefix();
    let mut live: BTreeSet<Bytes> = BTreeSet::new();
    let mut changelog = Changelog::open(broker, at, Start::Earliest).await?;
    while let Some(batch) = changelog.next().await? {
        for record in batch.iter() {
            let Some(key) = record.key.filter(|key| key.starts_with(&prefix)) else {
                continue;
            };
            match record.value {
                // A copy, so that no batch is kept for its key.
                Some(_) => live.insert(Bytes::copy_from_slice(key)),
                None => live.remove(key),
            };
        }
    }
    Ok(live.is_empty())
}
