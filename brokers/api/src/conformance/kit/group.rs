//! Groups and their members.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Came, Reader, at, group, refuses, topic, transactor};
use crate::conformance::{Need, Subject};
use crate::{
    Broker, ConsumerOptions, Generation, Offset, Result, Start, Subscription, TopicPartition,
    Transactor,
};

/// A fresh broker that has groups; where it has none, checks that it refuses them.
pub(in crate::conformance) async fn broker_with_groups(
    subject: &Subject,
) -> Option<Arc<dyn Broker>> {
    let broker = subject.broker().await;
    has_groups(subject, &*broker).await.then_some(broker)
}

/// Whether the broker has groups; otherwise checks that it refuses them.
pub(in crate::conformance) async fn has_groups(subject: &Subject, broker: &dyn Broker) -> bool {
    if subject.has(broker, Need::Groups) {
        return true;
    }
    let options = ConsumerOptions::group(group("g"), vec![topic("refused")], Start::Earliest);
    refuses(broker.consumer(options).await);
    refuses(broker.committed(&group("g"), &[at("refused", 0)]).await);
    false
}

/// A fresh broker that takes a group's offsets into a transaction, and the owner of an id on it; where
/// it takes none, checks that it refuses whichever part it lacks.
pub(in crate::conformance) async fn broker_with_offsets_in_transactions(
    subject: &Subject,
) -> Option<(Arc<dyn Broker>, Box<dyn Transactor>)> {
    let broker = broker_with_groups(subject).await?;
    let transactor = transactor(subject, &*broker, "id").await?;
    subject
        .has(&*broker, Need::OffsetsInTransaction)
        .then_some((broker, transactor))
}

/// Options of a member with a deadline for its permits.
pub(in crate::conformance) fn member_options(
    name: &str,
    topics: &[&str],
    revoke: Duration,
) -> ConsumerOptions {
    let topics = topics.iter().map(|name| topic(name)).collect();
    ConsumerOptions {
        revoke_deadline: revoke,
        ..ConsumerOptions::group(group(name), topics, Start::Earliest)
    }
}

/// Options that read partitions by hand and keep offsets for a group.
pub(in crate::conformance) fn by_hand_for(
    name: &str,
    partitions: Vec<(TopicPartition, Start)>,
) -> ConsumerOptions {
    ConsumerOptions {
        group: Some(group(name)),
        subscription: Subscription::Partitions(partitions.clone()),
        ..ConsumerOptions::partitions(partitions)
    }
}

/// Has another join the group `g` and share the `count` partitions of a topic with its only member.
pub(in crate::conformance) async fn join_and_share<'a>(
    subject: &'a Subject,
    broker: &dyn Broker,
    first: &mut Reader<'a>,
    name: &str,
    count: usize,
) -> Reader<'a> {
    let mut second = Reader::join(subject, broker, "g", &[name]).await;
    converge(subject, &mut [first, &mut second], count).await;
    second
}

/// Two members of the group `g` that share the `count` partitions of a topic.
pub(in crate::conformance) async fn two_members<'a>(
    subject: &'a Subject,
    broker: &dyn Broker,
    name: &str,
    count: usize,
) -> (Reader<'a>, Reader<'a>) {
    let mut first = Reader::join(subject, broker, "g", &[name]).await;
    let second = join_and_share(subject, broker, &mut first, name, count).await;
    (first, second)
}

/// Lets members of one group settle until they share `count` partitions under one generation.
pub(in crate::conformance) async fn converge(
    subject: &Subject,
    members: &mut [&mut Reader<'_>],
    count: usize,
) {
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

/// What a group has committed for each of these.
pub(in crate::conformance) async fn committed_by(
    broker: &dyn Broker,
    name: &str,
    partitions: &[TopicPartition],
) -> Vec<Option<Offset>> {
    let committed = broker.committed(&group(name), partitions).await;
    committed.expect("a group's offsets are told")
}

/// Checks that the group `g` refused offsets because of this very generation.
#[track_caller]
pub(in crate::conformance) fn stale<T>(result: Result<T>, generation: Option<&Generation>) {
    match result {
        Err(error) if error.is_stale(&group("g"), generation) => assert!(error.is_fenced()),
        Err(error) => panic!("failed with `{error}` instead of a stale generation"),
        Ok(_) => panic!("took offsets of a stale generation"),
    }
}
