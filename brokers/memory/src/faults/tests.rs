//! Each fault by itself, then by chance.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::{
    Acks, Broker, BrokerExt, Class, Consumer, ConsumerOptions, Delivery, Error, Generation, Group,
    GroupOffsets, Headers, Offset, Outcome, RecordSet, Start, Timestamp, TokioClock, Topic,
    TopicPartition, TopicSpec, Transaction, TransactionalId, Transactor,
};
use tokio::time::Instant;

use super::*;
use crate::{MemoryBroker, MemoryOptions, Persona};

const SECOND: Duration = Duration::from_secs(1);

fn topic() -> Topic {
    Topic::new("t").unwrap()
}

fn at(partition: u32) -> TopicPartition {
    TopicPartition::new(topic(), partition)
}

fn group() -> Group {
    Group::new("g").unwrap()
}

async fn broker_as(persona: Persona, seed: u64) -> MemoryBroker {
    let clock = Arc::new(TokioClock::starting_at(Timestamp::from_millis(1_000_000)));
    let broker = MemoryBroker::new(MemoryOptions::new(persona, clock, seed));
    let spec = TopicSpec::new(topic(), NonZeroU32::new(2).unwrap());
    broker.create_topic(&spec).await.unwrap();
    broker
}

async fn broker() -> MemoryBroker {
    broker_as(Persona::Memory, 1).await
}

fn set(partition: u32, values: &[&str]) -> RecordSet {
    let mut set = RecordSet::new(at(partition));
    for value in values {
        let value = value.as_bytes();
        set.push(None, Some(value), Some(value), &Headers::new());
    }
    set
}

async fn produce(broker: &MemoryBroker, values: &[&str]) -> Acks {
    let mut acks = broker.produce(vec![set(0, values)]).await.unwrap();
    acks.remove(0)
}

async fn open(broker: &MemoryBroker) -> Box<dyn Transactor> {
    let id = TransactionalId::new("id").unwrap();
    broker.transactor(&id).await.unwrap()
}

fn records(values: &[&str]) -> Transaction {
    Transaction {
        records: vec![set(0, values)],
        offsets: Vec::new(),
    }
}

async fn read(broker: &MemoryBroker) -> Vec<String> {
    let batches = broker.read_to_end(&at(0), Start::Earliest).await.unwrap();
    batches
        .iter()
        .flat_map(|batch| batch.iter())
        .map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap())
        .collect()
}

async fn by_hand(broker: &MemoryBroker) -> Box<dyn Consumer> {
    let parts = vec![(at(0), Start::Earliest)];
    let mut consumer = broker
        .consumer(ConsumerOptions::partitions(parts))
        .await
        .unwrap();
    let first = consumer.next().await.unwrap();
    assert!(matches!(first, Delivery::Assigned { .. }));
    consumer
}

async fn member(broker: &MemoryBroker) -> Box<dyn Consumer> {
    let options = ConsumerOptions::group(group(), vec![topic()], Start::Earliest);
    broker.consumer(options).await.unwrap()
}

async fn assigned(consumer: &mut dyn Consumer) -> (Generation, Vec<TopicPartition>) {
    loop {
        if let Delivery::Assigned {
            generation,
            partitions,
        } = consumer.next().await.unwrap()
        {
            return (generation.unwrap(), partitions);
        }
    }
}

fn unknown(outcome: Outcome) {
    match outcome {
        Outcome::Unknown(error) => assert_eq!(error.class(), Class::UnknownOutcome),
        other => panic!("answered {other:?}"),
    }
}

