//! Clauses on what a member may commit: generations, and the permits of what is taken from it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Subject;
use super::kit::*;
use crate::{Broker, ConsumerOptions, Offset, Start, TopicPartition};

/// Contract: a commit under a former generation is fenced.
pub async fn a_former_generation_is_fenced(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 4).await;
    let mut first = Reader::join(subject, &*broker, "g", &["t"]).await;
    let former = first.assigned().await;
    let mut second = Reader::join(subject, &*broker, "g", &["t"]).await;
    converge(subject, &mut [&mut first, &mut second], 4).await;
    let stays = first.owned.first().unwrap().clone();
    let offsets = [(stays.clone(), Offset(1))];
    stale(
        first.consumer.commit(Some(&former), &offsets).await,
        Some(&former),
    );
    let committed = broker
        .committed(&group("g"), std::slice::from_ref(&stays))
        .await;
    assert_eq!(committed.unwrap(), [None]);
    first.commit(&stays, 1).await.unwrap();
}

/// Contract: a commit for a partition of another member is fenced, and nothing of the call is
/// committed.
pub async fn another_partition_is_fenced_and_nothing_is_committed(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 2).await;
    let mut first = Reader::join(subject, &*broker, "g", &["t"]).await;
    let mut second = Reader::join(subject, &*broker, "g", &["t"]).await;
    converge(subject, &mut [&mut first, &mut second], 2).await;
    let own = first.owned.first().unwrap().clone();
    let other = second.owned.first().unwrap().clone();
    let generation = first.generation.clone();
    let offsets = [(own.clone(), Offset(1)), (other.clone(), Offset(1))];
    stale(
        first.consumer.commit(generation.as_ref(), &offsets).await,
        generation.as_ref(),
    );
    let committed = broker.committed(&group("g"), &[own, other]).await;
    assert_eq!(committed.unwrap(), [None, None]);
}

/// Contract: an offset committed without generation is fenced while the group has members, and taken
/// once it has none.
pub async fn a_commit_without_generation_is_fenced_while_there_are_members(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 1).await;
    let mut member = Reader::join(subject, &*broker, "g", &["t"]).await;
    member.assigned().await;
    let part = vec![(at("t", 0), Start::Earliest)];
    let mut by_hand = Reader::open(subject, &*broker, by_hand_for("g", part)).await;
    let offsets = [(at("t", 0), Offset(1))];
    fenced(by_hand.consumer.commit(None, &offsets).await);
    fenced(member.consumer.commit(None, &offsets).await);
    let committed = broker.committed(&group("g"), &[at("t", 0)]).await;
    assert_eq!(committed.unwrap(), [None]);
    drop(member);
    soon(subject, "the member to be gone", async {
        while by_hand.consumer.commit(None, &offsets).await.is_err() {
            subject.pass(Duration::from_millis(100)).await;
        }
    })
    .await;
    let committed = broker.committed(&group("g"), &[at("t", 0)]).await;
    assert_eq!(committed.unwrap(), [Some(Offset(1))]);
}

/// Contract: after *revoked* no record of those partitions is delivered, also none fetched before,
/// until they are assigned again.
pub async fn no_record_of_a_revoked_partition_is_delivered(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 4).await;
    for partition in 0..4 {
        produce(&*broker, &at("t", partition), numbered("", 500)).await;
    }
    let options = || ConsumerOptions {
        batch_records_max: 10,
        ..member_options("g", &["t"], Duration::from_secs(30))
    };
    let mut first = Reader::open(subject, &*broker, options()).await;
    first.read(50).await;
    let mut second = Reader::open(subject, &*broker, options()).await;
    let permit = first.revocation().await;
    let revoked: BTreeSet<TopicPartition> = first.revoked.iter().cloned().collect();
    assert!(!revoked.is_empty());
    for at in &revoked {
        assert_eq!(first.consumer.position(at), None);
    }
    // `Reader` asserts that records come only of what is assigned.
    for _ in 0..20 {
        if first.next_if_any().await.is_none() {
            break;
        }
    }
    drop(permit);
    converge(subject, &mut [&mut first, &mut second], 4).await;
}

