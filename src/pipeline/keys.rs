//! Keys and partitions as they turn out to be: keyed state must see all events of its key.
//!
//! A file is checked with the partitions it declares; what a topic really has is known at start.

use super::topics::Topics;
use super::{Error, Result};
use crate::config::Plan;
use crate::config::plan::OpPlan;
use crate::events::Field;

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
            OpPlan::TumblingWindow { key, .. } => plan.schema_of(input).at(key),
            OpPlan::Dedupe { .. } => plan.key_of(input),
            OpPlan::KeyBy { .. } | OpPlan::Route { .. } | OpPlan::Merge => continue,
        };
        let key = names(key);
        let mut partitioned: Option<Vec<&str>> = None;
        let inputs = stage.inputs.iter();
        for source in inputs
            .flat_map(|input| plan.sources_of(*input))
            .filter(|source| !plan.sources[*source].broadcast)
        {
            let partitions = topics.sources[source].partitions;
            let source = &plan.sources[source];
            let declared = names(source.schema.at(&source.key));
            if partitions == 1 {
                continue;
            }
            let holds = !declared.is_empty() && declared.iter().all(|field| key.contains(field));
            let alike = partitioned.get_or_insert_with(|| declared.clone()) == &declared;
            if !holds || !alike {
                let show = |names: &[&str]| match names {
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

fn names(fields: Vec<&Field>) -> Vec<&str> {
    fields.into_iter().map(|field| &*field.name).collect()
}
