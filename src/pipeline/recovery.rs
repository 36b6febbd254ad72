//! What recovery reads of the log: changelogs, their last markers, and where an input goes on.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidemill_broker::{
    Batch, Broker, Consumer, ConsumerOptions, Delivery, Offset, Start, Topic, TopicPartition,
};
use tidemill_state::{TableId, planted};
use tracing::warn;

use super::error::Doing;
use super::{Error, MARKER_KEY, MarkedInput, Marker, Result};
use crate::config::plan::{OnGap, StartAt};

/// The last marker in a changelog partition, and its offset; looked for from `from` on, which is at
/// or before it.
///
/// # Errors
///
/// If the partition cannot be read, or a marker is damaged or of a newer version.
pub(crate) async fn last_marker(
    broker: &dyn Broker,
    at: &TopicPartition,
    from: Offset,
) -> Result<Option<(Marker, Offset)>> {
    let mut last = None;
    let ends = retrying(|| broker.watermarks(at)).await;
    let low = ends.doing(|| format!("cannot look at {at}"))?.low;
    let mut changelog = Changelog::open(broker, at, Start::Offset(from.max(low))).await?;
    while let Some(batch) = changelog.next().await? {
        for record in batch.iter().filter(|record| record.key == Some(MARKER_KEY)) {
            last = record
                .value
                .map(|value| (batch.slab().slice_ref(value), record.offset));
        }
    }
    last.map(|(bytes, offset)| Ok((decode_marker(at, offset, &bytes)?, offset)))
        .transpose()
}

/// What a changelog partition holds.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) marker: Option<Marker>,
    /// The keys of all elements, with the bytes of their values.
    pub(crate) live: BTreeMap<Bytes, usize>,
}

impl Content {
    /// Elements in tables; the list of tables itself does not count.
    pub(crate) fn elements(&self) -> u64 {
        let of_table = |key: &&Bytes| TableId::split(key).is_none_or(|(table, _)| table.get() > 0);
        self.live.keys().filter(of_table).count() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        let bytes = self.live.iter().map(|(key, value)| key.len() + value);
        bytes.sum::<usize>() as u64
    }
}

/// Reads what a changelog partition holds.
///
/// # Errors
///
/// As [`last_marker`].
pub(crate) async fn content(broker: &dyn Broker, at: &TopicPartition) -> Result<Content> {
    let mut found = Content::default();
    let mut last = None;
    let mut changelog = Changelog::open(broker, at, Start::Earliest).await?;
    while let Some(batch) = changelog.next().await? {
        for record in batch.iter() {
            match (record.key, record.value) {
                (Some(MARKER_KEY), value) => {
                    last = value.map(|value| (batch.slab().slice_ref(value), record.offset));
                }
                // A copy, so that no batch is kept for its key.
                (Some(key), Some(value)) => {
                    let key = Bytes::copy_from_slice(key);
                    found.live.insert(key, value.len());
                }
                (Some(key), None) => {
                    found.live.remove(key);
                }
                (None, _) => {}
            }
        }
    }
    if let Some((bytes, offset)) = last {
        found.marker = Some(decode_marker(at, offset, &bytes)?);
    }
    Ok(found)
}

pub(crate) fn decode_marker(at: &TopicPartition, offset: Offset, bytes: &[u8]) -> Result<Marker> {
    Marker::decode(bytes).map_err(|error| Error::OtherLog {
        at: at.clone(),
        what: format!("the record at offset {offset} is no marker: {error}"),
    })
}

/// Reads a changelog partition, batch by batch, from some offset to its present end.
///
/// That is the high watermark, not the last stable offset: a transaction that was answered as committed may show
/// in one partition before it does in another, as each has an end of its own. Who went by what shows at once
/// would miss the last epoch of a task that another process has just left.
pub(crate) struct Changelog<'a> {
    at: &'a TopicPartition,
    consumer: Box<dyn Consumer>,
    end: Offset,
}

impl<'a> Changelog<'a> {
    pub(crate) async fn open(
        broker: &dyn Broker,
        at: &'a TopicPartition,
        from: Start,
    ) -> Result<Self> {
        let failed = || format!("cannot read the changelog {at}");
        let ends = retrying(|| broker.watermarks(at)).await;
        let end = ends.doing(failed)?.high;
        let options = ConsumerOptions::partitions(vec![(at.clone(), from)]);
        let consumer = retrying(|| broker.consumer(options.clone())).await;
        let consumer = consumer.doing(failed)?;
        planted!(P21, {
            let end = Offset::START;
            return Ok(Self { at, consumer, end });
        });
        Ok(Self { at, consumer, end })
    }

