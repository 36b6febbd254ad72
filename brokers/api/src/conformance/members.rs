//! Clauses on members that come, go, fall silent and return.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::Subject;
use super::kit::*;
use crate::{ConsumerOptions, Offset, TopicPartition};

/// Contract: a member that is silent beyond its session is taken for dead: its partitions go to the
/// others, its commits are fenced, and it learns of it when it asks again. One that waits for news
/// is not silent.
pub async fn a_silent_member_is_taken_for_dead(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
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
    silent.cannot_commit(former.as_ref(), &[&mine]).await;
    assert_eq!(committed_by(&*broker, "g", &[mine]).await, [None]);
    // It joins anew, as if it were another.
    converge(subject, &mut [&mut silent, &mut other], 4).await;
    assert!(!silent.lost.is_empty(), "it was not told that it lost them");
}

/// Contract: a member that was told something and asks no more is taken for dead once its session is
/// over, also by one that waits all the while and hears of nothing else.
pub async fn a_member_that_falls_silent_is_noticed_by_one_that_only_waits(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create(&*broker, "t", 2).await;
    let session = Duration::from_secs(4);
    let options = || ConsumerOptions {
        session_timeout: session,
        ..member_options("g", &["t"], Duration::from_secs(2))
    };
    let mut silent = Reader::open(subject, &*broker, options()).await;
    let mut other = Reader::open(subject, &*broker, options()).await;
    converge(subject, &mut [&mut silent, &mut other], 2).await;
    let Some(mine) = silent.owned.first().cloned() else {
        panic!("a member got nothing");
    };
    let noticed = async {
        while other.owned.len() < 2 {
            let delivery = other.consumer.next().await;
            other.take(delivery);
        }
    };
    let told = async {
        // Both wait by then.
        subject.pass(subject.calm()).await;
        produce(&*broker, &mine, ["a"]).await;
    };
    let falls_silent = async {
        while silent.reads.is_empty() {
            silent.next().await;
        }
    };
    let all = async { tokio::join!(noticed, told, falls_silent) };
    let within = session * 2 + subject.patient();
    assert!(
        tokio::time::timeout(within, all).await.is_ok(),
        "nobody noticed that a member fell silent"
    );
    assert!(other.lost.is_empty(), "the other waited, and was lost");
}

/// Contract: what a member did not commit is delivered again to the next owner, and nothing is
/// skipped.
pub async fn what_a_member_did_not_commit_goes_to_the_next(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create_with_records(&*broker, "t", 2, &numbered("", 10)).await;
    let mut first = Reader::join(subject, &*broker, "g", &["t"]).await;
    first.read(20).await;
    first.commit(&at("t", 0), 4).await.unwrap();
    let mut second = join_and_share(subject, &*broker, &mut first, "t", 2).await;
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
/// delivered twice. One that goes and comes back begins anew where the group committed.
pub async fn a_partition_that_stays_keeps_its_position(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create_with_records(&*broker, "t", 2, &numbered("", 10)).await;
    let mut first = Reader::join(subject, &*broker, "g", &["t"]).await;
    first.read(20).await;
    let _second = join_and_share(subject, &*broker, &mut first, "t", 2).await;
    let stayed: Vec<_> = first
        .owned
        .iter()
        .filter(|at| !first.revoked.contains(at) && !first.lost.contains(at))
        .cloned()
        .collect();
    let owned: Vec<_> = first.owned.iter().cloned().collect();
    assert!(!owned.is_empty(), "both members have a share");
    for at in owned {
        produce(&*broker, &at, ["more"]).await;
        let times = if stayed.contains(&at) { 1 } else { 2 };
        let of_one = |reader: &Reader<'_>| -> Vec<String> {
            let of_one = reader.reads.iter().filter(|read| read.at == at);
            of_one.map(Read::text).collect()
        };
        while of_one(&first).last().is_none_or(|last| last != "more") {
            first.next().await;
        }
        let each = std::iter::repeat_n(numbered("", 10), times);
        let mut expected: Vec<_> = each.flatten().collect();
        expected.push("more".to_owned());
        assert_eq!(of_one(&first), expected, "{at}");
    }
}

/// Contract: a member that returns under its stable name takes over its former self's partitions and
/// fences it.
pub async fn a_member_that_returns_under_its_name_fences_its_former_self(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
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
    let one_of_them = owned.first().unwrap();
    former
        .cannot_commit(generation.as_ref(), &[one_of_them])
        .await;
    assert!(former.error().await.is_fenced());
    present.commit(one_of_them, 1).await.unwrap();
}

/// Contract: while members come and go each record is processed before an offset behind it is
/// committed, whatever else is processed twice.
pub async fn nothing_is_lost_while_members_come_and_go(subject: &Subject) {
    const PARTITIONS: u32 = 4;
    const ROUNDS: usize = 12;
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
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
    let partitions: Vec<_> = (0..PARTITIONS)
        .map(|partition| at("t", partition))
        .collect();
    let check = |committed: &[Option<Offset>], processed: &BTreeSet<(u32, u64)>| {
        for (at, next) in partitions.iter().zip(committed) {
            for offset in 0..next.unwrap_or_default().0 {
                assert!(
                    processed.contains(&(at.partition, offset)),
                    "{at}@{offset} was not processed, and {next:?} is committed"
                );
            }
        }
    };
    let committed = committed_by(&*broker, "g", &partitions).await;
    check(&committed, &processed);
    // Those that are left get all there is.
    let end = Some(Offset(10 * ROUNDS as u64));
    soon(subject, "everything to be committed", async {
        while committed_by(&*broker, "g", &partitions).await != [end; PARTITIONS as usize] {
            for member in &mut members {
                process(member, &mut processed).await;
            }
        }
    })
    .await;
    check(&[end; PARTITIONS as usize], &processed);
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
