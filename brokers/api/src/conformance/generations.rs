//! Clauses on what a member may commit: generations, and the permits of what is taken from it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Subject;
use super::kit::*;
use crate::{Broker, ConsumerOptions, Offset, Start, TopicPartition};

/// Contract: a commit under a former generation is fenced.
pub async fn a_former_generation_is_fenced(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create(&*broker, "t", 4).await;
    let mut first = Reader::join(subject, &*broker, "g", &["t"]).await;
    let former = first.assigned().await;
    let _second = join_and_share(subject, &*broker, &mut first, "t", 4).await;
    let stays = first.owned.first().unwrap().clone();
    first.cannot_commit(Some(&former), &[&stays]).await;
    assert_eq!(
        committed_by(&*broker, "g", std::slice::from_ref(&stays)).await,
        [None]
    );
    first.commit(&stays, 1).await.unwrap();
}

/// Contract: a commit for a partition of another member is fenced, and nothing of the call is
/// committed.
pub async fn another_partition_is_fenced_and_nothing_is_committed(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create(&*broker, "t", 2).await;
    let (mut first, second) = two_members(subject, &*broker, "t", 2).await;
    let own = first.owned.first().unwrap().clone();
    let other = second.owned.first().unwrap().clone();
    let generation = first.generation.clone();
    first
        .cannot_commit(generation.as_ref(), &[&own, &other])
        .await;
    assert_eq!(
        committed_by(&*broker, "g", &[own, other]).await,
        [None, None]
    );
}

/// Contract: an offset committed without generation is fenced while the group has members, and taken
/// once it has none.
pub async fn a_commit_without_generation_is_fenced_while_there_are_members(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create(&*broker, "t", 1).await;
    let mut member = Reader::join(subject, &*broker, "g", &["t"]).await;
    member.assigned().await;
    let part = vec![(at("t", 0), Start::Earliest)];
    let mut by_hand = Reader::open(subject, &*broker, by_hand_for("g", part)).await;
    let offsets = [(at("t", 0), Offset(1))];
    fenced(by_hand.consumer.commit(None, &offsets).await);
    fenced(member.consumer.commit(None, &offsets).await);
    assert_eq!(committed_by(&*broker, "g", &[at("t", 0)]).await, [None]);
    drop(member);
    soon(subject, "the member to be gone", async {
        while by_hand.consumer.commit(None, &offsets).await.is_err() {
            subject.pass(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert_eq!(
        committed_by(&*broker, "g", &[at("t", 0)]).await,
        [Some(Offset(1))]
    );
}

/// Contract: after *revoked* no record of those partitions is delivered, also none fetched before,
/// until they are assigned again.
pub async fn no_record_of_a_revoked_partition_is_delivered(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create_with_records(&*broker, "t", 4, &numbered("", 500)).await;
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
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
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
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    let (mut first, mut second, goes, permit) =
        revoked(subject, &*broker, Duration::from_secs(30)).await;
    let former = first.generation.clone();
    drop(permit);
    first.cannot_commit(former.as_ref(), &[&goes]).await;
    converge(subject, &mut [&mut first, &mut second], 2).await;
    first.cannot_commit(former.as_ref(), &[&goes]).await;
    assert_eq!(committed_by(&*broker, "g", &[goes]).await, [None]);
}

/// Contract: a permit given back fences its partitions at once, also while another member keeps its
/// own and the round goes on; that one may still commit.
pub async fn a_permit_given_back_fences_while_others_keep_theirs(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create_with_records(&*broker, "t", 6, &["a"]).await;
    let (mut first, mut second) = two_members(subject, &*broker, "t", 6).await;
    first.revoked.clear();
    second.revoked.clear();
    let mut third = Reader::join(subject, &*broker, "g", &["t"]).await;
    let given_back = first.revocation().await;
    let kept = second.revocation().await;
    drop(given_back);
    let generation = first.generation.clone();
    let no_more_its_own = first.revoked[0].clone();
    first
        .cannot_commit(generation.as_ref(), &[&no_more_its_own])
        .await;
    let still_its_own = second.revoked[0].clone();
    second.commit(&still_its_own, 1).await.unwrap();
    drop(kept);
    converge(subject, &mut [&mut first, &mut second, &mut third], 6).await;
    assert_eq!(
        committed_by(&*broker, "g", &[no_more_its_own, still_its_own]).await,
        [None, Some(Offset(1))]
    );
}

/// Contract: a permit kept beyond its deadline loses its partitions: they go to another, commits for
/// them are fenced, and the late member learns of it.
pub async fn a_permit_kept_too_long_loses_its_partitions(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
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
    first.cannot_commit(former.as_ref(), &[&goes]).await;
    drop(permit);
    first.cannot_commit(former.as_ref(), &[&goes]).await;
    assert_eq!(committed_by(&*broker, "g", &[goes]).await, [None]);
    // It joins anew, as if it were another.
    converge(subject, &mut [&mut first, &mut second], 2).await;
}
