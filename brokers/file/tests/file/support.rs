//! What the tests share.

use std::time::Duration;

use tidemill_broker::{
    Broker, BrokerExt, Headers, RecordSet, Start, Timestamp, Topic, TopicPartition, TopicSpec,
};

pub(crate) fn topic(name: &str) -> Topic {
    name.parse().unwrap()
}

pub(crate) fn at(name: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(topic(name), partition)
}

pub(crate) async fn create(broker: &dyn Broker, name: &str, partitions: u32) {
    let spec = TopicSpec::new(topic(name), partitions.try_into().unwrap());
    broker.create_topic(&spec).await.unwrap();
}

/// A set of records with these values.
pub(crate) fn set<V: AsRef<[u8]>>(
    at: TopicPartition,
    values: impl IntoIterator<Item = V>,
) -> RecordSet {
    let mut set = RecordSet::new(at);
    for value in values {
        set.push(
            Some(Timestamp(7)),
            Some(b"key"),
            Some(value.as_ref()),
            &Headers::new(),
        );
    }
    set
}

/// Offsets and values of everything in a partition.
pub(crate) async fn read(
    broker: &dyn Broker,
    at: &TopicPartition,
    from: Start,
) -> Vec<(u64, String)> {
    let batches = broker.read_to_end(at, from).await.unwrap();
    batches
        .iter()
        .flat_map(|batch| {
            batch.iter().map(|record| {
                let value = record.value.unwrap_or(b"<none>");
                (record.offset.0, String::from_utf8_lossy(value).into_owned())
            })
        })
        .collect()
}

/// Lets paused time pass, with whatever falls due meanwhile: nobody waits.
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

pub(crate) fn numbered(range: std::ops::Range<u64>) -> Vec<(u64, String)> {
    range.map(|n| (n, format!("v{n}"))).collect()
}

pub(crate) fn values(range: std::ops::Range<u64>) -> impl Iterator<Item = String> {
    range.map(|n| format!("v{n}"))
}
