//! What must hold when a run is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde::Deserialize;
use tidemill::config::plan::Guarantee;
use tidemill::events::identity::EVENT_ID;
use tidemill::pipeline::{MARKER_KEY, Marker};
use tidemill_broker::{Batch, Broker, BrokerExt, Start, Topic, TopicPartition};
use tidemill_state::{Digest, Identity, MemoryStore, Share, StateStore};
use xxhash_rust::xxh3::Xxh3;

use crate::checker::Checker;
use crate::ending;
use crate::model::{self, Expected, Taken};
use crate::reader::{self, Seen};
use crate::shape::Shape;
use crate::world::World;

/// A state, element by element.
type Elements = BTreeMap<Bytes, Bytes>;

/// Everything in a partition.
pub(crate) async fn read(world: &World, at: &TopicPartition) -> Vec<Batch> {
    let broker = world.broker_of(at.topic.as_str()).await;
    broker.read_to_end(at, Start::Earliest).await.unwrap()
}

fn at(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(Topic::new(topic).unwrap(), partition)
}

/// The last marker of each task that has one.
pub(crate) async fn markers(world: &World) -> Vec<Marker> {
    let mut markers = Vec::new();
    let broker = world.broker().await;
    for partition in 0..world.draw.partitions {
        let at = at("sim.changelog", partition);
        let Ok(batches) = broker.read_to_end(&at, Start::Earliest).await else {
            continue;
        };
        let records = batches.iter().flat_map(|batch| batch.iter());
        let last = records
            .filter(|record| record.key == Some(MARKER_KEY))
            .last();
        markers.extend(last.map(|record| Marker::decode(record.value.unwrap()).unwrap()));
    }
    markers
}

/// Checks all there is to check, and returns a hash of all topics.
pub(crate) async fn all(world: &World, seen: &Seen) -> u64 {
    nothing_seen_was_undone(world, seen).await;
    let (expected, taken) = expected(world).await;
    records_are_conserved(world, taken).await;
    outputs_are_right(world, &expected).await;
    dead_letters_are_right(world, &expected).await;
    let states = states_are_right(world).await;
    // When a source was silent is part of the state, and no two runs agree on it.
    let has_reference = world.draw.reference && world.draw.idle.is_none();
    if has_reference && world.first_wrong().is_none() {
        let reference = ending::undisturbed(world).await;
        if let Some(wrong) = reference.first_wrong() {
            world.wrong(format!("the undisturbed run failed: {wrong}"));
        } else if states_are_right(&reference).await != states {
            world.caught(
                Checker::Digests,
                "the state differs from that of an undisturbed run",
            );
        }
    }
    hash(world).await
}

/// No reader ever saw an output that is not there in the end (X5).
async fn nothing_seen_was_undone(world: &World, seen: &Seen) {
    for (at, seen) in seen {
        let batches = read(world, at).await;
        let there: Vec<(u64, u64)> = batches
            .iter()
            .flat_map(|batch| batch.iter())
            .map(|record| (record.offset.0, reader::hash(record)))
            .collect();
        if !there.starts_with(seen) {
            let place = seen.iter().zip(&there).position(|(a, b)| a != b);
            world.caught(
                Checker::Seen,
                format!("a reader of {at} saw records that are not there: {place:?}"),
            );
        }
    }
}

/// What must come out, and how many records went in.
async fn expected(world: &World) -> (Expected, usize) {
    let draw = &world.draw;
    let mut expected = Expected::default();
    let mut taken = 0;
    for partition in 0..draw.partitions {
        let mut inputs = Vec::new();
        for input in draw.shape.inputs() {
            let at = at(input, partition);
            let batches = read(world, &at).await;
            let records = batches.iter().flat_map(|batch| batch.iter());
            let records: Vec<Taken> = records
                .map(|record| Taken {
                    place: format!("{input}/{partition}@{}", record.offset),
                    event: serde_json::from_slice(record.value.unwrap_or_default()).ok(),
                })
                .collect();
            taken += records.len();
            inputs.push(records);
        }
        model::expect(draw, &inputs, &mut expected);
    }
    (expected, taken)
}