fn rejection(outcome: Outcome) -> tidemill_broker::Rejection {
    match outcome {
        Outcome::NotCommitted(rejection) => rejection,
        other => panic!("answered {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_reply_is_lost_has_happened() {
    let broker = broker().await;
    let mut owner = open(&broker).await;
    broker.faults().lose_commit_reply();
    unknown(owner.commit(records(&["a"])).await);
    let refused = rejection(owner.commit(records(&["b"])).await);
    assert!(refused.error.is_fenced(), "until the id is opened again");
    let mut owner = open(&broker).await;
    assert_eq!(read(&broker).await, ["a"]);
    assert!(matches!(
        owner.commit(records(&["b"])).await,
        Outcome::Committed(_)
    ));
    assert_eq!(read(&broker).await, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_commit_has_not_happened() {
    let broker = broker().await;
    let mut owner = open(&broker).await;
    broker.faults().forget_commit();
    unknown(owner.commit(records(&["a"])).await);
    drop(open(&broker).await);
    assert_eq!(read(&broker).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_commit_dropped_before_it_answered_fences_its_owner_until_the_id_is_opened_again() {
    let broker = broker().await;
    let mut owner = open(&broker).await;
    broker.faults().delay(SECOND);
    let late = tokio::time::timeout(SECOND / 2, owner.commit(records(&["a"])));
    assert!(late.await.is_err());
    let refused = rejection(owner.commit(records(&["b"])).await);
    assert!(refused.error.is_fenced());
    let mut owner = open(&broker).await;
    assert!(matches!(
        owner.commit(records(&["c"])).await,
        Outcome::Committed(_)
    ));
    assert_eq!(read(&broker).await, ["c"]);
}

#[tokio::test(start_paused = true)]
async fn an_open_transaction_holds_readers_until_its_id_is_opened_again() {
    for (fate, expected) in [
        (Fate::Commits, &["a", "after"][..]),
        (Fate::Aborts, &["after"]),
    ] {
        let broker = broker().await;
        let mut owner = open(&broker).await;
        broker.faults().hang_commit(fate, None);
        unknown(owner.commit(records(&["a"])).await);
        produce(&broker, &["after"]).await;
        assert_eq!(read(&broker).await, Vec::<String>::new());
        let marks = broker.watermarks(&at(0)).await.unwrap();
        assert_eq!((marks.last_stable, marks.high), (Offset(0), Offset(2)));
        drop(open(&broker).await);
        assert_eq!(read(&broker).await, expected);
        let marks = broker.watermarks(&at(0)).await.unwrap();
        assert_eq!(marks.last_stable, marks.high);
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_transaction_lands_late_by_itself_and_wakes_readers() {
    let broker = broker().await;
    let mut owner = open(&broker).await;
    let mut reader = by_hand(&broker).await;
    broker.faults().hang_commit(Fate::Commits, Some(3 * SECOND));
    unknown(owner.commit(records(&["a"])).await);
    let before = Instant::now();
    assert!(matches!(reader.next().await.unwrap(), Delivery::End { .. }));
    match reader.next().await.unwrap() {
        Delivery::Records(batch) => assert_eq!(batch.get(0).value, Some(&b"a"[..])),
        other => panic!("came {other:?}"),
    }
    assert_eq!(before.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn offsets_of_an_open_transaction_are_not_told_and_hold_the_next_reader() {
    let broker = broker().await;
    produce(&broker, &["a", "b", "c"]).await;
    let mut owner = open(&broker).await;
    broker.faults().hang_commit(Fate::Commits, None);
    let transaction = Transaction {
        records: Vec::new(),
        offsets: vec![GroupOffsets {
            group: group(),
            generation: None,
            offsets: vec![(at(0), Offset(2))],
        }],
    };
    unknown(owner.commit(transaction).await);
    let error = broker.committed(&group(), &[at(0)]).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let mut reader = member(&broker).await;
    assigned(&mut *reader).await;
    assert_eq!(reader.position(&at(0)), None);
    drop(open(&broker).await);
    let committed = broker.committed(&group(), &[at(0)]).await.unwrap();
    assert_eq!(committed, [Some(Offset(2))]);
    loop {
        if let Delivery::Records(batch) = reader.next().await.unwrap() {
            assert_eq!(batch.get(0).value, Some(&b"c"[..]));
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn as_kafka_every_end_of_a_transaction_takes_an_offset() {
    let broker = broker_as(Persona::Kafka, 1).await;
    let mut owner = open(&broker).await;
    for value in ["a", "b"] {
        let Outcome::Committed(_) = owner.commit(records(&[value])).await else {
            panic!("not committed");
        };
    }
    broker.faults().hang_commit(Fate::Aborts, None);
    unknown(owner.commit(records(&["never"])).await);
    drop(open(&broker).await);
    produce(&broker, &["c"]).await;
    let batches = broker.read_to_end(&at(0), Start::Earliest).await.unwrap();
    let offsets: Vec<u64> = batches
        .iter()
        .flat_map(|batch| batch.iter().map(|record| record.offset.0))
        .collect();
    // 1 and 3 are control records, 4 the aborted record, 5 its control record.
    assert_eq!(offsets, [0, 2, 6]);
}

#[tokio::test(start_paused = true)]
async fn as_kafka_a_commit_may_show_after_it_was_answered_and_shows_before_the_next_of_its_id() {
    let broker = broker_as(Persona::Kafka, 1).await;
    let mut owner = open(&broker).await;
    let ends = async || {
        let ends = broker.watermarks(&at(0)).await.unwrap();
        (ends.last_stable.0, ends.high.0)
    };
    let committed = |outcome| assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    broker.faults().end_commit_late(SECOND);
    committed(owner.commit(records(&["a"])).await);
    assert_eq!(ends().await, (0, 1));
    assert_eq!(read(&broker).await, Vec::<String>::new());
    tokio::time::advance(SECOND).await;
    assert_eq!(ends().await, (2, 2));
    assert_eq!(read(&broker).await, ["a"]);

    for value in ["b", "c"] {
        broker.faults().end_commit_late(SECOND);
        committed(owner.commit(records(&[value])).await);
    }
    assert_eq!(ends().await, (4, 5));
    assert_eq!(read(&broker).await, ["a", "b"]);
    drop(open(&broker).await);
    assert_eq!(ends().await, (6, 6));
    assert_eq!(read(&broker).await, ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_produce_whose_reply_is_lost_has_happened_and_a_forgotten_one_has_not() {
    let broker = broker().await;
    broker.faults().lose_produce_reply();
    broker.faults().forget_produce();
    for value in ["a", "b"] {
        let acks = produce(&broker, &[value]).await;
        assert_eq!(acks.get(0).unwrap_err().class(), Class::UnknownOutcome);
    }
    assert_eq!(read(&broker).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_produce_is_doubled_only_where_it_is_not_idempotent() {
    for (persona, expected) in [
        (Persona::Memory, &["a"][..]),
        (Persona::Fluvio, &["a", "a"]),
    ] {
        let broker = broker_as(persona, 1).await;
        broker.faults().duplicate_produce();
        assert!(produce(&broker, &["a"]).await.failure().is_none());
        assert_eq!(read(&broker).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_takes_its_time_and_no_more() {
    let broker = broker().await;
    broker.faults().delay(7 * SECOND);
    let before = Instant::now();
    produce(&broker, &["a"]).await;
    assert_eq!(before.elapsed().as_secs(), 7);
    produce(&broker, &["b"]).await;
    assert_eq!(before.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_delivery_survives_a_reader_that_gives_up() {
    let broker = broker().await;
    produce(&broker, &["a"]).await;
    let mut reader = by_hand(&broker).await;
    broker.faults().plan(FaultPlan {
        delay: 1.0,
        delay_max: 10 * SECOND,
        ..FaultPlan::default()
    });
    let mut given_up = 0;
    loop {
        // A reader that gave up each second would wait for ever if each try drew a new delay.
        match tokio::time::timeout(SECOND / 4, reader.next()).await {
            Ok(delivery) => {
                assert!(matches!(delivery.unwrap(), Delivery::Records(_)));
                break;
            }
            Err(_) => given_up += 1,
        }
    }
    assert!((1..=40).contains(&given_up), "gave up {given_up} times");
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_is_transient_and_has_no_effect() {
    let broker = broker().await;
    let mut owner = open(&broker).await;
    produce(&broker, &["a"]).await;
    let mut reader = by_hand(&broker).await;
    broker.faults().disconnect(3);
    let refused = rejection(owner.commit(records(&["b"])).await);
    assert!(refused.error.is_transient());
    let refused = broker.produce(vec![set(0, &["c"])]).await.unwrap_err();
    assert!(refused.is_transient(), "{refused}");
    assert!(reader.next().await.unwrap_err().is_transient());
    assert!(matches!(
        reader.next().await.unwrap(),
        Delivery::Records(batch) if batch.len() == 1
    ));
    assert!(matches!(
        owner.commit(records(&["b"])).await,
        Outcome::Committed(_)
    ));
    assert_eq!(read(&broker).await, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_moved_leader_refuses_for_a_while_and_only_there() {
    let broker = broker().await;
    let mut owner = open(&broker).await;
    broker.faults().move_leader(&at(0), 2);
    let sets = vec![set(1, &["x"]), set(0, &["a"])];
    let acks = broker.produce(sets).await.unwrap();
    assert!(acks[0].failure().is_none());
    assert!(acks[1].get(0).unwrap_err().is_transient());
    let refused = rejection(owner.commit(records(&["a"])).await);
    assert!(refused.error.is_transient());
    assert!(matches!(
        owner.commit(records(&["a"])).await,
        Outcome::Committed(_)
    ));
    assert_eq!(read(&broker).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_record_is_named_and_the_others_are_taken() {
    let broker = broker().await;
    let mut owner = open(&broker).await;
    broker.faults().reject_key(&topic(), "poison");
    let acks = produce(&broker, &["a", "poison", "b"]).await;
    assert_eq!(acks.failure().map(|(index, _)| index), Some(1));
    assert_eq!(
        (acks.get(0).unwrap(), acks.get(2).unwrap()),
        (Offset(0), Offset(1))
    );
    let transaction = Transaction {
        records: vec![set(1, &["fine"]), set(0, &["c", "poison"])],
        offsets: Vec::new(),
    };
    let refused = rejection(owner.commit(transaction).await);
    assert_eq!(refused.culprit, Some((1, 1)));
    assert_eq!(refused.error.class(), Class::Permanent);
    assert_eq!(read(&broker).await, ["a", "b"]);
    broker.faults().heal();
    produce(&broker, &["poison"]).await.into_result().unwrap();
    broker.faults().reject_next(&topic(), 1);
    assert!(produce(&broker, &["c"]).await.failure().is_some());
    assert!(produce(&broker, &["c"]).await.failure().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_rebalance_takes_everything_and_gives_it_to_others() {
    let broker = broker().await;
    let mut first = member(&broker).await;
    assigned(&mut *first).await;
    let mut second = member(&broker).await;
    let Delivery::Revoked { permit, .. } = first.next().await.unwrap() else {
        panic!("nothing revoked");
    };
    drop(permit);
    let (_, before) = assigned(&mut *first).await;
    let (former, _) = assigned(&mut *second).await;
    broker.faults().rebalance(&group());
    for consumer in [&mut first, &mut second] {
        loop {
            if let Delivery::Revoked { permit, .. } = consumer.next().await.unwrap() {
                drop(permit);
                break;
            }
        }
    }
    let (_, after) = assigned(&mut *first).await;
    assert_ne!(before, after);
    let offsets = [(before[0].clone(), Offset(0))];
    let error = second.commit(Some(&former), &offsets).await.unwrap_err();
    assert!(error.is_fenced(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_expelled_member_loses_everything_and_joins_anew() {
    let broker = broker().await;
    let mut zombie = member(&broker).await;
    let (former, _) = assigned(&mut *zombie).await;
    broker.faults().expel(&group());
    let offsets = [(at(0), Offset(0))];
    let error = zombie.commit(Some(&former), &offsets).await.unwrap_err();
    assert!(error.is_fenced(), "{error}");
    match zombie.next().await.unwrap() {
        Delivery::Lost { partitions } => assert_eq!(partitions, [at(0), at(1)]),
        other => panic!("came {other:?}"),
    }
    let (present, partitions) = assigned(&mut *zombie).await;
    assert_ne!(former, present);
    assert_eq!(partitions.len(), 2);
    zombie.commit(Some(&present), &offsets).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_truncated_tail_is_told_to_readers_beyond_it_and_its_offsets_come_again() {
    let broker = broker().await;
    produce(&broker, &["a", "b", "c"]).await;
    let mut reader = by_hand(&broker).await;
    reader.next().await.unwrap();
    assert_eq!(reader.position(&at(0)), Some(Offset(3)));
    broker.faults().truncate(&at(0), Offset(1)).unwrap();
    match reader.next().await {
        Err(Error::OutOfRange { asked, high, .. }) => {
            assert_eq!((asked, high), (Offset(3), Offset(1)));
        }
        other => panic!("came {other:?}"),
    }
    assert_eq!(produce(&broker, &["B"]).await.get(0).unwrap(), Offset(1));
    assert_eq!(read(&broker).await, ["a", "B"]);
    assert!(broker.faults().truncate(&at(9), Offset(0)).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_beginning_overtakes_readers() {
    let broker = broker().await;
    produce(&broker, &["a", "b", "c"]).await;
    let mut reader = by_hand(&broker).await;
    broker.faults().drop_before(&at(0), Offset(2)).unwrap();
    match reader.next().await {
        Err(Error::OutOfRange { asked, low, .. }) => {
            assert_eq!((asked, low), (Offset(0), Offset(2)));
        }
        other => panic!("came {other:?}"),
    }
    assert_eq!(read(&broker).await, ["c"]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_deleted_under_a_group_is_lost_and_comes_back_if_created_again() {
    let broker = broker().await;
    let mut reader = member(&broker).await;
    assigned(&mut *reader).await;
    broker.faults().delete_topic(&topic()).unwrap();
    let lost = loop {
        match reader.next().await.unwrap() {
            Delivery::Lost { partitions } => break partitions,
            Delivery::End { .. } => {}
            other => panic!("came {other:?}"),
        }
    };
    assert_eq!(lost, [at(0), at(1)]);
    assert!(matches!(
        reader.next().await,
        Err(Error::UnknownTopic { .. })
    ));
    assert_eq!(assigned(&mut *reader).await.1, []);
    let spec = TopicSpec::new(topic(), NonZeroU32::MIN);
    broker.create_topic(&spec).await.unwrap();
    assert_eq!(assigned(&mut *reader).await.1, [at(0)]);
}

#[tokio::test(start_paused = true)]
async fn healing_ends_every_fault() {
    let broker = broker().await;
    let faults = broker.faults();
    let mut owner = open(&broker).await;
    faults.hang_commit(Fate::Commits, None);
    unknown(owner.commit(records(&["a"])).await);
    faults.plan(FaultPlan {
        lost_reply: 1.0,
        disconnect: 1.0,
        ..FaultPlan::default()
    });
    faults.disconnect(u64::MAX);
    faults.forget_commit();
    faults.forget_produce();
    faults.delay(SECOND);
    faults.move_leader(&at(0), 9);
    faults.reject_next(&topic(), 9);
    faults.reject_key(&topic(), "b");
    faults.heal();
    let before = Instant::now();
    produce(&broker, &["b"]).await.into_result().unwrap();
    let mut owner = open(&broker).await;
    assert!(matches!(
        owner.commit(records(&["c"])).await,
        Outcome::Committed(_)
    ));
    assert_eq!(read(&broker).await, ["a", "b", "c"]);
    assert_eq!(before.elapsed(), Duration::ZERO);
}

/// What a run under chance came to: everything read and every fault counted.
async fn run_under_chance(seed: u64) -> (Vec<String>, BTreeMap<Fault, u64>, Duration) {
    let began = Instant::now();
    let broker = broker_as(Persona::Kafka, seed).await;
    broker.faults().plan(FaultPlan::swarm(seed));
    let mut committed = Vec::new();
    let mut owner = None;
    for number in 0..60 {
        let value = number.to_string();
        let id = TransactionalId::new("id").unwrap();
        let transactor = match &mut owner {
            Some(owner) => owner,
            None => loop {
                if let Ok(opened) = broker.transactor(&id).await {
                    break owner.insert(opened);
                }
            },
        };
        match transactor.commit(records(&[&value])).await {
            Outcome::Committed(_) => committed.push(value),
            Outcome::NotCommitted(_) => {}
            Outcome::Unknown(_) => owner = None,
        }
    }
    broker.faults().heal();
    let read = read(&broker).await;
    for value in &committed {
        assert!(read.contains(value), "seed {seed}: {value} was committed");
    }
    let distinct: std::collections::BTreeSet<_> = read.iter().collect();
    assert_eq!(
        distinct.len(),
        read.len(),
        "seed {seed}: nothing is doubled"
    );
    (read, broker.faults().counts(), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn one_seed_gives_one_run() {
    let mut kinds = BTreeMap::new();
    for seed in 0..50 {
        let once = run_under_chance(seed).await;
        assert_eq!(once, run_under_chance(seed).await, "seed {seed}");
        for (fault, count) in once.1 {
            *kinds.entry(fault).or_insert(0) += count;
        }
    }
    for fault in [
        Fault::LostReply,
        Fault::Forgotten,
        Fault::Hanging,
        Fault::LateEnd,
        Fault::Delay,
        Fault::Disconnect,
        Fault::LeaderMove,
    ] {
        assert!(kinds.contains_key(&fault), "{fault:?} never happened");
    }
}
