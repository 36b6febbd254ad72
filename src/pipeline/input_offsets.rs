//! How far a pipeline has read, as its markers say: also where no group keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_broker::{Broker, Offset, TopicPartition};

use super::Result;
use super::recovery::{last_marker, own_topic};
use super::savepoints::task_logs;
use super::topics::{describe, source_topic};
use crate::config::Plan;

/// How far a pipeline has read an input partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputOffset {
    /// The next offset to read.
    pub next: Offset,
    /// Whether it is one of a topic that was deleted, and another of its name is there now.
    pub is_former: bool,
}

/// The next offset to read of every input partition, by the index of its source; the least where
/// several tasks read it. Nothing if the pipeline has never run.
///
/// # Errors
///
/// If a topic of the pipeline is missing or cannot be read.
pub async fn input_offsets(
    plan: &Plan,
    brokers: &[Arc<dyn Broker>],
) -> Result<BTreeMap<(usize, TopicPartition), InputOffset>> {
    let mut found = BTreeMap::new();
    let outputs = &*brokers[plan.home()];
    let changelog = own_topic(&plan.name, "changelog")?;
    if describe(outputs, &changelog).await?.is_none() {
        return Ok(found);
    }
    let mut identities = Vec::with_capacity(plan.sources.len());
    for source in &plan.sources {
        let (_, topic) = source_topic(plan, source, brokers).await?;
        identities.push(topic.and_then(|topic| topic.identity));
    }
    for log in task_logs(plan, brokers).await? {
        let Some((marker, _)) = last_marker(outputs, &log.at, Offset::START).await? else {
            continue;
        };
        for (index, source) in plan.sources.iter().enumerate() {
            let topic = &source.topic.topic;
            for input in &marker.inputs {
                let at = TopicPartition::new(topic.clone(), input.partition);
                if marker.input(&at) == Some(input) {
                    let now = identities[index].map(|identity| identity.0);
                    let is_former =
                        now.is_some() && input.identity.is_some() && now != input.identity;
                    let one = found.entry((index, at)).or_insert(InputOffset {
                        next: input.next(),
                        is_former,
                    });
                    one.next = input.next().min(one.next);
                    one.is_former |= is_former;
                }
            }
        }
    }
    Ok(found)
}
