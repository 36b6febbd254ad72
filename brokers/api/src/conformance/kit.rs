//! What the clauses are written with.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Need, Subject};
use crate::{
    Batch, Broker, Cleanup, Consumer, ConsumerOptions, Delivery, Error, Generation, Group, Headers,
    Offset, Outcome, Permit, RecordSet, Rejection, Result, Start, Subscription, Timestamp, Topic,
    TopicPartition, TopicSpec, Transaction, TransactionalId, Transactor,
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

/// What must come within the subject's patience.
pub(super) async fn soon<T>(subject: &Subject, what: &str, future: impl Future<Output = T>) -> T {
    match timeout(subject.patient(), future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// A consumer and what it has been told.
pub(super) struct Reader<'a> {
    pub(super) subject: &'a Subject,
    pub(super) consumer: Box<dyn Consumer>,
    /// The whole present assignment.
    pub(super) owned: BTreeSet<TopicPartition>,
    pub(super) generation: Option<Generation>,
    /// Every record delivered.
    pub(super) reads: Vec<Read>,
    pub(super) revoked: Vec<TopicPartition>,
    pub(super) lost: Vec<TopicPartition>,
    pub(super) ends: Vec<(TopicPartition, Offset)>,
    /// How often each partition was assigned anew.
    next: BTreeMap<TopicPartition, Offset>,
}

/// What came of waiting once.
#[derive(Debug)]
pub(super) enum Came {
    Assigned,
    /// So many of them.
    Records(usize),
    Revoked(Permit),
    Lost,
    End,
    Error(Error),
}

impl<'a> Reader<'a> {
    pub(super) async fn open(
        subject: &'a Subject,
        broker: &dyn Broker,
        options: ConsumerOptions,
    ) -> Self {
        let consumer = soon(subject, "a consumer", broker.consumer(options))
            .await
            .expect("a consumer is opened");
        Self {
            subject,
            consumer,
            owned: BTreeSet::new(),
            generation: None,
            reads: Vec::new(),
            revoked: Vec::new(),
            lost: Vec::new(),
            ends: Vec::new(),
            next: BTreeMap::new(),
        }
    }

    /// Reads partitions by hand.
    pub(super) async fn by_hand(
        subject: &'a Subject,
        broker: &dyn Broker,
        partitions: Vec<(TopicPartition, Start)>,
    ) -> Self {
        Self::open(subject, broker, ConsumerOptions::partitions(partitions)).await
    }

    /// Joins a group, from the beginning where nothing is committed.
    pub(super) async fn join(
        subject: &'a Subject,
        broker: &dyn Broker,
        name: &str,
        topics: &[&str],
    ) -> Self {
        let topics = topics.iter().map(|name| topic(name)).collect();
        let options = ConsumerOptions::group(group(name), topics, Start::Earliest);
        Self::open(subject, broker, options).await
    }

    /// Takes in a delivery and checks what every delivery must keep.
    pub(super) fn take(&mut self, delivery: Result<Delivery>) -> Came {
        match delivery {
            Ok(Delivery::Records(batch)) => {
                assert!(
                    self.owned.contains(batch.at()),
                    "records of {} come only while it is assigned",
                    batch.at()
                );
                let reads = read_of(&batch);
                if let (Some(first), Some(next)) = (reads.first(), self.next.get(batch.at())) {
                    assert!(first.offset >= *next, "{} goes on where it was", batch.at());
                }
                self.next.insert(batch.at().clone(), batch.next());
                let count = reads.len();
                self.reads.extend(reads);
                Came::Records(count)
            }
            Ok(Delivery::Assigned {
                generation,
                partitions,
            }) => {
                let owned: BTreeSet<_> = partitions.iter().cloned().collect();
                assert_eq!(owned.len(), partitions.len(), "each partition once");
                self.next.retain(|at, _| owned.contains(at));
                self.owned = owned;
                self.generation = generation;
                Came::Assigned
            }
            Ok(Delivery::Revoked { partitions, permit }) => {
                for at in &partitions {
                    assert!(self.owned.remove(at), "{at} was assigned before it goes");
                    self.next.remove(at);
                }
                self.revoked.extend(partitions);
                Came::Revoked(permit)
            }
            Ok(Delivery::Lost { partitions }) => {
                for at in &partitions {
                    self.owned.remove(at);
                    self.next.remove(at);
                }
                self.lost.extend(partitions);
                Came::Lost
            }
            Ok(Delivery::End { partition, offset }) => {
                assert!(
                    self.owned.contains(&partition),
                    "an end comes only while its partition is assigned"
                );
                self.ends.push((partition, offset));
                Came::End
            }
            Err(error) => Came::Error(error),
        }
    }

    /// What comes next; it must come.
    pub(super) async fn next(&mut self) -> Came {
        let delivery = soon(self.subject, "a delivery", self.consumer.next()).await;
        self.take(delivery)
    }

    /// What comes while it is quiet, if anything does.
    pub(super) async fn next_if_any(&mut self) -> Option<Came> {
        let delivery = timeout(self.subject.calm(), self.consumer.next())
            .await
            .ok()?;
        Some(self.take(delivery))
    }

    /// Waits until `count` more records were delivered; gives permits back at once.
    pub(super) async fn read(&mut self, count: usize) -> Vec<Read> {
        let from = self.reads.len();
        while self.reads.len() < from + count {
            match self.next().await {
                Came::Error(error) if error.is_transient() => {}
                Came::Error(error) => panic!("reading failed: {error}"),
                _ => {}
            }
        }
        assert_eq!(self.reads.len(), from + count, "no more than expected");
        self.reads[from..].to_vec()
    }

    /// Waits for the next end of any partition.
    pub(super) async fn read_to_end(&mut self) -> Vec<Read> {
        let from = self.reads.len();
        loop {
            match self.next().await {
                Came::End => return self.reads[from..].to_vec(),
                Came::Error(error) if error.is_transient() => {}
                Came::Error(error) => panic!("reading failed: {error}"),
                _ => {}
            }
        }
    }

    /// Waits for the next assignment; gives permits back at once.
    pub(super) async fn assigned(&mut self) -> Generation {
        loop {
            match self.next().await {
                Came::Assigned => return self.generation.clone().expect("a generation"),
                Came::Error(error) if error.is_transient() => {}
                Came::Error(error) => panic!("waiting for an assignment failed: {error}"),
                _ => {}
            }
        }
    }

    /// Waits for the next revocation.
    pub(super) async fn revocation(&mut self) -> Permit {
        loop {
            match self.next().await {
                Came::Revoked(permit) => return permit,
                Came::Error(error) if error.is_transient() => {}
                Came::Error(error) => panic!("waiting for a revocation failed: {error}"),
                _ => {}
            }
        }
    }

    /// Waits for an error that is not transient.
    pub(super) async fn error(&mut self) -> Error {
        loop {
            match self.next().await {
                Came::Error(error) if error.is_transient() => {}
                Came::Error(error) => return error,
                _ => {}
            }
        }
    }

    /// Commits under the present generation.
    pub(super) async fn commit(&mut self, at: &TopicPartition, offset: u64) -> Result<()> {
        let generation = self.generation.clone();
        self.consumer
            .commit(generation.as_ref(), &[(at.clone(), Offset(offset))])
            .await
    }

    /// Checks that neither a record nor an error comes.
    pub(super) async fn stays_quiet(&mut self) {
        // An end may be due, of each partition once.
        for _ in 0..=self.owned.len() {
            match self.next_if_any().await {
                None => return,
                Some(Came::End) => {}
                Some(other) => panic!("came {other:?} where nothing was to come"),
            }
        }
        panic!("ends came without end");
    }
}

/// Lets members of one group settle until they share `count` partitions under one generation.
pub(super) async fn converge(subject: &Subject, members: &mut [&mut Reader<'_>], count: usize) {
    let until = Instant::now() + subject.patient() * 2;
    loop {
        let mut quiet = true;
        for member in members.iter_mut() {
            match member.next_if_any().await {
                None => {}
                Some(Came::Error(error)) if error.is_transient() => {}
                Some(Came::Error(error)) => panic!("a member failed: {error}"),
                Some(_) => quiet = false,
            }
        }
        let all: Vec<&TopicPartition> = members.iter().flat_map(|member| &member.owned).collect();
        let distinct: BTreeSet<&TopicPartition> = all.iter().copied().collect();
        let number = |member: &&mut Reader<'_>| member.generation.as_ref().map(|it| it.number);
        let first = members.first().and_then(number);
        let one = first.is_some() && members.iter().all(|member| number(member) == first);
        if quiet && one && all.len() == count && distinct.len() == count {
            return;
        }
        assert!(
            Instant::now() < until,
            "the group did not settle: {count} partitions, {:?}",
            members
                .iter()
                .map(|member| (&member.generation, &member.owned))
                .collect::<Vec<_>>()
        );
    }
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

/// Whether the broker has groups; otherwise checks that it refuses them.
pub(super) async fn has_groups(subject: &Subject, broker: &dyn Broker) -> bool {
    if subject.has(broker, Need::Groups) {
        return true;
    }
    let options = ConsumerOptions::group(group("g"), vec![topic("refused")], Start::Earliest);
    refuses(broker.consumer(options).await);
    refuses(broker.committed(&group("g"), &[at("refused", 0)]).await);
    false
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

/// Whether the broker takes a group's offsets into a transaction; otherwise checks that it refuses
/// whichever part it lacks.
pub(super) async fn has_offsets_in_transactions(subject: &Subject, broker: &dyn Broker) -> bool {
    has_groups(subject, broker).await
        && transactor(subject, broker, "probe").await.is_some()
        && subject.has(broker, Need::OffsetsInTransaction)
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

/// Checks that the group `g` refused offsets because of this very generation.
#[track_caller]
pub(super) fn stale<T>(result: Result<T>, generation: Option<&Generation>) {
    match result {
        Err(error) if error.is_stale(&group("g"), generation) => assert!(error.is_fenced()),
        Err(error) => panic!("failed with `{error}` instead of a stale generation"),
        Ok(_) => panic!("took offsets of a stale generation"),
    }
}

/// Polls a future once and drops it; says whether it was done.
pub(super) fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    use futures::FutureExt;
    future.now_or_never()
}

/// Options of a member with a deadline for its permits.
pub(super) fn member_options(name: &str, topics: &[&str], revoke: Duration) -> ConsumerOptions {
    let topics = topics.iter().map(|name| topic(name)).collect();
    ConsumerOptions {
        revoke_deadline: revoke,
        ..ConsumerOptions::group(group(name), topics, Start::Earliest)
    }
}

/// Options that read partitions by hand and keep offsets for a group.
pub(super) fn by_hand_for(name: &str, partitions: Vec<(TopicPartition, Start)>) -> ConsumerOptions {
    ConsumerOptions {
        group: Some(group(name)),
        subscription: Subscription::Partitions(partitions.clone()),
        ..ConsumerOptions::partitions(partitions)
    }
}
