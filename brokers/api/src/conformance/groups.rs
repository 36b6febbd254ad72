//! Clauses on consumer groups.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::Subject;
use super::kit::*;
use crate::{Broker, ConsumerOptions, Error, Offset, Start, Subscription, TopicPartition};

/// Contract: a subscription to topics needs a group.
pub async fn a_subscription_without_a_group_is_refused(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    let options = ConsumerOptions {
        subscription: Subscription::Topics(vec![topic("t")]),
        ..ConsumerOptions::partitions(Vec::new())
    };
    match broker.consumer(options).await {
        Err(Error::Invalid { .. } | Error::Unsupported { .. }) => {}
        other => panic!("a subscription without a group answered {other:?}"),
    }
}

/// Contract: where a group has committed nothing there is no offset.
pub async fn nothing_is_committed_at_first(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 2).await;
    produce(&*broker, &at("t", 0), ["a"]).await;
    let both = [at("t", 0), at("t", 1)];
    assert_eq!(
        broker.committed(&group("g"), &both).await.unwrap(),
        [None, None]
    );
    let mut member = Reader::join(subject, &*broker, "g", &["t"]).await;
    member.assigned().await;
    member.commit(&at("t", 1), 0).await.unwrap();
    assert_eq!(
        broker.committed(&group("g"), &both).await.unwrap(),
        [None, Some(Offset(0))]
    );
    assert_eq!(broker.committed(&group("g"), &[]).await.unwrap(), []);
}

/// Contract: a committed offset belongs to its group and outlives its members.
pub async fn committed_offsets_belong_to_their_group(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 1).await;
    for (name, offset) in [("g", 3), ("h", 5)] {
        let mut member = Reader::join(subject, &*broker, name, &["t"]).await;
        member.assigned().await;
        member.commit(&at("t", 0), offset).await.unwrap();
    }
    for (name, offset) in [("g", Some(Offset(3))), ("h", Some(Offset(5))), ("i", None)] {
        let committed = broker.committed(&group(name), &[at("t", 0)]).await;
        assert_eq!(committed.unwrap(), [offset]);
    }
}

/// Contract: the latest commit counts, also backwards.
pub async fn the_latest_commit_counts_also_backwards(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 1).await;
    let mut member = Reader::join(subject, &*broker, "g", &["t"]).await;
    member.assigned().await;
    for offset in [3, 9, 2] {
        member.commit(&at("t", 0), offset).await.unwrap();
        let committed = broker.committed(&group("g"), &[at("t", 0)]).await;
        assert_eq!(committed.unwrap(), [Some(Offset(offset))]);
    }
}

/// Contract: a lone member gets every partition of its topics, and is told before their records
/// come.
pub async fn a_lone_member_gets_every_partition_before_its_records(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 3).await;
    create(&*broker, "u", 1).await;
    produce(&*broker, &at("t", 1), ["a"]).await;
    let mut member = Reader::join(subject, &*broker, "g", &["t", "u"]).await;
    assert_eq!(texts(&member.read(1).await), ["a"]);
    let all = [at("t", 0), at("t", 1), at("t", 2), at("u", 0)];
    assert_eq!(member.owned, BTreeSet::from(all));
    assert!(member.generation.is_some());
}

/// Contract: a member starts at its group's committed offset, whatever start it asked for; that
/// counts where nothing is committed.
pub async fn a_member_starts_where_its_group_committed(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 2).await;
    produce(&*broker, &at("t", 0), numbered("p", 10)).await;
    produce(&*broker, &at("t", 1), numbered("q", 10)).await;
    let mut member = Reader::join(subject, &*broker, "g", &["t"]).await;
    member.read(20).await;
    member.commit(&at("t", 0), 7).await.unwrap();
    drop(member);
    let mut member = Reader::join(subject, &*broker, "g", &["t"]).await;
    let read = member.read(13).await;
    let of = |partition: u32| -> Vec<String> {
        let of_one = read.iter().filter(|read| read.at.partition == partition);
        of_one.map(Read::text).collect()
    };
    assert_eq!(of(0), numbered("p", 10)[7..]);
    assert_eq!(of(1), numbered("q", 10));
}

/// Contract: a member that asks to start where nothing is committed is told so, and the partition is
/// silent.
pub async fn a_member_without_committed_offset_is_told_so(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 1).await;
    produce(&*broker, &at("t", 0), ["a"]).await;
    let options = ConsumerOptions::group(group("g"), vec![topic("t")], Start::Committed);
    let mut member = Reader::open(subject, &*broker, options).await;
    match member.error().await {
        Error::NoCommittedOffset {
            group: name,
            at: named,
        } => assert_eq!((name, named), (group("g"), at("t", 0))),
        error => panic!("failed with `{error}`"),
    }
    member.stays_quiet().await;
    assert_eq!(member.reads, []);
    member.consumer.seek(&at("t", 0), Offset(0)).await.unwrap();
    assert_eq!(texts(&member.read(1).await), ["a"]);
}

