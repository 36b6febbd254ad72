//! Who wakes for what.

use tidemill_broker::{
    Broker, Consumer, ConsumerOptions, Delivery, Headers, Outcome, RecordSet, Start, Topic,
    TopicPartition, TopicSpec, Transaction,
};
use tokio_test::{assert_pending, assert_ready, task};

use crate::MemoryBroker;

fn at(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(Topic::new(topic).unwrap(), partition)
}

fn set(at: TopicPartition) -> RecordSet {
    let mut set = RecordSet::new(at);
    set.push(None, None, Some(b"x"), &Headers::new());
    set
}

async fn create(broker: &MemoryBroker, topic: &str, partitions: u32) {
    let spec = TopicSpec::new(Topic::new(topic).unwrap(), partitions.try_into().unwrap());
    broker.create_topic(&spec).await.unwrap();
}

/// A reader that has been told of the end.
async fn reader(broker: &MemoryBroker, at: TopicPartition) -> Box<dyn Consumer> {
    let options = ConsumerOptions::partitions(vec![(at, Start::Earliest)]);
    let mut consumer = broker.consumer(options).await.unwrap();
    while !matches!(consumer.next().await.unwrap(), Delivery::End { .. }) {}
    consumer
}

/// Every append once woke every reader there was.
#[tokio::test]
async fn records_wake_who_waits_for_their_partition_and_nobody_else() {
    let broker = MemoryBroker::default();
    create(&broker, "t", 2).await;
    create(&broker, "u", 1).await;
    let mut readers = Vec::new();
    for at in [at("t", 0), at("t", 1), at("u", 0)] {
        readers.push(reader(&broker, at).await);
    }
    let waits = readers.iter_mut().map(|reader| task::spawn(reader.next()));
    let mut waits: Vec<_> = waits.collect();
    for wait in &mut waits {
        assert_pending!(wait.poll());
    }

    broker.produce(vec![set(at("t", 0))]).await.unwrap();
    let woken: Vec<_> = waits.iter().map(|wait| wait.is_woken()).collect();
    assert_eq!(woken, [true, false, false]);
    assert!(assert_ready!(waits[0].poll()).is_ok());

    let mut transactor = broker.transactor(&"id".parse().unwrap()).await.unwrap();
    let transaction = Transaction {
        records: vec![set(at("u", 0)), set(at("t", 0))],
        offsets: Vec::new(),
    };
    let outcome = transactor.commit(transaction).await;
    assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    let woken: Vec<_> = waits[1..].iter().map(|wait| wait.is_woken()).collect();
    assert_eq!(woken, [false, true]);
    assert!(assert_ready!(waits[2].poll()).is_ok());
}

#[tokio::test]
async fn what_concerns_all_wakes_all() {
    let broker = MemoryBroker::default();
    create(&broker, "t", 1).await;
    let mut reader = reader(&broker, at("t", 0)).await;
    let mut wait = task::spawn(reader.next());
    assert_pending!(wait.poll());
    broker.delete_topic(&at("t", 0).topic).await.unwrap();
    assert!(wait.is_woken());
    let told = assert_ready!(wait.poll());
    assert!(matches!(told, Ok(Delivery::Lost { .. })), "{told:?}");
}

/// The bells of readers that are gone would gather in partitions that nobody writes to.
#[tokio::test]
async fn a_partition_forgets_readers_that_are_gone() {
    let broker = MemoryBroker::default();
    create(&broker, "t", 1).await;
    let waiting = || {
        broker
            .shared()
            .lock()
            .log(&at("t", 0))
            .unwrap()
            .waiting
            .len()
    };
    for _ in 0..100 {
        let mut reader = reader(&broker, at("t", 0)).await;
        for _ in 0..2 {
            assert_pending!(task::spawn(reader.next()).poll());
        }
        assert_eq!(waiting(), 1);
    }
    broker.produce(vec![set(at("t", 0))]).await.unwrap();
    assert_eq!(waiting(), 0);
}