/// Where each record makes one output, or is set aside, there are as many of these as went in (X4): nothing
/// but counted, so that a naive model that is wrong as the engine is would not hide it.
async fn records_are_conserved(world: &World, taken: usize) {
    let draw = &world.draw;
    let ways: &[&str] = match draw.shape {
        Shape::Routed => &["buy", "sell"],
        Shape::Joined => &["both"],
        Shape::Bars | Shape::Deduped | Shape::Ledger | Shape::Apart => return,
    };
    let mut found = 0;
    for topic in ways.iter().chain(&["sim.dead-letter"]) {
        for partition in 0..draw.output_partitions {
            let batches = read(world, &at(topic, partition)).await;
            found += batches.iter().map(Batch::len).sum::<usize>();
        }
    }
    let holds = match draw.guarantee {
        Guarantee::ExactlyOnce => found == taken,
        Guarantee::AtLeastOnce => found >= taken,
        Guarantee::AtMostOnce => found <= taken,
    };
    if !holds {
        let what = format!("{taken} records went in, {found} came out or were set aside");
        world.caught(Checker::Conservation, what);
    }
}

/// The outputs by topic and key, in order, with their ids.
async fn outputs(world: &World) -> BTreeMap<(String, String), Vec<(Vec<u8>, String)>> {
    let mut outputs: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for topic in world.draw.shape.outputs() {
        for partition in 0..world.draw.output_partitions {
            for batch in read(world, &at(topic, partition)).await {
                for record in batch.iter() {
                    let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                    let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
                    let id = record.header(EVENT_ID).unwrap().to_vec();
                    let key = model::ordered_by(topic, &key, &value);
                    let place = ((*topic).to_owned(), key);
                    outputs.entry(place).or_default().push((id, value));
                }
            }
        }
    }
    outputs
}

/// Every input has its effect in the outputs as often as the guarantee says, in order (X2, X3, X4).
async fn outputs_are_right(world: &World, expected: &Expected) {
    let mut found = outputs(world).await;
    let none = Vec::new();
    let places: BTreeSet<_> = found
        .keys()
        .chain(expected.outputs.keys())
        .cloned()
        .collect();
    for place in places {
        let expected = expected.outputs.get(&place).unwrap_or(&none);
        let mut found = found.remove(&place).unwrap_or_default();
        let (topic, key) = place;
        let mut ids = BTreeSet::new();
        let all = found.len();
        found.retain(|(id, _)| ids.insert(id.clone()));
        if found.len() < all && world.draw.guarantee != Guarantee::AtLeastOnce {
            world.caught(
                Checker::Effects,
                format!(
                    "{} outputs for key {key} in {topic} are doubled",
                    all - found.len()
                ),
            );
        }
        let mut found: Vec<&String> = found.iter().map(|(_, value)| value).collect();
        if world.draw.guarantee == Guarantee::AtMostOnce {
            let mut expected: Vec<&String> = expected.iter().collect();
            if world.draw.processes > 1 || world.draw.twins > 0 {
                // What a process was about to send when it lost its partitions, or was held up while
                // another of its name went on, comes after what its heirs sent.
                found.sort_unstable();
                expected.sort_unstable();
            }
            let mut rest = expected.into_iter();
            if let Some(extra) = found.iter().find(|found| !rest.any(|one| one == **found)) {
                world.caught(
                    Checker::Effects,
                    format!("{topic}, key {key}: out of order, doubled or wrong: {extra}"),
                );
            }
            continue;
        }
        let mut expected: Vec<&String> = expected.iter().collect();
        if world.draw.rejects && world.draw.guarantee == Guarantee::AtLeastOnce {
            // What is acknowledged one by one is refused one by one, and comes again after the rest.
            found.sort_unstable();
            expected.sort_unstable();
        }
        if let Some(place) = (0..expected.len().max(found.len()))
            .find(|place| expected.get(*place) != found.get(*place))
        {
            let what = format!(
                "{topic}, key {key}, record {place} of {} (expected {}):\n  expected {:?}\n  found    {:?}",
                found.len(),
                expected.len(),
                expected.get(place),
                found.get(place)
            );
            found.sort_unstable();
            expected.sort_unstable();
            let by = match found == expected {
                true => Checker::Order,
                false => Checker::Effects,
            };
            world.caught(by, what);
        }
    }
}

