//! Compaction against a model, with a reader of another process beside it, kills and losses of power between.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill_broker::{
    Batch, Broker, BrokerExt, Cleanup, Consumer, ConsumerOptions, Delivery, Headers, ManualClock,
    Offset, RecordSet, Start, Timestamp, TopicSpec,
};
use tidemill_broker_file::{FileBroker, FileOptions, Fsync, SimDisk, verify};

use crate::support::{at, topic};

const TOMBSTONES: Duration = Duration::from_secs(10);

/// A record as it was appended.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    appended: Timestamp,
}

struct World {
    rng: SmallRng,
    clock: Arc<ManualClock>,
    fsync: Fsync,
    disk: SimDisk,
    /// None while it is opened anew.
    broker: Option<FileBroker>,
    /// What was appended, by offset.
    log: Vec<Told>,
    /// Reads beside the writer, a few records at a time.
    beside: (FileBroker, Box<dyn Consumer>),
    followed: u64,
}

fn options(disk: &SimDisk, clock: &Arc<ManualClock>, fsync: Fsync) -> FileOptions {
    FileOptions {
        clock: clock.clone(),
        disk: Arc::new(disk.clone()),
        fsync,
        split_bytes: 2_000,
        ..FileOptions::default()
    }
}

async fn follow(
    disk: &SimDisk,
    clock: &Arc<ManualClock>,
    from: u64,
) -> (FileBroker, Box<dyn Consumer>) {
    let beside = FileBroker::open_reader("/log", options(disk, clock, Fsync::Never));
    let beside = beside.await.unwrap();
    let from = Start::Offset(Offset(from));
    let mut options = ConsumerOptions::partitions(vec![(at("t", 0), from)]);
    options.batch_records_max = 3;
    let consumer = beside.consumer(options).await.unwrap();
    (beside, consumer)
}

impl World {
    async fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let fsync = match rng.random_range(0..3) {
            0 => Fsync::Commit,
            1 => Fsync::Every(Duration::from_millis(100)),
            _ => Fsync::Never,
        };
        let clock = Arc::new(ManualClock::starting_at(Timestamp(0)));
        let disk = SimDisk::new(seed);
        let broker = FileBroker::open("/log", options(&disk, &clock, fsync));
        let broker = broker.await.unwrap();
        let spec = TopicSpec::new(topic("t"), 1.try_into().unwrap()).cleanup(Cleanup::Compact {
            tombstones: TOMBSTONES,
        });
        broker.create_topic(&spec).await.unwrap();
        broker.sync().await.unwrap();
        let beside = follow(&disk, &clock, 0).await;
        Self {
            rng,
            clock,
            fsync,
            disk,
            broker: Some(broker),
            log: Vec::new(),
            beside,
            followed: 0,
        }
    }

    fn broker(&self) -> &FileBroker {
        self.broker.as_ref().unwrap()
    }

    async fn append(&mut self) {
        let mut set = RecordSet::new(at("t", 0));
        for _ in 0..self.rng.random_range(1..20) {
            let key = self.rng.random_range(0..8_u8);
            let value = self.log.len().to_string().into_bytes();
            let told = Told {
                key: (key > 0).then(|| vec![key]),
                value: self.rng.random_bool(0.6).then_some(value),
                appended: tidemill_broker::Clock::now(&*self.clock),
            };
            let (key, value) = (told.key.as_deref(), told.value.as_deref());
            set.push(None, key, value, &Headers::new());
            self.log.push(told);
        }
        let acks = self.broker().produce(vec![set]).await.unwrap();
        assert!(acks[0].failure().is_none());
    }

    /// Goes on with what the disk has now, from `image` if power was lost.
    async fn open(&mut self, image: SimDisk) {
        drop(self.broker.take());
        self.disk = image;
        let options = options(&self.disk, &self.clock, self.fsync);
        self.broker = Some(FileBroker::open("/log", options).await.unwrap());
        self.beside = follow(&self.disk, &self.clock, self.followed).await;
    }

    /// Compacts, and perhaps loses power amid it, with all that was appended durable before.
    async fn clean(&mut self) {
        self.broker().sync().await.unwrap();
        let loses = self.rng.random_bool(0.5);
        let after = if loses {
            self.rng.random_range(0..60)
        } else {
            u64::MAX
        };
        self.disk.crash_after(after, self.rng.random());
        self.broker().clean().await.unwrap();
        match self.disk.crashed() {
            Some(image) => self.open(image).await,
            None => {
                self.disk.crash_after(u64::MAX, 0);
                let left = self.read().await;
                let mut seen = BTreeSet::new();
                let mut keys = left.iter().filter_map(|told| told.key.as_ref());
                assert!(keys.all(|key| seen.insert(key)), "a key twice");
            }
        }
    }

    /// Whether what was passed over may be gone.
    async fn expect_gone(&self, offsets: std::ops::Range<u64>) {
        let marks = self.broker().watermarks(&at("t", 0)).await.unwrap();
        let now = tidemill_broker::Clock::now(&*self.clock);
        for offset in offsets {
            let told = &self.log[offset as usize];
            let later = &self.log[offset as usize + 1..];
            let newer = told.key.is_some() && later.iter().any(|other| other.key == told.key);
            let expired = told.key.is_some()
                && told.value.is_none()
                && told.appended < now.minus(TOMBSTONES)
                && offset < marks.tombstones_gone.0;
            assert!(newer || expired, "{offset} is gone: {told:?}, {marks:?}");
        }
    }

    /// Compares a batch that was read from `next` on; returns where the next begins.
    async fn compare(&self, mut next: u64, batch: &Batch) -> u64 {
        for record in batch.iter() {
            self.expect_gone(next..record.offset.0).await;
            let told = &self.log[record.offset.0 as usize];
            assert_eq!(record.key, told.key.as_deref());
            assert_eq!(record.value, told.value.as_deref());
            next = record.offset.0 + 1;
        }
        self.expect_gone(next..batch.next().0).await;
        batch.next().0
    }

    /// Everything there is, through the writer.
    async fn read(&self) -> Vec<Told> {
        let batches = self
            .broker()
            .read_to_end(&at("t", 0), Start::Earliest)
            .await;
        let (mut next, mut found) = (0, Vec::new());
        for batch in batches.unwrap() {
            next = self.compare(next, &batch).await;
            let offsets = batch.iter().map(|record| record.offset.0 as usize);
            found.extend(offsets.map(|offset| self.log[offset].clone()));
        }
        assert_eq!(next, self.log.len() as u64);
        found
    }

    /// A few batches, through the reader beside.
    async fn follow(&mut self) {
        for _ in 0..self.rng.random_range(1..6) {
            let next = tokio::time::timeout(Duration::from_millis(100), self.beside.1.next());
            match next.await.map(Result::unwrap) {
                Ok(Delivery::Records(batch)) => {
                    self.followed = self.compare(self.followed, &batch).await;
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_compaction_takes_is_what_it_may_take_whoever_reads_and_whatever_fails() {
    for seed in 0..60 {
        let mut world = World::new(seed).await;
        for _ in 0..120 {
            match world.rng.random_range(0..12) {
                0..=4 => world.append().await,
                5 | 6 => world.clock.advance(Duration::from_secs(4)),
                7 => world.clean().await,
                8 => drop(world.read().await),
                9 => {
                    let disk = world.disk.clone();
                    world.open(disk).await;
                }
                _ => world.follow().await,
            }
        }
        world.read().await;
        let World { broker, disk, .. } = world;
        broker.unwrap().close().await.unwrap();
        assert_eq!(verify("/log", &disk).unwrap().findings, [], "seed {seed}");
    }
}
