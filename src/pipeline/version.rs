//! Which file wrote a pipeline's state: noted down with each marker, and told apart from another.

use std::collections::BTreeMap;
use std::fmt;

use tidemill_broker::{Broker, Headers, Start, TopicPartition};
use tidemill_state::{TableId, TableSpec};
use tracing::warn;

use super::recovery::{Changelog, decode_marker};
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
    let Error::Changed { was, .. } = error else {
        return error;
    };
    for task in topics.all_tasks() {
        let at = TopicPartition::new(topics.changelog.clone(), topics.ordinal(task));
        let error = changed(plan, outputs, &at, was).await;
        if !matches!(error, Error::Changed { .. }) {
            return error;
        }
    }
    error
}

/// What to say of a file of hash `was`, which is not that of the plan, as far as a partition of the changelog
/// tells what it was made of.
pub(crate) async fn changed(
    plan: &Plan,
    broker: &dyn Broker,
    at: &TopicPartition,
    was: u64,
) -> Error {
    match parts(broker, at, was).await {
        Ok(Some(parts)) => {
            return Error::ChangedIn {
                changes: parts.changes(&Parts::of(plan)),
            };
        }
        Ok(None) => {}
        // That something has changed is worth more than why that cannot be told.
        Err(error) => warn!(%error, %at, "cannot read what has changed"),
    }
    Error::Changed {
        was,
        now: plan.config_hash,
    }
}

/// The parts of the plan that wrote the last marker of a partition, if its hash is `hash` and they were noted
/// down.
pub(crate) async fn parts(
    broker: &dyn Broker,
    at: &TopicPartition,
    hash: u64,
) -> Result<Option<Parts>> {
    let left = left(broker, at).await?;
    let left = left.filter(|left| left.marker.config_hash == hash);
    Ok(left.and_then(|left| left.parts))
}

/// What the last version of a file has left in a partition of the changelog.
pub(crate) struct Left {
    pub(crate) marker: Marker,
    /// What the file was made of, where that was noted down.
    pub(crate) parts: Option<Parts>,
    /// Where its state lies.
    pub(crate) tables: Vec<(TableId, TableSpec)>,
}

/// Reads what was left in a partition of the changelog, but for the state itself.
pub(crate) async fn left(broker: &dyn Broker, at: &TopicPartition) -> Result<Option<Left>> {
    let mut last = None;
    let mut tables = BTreeMap::new();
    let mut changelog = Changelog::open(broker, at, Start::Earliest).await?;
    while let Some(batch) = changelog.next().await? {
        for record in batch.iter() {
            match (record.key, record.value) {
                (Some(MARKER_KEY), value) => {
                    let mut headers = record.headers().filter(|(name, _)| *name == PARTS);
                    let parts = headers.next().map(|(_, parts)| parts.to_vec());
                    last = value.map(|value| (value.to_vec(), parts, record.offset));
                }
                (Some(key), value) if TableSpec::registers(key) => {
                    tables.insert(key.to_vec(), value.map(<[u8]>::to_vec));
                }
                _ => {}
            }
        }
    }
    let Some((marker, parts, offset)) = last else {
        return Ok(None);
    };
    let registered = tables.iter().filter_map(|(key, value)| {
        let value = value.as_ref()?;
        TableSpec::registered(key, value).ok()
    });
    Ok(Some(Left {
        marker: decode_marker(at, offset, &marker)?,
        parts: parts.and_then(|parts| Parts::decode(&parts)),
        tables: registered.collect(),
    }))
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join("; "))
    }
}
