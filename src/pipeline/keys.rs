//! Keys and partitions as they turn out to be: keyed state must see all events of its key.
//!
//! A file is checked with the partitions it declares; what a topic really has is known at start.

use std::sync::Arc;

use super::topics::Topics;
use super::{Error, Result};
use crate::config::Plan;
use crate::config::plan::{Input, OpPlan};
use crate::events::Schema;

/// Refuses state by a key that does not hold all fields that its sources are partitioned by, or of sources
/// that are partitioned by different ones.
///
/// # Errors
///
/// If the events of a key may lie in more than one partition.
pub(crate) fn check(plan: &Plan, topics: &Topics) -> Result<()> {
    for stage in &plan.stages {
        let input = stage.inputs[0];
        let key = match &stage.op {
            OpPlan::TumblingWindow { key, .. } => names(schema_of(plan, input), key),
            OpPlan::Dedupe { .. } => key_of(plan, input),
            OpPlan::KeyBy { .. } | OpPlan::Route { .. } | OpPlan::Merge => continue,
        };
        let mut sources = Vec::new();
        stage
            .inputs
            .iter()
            .for_each(|input| sources_of(plan, *input, &mut sources));
        let mut partitioned: Option<Vec<Arc<str>>> = None;
        for source in sources
            .into_iter()
            .filter(|source| !plan.sources[*source].broadcast)
        {
            let partitions = topics.sources[source].partitions;
            let source = &plan.sources[source];
            let declared = names(&source.schema, &source.key);
            if partitions == 1 {
                continue;
            }
            let holds = !declared.is_empty() && declared.iter().all(|field| key.contains(field));
            let alike = partitioned.get_or_insert_with(|| declared.clone()) == &declared;
            if !holds || !alike {
                let show = |names: &[Arc<str>]| match names {
                    [] => "no declared key".to_owned(),
                    names => format!("`{}`", names.join("` and `")),
                };
                return Err(Error::Plan {
                    what: format!(
                        "stage `{}` keeps state by {}, but topic `{}` has {partitions} partitions by {}: events of one key would lie apart; use one partition, or declare the topic's `key` if its records have this one",
                        stage.name,
                        show(&key),
                        source.topic.topic,
                        show(&declared),
                    ),
                });
            }
        }
    }
    Ok(())
}

fn names(schema: &Schema, slots: &[usize]) -> Vec<Arc<str>> {
    slots
        .iter()
        .map(|slot| schema.fields[*slot].name.clone())
        .collect()
}

fn schema_of(plan: &Plan, input: Input) -> &Schema {
    match input {
        Input::Source(source) => &plan.sources[source].schema,
        Input::Stage { stage, port } => &plan.stages[stage].ports[port].1,
    }
}

/// The fields by which the events of an input are keyed.
fn key_of(plan: &Plan, input: Input) -> Vec<Arc<str>> {
    let stage = match input {
        Input::Source(source) => {
            return names(&plan.sources[source].schema, &plan.sources[source].key);
        }
        Input::Stage { stage, .. } => &plan.stages[stage],
    };
    match &stage.op {
        OpPlan::KeyBy { key } | OpPlan::TumblingWindow { key, .. } => {
            names(schema_of(plan, stage.inputs[0]), key)
        }
        OpPlan::Dedupe { .. } | OpPlan::Route { .. } | OpPlan::Merge => {
            key_of(plan, stage.inputs[0])
        }
    }
}

/// The sources that an input comes from, one or more times.
pub(super) fn sources_of(plan: &Plan, input: Input, found: &mut Vec<usize>) {
    match input {
        Input::Source(source) => found.push(source),
        Input::Stage { stage, .. } => {
            plan.stages[stage]
                .inputs
                .iter()
                .for_each(|input| sources_of(plan, *input, found));
        }
    }
}
