//! Topics that a pipeline needs and that are not there: what is said of them is the same whether a run finds
//! them gone as it starts, or loses them under way.

use std::num::NonZeroU32;
use std::sync::Arc;

use tidemill_broker::{Broker, Error as BrokerError, Offset, Topic, TopicPartition};
use tracing::warn;

use super::lost::lost_outputs;
use super::recovery::{last_marker, own_topic};
use super::topics::describe;
use super::{Error, Result};
use crate::config::plan::{BrokerUrl, SourcePlan, TopicPlan};
use crate::config::{Plan, shell_word};

/// Refuses a run whose topics are not there and may not be made: inputs that nobody has made yet, and what was
/// read or written and is gone.
pub(crate) async fn refuse(plan: &Plan, brokers: &[Arc<dyn Broker>]) -> Result<()> {
    for source in &plan.sources {
        let topic = &source.topic;
        // What does not outlive a process is made in each that is started.
        let outlives = topic.broker == plan.home() || plan.outlives_process(topic.broker);
        if !outlives
            || describe(&*brokers[topic.broker], &topic.topic)
                .await?
                .is_some()
        {
            continue;
        }
        let error = input(plan, brokers, source).await?;
        // One that says its partitions is made by the run.
        if topic.partitions.is_none() || matches!(error, Error::LostInput { .. }) {
            return Err(error);
        }
    }
    match lost_outputs(plan, brokers).await?.into_iter().next() {
        Some(lost) => Err(lost.into()),
        None => Ok(()),
    }
}

/// What to say of an input that is not there: it was deleted, if a marker tells that it was read.
pub(crate) async fn input(
    plan: &Plan,
    brokers: &[Arc<dyn Broker>],
    source: &SourcePlan,
) -> Result<Error> {
    let topic = source.topic.topic.clone();
    Ok(match was_read(plan, brokers, &topic).await? {
        true => Error::LostInput { topic },
        false => Error::MissingTopic {
            topic,
            source_name: source.name.to_string(),
            create: what_creates(plan, &source.topic),
        },
    })
}

/// What creates a topic on the broker where a plan has it: a command that can be typed as it is, or a
/// call, where no command reaches the broker.
pub(crate) fn what_creates(plan: &Plan, topic: &TopicPlan) -> String {
    let BrokerUrl::File { path, .. } = &plan.brokers[topic.broker].url else {
        return "`Broker::create_topic`".into();
    };
    let url = shell_word(&format!("file://{}", path.display()));
    let partitions = match topic.partitions.map_or(1, NonZeroU32::get) {
        1 => String::new(),
        many => format!(" --partitions {many}"),
    };
    format!(
        "`tidemill topics create {}{partitions} --broker {url}`",
        topic.topic
    )
}

async fn was_read(plan: &Plan, brokers: &[Arc<dyn Broker>], topic: &Topic) -> Result<bool> {
    let outputs = &*brokers[plan.home()];
    let changelog = own_topic(&plan.name, "changelog")?;
    let found = describe(outputs, &changelog).await?;
    for partition in 0..found.map_or(0, |found| found.partitions) {
        let at = TopicPartition::new(changelog.clone(), partition);
        if let Some((marker, _)) = last_marker(outputs, &at, Offset::START).await?
            && marker
                .inputs
                .iter()
                .any(|input| input.topic == topic.as_str())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Why a run ended: of a topic that went under way, what the next run would say of it.
pub(crate) async fn named(error: Error, plan: &Plan, brokers: &[Arc<dyn Broker>]) -> Error {
    let topic = match &error {
        Error::LostInput { topic }
        | Error::Broker {
            source: BrokerError::UnknownTopic { topic },
            ..
        } => topic.clone(),
        _ => return error,
    };
    match refuse(plan, brokers).await {
        Err(
            found @ (Error::LostInput { .. }
            | Error::MissingTopic { .. }
            | Error::LostOutput { .. }),
        ) => found,
        // It is there again: another log.
        Ok(()) if plan.sources.iter().any(|one| one.topic.topic == topic) => {
            Error::LostInput { topic }
        }
        Ok(()) => error,
        Err(why) => {
            warn!(error = &why as &dyn std::error::Error, %topic, "cannot look at the topics");
            error
        }
    }
}
