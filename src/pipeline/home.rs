//! Whether a pipeline's home is still where it keeps what it has done: a file that was changed may move it,
//! and there it would begin anew, beside the outputs of before.

use std::sync::Arc;

use tidemill_broker::{Broker, Offset, Topic, TopicPartition};

use super::error::Doing;
use super::recovery::{own_topic, retrying};
use super::topics::describe;
use super::{Error, Result};
use crate::config::Plan;

/// Refuses a home without a changelog where another of the plan's brokers holds one of this pipeline.
pub(crate) async fn refuse_moved(plan: &Plan, brokers: &[Arc<dyn Broker>]) -> Result<()> {
    let home = plan.home();
    let changelog = own_topic(&plan.name, "changelog")?;
    if brokers.len() == 1 || has_begun(&*brokers[home], &changelog).await? {
        return Ok(());
    }
    for (index, broker) in brokers.iter().enumerate() {
        if index != home && has_begun(&**broker, &changelog).await? {
            let name = |index: usize| plan.brokers[index].name.to_string();
            return Err(Error::Moved {
                changelog,
                was: name(index),
                home: name(home),
            });
        }
    }
    Ok(())
}

/// Whether anything was ever committed to a changelog.
async fn has_begun(broker: &dyn Broker, changelog: &Topic) -> Result<bool> {
    let found = describe(broker, changelog).await?;
    for partition in 0..found.map_or(0, |found| found.partitions) {
        let at = TopicPartition::new(changelog.clone(), partition);
        let ends = retrying(|| broker.watermarks(&at)).await;
        if ends.doing(|| format!("cannot look at {at}"))?.high > Offset::START {
            return Ok(true);
        }
    }
    Ok(false)
}
