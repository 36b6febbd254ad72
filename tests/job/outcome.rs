//! What a job has written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use tidemill::broker::{Broker as _, BrokerExt as _, Start, Topic, TopicPartition};
use tidemill::pipeline::{MARKER_KEY, Marker};
use tidemill_broker_file::{FileBroker, FileOptions};

use super::Job;

/// A record of an output topic.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Written {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<u8>,
    time: i64,
    /// What tells it from every other output: the same whenever the same input led to it.
    pub(crate) id: Vec<u8>,
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        f.debug_struct("Written")
            .field("key", &self.key.as_deref().map(text))
            .field("value", &self.value.as_deref().map(text))
            .field("headers", &self.headers.escape_ascii().to_string())
            .field("time", &self.time)
            .finish()
    }
}

/// What a task remembers, by the keys of its changelog.
pub(crate) type Elements = BTreeMap<Bytes, Bytes>;

/// Everything that a job has written, by topic and partition, and its last marker of each task.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) outputs: BTreeMap<(String, u32), Vec<Written>>,
    pub(crate) markers: BTreeMap<u32, Marker>,
    /// Of each task the marker before that, where it is still there.
    pub(crate) markers_before: BTreeMap<u32, Marker>,
    /// The changelog of each task, replayed from its begin.
    pub(crate) states: BTreeMap<u32, Elements>,
    /// Records in the input.
    pub(crate) input: u64,
}

impl Outcome {
    /// Reads it from the log, as its next owner would: what a reader beside it sees may be less.
    pub(crate) fn read(job: &Job) -> Result<Self, String> {
        Self::read_logs(&job.logs())
    }

    /// Reads it from these logs.
    pub(crate) fn read_logs(logs: &[PathBuf]) -> Result<Self, String> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(read(logs))
            .map_err(|error| format!("cannot read what was written: {error}"))
    }

    /// What was written, without what was written before under the same id.
    pub(crate) fn without_repeats(mut self) -> Self {
        for written in self.outputs.values_mut() {
            let mut seen = BTreeSet::new();
            written.retain(|one| seen.insert(one.id.clone()));
        }
        self
    }

    /// How many records differ in the outputs, where, and what the first difference is.
    pub(crate) fn difference(&self, expected: &Self) -> Option<String> {
        for (at, expected) in &expected.outputs {
            let found = self.outputs.get(at).map_or(&[][..], Vec::as_slice);
            if found != expected {
                let first = found.iter().zip(expected).position(|(a, b)| a != b);
                let first = first.unwrap_or(found.len().min(expected.len()));
                return Some(format!(
                    "{at:?} has {} records instead of {}; record {first} is {:?} instead of {:?}",
                    found.len(),
                    expected.len(),
                    found.get(first),
                    expected.get(first)
                ));
            }
        }
        self.state_difference(expected)
    }

    /// What was written twice, out of order, or should not have been at all.
    pub(crate) fn surplus(&self, expected: &Self) -> Option<String> {
        for (at, found) in &self.outputs {
            // In order: what is expected, with gaps.
            let mut left = expected.outputs.get(at).into_iter().flatten();
            if let Some(one) = found.iter().find(|one| !left.any(|other| other == *one)) {
                return Some(format!("{at:?} has {one:?} too much, or out of order"));
            }
        }
        None
    }

    /// Where the state, or how far the input was read, differs.
    pub(crate) fn state_difference(&self, expected: &Self) -> Option<String> {
        let of = |outcome: &Self| -> Vec<_> {
            let markers = outcome.markers.iter();
            let told = markers.map(|(task, marker)| {
                let next: Vec<u64> = marker.inputs.iter().map(|input| input.next).collect();
                (*task, next, marker.digest, marker.sequences.clone())
            });
            told.collect()
        };
        let (found, expected) = (of(self), of(expected));
        (found != expected).then(|| format!("the state is {found:?} instead of {expected:?}"))
    }

    /// Epochs that were committed, of all tasks.
    pub(crate) fn epochs(&self) -> u64 {
        self.markers.values().map(|marker| marker.epoch.0).sum()
    }
}

async fn read(logs: &[PathBuf]) -> tidemill::broker::Result<Outcome> {
    let mut outcome = Outcome::default();
    for log in logs {
        let broker = FileBroker::open(log, FileOptions::default()).await?;
        for topic in broker.list_topics().await? {
            let partitions = broker.describe_topic(&topic).await?.partitions;
            for partition in 0..partitions {
                let at = TopicPartition::new(topic.clone(), partition);
                read_partition(&broker, &topic, &at, &mut outcome).await?;
            }
        }
        broker.close().await?;
    }
    Ok(outcome)
}

async fn read_partition(
    broker: &FileBroker,
    topic: &Topic,
    at: &TopicPartition,
    outcome: &mut Outcome,
) -> tidemill::broker::Result<()> {
    match topic.as_str() {
        "ticks" | "others" => outcome.input += broker.watermarks(at).await?.last_stable.0,
        "job.changelog" => {
            let state = outcome.states.entry(at.partition).or_default();
            for batch in broker.read_to_end(at, Start::Earliest).await? {
                for record in batch.iter() {
                    let key = record.key.unwrap();
                    if key == MARKER_KEY {
                        let marker = Marker::decode(record.value.unwrap_or_default()).unwrap();
                        let before = outcome.markers.insert(at.partition, marker);
                        if let Some(before) = before {
                            outcome.markers_before.insert(at.partition, before);
                        }
                        continue;
                    }
                    let key = Bytes::copy_from_slice(key);
                    match record.value {
                        Some(value) => state.insert(key, Bytes::copy_from_slice(value)),
                        None => state.remove(&key),
                    };
                }
            }
        }
        "bars-1s" | "bars-10s" | "trades" | "job.dead-letter" => {
            let mut all = Vec::new();
            for batch in broker.read_to_end(at, Start::Earliest).await? {
                all.extend(batch.iter().map(|record| {
                    Written {
                        key: record.key.map(<[u8]>::to_vec),
                        value: record.value.map(<[u8]>::to_vec),
                        headers: record.encoded_headers().to_vec(),
                        time: record.timestamp.0,
                        id: record
                            .headers()
                            .find(|(name, _)| ["event-id", "dl-id"].contains(name))
                            .map(|(_, id)| id.to_vec())
                            .unwrap_or_default(),
                    }
                }));
            }
            let place = (at.topic.to_string(), at.partition);
            outcome.outputs.insert(place, all);
        }
        _ => {}
    }
    Ok(())
}