async fn dead_letters_are_right(world: &World, expected: &Expected) {
    let mut found = Vec::new();
    let mut ids = BTreeSet::new();
    for partition in 0..world.draw.output_partitions {
        for batch in read(world, &at("sim.dead-letter", partition)).await {
            for record in batch.iter() {
                let header = |name| {
                    String::from_utf8(record.header(name).unwrap_or_default().to_vec()).unwrap()
                };
                let dead = (header("dl-src"), header("dl-stage"));
                let new = ids.insert(dead.clone());
                if new || world.draw.guarantee != Guarantee::AtLeastOnce {
                    found.push(dead);
                }
            }
        }
    }
    found.sort_unstable();
    let mut expected = expected.dead.clone();
    expected.sort_unstable();
    if world.draw.guarantee == Guarantee::AtMostOnce {
        let mut rest = expected.iter();
        if let Some(extra) = found.iter().find(|found| !rest.any(|one| one == *found)) {
            world.caught(
                Checker::Effects,
                format!("a dead letter is doubled or wrong: {extra:?}"),
            );
        }
    } else if found != expected {
        let missing = expected.iter().find(|one| !found.contains(one));
        let extra = found.iter().find(|one| !expected.contains(one));
        world.caught(
            Checker::Effects,
            format!(
                "{} dead letters where {} are expected; missing {missing:?}, extra {extra:?}",
                found.len(),
                expected.len()
            ),
        );
    }
}

/// The states of all tasks, rebuilt from offset 0, have the digests that their markers say (X6), the
/// ledger's sum is constant at every epoch (X1), and the stores hold the same.
async fn states_are_right(world: &World) -> Vec<Elements> {
    let mut states = Vec::new();
    for partition in 0..world.draw.partitions {
        let at = at("sim.changelog", partition);
        let batches = read(world, &at).await;
        // With every record still there each epoch can be looked at, else only the last.
        let high = batches.last().map_or(0, |batch| batch.next().0);
        let is_whole = match world.host() {
            None => world.draw.cleans == 0 && high < 10_000,
            // The log compacts by itself, and leaves no gaps otherwise.
            Some(_) => batches.iter().map(Batch::len).sum::<usize>() as u64 == high,
        };
        let mut state = Elements::new();
        let mut last: Option<(Marker, Digest)> = None;
        for batch in batches {
            for record in batch.iter() {
                let (key, value) = (record.key.unwrap(), record.value);
                if key != MARKER_KEY {
                    let key = Bytes::copy_from_slice(key);
                    match value {
                        Some(value) => state.insert(key, Bytes::copy_from_slice(value)),
                        None => state.remove(&key),
                    };
                    continue;
                }
                let marker = Marker::decode(value.unwrap()).unwrap();
                let digest = digest(&state);
                if is_whole {
                    epoch_is_right(world, &at, &marker, digest, &state, last.as_ref());
                }
                last = Some((marker, digest));
            }
        }
        if let Some((marker, _)) = last {
            // What a compaction left is the state as of the last marker.
            let digest = digest(&state);
            if marker.digest != digest {
                world.caught(
                    Checker::Digests,
                    format!(
                        "{at}: replayed, its digest is {digest}, the marker of epoch {} says {}",
                        marker.epoch, marker.digest
                    ),
                );
            }
            store_is_right(world, &marker, &state).await;
        }
        states.push(state);
    }
    states
}

fn digest(state: &Elements) -> Digest {
    let mut digest = Digest::EMPTY;
    for (key, value) in state {
        digest.add(Share::of(key, value));
    }
    digest
}

