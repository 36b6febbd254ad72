//! How far a pipeline has read, as its markers say: also where no group keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_broker::{Broker, Offset, TopicPartition};

use super::Result;
use super::recovery::{last_marker, own_topic};
use super::savepoints::task_logs;
use super::topics::describe;
use crate::config::Plan;

/// The next offset to read of every input partition, by the index of its source; the least where
/// several tasks read it. Nothing if the pipeline has never run.
///
/// # Errors
///
/// If a topic of the pipeline is missing or cannot be read.
pub async fn input_offsets(
    plan: &Plan,
    brokers: &[Arc<dyn Broker>],
) -> Result<BTreeMap<(usize, TopicPartition), Offset>> {
    let mut found = BTreeMap::new();
    let outputs = &*brokers[plan.home()];
    let changelog = own_topic(&plan.name, "changelog")?;
    if describe(outputs, &changelog).await?.is_none() {
        return Ok(found);
    }
    for log in task_logs(plan, brokers).await? {
        let Some((marker, _)) = last_marker(outputs, &log.at, Offset::START).await? else {
            continue;
        };
        for (index, source) in plan.sources.iter().enumerate() {
            let topic = &source.topic.topic;
            for input in &marker.inputs {
                let at = TopicPartition::new(topic.clone(), input.partition);
                if marker.input(plan, &source.name, &at) == Some(input) {
                    let next = found.entry((index, at)).or_insert(input.next());
                    *next = input.next().min(*next);
                }
            }
        }
    }
    Ok(found)
}
