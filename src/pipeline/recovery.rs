//! Recovery: from log and store to a task that goes on where its last marker says.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidemill_broker::{
    Batch, Broker, Consumer, ConsumerOptions, Delivery, Offset, Start, Topic, TopicPartition,
};
use tidemill_state::{Digest, Epoch, Recovered, State, TableId, crash_point};
use tracing::{info, warn};

use super::error::Doing;
use super::{Error, InputPosition, MARKER_KEY, Marker, Result, TaskId};
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

fn decode_marker(at: &TopicPartition, offset: Offset, bytes: &[u8]) -> Result<Marker> {
    Marker::decode(bytes).map_err(|error| Error::OtherLog {
        at: at.clone(),
        what: format!("the record at offset {offset} is no marker: {error}"),
    })
}

/// Reads a changelog partition, batch by batch, from some offset to its present end.
pub(crate) struct Changelog<'a> {
    at: &'a TopicPartition,
    consumer: Box<dyn Consumer>,
}

impl<'a> Changelog<'a> {
    pub(crate) async fn open(
        broker: &dyn Broker,
        at: &'a TopicPartition,
        from: Start,
    ) -> Result<Self> {
        let options = ConsumerOptions::partitions(vec![(at.clone(), from)]);
        let consumer = retrying(|| broker.consumer(options.clone())).await;
        let consumer = consumer.doing(|| format!("cannot read the changelog {at}"))?;
        Ok(Self { at, consumer })
    }

    /// The next batch; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Batch>> {
        loop {
            match self.consumer.next().await {
                Ok(Delivery::Records(batch)) => return Ok(Some(batch)),
                Ok(Delivery::End { .. }) => return Ok(None),
                Ok(Delivery::Assigned { .. } | Delivery::Revoked { .. }) => {}
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

/// Brings a state up to the last marker of its changelog partition. Before each batch it is asked
/// whether to go on.
///
/// # Errors
///
/// If store and log contradict each other; what `go_on` says.
pub(crate) async fn redo(
    broker: &dyn Broker,
    at: &TopicPartition,
    task: TaskId,
    state: &State,
    recovered: &Recovered,
    go_on: &(dyn Fn() -> Result<()> + Sync),
) -> Result<Option<Marker>> {
    let ends = retrying(|| broker.watermarks(at))
        .await
        .doing(|| format!("cannot look at {at}"))?;
    let from = match recovered.epoch {
        Some(_) => Offset(recovered.changelog_offset),
        None => ends.low,
    };
    let store = match &recovered.store.path {
        Some(path) => format!("its store {}", path.display()),
        None => "its store".to_owned(),
    };
    if from > ends.high {
        let advice = advice(broker, at).await?;
        let what = format!(
            "{store} follows the changelog up to offset {from}, but {at} ends at {}: {advice}",
            ends.high
        );
        return Err(Error::Contradiction { task, what });
    }
    crash_point!("recover.begin");
    // The last epoch of the log, which is durable; once something does not fit into memory.
    let mut spill_to = None;
    let mut last = None;
    let mut redone = 0_u64;
    let mut changelog = Changelog::open(broker, at, Start::Offset(from.max(ends.low))).await?;
    while let Some(batch) = changelog.next().await? {
        go_on()?;
        let slab = batch.slab();
        for record in batch.iter() {
            let Some(key) = record.key else { continue };
            let value = record.value.map(|value| slab.slice_ref(value));
            if key == MARKER_KEY {
                last = value.map(|value| (value, record.offset));
            } else {
                // Copied: a key that stays must not pin its batch.
                let value = value.map(|value| Bytes::copy_from_slice(&value));
                state.redo(Bytes::copy_from_slice(key), value);
                redone += 1;
            }
        }
        if state.is_full() {
            // What does not fit is written to the store, which may then hold something of any epoch
            // up to the last.
            let epoch = match spill_to {
                Some(epoch) => epoch,
                None => last_durable(broker, at, from).await?,
            };
            spill_to = Some(epoch);
            let spilled = state.write_behind().spill(epoch).await;
            spilled.map_err(|source| Error::State { task, source })?;
        }
    }
    let Some((bytes, offset)) = last else {
        return match recovered.newest().filter(|epoch| *epoch > Epoch::NONE) {
            None => {
                let begun = state.finish_redo(Epoch::NONE, from.0, Digest::EMPTY).await;
                begun
                    .map(|()| None)
                    .map_err(|source| Error::State { task, source })
            }
            Some(epoch) => {
                let advice = advice(broker, at).await?;
                Err(Error::Contradiction {
                    task,
                    what: format!(
                        "{store} has seen epoch {epoch}, but {at} has no marker from offset {from} on: {advice}"
                    ),
                })
            }
        };
    };
    let marker = decode_marker(at, offset, &bytes)?;
    state
        .finish_redo(marker.epoch, offset.0, marker.digest)
        .await
        .map_err(|source| Error::State { task, source })?;
    crash_point!("recover.redone");
    info!(%task, epoch = %marker.epoch, redone, "recovered");
    Ok(Some(marker))
}

/// What to do about a store that has seen more than its changelog holds. Where the changelog holds
/// nothing at all, there is nothing to go on from without the store either.
async fn advice(broker: &dyn Broker, at: &TopicPartition) -> Result<&'static str> {
    Ok(match last_marker(broker, at, Offset::START).await? {
        Some(_) => {
            "the log lost something; restore it, or take the store away to go on from the log"
        }
        None => {
            "the changelog was deleted; restore it, or `tidemill offsets reset` makes the pipeline start anew"
        }
    })
}

/// The last epoch of a changelog, after the log was made durable.
async fn last_durable(broker: &dyn Broker, at: &TopicPartition, from: Offset) -> Result<Epoch> {
    retrying(|| broker.sync())
        .await
        .doing(|| format!("cannot make {at} durable"))?;
    let marker = last_marker(broker, at, from).await?;
    Ok(marker.map_or(Epoch::NONE, |(marker, _)| marker.epoch))
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
    known: Option<&InputPosition>,
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