    /// The next batch; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Batch>> {
        loop {
            match self.consumer.next().await {
                Ok(Delivery::Records(batch)) => return Ok(Some(batch)),
                Ok(Delivery::End { offset, .. }) if offset >= self.end => return Ok(None),
                // Until what is open has ended: the broker says so, or gives it up.
                Ok(Delivery::End { .. } | Delivery::Assigned { .. } | Delivery::Revoked { .. }) => {
                }
                Ok(Delivery::Lost { .. }) => {
                    return Err(Error::OtherLog {
                        at: self.at.clone(),
                        what: "it was deleted".into(),
                    });
                }
                Err(error) if error.is_transient() => {
                    tokio::time::sleep(super::epoch::pause_before_retry(0)).await;
                }
                Err(error) => {
                    return Err(error).doing(|| format!("cannot read the changelog {}", self.at));
                }
            }
        }
    }
}

/// Calls until it answers with anything but a transient error.
pub(crate) async fn retrying<T, F>(mut call: impl FnMut() -> F) -> tidemill_broker::Result<T>
where
    F: Future<Output = tidemill_broker::Result<T>>,
{
    let mut tries = 0;
    loop {
        match call().await {
            Err(error) if error.is_transient() => {
                warn!(%error, tries, "trying again");
                tokio::time::sleep(super::epoch::pause_before_retry(tries)).await;
                tries += 1;
            }
            answer => return answer,
        }
    }
}

/// Where an input is to be read from.
#[derive(Debug)]
pub(crate) struct Resume {
    pub(crate) next: Offset,
    /// Records that were gone before they were read, if the file says to go on: up to where.
    pub(crate) gap: Option<Offset>,
}

/// Finds where to go on in an input, and that it is still the log that was read.
pub(crate) async fn resume(
    broker: &dyn Broker,
    at: &TopicPartition,
    identity: Option<tidemill_broker::TopicIdentity>,
    known: Option<&MarkedInput>,
    group_offset: Option<Offset>,
    start: StartAt,
    on_gap: OnGap,
) -> Result<Resume> {
    let ends = retrying(|| broker.watermarks(at))
        .await
        .doing(|| format!("cannot look at {at}"))?;
    let Some(known) = known else {
        if let Some(offset) = group_offset {
            return Err(Error::OtherLog {
                at: at.clone(),
                what: format!("the group has committed offset {offset}, but there is no marker"),
            });
        }
        let next = match start {
            StartAt::Earliest => ends.low,
            StartAt::Latest => ends.last_stable,
            StartAt::Time(time) => {
                let time = tidemill_broker::Timestamp(time);
                retrying(|| broker.offset_at(at, time))
                    .await
                    .doing(|| format!("cannot look up a time in {at}"))?
            }
        };
        return Ok(Resume { next, gap: None });
    };
    let next = known.next();
    if known.identity() != identity {
        return Err(Error::OtherLog {
            at: at.clone(),
            what: "it was deleted and created again".into(),
        });
    }
    if let Some(offset) = group_offset.filter(|offset| *offset != next) {
        return Err(Error::OtherLog {
            at: at.clone(),
            what: format!("the group has committed offset {offset}, the marker says {next}"),
        });
    }
    if next > ends.high {
        return Err(Error::OtherLog {
            at: at.clone(),
            what: format!("it ends at offset {}, but was read up to {next}", ends.high),
        });
    }
    if next < ends.low {
        return match on_gap {
            OnGap::Halt => Err(Error::Gap {
                at: at.clone(),
                asked: next,
                low: ends.low,
            }),
            OnGap::Skip => Ok(Resume {
                next: ends.low,
                gap: Some(next),
            }),
        };
    }
    Ok(Resume { next, gap: None })
}

/// The topic of a pipeline's own with this suffix.
pub(crate) fn own_topic(pipeline: &Topic, suffix: &str) -> Result<Topic> {
    let name = format!("{pipeline}.{suffix}");
    Topic::new(&name).map_err(|error| Error::Plan {
        what: error.to_string(),
    })
}
