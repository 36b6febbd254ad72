//! Redoing changelogs that are compacted meanwhile, and what is told of it.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tidemill_broker::{
    BrokerExt, Cleanup, Consumer, ConsumerOptions, Layer, ManualClock, NewRecord, Timestamp, Topic,
    TopicSpec,
};
use tidemill_broker_memory::MemoryBroker;
use tidemill_state::{Identity, MemoryDisk, MemoryStore, Share, UNWATCHED};

use super::*;
use crate::pipeline::Attempt;

const TASK: TaskId = TaskId {
    sub_topology: 0,
    partition: 0,
};
const GONE: &[u8] = b"\0\x01gone";
const KEPT: &[u8] = b"\0\x01kept";

/// Delivers records one by one, so that there is something between them.
#[derive(Debug)]
struct OneByOne(MemoryBroker);

#[async_trait]
impl Layer for OneByOne {
    fn inner(&self) -> &dyn Broker {
        &self.0
    }

    async fn consume(
        &self,
        mut options: ConsumerOptions,
    ) -> tidemill_broker::Result<Box<dyn Consumer>> {
        options.batch_records_max = 1;
        self.0.consumer(options).await
    }
}

/// A changelog, and the store of its task.
struct World {
    clock: Arc<ManualClock>,
    broker: MemoryBroker,
    disk: MemoryDisk,
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::starting_at(Timestamp::from_millis(0)));
        let broker = MemoryBroker::with_clock(clock.clone());
        let spec = TopicSpec {
            cleanup: Cleanup::Compact {
                tombstones: Duration::from_secs(60),
            },
            ..TopicSpec::new(at().topic, NonZeroU32::MIN)
        };
        broker.create_topic(&spec).await.unwrap();
        let disk = MemoryDisk::new();
        Self {
            clock,
            broker,
            disk,
        }
    }

    async fn write(&self, key: &'static [u8], value: Option<&[u8]>) {
        let mut record = NewRecord::new(at().topic, value.unwrap_or_default().to_vec()).key(key);
        if value.is_none() {
            record.value = None;
        }
        self.broker.send(record).await.unwrap();
    }

    async fn end_epoch(&self, epoch: u64, elements: &[(&[u8], &[u8])]) {
        let mut digest = Digest::EMPTY;
        for (key, value) in elements {
            digest.add(Share::of(key, value));
        }
        let marker = Marker {
            epoch: Epoch(epoch),
            attempt: Attempt {
                instance: "0".into(),
                run: 1,
                transaction: epoch,
            },
            task: TASK.to_string(),
            partitions: 1,
            version: 1,
            config_hash: 0,
            inputs: Vec::new(),
            sequences: Vec::new(),
            digest,
        };
        self.write(MARKER_KEY, Some(&marker.encode())).await;
    }

    /// Compacts the log; no tombstone is young enough to stay.
    fn compact(&self) {
        self.clock.advance(Duration::from_secs(3600));
        self.broker.clean();
    }

    async fn recover(&self, go_on: GoOn<'_>) -> State {
        self.try_recover(go_on).await.unwrap()
    }

    async fn try_recover(&self, go_on: GoOn<'_>) -> Result<State> {
        let identity = Identity {
            pipeline: "p".into(),
            task: TASK.to_string(),
        };
        let store = Arc::new(MemoryStore::open(&self.disk, &identity).unwrap());
        let (at, broker) = (at(), OneByOne(self.broker.clone()));
        let recovered = recover(&broker, &at, TASK, store, StateOptions::default(), go_on);
        Ok(recovered.await?.0)
    }

    /// Recovers, with a compaction between the first record that is redone and what follows it.
    async fn recover_while_compacted(&self) -> State {
        let compacted = Mutex::new(false);
        let state = self
            .recover(&|headway| {
                let mut compacted = compacted.lock().unwrap();
                if headway.done > 0 && !std::mem::replace(&mut *compacted, true) {
                    self.compact();
                }
                Ok(())
            })
            .await;
        assert!(*compacted.lock().unwrap());
        state
    }
}

fn at() -> TopicPartition {
    TopicPartition::new(Topic::new("p.changelog").unwrap(), 0)
}

/// What is in the state is what the log says, also to its digest.
async fn holds_the_kept_alone(state: &State) {
    let asked = [GONE, KEPT].map(Bytes::from_static);
    let found = state.get_many(&asked).await.unwrap();
    assert_eq!(found, [None, Some(Bytes::from_static(b"2"))]);
    let write_behind = state.write_behind();
    let durable = |_| async { Ok::<(), Infallible>(()) };
    write_behind.pass(durable).await.unwrap();
    assert_eq!(write_behind.verify(UNWATCHED).await.unwrap(), 1);
}

