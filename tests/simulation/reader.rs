//! A reader of committed records beside the run: what it saw once must stay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::{
    Broker, Consumer, ConsumerOptions, Delivery, Error, Offset, RecordRef, Start, Topic,
    TopicPartition,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use xxhash_rust::xxh3::Xxh3;

use crate::checker::Checker;
use crate::world::World;

/// Offset and hash of each record seen, by partition.
pub(crate) type Seen = BTreeMap<TopicPartition, Vec<(u64, u64)>>;

/// A reader at work.
#[derive(Debug)]
pub(crate) struct Reader {
    stop: watch::Sender<bool>,
    reading: JoinHandle<Seen>,
}

impl Reader {
    pub(crate) async fn stop(self) -> Seen {
        let _ = self.stop.send(true);
        self.reading.await.unwrap()
    }
}

/// What of a record must never change.
pub(crate) fn hash(record: RecordRef<'_>) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&record.timestamp.0.to_be_bytes());
    hash.update(&content(record).to_be_bytes());
    hash.digest()
}

/// What a producer says of a record.
pub(crate) fn content(record: RecordRef<'_>) -> u64 {
    let mut hash = Xxh3::new();
    for part in [record.key, record.value, Some(record.encoded_headers())] {
        hash.update(&[u8::from(part.is_some())]);
        hash.update(&(part.map_or(0, <[u8]>::len) as u64).to_be_bytes());
        hash.update(part.unwrap_or_default());
    }
    hash.digest()
}

/// Every partition that the pipeline writes for others on the broker of its transactions: what it sends to
/// another is never taken back.
pub(crate) fn outputs(world: &World) -> Vec<TopicPartition> {
    let topics = world.draw.shape.outputs().iter();
    let topics = topics.filter(|topic| world.draw.broker_of(topic) == "main");
    topics
        .chain(&["sim.dead-letter"])
        .flat_map(|topic| {
            let topic = Topic::new(topic).unwrap();
            (0..world.draw.output_partitions)
                .map(move |partition| TopicPartition::new(topic.clone(), partition))
        })
        .collect()
}

/// Goes on after what was seen.
async fn open(world: &World, seen: &Seen) -> (Arc<dyn Broker>, Box<dyn Consumer>) {
    let next = |seen: &Vec<(u64, u64)>| match seen.last() {
        Some((offset, _)) => Start::Offset(Offset(offset + 1)),
        None => Start::Earliest,
    };
    let partitions = seen.iter().map(|(at, seen)| (at.clone(), next(seen)));
    let options = ConsumerOptions::partitions(partitions.collect());
    loop {
        if let Ok(broker) = world.reader().await
            && let Ok(consumer) = broker.consumer(options.clone()).await
        {
            return (broker, consumer);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Begins to follow all outputs.
pub(crate) fn follow(world: &Arc<World>) -> Reader {
    let (stop, mut stopped) = watch::channel(false);
    let world = world.clone();
    let reading = tokio::spawn(async move {
        let mut seen: Seen = outputs(&world).into_iter().map(|at| (at, vec![])).collect();
        let mut deaths = world.deaths();
        let (mut _broker, mut consumer) = open(&world, &seen).await;
        loop {
            let delivery = tokio::select! {
                biased;
                _ = stopped.changed() => return seen,
                Ok(()) = deaths.changed() => {
                    // It dies with the machine, and goes on where it was.
                    (_broker, consumer) = open(&world, &seen).await;
                    continue;
                }
                delivery = consumer.next() => delivery,
            };
            match delivery {
                Ok(Delivery::Records(batch)) => {
                    let records = seen.entry(batch.at().clone()).or_default();
                    records.extend(batch.iter().map(|record| (record.offset.0, hash(record))));
                }
                Ok(_) => {}
                Err(error) if error.is_transient() => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                // After a loss of power it may not know yet what it knew to be durable before. What is
                // there in the end shows whether that was right.
                Err(Error::OutOfRange { asked, high, .. })
                    if world.host().is_some() && asked > high =>
                {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    (_broker, consumer) = open(&world, &seen).await;
                }
                Err(error) => {
                    let what = format!("the reader beside failed: {error}");
                    world.caught(Checker::Seen, what);
                    return seen;
                }
            }
        }
    });
    Reader { stop, reading }
}