/// Contract: the members of a group share the partitions, each to one of them, all under one
/// generation and each under its own member name.
pub async fn two_members_share_the_partitions(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 4).await;
    let mut first = Reader::join(subject, &*broker, "g", &["t"]).await;
    first.assigned().await;
    let mut second = Reader::join(subject, &*broker, "g", &["t"]).await;
    converge(subject, &mut [&mut first, &mut second], 4).await;
    assert_eq!(first.owned.len(), 2, "{:?}", first.owned);
    assert_eq!(second.owned.len(), 2, "{:?}", second.owned);
    let (one, other) = (first.generation.unwrap(), second.generation.unwrap());
    assert_eq!(one.number, other.number);
    assert_ne!(one, other);
}

/// Contract: partitions of one number in topics of one size come to one member.
pub async fn equal_partitions_of_two_topics_come_to_one_member(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 5).await;
    create(&*broker, "u", 5).await;
    let mut first = Reader::join(subject, &*broker, "g", &["t", "u"]).await;
    let mut second = Reader::join(subject, &*broker, "g", &["t", "u"]).await;
    converge(subject, &mut [&mut first, &mut second], 10).await;
    for member in [&first, &second] {
        let numbers = |name: &str| -> Vec<u32> {
            let of_topic = member.owned.iter().filter(|at| at.topic == topic(name));
            of_topic.map(|at| at.partition).collect()
        };
        assert_eq!(numbers("t"), numbers("u"));
        assert!(!numbers("t").is_empty());
    }
}

/// Contract: many members that come at once settle, and what one leaves the others share.
pub async fn many_members_share_the_partitions(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 12).await;
    let mut members = Vec::new();
    for _ in 0..5 {
        members.push(Reader::join(subject, &*broker, "g", &["t"]).await);
    }
    while !members.is_empty() {
        let mut all: Vec<&mut Reader<'_>> = members.iter_mut().collect();
        converge(subject, &mut all, 12).await;
        let sizes: Vec<usize> = members.iter().map(|member| member.owned.len()).collect();
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        assert!(most - least <= 1, "{sizes:?}");
        members.remove(members.len() / 2);
    }
}

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

/// Contract: a member that is silent beyond its session is taken for dead: its partitions go to the
/// others, its commits are fenced, and it learns of it when it asks again. One that waits for news
/// is not silent.
pub async fn a_silent_member_is_taken_for_dead(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 4).await;
    let session = Duration::from_secs(10);
    let options = || ConsumerOptions {
        session_timeout: session,
        ..member_options("g", &["t"], Duration::from_secs(6))
    };
    let mut silent = Reader::open(subject, &*broker, options()).await;
    let mut other = Reader::open(subject, &*broker, options()).await;
    converge(subject, &mut [&mut silent, &mut other], 4).await;
    let former = silent.generation.clone();
    let Some(mine) = silent.owned.first().cloned() else {
        panic!("a member got nothing");
    };
    let until = Instant::now() + session * 2 + subject.patient();
    while other.owned.len() < 4 {
        assert!(
            Instant::now() < until,
            "the silent member kept its partitions"
        );
        other.next_if_any().await;
    }
    assert!(other.lost.is_empty(), "the other waited, and was lost");
    stale(
        silent
            .consumer
            .commit(former.as_ref(), &[(mine.clone(), Offset(1))])
            .await,
        former.as_ref(),
    );
    let committed = broker.committed(&group("g"), &[mine]).await;
    assert_eq!(committed.unwrap(), [None]);
    // It joins anew, as if it were another.
    converge(subject, &mut [&mut silent, &mut other], 4).await;
    assert!(!silent.lost.is_empty(), "it was not told that it lost them");
}

/// Contract: what a member did not commit is delivered again to the next owner, and nothing is
/// skipped.
pub async fn what_a_member_did_not_commit_goes_to_the_next(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 2).await;
    for partition in 0..2 {
        produce(&*broker, &at("t", partition), numbered("", 10)).await;
    }
    let mut first = Reader::join(subject, &*broker, "g", &["t"]).await;
    first.read(20).await;
    first.commit(&at("t", 0), 4).await.unwrap();
    let mut second = Reader::join(subject, &*broker, "g", &["t"]).await;
    converge(subject, &mut [&mut first, &mut second], 2).await;
    drop(first);
    converge(subject, &mut [&mut second], 2).await;
    let seen = |reader: &Reader<'_>, partition: u32| -> BTreeSet<u64> {
        let of_one = reader
            .reads
            .iter()
            .filter(|read| read.at.partition == partition);
        of_one.map(|read| read.offset.0).collect()
    };
    while seen(&second, 0).len() < 6 || seen(&second, 1).len() < 10 {
        second.next().await;
    }
    assert_eq!(seen(&second, 0), (4..10).collect());
    assert_eq!(seen(&second, 1), (0..10).collect());
}

