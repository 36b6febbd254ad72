//! Which file wrote a pipeline's state: noted down with each marker, and told apart from another.

use std::fmt;

use tidemill_broker::{Broker, Headers, Start, TopicPartition};
use tracing::warn;

use super::recovery::Changelog;
use super::topics::Topics;
use super::{Error, MARKER_KEY, Marker, Result};
use crate::config::parts::Parts;
use crate::config::{Changes, Plan};

/// Header of a marker: the parts of the plan that wrote it. A marker without is of an older version, or
/// of the first epochs of one.
const PARTS: &str = "plan";

/// The headers of a plan's markers.
pub(crate) fn headers(plan: &Plan) -> Headers {
    Headers::new().with(PARTS, Parts::of(plan).encode())
}

/// Says what has changed where all that is known is that something has.
pub(crate) async fn named(
    error: Error,
    plan: &Plan,
    topics: &Topics,
    outputs: &dyn Broker,
) -> Error {
    let Error::Changed { was, now } = error else {
        return error;
    };
    for partition in 0..topics.tasks.iter().sum() {
        let at = TopicPartition::new(topics.changelog.clone(), partition);
        match parts(outputs, &at, was).await {
            Ok(Some(parts)) => {
                return Error::ChangedIn {
                    changes: parts.changes(&Parts::of(plan)),
                };
            }
            Ok(None) => {}
            // That something has changed is worth more than why that cannot be told.
            Err(error) => warn!(%error, %at, "cannot read what has changed"),
        }
    }
    Error::Changed { was, now }
}

/// State that a plan cannot go on with, by its name: another wrote it, of hash `was`, to which it means
/// something else. None where that was not noted down.
pub(crate) async fn unfit(
    plan: &Plan,
    broker: &dyn Broker,
    at: &TopicPartition,
    was: u64,
) -> Result<Vec<String>> {
    let parts = parts(broker, at, was).await?;
    Ok(parts.map_or_else(Vec::new, |parts| parts.unfit(&Parts::of(plan))))
}

/// The parts of the plan that wrote the last marker of a partition, if its hash is `hash`.
pub(crate) async fn parts(
    broker: &dyn Broker,
    at: &TopicPartition,
    hash: u64,
) -> Result<Option<Parts>> {
    let mut found = None;
    let mut changelog = Changelog::open(broker, at, Start::Earliest).await?;
    while let Some(batch) = changelog.next().await? {
        let markers = batch.iter().filter(|record| record.key == Some(MARKER_KEY));
        for record in markers {
            let marker = record.value.and_then(|value| Marker::decode(value).ok());
            let mut headers = record.headers().filter(|(name, _)| *name == PARTS);
            found = match (marker, headers.next()) {
                (Some(marker), Some((_, parts))) if marker.config_hash == hash => {
                    Parts::decode(parts)
                }
                _ => None,
            };
        }
    }
    Ok(found)
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join("; "))
    }
}
