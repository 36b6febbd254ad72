//! Copies a topic exactly once while everything goes wrong by chance: what transactions, groups and
//! fences are for, in one test.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::{
    Batch, Broker, BrokerExt, Consumer, ConsumerOptions, Delivery, Group, GroupOffsets, Headers,
    Offset, Outcome, RecordSet, Start, Timestamp, TokioClock, Topic, TopicPartition, TopicSpec,
    Transaction, TransactionalId, Transactor,
};
use tokio::time::{sleep, timeout};

use crate::{FaultPlan, MemoryBroker, MemoryOptions, Persona};

const PARTITIONS: u32 = 4;
const RECORDS: usize = 30;
const WORKERS: usize = 3;
const SECOND: Duration = Duration::from_secs(1);

fn part(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(Topic::new(topic).unwrap(), partition)
}

fn group() -> Group {
    Group::new("copy").unwrap()
}

/// Joins the group, however often that is refused.
async fn join(broker: &MemoryBroker) -> Box<dyn Consumer> {
    loop {
        let options = ConsumerOptions {
            batch_records_max: 4,
            revoke_deadline: 2 * SECOND,
            ..ConsumerOptions::group(group(), vec![part("in", 0).topic], Start::Earliest)
        };
        match broker.consumer(options).await {
            Ok(consumer) => return consumer,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        sleep(SECOND / 10).await;
    }
}

/// Opens an id, however often that is refused.
async fn open(broker: &MemoryBroker, id: &TransactionalId) -> Box<dyn Transactor> {
    loop {
        match broker.transactor(id).await {
            Ok(transactor) => return transactor,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        sleep(SECOND / 10).await;
    }
}

fn copy(batch: &Batch, generation: &tidemill_broker::Generation) -> Transaction {
    let mut records = RecordSet::new(part("out", batch.at().partition));
    for record in batch.iter() {
        let time = Some(record.timestamp);
        records.push(time, record.key, record.value, &Headers::new());
    }
    Transaction {
        records: vec![records],
        offsets: vec![GroupOffsets {
            group: group(),
            generation: Some(generation.clone()),
            offsets: vec![(batch.at().clone(), batch.next())],
        }],
    }
}

/// Copies until told to stop. Whatever is not committed is read again.
async fn work(broker: MemoryBroker, number: usize) {
    let id = TransactionalId::new(format!("worker-{number}")).unwrap();
    let mut transactor = open(&broker, &id).await;
    let mut consumer = join(&broker).await;
    let mut generation = None;
    loop {
        match consumer.next().await {
            Ok(Delivery::Assigned {
                generation: new, ..
            }) => generation = new,
            Ok(Delivery::Records(batch)) => {
                let generation = generation.clone().expect("assigned before records");
                // Now and then longer than a permit lasts: the commit comes from a zombie.
                let slow = (batch.next().0 + number as u64) % 5;
                sleep(SECOND * slow as u32 / 2).await;
                let outcome = transactor.commit(copy(&batch, &generation)).await;
                if matches!(outcome, Outcome::Committed(_)) {
                    continue;
                }
                // Leaves before what hangs is settled: the next owner must wait for that.
                drop(consumer);
                if matches!(outcome, Outcome::Unknown(_)) {
                    sleep(SECOND).await;
                    transactor = open(&broker, &id).await;
                }
                consumer = join(&broker).await;
            }
            Ok(Delivery::Revoked { permit, .. }) => drop(permit),
            Ok(Delivery::Lost { .. } | Delivery::End { .. }) => {}
            Err(error) => assert!(error.is_transient(), "worker {number}: {error}"),
        }
    }
}

/// Runs one seed and returns what was copied.
async fn run(persona: Persona, seed: u64) -> Vec<Vec<(u64, String)>> {
    let clock = Arc::new(TokioClock::starting_at(Timestamp(0)));
    let broker = MemoryBroker::new(MemoryOptions::new(persona, clock, seed));
    for topic in ["in", "out"] {
        let partitions = NonZeroU32::new(PARTITIONS).unwrap();
        let spec = TopicSpec::new(part(topic, 0).topic, partitions);
        broker.create_topic(&spec).await.unwrap();
    }
    for partition in 0..PARTITIONS {
        let mut records = RecordSet::new(part("in", partition));
        for record in 0..RECORDS {
            let value = record.to_string();
            records.push(None, None, Some(value.as_bytes()), &Headers::new());
        }
        broker.produce(vec![records]).await.unwrap();
    }
    broker.faults().plan(FaultPlan::swarm(seed));
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| tokio::spawn(work(broker.clone(), number)))
        .collect();
    sleep(20 * SECOND).await;
    broker.faults().heal();
    let inputs: Vec<_> = (0..PARTITIONS).map(|p| part("in", p)).collect();
    let done = vec![Some(Offset(RECORDS as u64)); PARTITIONS as usize];
    timeout(600 * SECOND, async {
        while broker.committed(&group(), &inputs).await.ok().as_ref() != Some(&done) {
            sleep(SECOND / 10).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("seed {seed}: did not end once all was well"));
    for worker in workers {
        worker.abort();
        if let Err(error) = worker.await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
    let mut copied = Vec::new();
    for partition in 0..PARTITIONS {
        let at = part("out", partition);
        let batches = broker.read_to_end(&at, Start::Earliest).await.unwrap();
        let read = batches.iter().flat_map(|batch| batch.iter());
        let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap().to_vec()).unwrap();
        copied.push(read.map(|r| (r.offset.0, text(r.value))).collect());
    }
    copied
}

#[tokio::test(start_paused = true)]
async fn a_copy_by_transactions_is_exact_whatever_goes_wrong() {
    let expected: Vec<String> = (0..RECORDS).map(|record| record.to_string()).collect();
    for seed in 0..60 {
        let persona = if seed % 2 == 0 {
            Persona::Memory
        } else {
            Persona::Kafka
        };
        let copied = run(persona, seed).await;
        for (partition, records) in copied.iter().enumerate() {
            let values: Vec<String> = records.iter().map(|(_, value)| value.clone()).collect();
            assert_eq!(values, expected, "seed {seed}, partition {partition}");
        }
        if seed < 10 {
            assert_eq!(run(persona, seed).await, copied, "seed {seed} again");
        }
    }
}