/// Contract: a partition that stays through a rebalance keeps its position: nothing of it is
/// delivered twice.
pub async fn a_partition_that_stays_keeps_its_position(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 2).await;
    for partition in 0..2 {
        produce(&*broker, &at("t", partition), numbered("", 10)).await;
    }
    let mut first = Reader::join(subject, &*broker, "g", &["t"]).await;
    first.read(20).await;
    let mut second = Reader::join(subject, &*broker, "g", &["t"]).await;
    converge(subject, &mut [&mut first, &mut second], 2).await;
    let stayed: Vec<_> = first
        .owned
        .iter()
        .filter(|at| !first.revoked.contains(at) && !first.lost.contains(at))
        .cloned()
        .collect();
    for at in &stayed {
        produce(&*broker, at, ["more"]).await;
    }
    while !stayed.is_empty() && first.reads.last().is_none_or(|read| read.text() != "more") {
        first.next().await;
    }
    for at in &stayed {
        let of_one = first.reads.iter().filter(|read| read.at == *at);
        assert_eq!(of_one.count(), 11, "each record of {at} once");
    }
}

/// Contract: a member that returns under its stable name takes over its former self's partitions and
/// fences it.
pub async fn a_member_that_returns_under_its_name_fences_its_former_self(subject: &Subject) {
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 4).await;
    let named = |name: &str| ConsumerOptions {
        instance: Some(name.to_owned()),
        ..member_options("g", &["t"], Duration::from_secs(30))
    };
    let mut former = Reader::open(subject, &*broker, named("one")).await;
    let mut other = Reader::open(subject, &*broker, named("two")).await;
    converge(subject, &mut [&mut former, &mut other], 4).await;
    let (owned, generation) = (former.owned.clone(), former.generation.clone());
    let mut present = Reader::open(subject, &*broker, named("one")).await;
    converge(subject, &mut [&mut present, &mut other], 4).await;
    assert_eq!(present.owned, owned);
    let offsets = [(owned.first().unwrap().clone(), Offset(1))];
    stale(
        former.consumer.commit(generation.as_ref(), &offsets).await,
        generation.as_ref(),
    );
    assert!(former.error().await.is_fenced());
    present.commit(owned.first().unwrap(), 1).await.unwrap();
}

/// Contract: while members come and go each record is processed before an offset behind it is
/// committed, whatever else is processed twice.
pub async fn nothing_is_lost_while_members_come_and_go(subject: &Subject) {
    const PARTITIONS: u32 = 4;
    const ROUNDS: usize = 12;
    let broker = subject.broker().await;
    if !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", PARTITIONS).await;
    let mut processed: BTreeSet<(u32, u64)> = BTreeSet::new();
    let mut members: Vec<Reader<'_>> = Vec::new();
    for round in 0..ROUNDS {
        for partition in 0..PARTITIONS {
            produce(&*broker, &at("t", partition), numbered("", 10)).await;
        }
        if round % 3 == 2 {
            members.remove(0);
        } else {
            members.push(Reader::join(subject, &*broker, "g", &["t"]).await);
        }
        for _ in 0..3 {
            for member in &mut members {
                process(member, &mut processed).await;
            }
        }
    }
    let mut all: Vec<&mut Reader<'_>> = members.iter_mut().collect();
    converge(subject, &mut all, PARTITIONS as usize).await;
    for partition in 0..PARTITIONS {
        let at = at("t", partition);
        let committed = broker
            .committed(&group("g"), std::slice::from_ref(&at))
            .await;
        let Some(next) = committed.unwrap()[0] else {
            continue;
        };
        assert!(next.0 > 0);
        for offset in 0..next.0.min(10 * ROUNDS as u64) {
            assert!(
                processed.contains(&(partition, offset)),
                "{at}@{offset} was not processed, and {next} is committed"
            );
        }
    }
}

/// Takes what comes while it is quiet, and commits what was processed of it.
async fn process(member: &mut Reader<'_>, processed: &mut BTreeSet<(u32, u64)>) {
    let from = member.reads.len();
    let _ = member.next_if_any().await;
    let mut offsets: Vec<(TopicPartition, Offset)> = Vec::new();
    for read in &member.reads[from..] {
        processed.insert((read.at.partition, read.offset.0));
        offsets.retain(|(at, _)| *at != read.at);
        offsets.push((read.at.clone(), read.offset.next()));
    }
    let generation = member.generation.clone();
    match member.consumer.commit(generation.as_ref(), &offsets).await {
        Ok(()) => {}
        Err(error) if error.is_fenced() || error.is_transient() => {}
        Err(error) => panic!("a commit failed: {error}"),
    }
}
