//! What refused transactions leave behind.

use std::num::NonZeroU32;
use std::sync::Arc;

use tidemill_broker::{
    Broker, BrokerExt, Error, Generation, GroupOffsets, Headers, Offset, Outcome, RecordSet, Start,
    SystemClock, Timestamp, Topic, TopicPartition, TopicSpec, Transaction, Transactor,
};

use super::SET_BYTES_MAX;
use crate::{Fate, MemoryBroker, MemoryOptions, Persona};

fn at(partition: u32) -> TopicPartition {
    TopicPartition::new(Topic::new("t").unwrap(), partition)
}

fn set(partition: u32, values: &[&str]) -> RecordSet {
    let mut set = RecordSet::new(at(partition));
    for value in values {
        let value = Some(value.as_bytes());
        set.push(None, value, value, &Headers::new());
    }
    set
}

fn of(records: Vec<RecordSet>, offsets: Vec<GroupOffsets>) -> Transaction {
    Transaction { records, offsets }
}

async fn broker(persona: Persona) -> (MemoryBroker, Box<dyn Transactor>) {
    let broker = MemoryBroker::new(MemoryOptions::new(persona, Arc::new(SystemClock), 1));
    let spec = TopicSpec::new(at(0).topic, NonZeroU32::new(2).unwrap());
    broker.create_topic(&spec).await.unwrap();
    let transactor = broker.transactor(&"id".parse().unwrap()).await.unwrap();
    (broker, transactor)
}

/// Where both partitions end, and what can be read of them.
async fn ends(broker: &MemoryBroker) -> [(u64, usize); 2] {
    let mut ends = [(0, 0); 2];
    for (partition, end) in (0..).zip(&mut ends) {
        let marks = broker.watermarks(&at(partition)).await.unwrap();
        assert_eq!(marks.high, marks.last_stable, "nothing is left open");
        let read = broker.read_to_end(&at(partition), Start::Earliest).await;
        let records = read.unwrap().iter().map(|batch| batch.len()).sum();
        *end = (marks.high.0, records);
    }
    ends
}

#[track_caller]
fn refused(outcome: Outcome) {
    assert!(matches!(outcome, Outcome::NotCommitted(_)), "{outcome:?}");
}

#[tokio::test]
async fn as_kafka_an_aborted_transaction_leaves_a_gap_of_its_records_and_its_end() {
    for (persona, gap) in [(Persona::Kafka, 1), (Persona::Memory, 0)] {
        let (broker, mut transactor) = broker(persona).await;
        let sets = || vec![set(0, &["a", "b"]), set(1, &["c"])];
        // The third set is refused; the two before it were sent.
        broker.faults().reject_key(&at(0).topic, "bad");
        let mut with_bad = sets();
        with_bad.push(set(1, &["bad"]));
        refused(transactor.commit(of(with_bad, Vec::new())).await);
        assert_eq!(ends(&broker).await, [(3 * gap, 0), (2 * gap, 0)]);

        // Offsets under a generation that is not the group's are refused after all records.
        let stale = GroupOffsets {
            group: "g".parse().unwrap(),
            generation: Some(Generation {
                number: 7,
                member: "nobody".into(),
            }),
            offsets: vec![(at(0), Offset(1))],
        };
        refused(transactor.commit(of(sets(), vec![stale])).await);
        assert_eq!(ends(&broker).await, [(6 * gap, 0), (4 * gap, 0)]);

        // What follows comes behind, and its own end takes an offset as well.
        let outcome = transactor.commit(of(sets(), Vec::new())).await;
        let Outcome::Committed(appended) = outcome else {
            panic!("{outcome:?}");
        };
        let firsts: Vec<_> = appended.iter().map(|set| set.first.0).collect();
        assert_eq!(firsts, [6 * gap, 4 * gap]);
        assert_eq!(ends(&broker).await, [(7 * gap + 2, 2), (5 * gap + 1, 1)]);
    }
}

#[tokio::test]
async fn as_kafka_what_is_never_sent_leaves_no_gap() {
    let (broker, mut former) = broker(Persona::Kafka).await;
    let unknown = TopicPartition::new(Topic::new("none").unwrap(), 0);
    let mut elsewhere = RecordSet::new(unknown);
    elsewhere.push(None, Some(b"k"), None, &Headers::new());
    refused(
        former
            .commit(of(vec![set(0, &["a"]), elsewhere], Vec::new()))
            .await,
    );
    let large = "x".repeat(broker.capabilities().record_bytes_max + 1);
    let sets = vec![set(0, &["a"]), set(1, &[&large])];
    refused(former.commit(of(sets, Vec::new())).await);
    let _present = broker.transactor(&"id".parse().unwrap()).await.unwrap();
    refused(former.commit(of(vec![set(0, &["a"])], Vec::new())).await);
    assert_eq!(ends(&broker).await, [(0, 0), (0, 0)]);
}

#[tokio::test]
async fn what_is_too_much_for_the_places_in_a_slab_is_refused() {
    let mut options = MemoryOptions::default();
    options.capabilities.record_bytes_max = usize::MAX;
    let broker = MemoryBroker::new(options);
    let spec = TopicSpec::new(at(0).topic, NonZeroU32::new(1).unwrap());
    broker.create_topic(&spec).await.unwrap();
    let mut transactor = broker.transactor(&"id".parse().unwrap()).await.unwrap();
    let huge = || {
        let mut huge = RecordSet::new(at(0));
        // Zeros that nobody reads take no memory.
        let zeros = |slab: &mut Vec<u8>| *slab = vec![0; SET_BYTES_MAX + 1];
        huge.push_with(Timestamp(1), None, &[], zeros);
        huge
    };
    let error = broker.produce(vec![huge()]).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    let outcome = transactor.commit(of(vec![huge()], Vec::new())).await;
    let Outcome::NotCommitted(rejection) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(rejection.culprit, Some((0, 0)));
    assert_eq!(broker.watermarks(&at(0)).await.unwrap().high, Offset(0));
}

#[tokio::test]
async fn of_two_owners_that_both_hang_neither_holds_readers_back_for_ever() {
    let mut options = MemoryOptions::default();
    options.capabilities.fencing = false;
    let broker = MemoryBroker::new(options);
    let spec = TopicSpec::new(at(0).topic, NonZeroU32::new(2).unwrap());
    broker.create_topic(&spec).await.unwrap();
    let id = "id".parse().unwrap();
    let mut one = broker.transactor(&id).await.unwrap();
    let mut other = broker.transactor(&id).await.unwrap();
    for (owner, value) in [(&mut one, "a"), (&mut other, "b")] {
        broker.faults().hang_commit(Fate::Commits, None);
        let outcome = owner.commit(of(vec![set(0, &[value])], Vec::new())).await;
        assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    }
    broker.transactor(&id).await.unwrap();
    assert_eq!(ends(&broker).await, [(2, 2), (0, 0)]);
}