/// What a member was asked to give back, and the permit for it, with a second member on its way in.
async fn revoked<'a>(
    subject: &'a Subject,
    broker: &dyn Broker,
    deadline: Duration,
) -> (Reader<'a>, Reader<'a>, TopicPartition, crate::Permit) {
    create(broker, "t", 2).await;
    let options = || member_options("g", &["t"], deadline);
    let mut first = Reader::open(subject, broker, options()).await;
    first.assigned().await;
    let second = Reader::open(subject, broker, options()).await;
    let permit = first.revocation().await;
    let goes = first.revoked.last().unwrap().clone();
    (first, second, goes, permit)
}

/// Contract: until the permit is given back the partition's offsets may be committed, and the next
/// owner starts behind them.
pub async fn the_holder_of_a_permit_may_commit(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    let (mut first, mut second, goes, permit) =
        revoked(subject, &*broker, Duration::from_secs(30)).await;
    produce(&*broker, &goes, numbered("", 5)).await;
    assert!(permit.deadline() > tokio::time::Instant::now());
    first.commit(&goes, 3).await.unwrap();
    drop(permit);
    converge(subject, &mut [&mut first, &mut second], 2).await;
    let owner = if first.owned.contains(&goes) {
        &mut first
    } else {
        &mut second
    };
    while owner.reads.len() < 2 {
        owner.next().await;
    }
    assert_eq!(texts(&owner.reads), ["3", "4"]);
}

/// Contract: once the permit is given back commits for its partitions are fenced.
pub async fn a_permit_given_back_fences(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    let (mut first, mut second, goes, permit) =
        revoked(subject, &*broker, Duration::from_secs(30)).await;
    let former = first.generation.clone();
    drop(permit);
    let offsets = [(goes.clone(), Offset(1))];
    stale(
        first.consumer.commit(former.as_ref(), &offsets).await,
        former.as_ref(),
    );
    converge(subject, &mut [&mut first, &mut second], 2).await;
    stale(
        first.consumer.commit(former.as_ref(), &offsets).await,
        former.as_ref(),
    );
    let committed = broker.committed(&group("g"), &[goes]).await;
    assert_eq!(committed.unwrap(), [None]);
}

/// Contract: a permit given back fences its partitions at once, also while another member keeps its
/// own and the round goes on; that one may still commit.
pub async fn a_permit_given_back_fences_while_others_keep_theirs(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 6).await;
    for partition in 0..6 {
        produce(&*broker, &at("t", partition), ["a"]).await;
    }
    let mut first = Reader::join(subject, &*broker, "g", &["t"]).await;
    let mut second = Reader::join(subject, &*broker, "g", &["t"]).await;
    converge(subject, &mut [&mut first, &mut second], 6).await;
    first.revoked.clear();
    second.revoked.clear();
    let mut third = Reader::join(subject, &*broker, "g", &["t"]).await;
    let given_back = first.revocation().await;
    let kept = second.revocation().await;
    drop(given_back);
    let generation = first.generation.clone();
    let offsets = [(first.revoked[0].clone(), Offset(1))];
    stale(
        first.consumer.commit(generation.as_ref(), &offsets).await,
        generation.as_ref(),
    );
    let still_its_own = second.revoked[0].clone();
    second.commit(&still_its_own, 1).await.unwrap();
    drop(kept);
    converge(subject, &mut [&mut first, &mut second, &mut third], 6).await;
    let asked = [first.revoked[0].clone(), still_its_own];
    let committed = broker.committed(&group("g"), &asked).await;
    assert_eq!(committed.unwrap(), [None, Some(Offset(1))]);
}

/// Contract: a permit kept beyond its deadline loses its partitions: they go to another, commits for
/// them are fenced, and the late member learns of it.
pub async fn a_permit_kept_too_long_loses_its_partitions(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    let deadline = Duration::from_secs(6);
    let (mut first, mut second, goes, permit) = revoked(subject, &*broker, deadline).await;
    let former = first.generation.clone();
    subject.pass(deadline + Duration::from_secs(1)).await;
    soon(subject, "the partition to change hands", async {
        while !second.owned.contains(&goes) {
            second.next().await;
        }
    })
    .await;
    let offsets = [(goes.clone(), Offset(1))];
    stale(
        first.consumer.commit(former.as_ref(), &offsets).await,
        former.as_ref(),
    );
    drop(permit);
    stale(
        first.consumer.commit(former.as_ref(), &offsets).await,
        former.as_ref(),
    );
    let committed = broker.committed(&group("g"), &[goes]).await;
    assert_eq!(committed.unwrap(), [None]);
    // It joins anew, as if it were another.
    converge(subject, &mut [&mut first, &mut second], 2).await;
}
