//! Clauses on consumer groups: what they have committed, and how their members share the partitions.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Subject;
use super::kit::*;
use crate::{ConsumerOptions, Error, Offset, Start, Subscription};

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

/// Contract: a member without any time to answer is refused: it would be expelled whenever somebody looks.
pub async fn a_member_without_time_is_refused(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create(&*broker, "t", 1).await;
    let (none, some) = (Duration::ZERO, Duration::from_secs(6));
    for (session_timeout, revoke) in [(none, some), (some, none)] {
        let options = ConsumerOptions {
            session_timeout,
            ..member_options("g", &["t"], revoke)
        };
        match broker.consumer(options).await {
            Err(Error::Invalid { .. }) => {}
            other => panic!("a member without time answered {other:?}"),
        }
    }
}

/// Contract: a member may have all the time there is.
pub async fn a_member_may_take_for_ever(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create(&*broker, "t", 2).await;
    let options = || ConsumerOptions {
        session_timeout: Duration::MAX,
        ..member_options("g", &["t"], Duration::MAX)
    };
    let mut first = Reader::open(subject, &*broker, options()).await;
    first.assigned().await;
    let mut second = Reader::open(subject, &*broker, options()).await;
    let permit = first.revocation().await;
    subject.pass(Duration::from_secs(60)).await;
    let goes = first.revoked[0].clone();
    first.commit(&goes, 0).await.unwrap();
    drop(permit);
    converge(subject, &mut [&mut first, &mut second], 2).await;
    assert_eq!(first.lost, []);
}

/// Contract: where a group has committed nothing there is no offset.
pub async fn nothing_is_committed_at_first(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create(&*broker, "t", 2).await;
    produce(&*broker, &at("t", 0), ["a"]).await;
    let both = [at("t", 0), at("t", 1)];
    assert_eq!(committed_by(&*broker, "g", &both).await, [None, None]);
    let mut member = Reader::join(subject, &*broker, "g", &["t"]).await;
    member.assigned().await;
    member.commit(&at("t", 1), 0).await.unwrap();
    assert_eq!(
        committed_by(&*broker, "g", &both).await,
        [None, Some(Offset(0))]
    );
    assert_eq!(committed_by(&*broker, "g", &[]).await, []);
}

/// Contract: a committed offset belongs to its group and outlives its members.
pub async fn committed_offsets_belong_to_their_group(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create(&*broker, "t", 1).await;
    for (name, offset) in [("g", 3), ("h", 5)] {
        let mut member = Reader::join(subject, &*broker, name, &["t"]).await;
        member.assigned().await;
        member.commit(&at("t", 0), offset).await.unwrap();
    }
    for (name, offset) in [("g", Some(Offset(3))), ("h", Some(Offset(5))), ("i", None)] {
        assert_eq!(committed_by(&*broker, name, &[at("t", 0)]).await, [offset]);
    }
}

/// Contract: the latest commit counts, also backwards.
pub async fn the_latest_commit_counts_also_backwards(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create(&*broker, "t", 1).await;
    let mut member = Reader::join(subject, &*broker, "g", &["t"]).await;
    member.assigned().await;
    for offset in [3, 9, 2] {
        member.commit(&at("t", 0), offset).await.unwrap();
        let committed = committed_by(&*broker, "g", &[at("t", 0)]).await;
        assert_eq!(committed, [Some(Offset(offset))]);
    }
}

/// Contract: a lone member gets every partition of its topics, and is told before their records
/// come.
pub async fn a_lone_member_gets_every_partition_before_its_records(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
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
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
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
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
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
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create(&*broker, "t", 4).await;
    let mut first = Reader::join(subject, &*broker, "g", &["t"]).await;
    first.assigned().await;
    let second = join_and_share(subject, &*broker, &mut first, "t", 4).await;
    assert_eq!(first.owned.len(), 2, "{:?}", first.owned);
    assert_eq!(second.owned.len(), 2, "{:?}", second.owned);
    let (one, other) = (first.generation.unwrap(), second.generation.unwrap());
    assert_eq!(one.number, other.number);
    assert_ne!(one, other);
}

/// Contract: partitions of one number in topics of one size come to one member.
pub async fn equal_partitions_of_two_topics_come_to_one_member(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
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
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
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
