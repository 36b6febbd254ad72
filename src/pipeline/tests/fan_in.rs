//! What comes out depends on the order of the records that go in, and on nothing else.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill_broker::{
    Broker, BrokerExt, Headers, RecordSet, Start, Timestamp, Topic, TopicPartition, TopicSpec,
};
use tidemill_broker_memory::MemoryBroker;
use tokio::sync::watch;

use super::any_graph::Drawn;
use super::cutting::{Cuts, Cutting};
use crate::pipeline::{Bounds, Cut, MemoryStores, Pipeline, RunOptions};

/// 2024-01-01T00:00:00Z, microseconds.
const EPOCH: i64 = 1_704_067_200_000_000;

/// Records of one source: out of order, late, poison, with ids that come again and sums that
/// overflow, many of one time.
pub(super) fn records(topic: &str, count: usize, rng: &mut SmallRng) -> RecordSet {
    let at = TopicPartition::new(Topic::new(topic).unwrap(), 0);
    let mut set = RecordSet::new(at);
    let mut now = EPOCH;
    let grain = [1, 100_000][rng.random_range(0..2)];
    for number in 0..count {
        now += rng.random_range(0..400_000) * rng.random_range(0..3);
        let back = match rng.random_range(0..10) {
            0 => 3_000_000,
            1..4 => 400_000,
            _ => 1,
        };
        let time = now - rng.random_range(0..back);
        let time = time - time % grain;
        let account = format!("a{}", rng.random_range(0..4));
        let amount = match rng.random_range(0..40) {
            0 => i64::MAX / 2,
            _ => rng.random_range(-9..9),
        };
        let side = ["buy", "sell", "none"][rng.random_range(0..3)];
        let id = rng.random_range(0..=number);
        let mut written = Vec::new();
        crate::events::write_time(time, &mut written).unwrap();
        let value = match rng.random_range(0..25) {
            0 => "poison".to_owned(),
            _ => format!(
                r#"{{"eventType":"Move","id":{id},"account":"{account}","side":"{side}","amount":{amount},"at":"{}"}}"#,
                String::from_utf8(written).unwrap()
            ),
        };
        let (key, value) = (Some(account.as_bytes()), Some(value.as_bytes()));
        set.push(Some(Timestamp(time)), key, value, &Headers::new());
    }
    set
}

/// How a run goes.
#[derive(Debug, Clone)]
pub(super) struct How {
    pub(super) cuts: Cuts,
    /// Records of an epoch.
    pub(super) epoch: u64,
    pub(super) memory: usize,
    /// How much is done at once of what event time makes due.
    pub(super) due_at_once: usize,
    /// Control records to follow.
    pub(super) follow: Option<Topic>,
}

/// A record that a run has written.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) topic: String,
    timestamp: Timestamp,
    key: String,
    pub(super) value: String,
    headers: Vec<(String, Vec<u8>)>,
}

impl Written {
    /// A header as text; empty if it has none of this name.
    pub(super) fn header(&self, name: &str) -> String {
        let found = self.headers.iter().find(|(of, _)| of == name);
        found.map_or_else(String::new, |(_, value)| {
            String::from_utf8_lossy(value).into_owned()
        })
    }
}

/// Runs a pipeline over records, in as many runs as it takes, and returns what it has written.
pub(super) fn run(drawn: &Drawn, input: &[RecordSet], how: &How) -> Vec<String> {
    lines(&written(drawn, input, how))
}

/// The same, record by record.
pub(super) fn written(drawn: &Drawn, input: &[RecordSet], how: &How) -> Vec<Written> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let inner = MemoryBroker::default();
        for set in input {
            let spec = TopicSpec::new(set.at.topic.clone(), NonZeroU32::MIN);
            inner.create_topic(&spec).await.unwrap();
        }
        for acks in inner.produce(input.to_vec()).await.unwrap() {
            acks.into_result().unwrap();
        }
        let mut plan = drawn.parse(how.epoch).unwrap().plan;
        plan.memory = how.memory;
        let stores = Arc::new(MemoryStores::default());
        let mut cuts = how.cuts.clone();
        for run in 1.. {
            let (stop, stopped) = watch::channel(false);
            let broker = Arc::new(Cutting {
                inner: inner.clone(),
                cuts: cuts.clone(),
                stop,
                handed_out: Arc::new(Mutex::new(0)),
            });
            let pipeline = Pipeline::in_order(plan.clone(), vec![broker.clone()], stores.clone());
            let options = RunOptions {
                cut: Cut::Lockstep,
                until_end: watch::channel(true).1,
                follow: how.follow.clone(),
                bounds: Bounds {
                    due_at_once: how.due_at_once,
                    ..Bounds::default()
                },
                ..RunOptions::new("0", run)
            };
            pipeline.run(options, stopped).await.unwrap();
            if !*broker.stop.borrow() {
                break;
            }
            // Far enough to end some time.
            cuts.stop_after = cuts.stop_after.map(|after| after + 37);
        }
        let written = read_records(&inner, drawn).await;
        assert_ids_are_unique(&written, drawn);
        written
    })
}

