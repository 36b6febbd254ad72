//! Clauses on what outlives a broker's process: what was synced is there when it is opened again.

use super::kit::*;
use super::{Need, Subject};
use crate::Offset;

/// Contract: records that were synced are there, under their offsets, and no offset is used again.
pub async fn records_are_there_when_it_is_opened_again(subject: &Subject) {
    let broker = subject.broker().await;
    if !subject.has(&*broker, Need::Durability) {
        return;
    }
    create(&*broker, "t", 2).await;
    produce(&*broker, &at("t", 1), numbered("a", 50)).await;
    broker.sync().await.unwrap();
    let before = read(subject, &*broker, &at("t", 1), 50).await;
    let broker = subject.again(broker).await;
    assert_eq!(read(subject, &*broker, &at("t", 1), 50).await, before);
    let next = produce(&*broker, &at("t", 1), ["b"]).await;
    assert!(next > before[49].offset);
    let all = read_texts(subject, &*broker, &at("t", 1), 51).await;
    assert_eq!(all[50], "b");
    read(subject, &*broker, &at("t", 0), 0).await;
}

/// Contract: a transaction that was synced is there whole, and its id can be opened.
pub async fn a_transaction_is_there_when_it_is_opened_again(subject: &Subject) {
    let mut broker = subject.broker().await;
    if !subject.has(&*broker, Need::Durability)
        || transactor(subject, &*broker, "id").await.is_none()
    {
        return;
    }
    create(&*broker, "t", 2).await;
    for round in 1..=3 {
        let mut transactor = broker.transactor(&id("id")).await.unwrap();
        let sets = (0..2).map(|partition| set(&at("t", partition), [round.to_string()]));
        let _ = committed(transactor.commit(of_records(sets.collect())).await);
        broker.sync().await.unwrap();
        drop(transactor);
        broker = subject.again(broker).await;
        for partition in 0..2 {
            let values = read_texts(subject, &*broker, &at("t", partition), round).await;
            assert_eq!(values.last(), Some(&round.to_string()));
        }
    }
}

/// Contract: a generation of a former life of the broker is stale, also where the group has come as far again.
pub async fn a_generation_of_a_former_life_is_fenced(subject: &Subject) {
    let mut broker = subject.broker().await;
    if !subject.has(&*broker, Need::Durability) || !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 1).await;
    broker.sync().await.unwrap();
    let mut former = None;
    for _ in 0..2 {
        let mut member = Reader::join(subject, &*broker, "g", &["t"]).await;
        let present = member.assigned().await;
        if let Some(former) = former.replace(present) {
            member.cannot_commit(Some(&former), &[&at("t", 0)]).await;
            member.commit(&at("t", 0), 0).await.unwrap();
        }
        drop(member);
        broker = subject.again(broker).await;
    }
}

/// Contract: what a group committed is there, and its next member starts at it.
pub async fn committed_offsets_are_there_when_it_is_opened_again(subject: &Subject) {
    let broker = subject.broker().await;
    if !subject.has(&*broker, Need::Durability) || !has_groups(subject, &*broker).await {
        return;
    }
    create(&*broker, "t", 1).await;
    produce(&*broker, &at("t", 0), numbered("", 5)).await;
    let mut member = Reader::join(subject, &*broker, "g", &["t"]).await;
    member.assigned().await;
    member.commit(&at("t", 0), 3).await.unwrap();
    broker.sync().await.unwrap();
    drop(member);
    let broker = subject.again(broker).await;
    assert_eq!(
        committed_by(&*broker, "g", &[at("t", 0)]).await,
        [Some(Offset(3))]
    );
    let mut member = Reader::join(subject, &*broker, "g", &["t"]).await;
    assert_eq!(texts(&member.read(2).await), ["3", "4"]);
}

/// Contract: topics are those that were there, as they were described; none that was deleted returns.
pub async fn topics_are_the_same_when_it_is_opened_again(subject: &Subject) {
    let broker = subject.broker().await;
    if !subject.has(&*broker, Need::Durability) {
        return;
    }
    for name in ["a", "b", "c"] {
        create(&*broker, name, 3).await;
    }
    produce(&*broker, &at("c", 0), ["old"]).await;
    for name in ["b", "c"] {
        broker.delete_topic(&topic(name)).await.unwrap();
    }
    create(&*broker, "c", 2).await;
    broker.sync().await.unwrap();
    let listed = broker.list_topics().await.unwrap();
    let mut described = Vec::new();
    for name in &listed {
        described.push(broker.describe_topic(name).await.unwrap());
    }
    let broker = subject.again(broker).await;
    assert_eq!(broker.list_topics().await.unwrap(), listed);
    for former in described {
        let now = broker.describe_topic(&former.name).await.unwrap();
        assert_eq!(now, former);
    }
    read(subject, &*broker, &at("c", 0), 0).await;
}
