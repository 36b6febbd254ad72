//! Keys and partitions as they turn out to be: keyed state must see all events of its key.
//!
//! A file is checked with the partitions it declares; what a topic really has is known at start. Of a
//! topic that every task reads whole, each takes what would lie in its partition; so its key must be one
//! that the others are partitioned by.

use super::topics::Topics;
use super::topology::sub_topologies;
use super::{Error, Result};
use crate::config::Plan;
use crate::config::plan::{OpPlan, StagePlan};
use crate::events::Field;

/// Refuses state by a key that does not hold all fields that its sources are partitioned by, or of sources
/// that are partitioned by different ones.
///
/// # Errors
///
/// If the events of a key may lie in more than one partition.
pub(crate) fn check(plan: &Plan, topics: &Topics) -> Result<()> {
    for (topology, &tasks) in sub_topologies(plan).iter().zip(&topics.tasks) {
        if tasks == 1 {
            continue;
        }
        for &stage in &topology.stages {
            check_stage(plan, &plan.stages[stage], tasks)?;
        }
    }
    Ok(())
}

fn check_stage(plan: &Plan, stage: &StagePlan, tasks: u32) -> Result<()> {
    let Some(key) = state_key(plan, stage).map(names) else {
        return Ok(());
    };
    let mut partitioned: Option<Vec<&str>> = None;
    for source in sources(plan, stage) {
        let source = &plan.sources[source];
        let declared = names(source.schema.at(&source.key));
        let holds = !declared.is_empty() && declared.iter().all(|field| key.contains(field));
        let alike = partitioned.get_or_insert_with(|| declared.clone()) == &declared;
        if !holds || !alike {
            let show = |names: &[&str]| match names {
                [] => "no declared key".to_owned(),
                names => format!("`{}`", names.join("` and `")),
            };
            let apart = match source.broadcast {
                false => format!("has {tasks} partitions"),
                true => format!("is shared out among {tasks} tasks"),
            };
            return Err(Error::Plan {
                what: format!(
                    "stage `{}` keeps state by {}, but topic `{}` {apart} by {}: events of one key would lie apart; use one partition, or declare the topic's `key` if its records have this one",
                    stage.name,
                    show(&key),
                    source.topic.topic,
                    show(&declared),
                ),
            });
        }
    }
    Ok(())
}

/// Whether state by key sees records of a source beside those of one that every task reads whole: then
/// both must go to tasks by the same hash.
pub(crate) fn meets_broadcast(plan: &Plan, source: usize) -> bool {
    let mut keyed = plan
        .stages
        .iter()
        .filter(|stage| state_key(plan, stage).is_some());
    !plan.sources[source].broadcast
        && keyed.any(|stage| {
            let sources = sources(plan, stage);
            sources.contains(&source) && sources.iter().any(|one| plan.sources[*one].broadcast)
        })
}

/// The fields that a stage keeps state by.
fn state_key<'p>(plan: &'p Plan, stage: &StagePlan) -> Option<Vec<&'p Field>> {
    let input = stage.inputs[0];
    match &stage.op {
        OpPlan::TumblingWindow { key, .. } => Some(plan.schema_of(input).at(key)),
        OpPlan::Dedupe { .. } => Some(plan.key_of(input)),
        OpPlan::KeyBy { .. } | OpPlan::Route { .. } | OpPlan::Merge => None,
    }
}

fn sources(plan: &Plan, stage: &StagePlan) -> Vec<usize> {
    let inputs = stage.inputs.iter();
    inputs.flat_map(|input| plan.sources_of(*input)).collect()
}

fn names(fields: Vec<&Field>) -> Vec<&str> {
    fields.into_iter().map(|field| &*field.name).collect()
}