/// Within a topic no two results, and no two dead letters, have one id.
fn assert_ids_are_unique(written: &[Written], drawn: &Drawn) {
    let mut seen = BTreeSet::new();
    for record in written {
        let id = [record.header("event-id"), record.header("dl-id")].concat();
        let is_new = seen.insert((&record.topic, id));
        assert!(
            is_new,
            "the id of {record:?} came before\n{}",
            drawn.file(1)
        );
    }
}

pub(super) async fn read(broker: &MemoryBroker, drawn: &Drawn) -> Vec<String> {
    lines(&read_records(broker, drawn).await)
}

fn lines(written: &[Written]) -> Vec<String> {
    let line = |record: &Written| {
        let Written {
            topic,
            timestamp,
            key,
            value,
            headers,
        } = record;
        format!("{topic} {timestamp:?} {key} {value} {headers:?}")
    };
    written.iter().map(line).collect()
}

async fn read_records(broker: &MemoryBroker, drawn: &Drawn) -> Vec<Written> {
    let mut out = Vec::new();
    for topic in drawn
        .topics
        .iter()
        .map(String::as_str)
        .chain(["any.dead-letter"])
    {
        let at = TopicPartition::new(Topic::new(topic).unwrap(), 0);
        for batch in broker.read_to_end(&at, Start::Earliest).await.unwrap() {
            for record in batch.iter() {
                let text = |bytes: Option<&[u8]>| {
                    String::from_utf8_lossy(bytes.unwrap_or(b"-")).into_owned()
                };
                let headers = record.headers();
                out.push(Written {
                    topic: topic.to_owned(),
                    timestamp: record.timestamp,
                    key: text(record.key),
                    value: text(record.value),
                    headers: headers
                        .map(|(name, value)| (name.to_owned(), value.to_vec()))
                        .collect(),
                });
            }
        }
    }
    out
}

pub(super) fn whole() -> How {
    How {
        cuts: Cuts {
            records_max: 10_000,
            seed: 0,
            even: true,
            stop_after: None,
        },
        epoch: 100_000,
        memory: 1 << 24,
        due_at_once: Bounds::default().due_at_once,
        follow: None,
    }
}

/// Other ways to cut the same records.
pub(super) fn others(due_at_once: usize, rng: &mut SmallRng) -> Vec<How> {
    let one_by_one = How {
        cuts: Cuts {
            records_max: 1,
            ..whole().cuts
        },
        due_at_once,
        ..whole()
    };
    let mut drawn = |epoch: u64, stop_after: Option<u64>| How {
        cuts: Cuts {
            records_max: rng.random_range(2..50),
            seed: rng.random(),
            even: false,
            stop_after,
        },
        epoch,
        memory: [1 << 24, 2_000][rng.random_range(0..2)],
        due_at_once,
        follow: None,
    };
    vec![
        one_by_one,
        drawn(100_000, None),
        drawn(7, None),
        drawn(1, None),
        drawn(23, Some(60)),
    ]
}

pub(super) fn first_difference(one: &[String], other: &[String]) -> Option<String> {
    let place = (0..one.len().max(other.len())).find(|at| one.get(*at) != other.get(*at))?;
    Some(format!(
        "record {place} of {} and {}:\n{:?}\n{:?}",
        one.len(),
        other.len(),
        one.get(place),
        other.get(place)
    ))
}

fn is_a_function_of_the_order(seed: u64, sources: usize) -> Result<(), TestCaseError> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let drawn = Drawn::draw(&mut rng, sources);
    let count = 150;
    let input: Vec<RecordSet> = drawn
        .sources
        .iter()
        .map(|topic| records(topic, count, &mut rng))
        .collect();
    // With little at once, most moves of event time leave a backlog.
    let due_at_once = [whole().due_at_once, 3, 2, 1][rng.random_range(0..4)];
    let how = How {
        due_at_once,
        ..whole()
    };
    let first = run(&drawn, &input, &how);
    for how in others(due_at_once, &mut rng) {
        let out = run(&drawn, &input, &how);
        let difference = first_difference(&first, &out);
        prop_assert!(
            difference.is_none(),
            "{}\n{how:?}\n{}",
            difference.unwrap_or_default(),
            drawn.file(1)
        );
    }
    // However much is done at once, the same comes out: only stages that write to one topic may do
    // so in another order.
    let mut sorted = [first, run(&drawn, &input, &whole())];
    sorted.iter_mut().for_each(|out| out.sort_unstable());
    let difference = first_difference(&sorted[0], &sorted[1]);
    prop_assert!(
        difference.is_none(),
        "{due_at_once} at once: {}\n{}",
        difference.unwrap_or_default(),
        drawn.file(1)
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Fan-in went by how batches were cut: a stage with several inputs took a batch of the one before
    /// that of the other, event time moved past the others' rows at the end of a batch, and a window
    /// that a dropped record closes fired with the next batch, or the next row that came its way.
    #[test]
    fn the_output_of_any_graph_depends_on_the_order_of_its_input_alone(seed: u64) {
        is_a_function_of_the_order(seed, 1)?;
    }

    /// With several inputs the order is left to when their records arrive, but in lockstep.
    #[test]
    fn in_lockstep_the_output_of_joined_inputs_depends_on_their_records_alone(
        seed: u64,
        sources in 2_usize..4,
    ) {
        is_a_function_of_the_order(seed, sources)?;
    }
}
