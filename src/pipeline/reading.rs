//! What to do when an input cannot be read: one answer for all who read inputs.

use tidemill_broker::{Error as BrokerError, Topic, TopicPartition};
use tracing::{debug, warn};

use super::Result;
use super::epoch::pause_before_retry;
use super::error::Doing;

/// What to do about a consumer's error.
#[derive(Debug)]
pub(crate) enum Reading {
    /// Go on, for this passes.
    GoesOn,
    /// Commit what was taken, which was there, and open the task of this partition anew: it then looks at
    /// the log, and says what to do.
    OutOfRange(TopicPartition),
    /// This topic is gone, and with it its partitions. Should it be made anew, it is another log.
    Deleted(Topic),
}

/// Says what to do about a consumer's error, which may take a moment.
///
/// # Errors
///
/// If it does not pass.
pub(crate) async fn after(error: BrokerError) -> Result<Reading> {
    match error {
        error if error.is_transient() => {
            debug!(%error, "reading failed: trying again");
            tokio::time::sleep(pause_before_retry(0)).await;
            Ok(Reading::GoesOn)
        }
        BrokerError::OutOfRange {
            at,
            asked,
            low,
            high,
        } => {
            warn!(%at, %asked, %low, %high, "the position is out of the log's range");
            Ok(Reading::OutOfRange(at))
        }
        BrokerError::UnknownTopic { topic } | BrokerError::TopicDeleted { topic } => {
            Ok(Reading::Deleted(topic))
        }
        error => Err(error).doing(|| "cannot read the inputs".into()),
    }
}
