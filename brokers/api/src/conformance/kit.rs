//! What the clauses are written with.

mod drops;
mod group;
mod reader;

use std::num::NonZeroU32;

pub(super) use drops::Drops;
pub(super) use group::{
    broker_with_groups, broker_with_offsets_in_transactions, by_hand_for, committed_by, converge,
    has_groups, join_and_share, member_options, stale, two_members,
};
pub(super) use reader::{Came, Reader, soon};

use super::{Need, Subject};
use crate::{
    Batch, Broker, Cleanup, Error, Group, Headers, Offset, Outcome, RecordSet, Rejection, Result,
    Start, Timestamp, Topic, TopicPartition, TopicSpec, Transaction, TransactionalId, Transactor,
};

pub(super) fn topic(name: &str) -> Topic {
    Topic::new(name).expect("a topic's name")
}

pub(super) fn group(name: &str) -> Group {
    Group::new(name).expect("a group's name")
}

pub(super) fn id(name: &str) -> TransactionalId {
    TransactionalId::new(name).expect("a transactional id")
}

pub(super) fn at(name: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(topic(name), partition)
}

pub(super) fn spec(name: &str, partitions: u32) -> TopicSpec {
    TopicSpec::new(
        topic(name),
        NonZeroU32::new(partitions).expect("a partition"),
    )
}

pub(super) async fn create(broker: &dyn Broker, name: &str, partitions: u32) {
    broker
        .create_topic(&spec(name, partitions))
        .await
        .expect("a topic is created");
}

pub(super) async fn create_with(
    broker: &dyn Broker,
    name: &str,
    partitions: u32,
    cleanup: Cleanup,
) {
    broker
        .create_topic(&spec(name, partitions).cleanup(cleanup))
        .await
        .expect("a topic is created");
}

/// A set of records with these payloads, each its own key.
pub(super) fn set<V: AsRef<str>>(
    at: &TopicPartition,
    values: impl IntoIterator<Item = V>,
) -> RecordSet {
    let mut set = RecordSet::new(at.clone());
    for value in values {
        let value = value.as_ref().as_bytes();
        set.push(None, Some(value), Some(value), &Headers::new());
    }
    set
}

/// Produces records with these payloads and returns the offset of the first.
pub(super) async fn produce<V: AsRef<str>>(
    broker: &dyn Broker,
    at: &TopicPartition,
    values: impl IntoIterator<Item = V>,
) -> Offset {
    produce_set(broker, set(at, values)).await
}

/// Creates a topic that has records with these payloads in each of its partitions.
pub(super) async fn create_with_records<V: AsRef<str>>(
    broker: &dyn Broker,
    name: &str,
    partitions: u32,
    values: &[V],
) {
    create(broker, name, partitions).await;
    for partition in 0..partitions {
        produce(broker, &at(name, partition), values).await;
    }
}

/// Produces a set of at least one record and returns the offset of the first.
pub(super) async fn produce_set(broker: &dyn Broker, set: RecordSet) -> Offset {
    let mut acks = broker.produce(vec![set]).await.expect("records are taken");
    assert_eq!(acks.len(), 1, "one answer for one set");
    let first = acks.remove(0).into_result().expect("records are appended");
    first.expect("an offset for the first record")
}

/// `count` payloads: the prefix and a number.
pub(super) fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{prefix}{index}")).collect()
}

/// A record read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) at: TopicPartition,
    pub(super) offset: Offset,
    pub(super) timestamp: Timestamp,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Vec<u8>)>,
}

impl Read {
    pub(super) fn text(&self) -> String {
        let value = self.value.as_deref().expect("a payload");
        String::from_utf8(value.to_vec()).expect("text")
    }
}

pub(super) fn read_of(batch: &Batch) -> Vec<Read> {
    let reads: Vec<Read> = batch
        .iter()
        .map(|record| Read {
            at: batch.at().clone(),
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers()
                .map(|(name, value)| (name.to_owned(), value.to_vec()))
                .collect(),
        })
        .collect();
    for pair in reads.windows(2) {
        assert!(pair[0].offset < pair[1].offset, "offsets rise in a batch");
    }
    if let Some(last) = reads.last() {
        assert!(
            batch.next() > last.offset,
            "a batch's next is after its last record"
        );
    }
    reads
}

pub(super) fn texts(reads: &[Read]) -> Vec<String> {
    reads.iter().map(Read::text).collect()
}

/// The first `count` records of a partition.
pub(super) async fn read(
    subject: &Subject,
    broker: &dyn Broker,
    at: &TopicPartition,
    count: usize,
) -> Vec<Read> {
    let start = vec![(at.clone(), Start::Earliest)];
    let mut reader = Reader::by_hand(subject, broker, start).await;
    let mut reads = reader.read(count).await;
    reads.extend(reader.read_to_end().await);
    assert_eq!(reads.len(), count, "records of {at}: {reads:?}");
    reads
}

/// The payloads of the first `count` records of a partition, which has no more.
pub(super) async fn read_texts(
    subject: &Subject,
    broker: &dyn Broker,
    at: &TopicPartition,
    count: usize,
) -> Vec<String> {
    texts(&read(subject, broker, at, count).await)
}

/// Opens a transactional id, or checks that the broker refuses to.
pub(super) async fn transactor(
    subject: &Subject,
    broker: &dyn Broker,
    name: &str,
) -> Option<Box<dyn Transactor>> {
    let opened = broker.transactor(&id(name)).await;
    if subject.has(broker, Need::Transactions) {
        return Some(opened.expect("a transactional id is opened"));
    }
    refuses(opened);
    None
}

#[track_caller]
pub(super) fn refuses<T>(result: Result<T>) {
    match result {
        Err(Error::Unsupported { .. }) => {}
        Err(error) => panic!("refused with `{error}` instead of as unsupported"),
        Ok(_) => panic!("did what it says it cannot"),
    }
}

/// A transaction of records alone.
pub(super) fn of_records(records: Vec<RecordSet>) -> Transaction {
    Transaction {
        records,
        offsets: Vec::new(),
    }
}

#[track_caller]
pub(super) fn committed(outcome: Outcome) -> Vec<crate::Appended> {
    match outcome {
        Outcome::Committed(appended) => appended,
        other => panic!("not committed: {other:?}"),
    }
}

#[track_caller]
pub(super) fn rejected(outcome: Outcome) -> Rejection {
    match outcome {
        Outcome::NotCommitted(rejection) => rejection,
        other => panic!("not rejected: {other:?}"),
    }
}

#[track_caller]
pub(super) fn fenced<T>(result: Result<T>) {
    match result {
        Err(error) if error.is_fenced() => {}
        Err(error) => panic!("failed with `{error}` instead of being fenced"),
        Ok(_) => panic!("was not fenced"),
    }
}