fn epoch_is_right(
    world: &World,
    at: &TopicPartition,
    marker: &Marker,
    digest: Digest,
    state: &Elements,
    last: Option<&(Marker, Digest)>,
) {
    let epoch = marker.epoch;
    if marker.digest != digest {
        world.caught(
            Checker::Digests,
            format!(
                "{at}: at epoch {epoch} the digest is {digest}, its marker says {}",
                marker.digest
            ),
        );
    }
    if let Some((last, _)) = last {
        if last.epoch.next() != epoch {
            world.caught(
                Checker::Digests,
                format!("{at}: epoch {epoch} follows epoch {}", last.epoch),
            );
        }
        for (before, now) in last.inputs.iter().zip(&marker.inputs) {
            if now.next < before.next {
                world.caught(
                    Checker::Digests,
                    format!("{at}: epoch {epoch} goes back from {before:?} to {now:?}"),
                );
            }
        }
    }
    // Once its windows have fired at the end of a run they may be let go one by one.
    let has_fired = marker.sequences.iter().any(|(_, _, count)| *count > 0);
    if world.draw.shape == Shape::Ledger && !has_fired {
        let sums = ledger_sums(state);
        let sum: i64 = sums.iter().sum();
        world
            .ledgers
            .fetch_add(u64::from(!sums.is_empty()), Ordering::Relaxed);
        if sum != 0 {
            world.caught(
                Checker::Ledger,
                format!("{at}: at epoch {epoch} the ledger's sum is {sum}"),
            );
        }
    }
}

/// A window as it is stored, read without the engine's types.
#[derive(Debug, Deserialize)]
struct StoredWindow {
    #[serde(rename = "firings")]
    _firings: u32,
    accumulators: Vec<StoredAggregate>,
}

#[derive(Debug, Deserialize)]
enum StoredAggregate {
    Count,
    Sum(i64, bool),
}

/// The sums of all open windows of a ledger.
fn ledger_sums(state: &Elements) -> Vec<i64> {
    // Table 0 says which number each table has.
    let registry = state.iter().take_while(|(key, _)| key.starts_with(&[0, 0]));
    let sides: BTreeSet<[u8; 2]> = registry
        .filter(|(key, _)| key.ends_with(b"debit") || key.ends_with(b"credit"))
        .map(|(_, value)| [value[0], value[1]])
        .collect();
    let windows = state.iter().filter(|(key, _)| sides.contains(&key[..2]));
    windows
        .map(|(_, value)| {
            let window: StoredWindow = postcard::from_bytes(value).unwrap();
            match window.accumulators[..] {
                [StoredAggregate::Sum(sum, true)] => sum,
                ref other => panic!("{other:?}"),
            }
        })
        .collect()
}

async fn store_is_right(world: &World, marker: &Marker, state: &Elements) {
    let disk = world.disk(world.machine(0), &marker.task);
    let identity = Identity {
        pipeline: "sim".into(),
        task: marker.task.clone(),
    };
    let store = MemoryStore::open(&disk, &identity).unwrap();
    let stored = store.stored().await.unwrap();
    if stored.map(|stored| (stored.epoch, stored.digest)) != Some((marker.epoch, marker.digest)) {
        world.caught(
            Checker::Digests,
            format!(
                "the store of task {} is at {stored:?}, the log at epoch {}",
                marker.task, marker.epoch
            ),
        );
    }
    let elements = store.scan(Bytes::new(), None, usize::MAX).await.unwrap();
    if elements.into_iter().collect::<Elements>() != *state {
        world.caught(
            Checker::Digests,
            format!(
                "the store of task {} differs from its changelog",
                marker.task
            ),
        );
    }
}

/// A hash of everything in all topics (X8).
async fn hash(world: &World) -> u64 {
    let mut hash = Xxh3::new();
    let second = world
        .second
        .iter()
        .map(|second| Arc::new(second.clone()) as Arc<dyn Broker>);
    let brokers: Vec<Arc<dyn Broker>> = second.chain([world.broker().await]).collect();
    for broker in brokers {
        for topic in broker.list_topics().await.unwrap() {
            let described = broker.describe_topic(&topic).await;
            for partition in 0..described.unwrap().partitions {
                hash.update(topic.as_str().as_bytes());
                hash.update(&partition.to_be_bytes());
                let at = TopicPartition::new(topic.clone(), partition);
                let batches = broker.read_to_end(&at, Start::Earliest).await.unwrap();
                for record in batches.iter().flat_map(|batch| batch.iter()) {
                    hash.update(&record.offset.0.to_be_bytes());
                    hash.update(&reader::hash(record).to_be_bytes());
                }
            }
        }
    }
    hash.digest()
}
