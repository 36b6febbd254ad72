//! A run that follows the control records of another writes what that one wrote.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill_broker::{Broker, BrokerExt, RecordSet, Start, Topic, TopicPartition, TopicSpec};
use tidemill_broker_memory::MemoryBroker;
use tokio::sync::watch;

use super::any_graph::Drawn;
use super::cutting::{Cuts, Cutting};
use super::fan_in::{How, first_difference, others, read, records, run, whole};
use crate::pipeline::{Bounds, MemoryStores, Pipeline, RunOptions};

/// Where the control records of the first run lie for the others.
const RECORDED: &str = "recorded-control";

/// Runs live, while some of the records come in and the clock goes on. Returns what was written, and
/// the recording: what came in, and in which order it was taken.
fn live(
    drawn: &Drawn,
    input: &[RecordSet],
    due_at_once: usize,
    rng: &mut SmallRng,
) -> (Vec<String>, Vec<RecordSet>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let inner = MemoryBroker::default();
        for set in input {
            let spec = TopicSpec::new(set.at.topic.clone(), std::num::NonZeroU32::MIN);
            inner.create_topic(&spec).await.unwrap();
        }
        let plan = drawn.parse(20).unwrap().plan;
        let stores = Arc::new(MemoryStores::default());
        let mut given: Vec<RecordSet> = input
            .iter()
            .map(|set| RecordSet::new(set.at.clone()))
            .collect();
        // Restarted now and then, and the clock decides something each time.
        for number in 1..4 {
            let (stop, stopped) = watch::channel(false);
            let (end, until_end) = watch::channel(false);
            let broker: Arc<dyn Broker> = Arc::new(Cutting {
                inner: inner.clone(),
                cuts: Cuts {
                    records_max: 20,
                    seed: rng.random(),
                    even: false,
                    stop_after: None,
                },
                stop: stop.clone(),
                handed_out: Arc::new(Mutex::new(0)),
            });
            let pipeline = Pipeline::in_order(plan.clone(), vec![broker], stores.clone());
            let options = RunOptions {
                until_end,
                bounds: Bounds {
                    due_at_once,
                    ..Bounds::default()
                },
                ..RunOptions::new("0", number)
            };
            let running = tokio::spawn(async move { pipeline.run(options, stopped).await });
            for _ in 0..8 {
                let source = rng.random_range(0..input.len());
                let all = &input[source];
                let mut some = RecordSet::new(all.at.clone());
                let more = rng.random_range(1..30);
                for record in all.iter().skip(given[source].len()).take(more) {
                    some.push_ref(record);
                    given[source].push_ref(record);
                }
                if !some.is_empty() {
                    for acks in inner.produce(vec![some]).await.unwrap() {
                        acks.into_result().unwrap();
                    }
                }
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
            }
            if number == 3 || rng.random() {
                end.send_replace(true);
            } else {
                stop.send_replace(true);
            }
            running.await.unwrap().unwrap();
        }
        let at = TopicPartition::new(Topic::new("any.control").unwrap(), 0);
        let mut control = RecordSet::new(TopicPartition::new(Topic::new(RECORDED).unwrap(), 0));
        for batch in inner.read_to_end(&at, Start::Earliest).await.unwrap() {
            for record in batch.iter() {
                control.push_ref(record);
            }
        }
        given.push(control);
        (read(&inner, drawn).await, given)
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_run_that_follows_control_records_writes_the_same(seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let sources = rng.random_range(1..4);
        let mut drawn = Drawn::draw(&mut rng, sources);
        drawn.idle = true;
        let input: Vec<RecordSet> = drawn
            .sources
            .iter()
            .map(|topic| records(topic, 150, &mut rng))
            .collect();
        let due_at_once = [whole().due_at_once, 2, 1][rng.random_range(0..3)];
        let (first, input) = live(&drawn, &input, due_at_once, &mut rng);
        let follow = Some(Topic::new(RECORDED).unwrap());
        let whole = How { due_at_once, ..whole() };
        for mut how in others(due_at_once, &mut rng).into_iter().chain([whole]) {
            how.follow = follow.clone();
            let out = run(&drawn, &input, &how);
            let difference = first_difference(&first, &out);
            prop_assert!(
                difference.is_none(),
                "{}\n{how:?}\n{}",
                difference.unwrap_or_default(),
                drawn.file(1)
            );
        }
    }
}
