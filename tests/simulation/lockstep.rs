//! Replays: one recording, any number of threads, any broker, run again: the same bytes.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill::config::plan::{Guarantee, Plan};
use tidemill::pipeline::{Cut, Pipeline, RunOptions};
use tidemill_broker::{
    Broker, BrokerExt, Headers, ManualClock, RecordSet, Start, Timestamp, Topic, TopicPartition,
    TopicSpec, partition,
};
use tidemill_broker_file::{FileBroker, FileOptions};
use tidemill_broker_memory::MemoryBroker;
use tokio::sync::watch;

use crate::draw::Draw;
use crate::event::{EPOCH, Move};
use crate::scenario::{Scenario, Setting};
use crate::shape::{Shape, broadcast_plan};
use crate::store::Disks;
use crate::world::World;

const PARTITIONS: u32 = 3;

/// Everything that is decided before a replay.
fn draw(shape: Shape) -> Draw {
    Draw {
        shape,
        guarantee: Guarantee::ExactlyOnce,
        partitions: PARTITIONS,
        output_partitions: 2,
        processes: 1,
        commit_records: 50,
        memory: 1 << 20,
        groups: true,
        ..Draw::new(Scenario::new(Setting::Memory, 7))
    }
}

/// A pipeline that is replayed: a shape of the simulation, or one whose tasks also read a topic of two
/// partitions whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Shape(Shape),
    Broadcast,
}

impl Job {
    /// Topics that are read, with their partitions.
    fn inputs(self) -> Vec<(&'static str, u32)> {
        match self {
            Self::Shape(shape) => shape
                .inputs()
                .iter()
                .map(|input| (*input, PARTITIONS))
                .collect(),
            Self::Broadcast => vec![("moves", PARTITIONS), ("others", 2)],
        }
    }

    fn outputs(self) -> &'static [&'static str] {
        match self {
            Self::Shape(shape) => shape.outputs(),
            Self::Broadcast => Shape::Joined.outputs(),
        }
    }

    fn plan(self) -> Plan {
        match self {
            Self::Shape(shape) => shape.plan(&draw(shape)),
            Self::Broadcast => broadcast_plan(&draw(Shape::Joined)),
        }
    }
}

/// The recording: the same for every run.
async fn record(broker: &dyn Broker, job: Job) {
    let draw = draw(Shape::Joined);
    let mut rng = SmallRng::seed_from_u64(11);
    for (input, partitions) in job.inputs() {
        let topic = Topic::new(input).unwrap();
        let count = std::num::NonZeroU32::new(partitions).unwrap();
        let spec = TopicSpec::new(topic.clone(), count);
        broker.create_topic(&spec).await.unwrap();
        let mut sets: Vec<RecordSet> = (0..partitions)
            .map(|partition| RecordSet::new(TopicPartition::new(topic.clone(), partition)))
            .collect();
        for id in 0..3_000_i64 {
            let amount = rng.random_range(-100..100);
            let back = rng.random_range(0..=draw.out_of_order.as_micros() as i64);
            let one = Move {
                id: id - id % 10,
                account: format!("a{}", rng.random_range(0..9)),
                other: format!("a{}", rng.random_range(0..9)),
                side: ["buy", "sell", "none"][rng.random_range(0..3)].to_owned(),
                amount,
                contra: -amount,
                at: EPOCH + 3_600_000_000 + id * 20_000 - back,
            };
            let at = partition::for_key(one.account.as_bytes(), partitions) as usize;
            let value = match id % 97 {
                0 => "poison".to_owned(),
                _ => one.json("Move"),
            };
            let key = one.account.as_bytes();
            let time = Some(Timestamp(one.at));
            sets[at].push(time, Some(key), Some(value.as_bytes()), &Headers::new());
        }
        for acks in broker.produce(sets).await.unwrap() {
            acks.into_result().unwrap();
        }
    }
}