/// The tombstone of a key that was redone went before the redo came to it: the key stayed.
#[tokio::test]
async fn a_compaction_amid_the_redo_brings_no_removed_key_back() {
    let world = World::new().await;
    world.write(GONE, Some(b"1")).await;
    world.write(KEPT, Some(b"2")).await;
    world.write(GONE, None).await;
    world.end_epoch(1, &[(KEPT, b"2")]).await;
    let state = world.recover_while_compacted().await;
    holds_the_kept_alone(&state).await;
}

/// The same of a key that the store held: the store was old enough to be emptied only once the redo had
/// begun.
#[tokio::test]
async fn a_compaction_amid_the_redo_empties_a_store_that_it_overtakes() {
    let world = World::new().await;
    world.write(GONE, Some(b"1")).await;
    world.end_epoch(1, &[(GONE, b"1")]).await;
    let state = world.recover(&|_| Ok(())).await;
    let durable = |_| async { Ok::<(), Infallible>(()) };
    state.write_behind().pass(durable).await.unwrap();
    state.close().await.unwrap();

    world.write(KEPT, Some(b"1")).await;
    world.write(KEPT, Some(b"2")).await;
    world.write(GONE, None).await;
    world.end_epoch(2, &[(KEPT, b"2")]).await;
    let state = world.recover_while_compacted().await;
    holds_the_kept_alone(&state).await;
}

/// A compaction that takes no tombstone away is no reason to begin anew.
#[tokio::test]
async fn the_redo_tells_how_far_it_is_up_to_the_end() {
    let world = World::new().await;
    for _ in 0..3 {
        world.write(KEPT, Some(b"1")).await;
    }
    world.write(KEPT, Some(b"2")).await;
    world.end_epoch(1, &[(KEPT, b"2")]).await;
    let told = Mutex::new(Vec::new());
    let state = world
        .recover(&|headway| {
            assert_eq!((headway.doing, headway.total), (Work::Redoing, Some(5)));
            let mut told = told.lock().unwrap();
            told.push(headway.done);
            if told.len() == 2 {
                world.compact();
            }
            Ok(())
        })
        .await;
    let told = told.into_inner().unwrap();
    assert!(told.is_sorted(), "{told:?}");
    assert_eq!((told.first(), told.last()), (Some(&0), Some(&5)));
    assert!(told.len() > 2, "{told:?}");
    holds_the_kept_alone(&state).await;
}

/// As many epochs and records, but others: the store of one was taken for that of the other.
#[tokio::test]
async fn a_store_that_followed_another_log_is_damage() {
    let (ours, theirs) = (World::new().await, World::new().await);
    for (world, value) in [(&ours, b"2".as_slice()), (&theirs, b"3")] {
        world.write(KEPT, Some(value)).await;
        world.end_epoch(1, &[(KEPT, value)]).await;
    }
    let state = theirs.recover(&|_| Ok(())).await;
    let durable = |_| async { Ok::<(), Infallible>(()) };
    state.write_behind().pass(durable).await.unwrap();
    state.close().await.unwrap();

    let copied = World {
        disk: theirs.disk.clone(),
        ..ours
    };
    let refused = copied.try_recover(&|_| Ok(())).await.unwrap_err();
    assert!(refused.is_store_damage(), "{refused}");
}

/// A compaction took the marker that would tell.
#[tokio::test]
async fn a_store_of_which_the_log_no_longer_tells_is_compared_before_it_is_used() {
    for is_ours in [true, false] {
        let (ours, theirs) = (World::new().await, World::new().await);
        ours.write(KEPT, Some(b"1")).await;
        ours.end_epoch(1, &[(KEPT, b"1")]).await;
        theirs.write(GONE, Some(b"1")).await;
        theirs.end_epoch(1, &[(GONE, b"1")]).await;
        let followed = if is_ours { &ours } else { &theirs };
        let state = followed.recover(&|_| Ok(())).await;
        let durable = |_| async { Ok::<(), Infallible>(()) };
        state.write_behind().pass(durable).await.unwrap();
        state.close().await.unwrap();
        let disk = followed.disk.clone();

        ours.write(KEPT, Some(b"2")).await;
        ours.end_epoch(2, &[(KEPT, b"2")]).await;
        ours.broker.clean();
        let recovered = World { disk, ..ours }.try_recover(&|_| Ok(())).await;
        match recovered {
            Ok(state) if is_ours => holds_the_kept_alone(&state).await,
            Err(error) if !is_ours => assert!(error.is_store_damage(), "{error}"),
            other => panic!("ours {is_ours}: {other:?}"),
        }
    }
}
