//! Outputs that are gone: topics that a pipeline has written to, and that are not there any more. Made
//! anew in silence they would begin in the middle, as if nothing had been before.

use std::sync::Arc;

use tidemill_broker::{Broker, Offset, Topic, TopicPartition};
use tracing::warn;

use super::recovery::{last_marker, own_topic};
use super::topics::describe;
use super::{Error, Result, version};
use crate::config::Plan;
use crate::config::parts::Wrote;
use crate::config::plan::SinkPlan;

/// An output that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostOutput {
    /// The sink, by its name in the file.
    pub sink: String,
    /// Its topic.
    pub topic: Topic,
}

impl From<LostOutput> for Error {
    fn from(lost: LostOutput) -> Self {
        Self::LostOutput {
            topic: lost.topic,
            sink: lost.sink,
        }
    }
}

/// The outputs that are gone, in the order of the file, as the markers tell of what was written: also
/// those of another version of the file.
pub(crate) async fn lost_outputs(
    plan: &Plan,
    brokers: &[Arc<dyn Broker>],
) -> Result<Vec<LostOutput>> {
    let mut missing = Vec::new();
    for sink in &plan.sinks {
        // What does not outlive a process is missing in each that is started.
        let outlives = sink.topic.broker == plan.home() || plan.outlives_process(sink.topic.broker);
        let broker = &*brokers[sink.topic.broker];
        if outlives && describe(broker, &sink.topic.topic).await?.is_none() {
            missing.push(sink);
        }
    }
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let outputs = &*brokers[plan.home()];
    let changelog = own_topic(&plan.name, "changelog")?;
    let Some(found) = describe(outputs, &changelog).await? else {
        return Ok(Vec::new());
    };
    let mut is_lost = vec![false; missing.len()];
    for partition in 0..found.partitions {
        let at = TopicPartition::new(changelog.clone(), partition);
        let Some((marker, _)) = last_marker(outputs, &at, Offset::START).await? else {
            continue;
        };
        let written = marker.sequences.iter().filter(|(_, _, count)| *count > 0);
        let written: Vec<&str> = written.map(|(name, ..)| name.as_str()).collect();
        let is_same = marker.config_hash == plan.config_hash;
        let before = match is_same {
            true => None,
            false => version::parts(outputs, &at, marker.config_hash).await?,
        };
        for (sink, is_lost) in missing.iter().zip(&mut is_lost) {
            *is_lost |= match (is_same, &before) {
                (true, _) => written.contains(&&*sink.name),
                (false, Some(before)) => {
                    let wrote = written.iter().map(|name| before.wrote(name, plan, sink));
                    decided(wrote.max(), sink)
                }
                (false, None) => {
                    let same_name = written.contains(&&*sink.name);
                    decided(same_name.then_some(Wrote::Unknown), sink)
                }
            };
        }
    }
    let lost = missing.iter().zip(is_lost).filter(|(_, is_lost)| *is_lost);
    Ok(lost
        .map(|(sink, _)| LostOutput {
            sink: sink.name.to_string(),
            topic: sink.topic.topic.clone(),
        })
        .collect())
}

/// Whether the version before wrote to a sink's topic; where that is not known, it is not refused but
/// told.
fn decided(wrote: Option<Wrote>, sink: &SinkPlan) -> bool {
    if wrote == Some(Wrote::Unknown) {
        warn!(topic = %sink.topic.topic, sink = %sink.name, "this topic is not there and begins empty; whether the version of the file before wrote to it was not noted down");
    }
    wrote == Some(Wrote::There)
}