/// Replays the recording on a runtime with so many workers, and returns all that came out.
fn replay(job: Job, threads: usize, directory: Option<&std::path::Path>) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let clock = Arc::new(ManualClock::starting_at(Timestamp(EPOCH)));
        let file = match directory {
            Some(directory) => {
                let options = FileOptions {
                    clock: clock.clone(),
                    ..FileOptions::default()
                };
                Some(FileBroker::open(directory, options).await.unwrap())
            }
            None => None,
        };
        let broker: Arc<dyn Broker> = match &file {
            Some(broker) => Arc::new(broker.clone()),
            None => Arc::new(MemoryBroker::with_clock(clock)),
        };
        record(&*broker, job).await;
        let world = World::new(&draw(Shape::Bars));
        let stores = Arc::new(Disks { world, machine: 0 });
        let pipeline = Pipeline::new(job.plan(), &[("main", broker.clone())], stores).unwrap();
        let options = RunOptions {
            cut: Cut::Lockstep,
            until_end: watch::channel(true).1,
            ..RunOptions::new("0", 1)
        };
        let (_stop, stopped) = watch::channel(false);
        // On a worker, as the shipped program runs it.
        let running = tokio::spawn(async move { pipeline.run(options, stopped).await });
        running.await.unwrap().unwrap();
        let out = read(&*broker, job).await;
        drop(broker);
        if let Some(file) = file {
            file.close().await.unwrap();
        }
        out
    })
}

async fn read(broker: &dyn Broker, job: Job) -> Vec<String> {
    let mut out = Vec::new();
    let mut ids = BTreeSet::new();
    for topic in job.outputs().iter().chain(&["sim.dead-letter"]) {
        let topic = Topic::new(topic).unwrap();
        let count = broker.describe_topic(&topic).await.unwrap().partitions;
        for partition in 0..count {
            let at = TopicPartition::new(topic.clone(), partition);
            for batch in broker.read_to_end(&at, Start::Earliest).await.unwrap() {
                for record in batch.iter() {
                    let mut headers = record.headers();
                    let id = headers.find(|(name, _)| ["event-id", "dl-id"].contains(name));
                    let id = id.map(|(_, id)| id.to_vec());
                    assert!(ids.insert((topic.clone(), id)), "twice: {at} {record:?}");
                    out.push(format!("{at} {record:?}"));
                }
            }
        }
    }
    out
}

fn is_equal(job: Job) {
    let first = replay(job, 1, None);
    assert!(first.len() > 100, "only {} records came out", first.len());
    for threads in [1, 2, 2] {
        compare(&first, &replay(job, threads, None), job, "memory");
    }
    for threads in [1, 2] {
        let directory = tempfile::tempdir().unwrap();
        let out = replay(job, threads, Some(directory.path()));
        compare(&first, &out, job, "file");
    }
}

fn compare(first: &[String], other: &[String], job: Job, broker: &str) {
    let place = (0..first.len().max(other.len())).find(|at| first.get(*at) != other.get(*at));
    if let Some(place) = place {
        panic!(
            "{job:?} on {broker}: record {place} of {} and {} differs:\n{:?}\n{:?}",
            first.len(),
            other.len(),
            first.get(place),
            other.get(place)
        );
    }
}

#[test]
fn one_recording_gives_the_same_bars_byte_for_byte_on_one_and_two_threads() {
    is_equal(Job::Shape(Shape::Bars));
}

#[test]
fn one_recording_without_its_repeats_is_the_same_byte_for_byte_on_one_and_two_threads() {
    is_equal(Job::Shape(Shape::Deduped));
}

#[test]
fn one_recording_routed_and_merged_is_the_same_byte_for_byte_on_one_and_two_threads() {
    is_equal(Job::Shape(Shape::Routed));
}

#[test]
fn two_recordings_joined_are_the_same_byte_for_byte_on_one_and_two_threads() {
    is_equal(Job::Shape(Shape::Joined));
}

#[test]
fn a_recording_joined_with_one_that_every_task_reads_is_the_same_byte_for_byte() {
    is_equal(Job::Broadcast);
}
