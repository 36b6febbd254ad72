//! Logs and markers that contradict each other: the run halts with both shown, and nothing is written.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tidemill_broker::{Consumer, ConsumerOptions, Delivery, Layer, Offset};

use super::*;

pub(super) const TICKS: &str = "market-data-updates";

pub(super) fn at(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(Topic::new(topic).unwrap(), partition)
}

/// Everything in every partition that holds anything.
pub(super) async fn contents(broker: &dyn Broker) -> BTreeMap<TopicPartition, Vec<String>> {
    let mut found = BTreeMap::new();
    for topic in broker.list_topics().await.unwrap() {
        let partitions = broker.describe_topic(&topic).await.unwrap().partitions;
        for partition in 0..partitions {
            let records = read(broker, topic.as_str(), partition).await;
            if !records.is_empty() {
                found.insert(TopicPartition::new(topic.clone(), partition), records);
            }
        }
    }
    found
}

/// The run halts, however often it is tried, and changes nothing.
async fn halts(pipeline: &Pipeline, broker: &MemoryBroker, said: &str) {
    let before = contents(broker).await;
    for _ in 0..2 {
        let error = run(pipeline).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity, "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
    assert_eq!(contents(broker).await, before);
}

/// Commits an offset for the group of the pipelines here, as another program might.
async fn commit_for_group(broker: &MemoryBroker, offset: Offset) {
    let topics = vec![Topic::new(TICKS).unwrap()];
    let group = bars_plan().group;
    let options = ConsumerOptions::group(group, topics, Start::Earliest);
    let mut consumer = broker.consumer(options).await.unwrap();
    let Delivery::Assigned { generation, .. } = consumer.next().await.unwrap() else {
        panic!("no assignment");
    };
    let offsets = [(at(TICKS, 0), offset)];
    consumer
        .commit(generation.as_ref(), &offsets)
        .await
        .unwrap();
}

/// Goes on from the beginning after a reset.
async fn goes_on_after_a_reset(pipeline: &Pipeline, plan: Plan, broker: &MemoryBroker) {
    let options = ResetOptions {
        to: ResetTo::Earliest,
        source: None,
        partition: None,
        drop_state: true,
    };
    let bars = read_all(broker, "bars-1s").await;
    let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(broker.clone())];
    let reset = Resetting::look(plan, brokers, options, None).await.unwrap();
    reset.apply(&["0".into()], 9).await.unwrap();
    run(pipeline).await.unwrap();
    let after = read_all(broker, "bars-1s").await;
    assert_eq!(after[..bars.len()], bars, "what was written stays");
    assert_eq!(after.len(), bars.len() + 2, "{after:#?}");
}

async fn two_ticks() -> MemoryBroker {
    let broker = broker_with(1).await;
    for millis in [0, 1_000] {
        broker.send(tick("A", millis, "10", "1")).await.unwrap();
    }
    broker
}

/// As after an unclean election of a leader.
#[tokio::test(start_paused = true)]
async fn an_input_that_ends_before_what_was_read_of_it_halts() {
    let broker = two_ticks().await;
    let pipeline = pipeline(bars_plan(), &broker);
    run(&pipeline).await.unwrap();
    broker.faults().truncate(&at(TICKS, 0), Offset(1)).unwrap();
    let said = "market-data-updates/0 is not the log this pipeline has read: \
                it ends at offset 1, but was read up to 2; `tidemill offsets reset`";
    halts(&pipeline, &broker, said).await;
}

#[tokio::test(start_paused = true)]
async fn an_offset_of_the_group_that_is_not_the_markers_halts_with_both() {
    let broker = two_ticks().await;
    let pipeline = pipeline(bars_plan(), &broker);
    run(&pipeline).await.unwrap();
    let said = |offset| format!("the group has committed offset {offset}, the marker says 2;");
    for offset in [0, 1, 3] {
        commit_for_group(&broker, Offset(offset)).await;
        halts(&pipeline, &broker, &said(offset)).await;
    }
    goes_on_after_a_reset(&pipeline, bars_plan(), &broker).await;
}

#[tokio::test(start_paused = true)]
async fn an_offset_of_the_group_without_a_marker_halts() {
    let broker = two_ticks().await;
    commit_for_group(&broker, Offset(1)).await;
    let pipeline = pipeline(bars_plan(), &broker);
    let said = "the group has committed offset 1, but there is no marker; `tidemill offsets reset`";
    halts(&pipeline, &broker, said).await;
    goes_on_after_a_reset(&pipeline, bars_plan(), &broker).await;
}

/// Two streams side by side: as many tasks as before, but not the same.
#[tokio::test(start_paused = true)]
async fn inputs_that_swapped_their_numbers_of_partitions_halt() {
    let broker = MemoryBroker::default();
    let make = async |topic: &str, partitions| {
        let partitions = NonZeroU32::new(partitions).unwrap();
        let spec = TopicSpec::new(Topic::new(topic).unwrap(), partitions);
        broker.create_topic(&spec).await.unwrap();
        for millis in [0, 1_000] {
            let mut tick = tick("A", millis, "10", "1");
            tick.topic = Topic::new(topic).unwrap();
            broker.send(tick).await.unwrap();
        }
    };
    make(TICKS, 2).await;
    make("other", 1).await;
    let plan = plan(
        "",
        r#"
        [topics.other]
        event = "MarketDataUpdate"
        key = "pair"
        start = "earliest"
        [topics.once]
        [topics.once-other]

        [stages.first]
        from = "market-data-updates"
        op = "dedupe"
        id = ["currentPrice"]
        window = "1h"
        [stages.first-other]
        from = "other"
        op = "dedupe"
        id = ["currentPrice"]
        window = "1h"

        [sinks.once]
        from = "first"
        topic = "once"
        [sinks.once-other]
        from = "first-other"
        topic = "once-other"
        "#,
    );
    let pipeline = pipeline(plan, &broker);
    run(&pipeline).await.unwrap();
    for topic in [TICKS, "other"] {
        broker
            .delete_topic(&Topic::new(topic).unwrap())
            .await
            .unwrap();
    }
    make(TICKS, 1).await;
    make("other", 2).await;
    let said = "its inputs have 1 partitions, and had 2 when its state was written: \
                keys have moved; `tidemill offsets reset`";
    halts(&pipeline, &broker, said).await;
}

/// Makes its topic anew once the run has looked at it, before it begins to read.
#[derive(Debug)]
struct MadeAnew {
    inner: MemoryBroker,
    done: AtomicBool,
}

#[async_trait]
impl Layer for MadeAnew {
    fn inner(&self) -> &dyn Broker {
        &self.inner
    }

    async fn consume(
        &self,
        options: ConsumerOptions,
    ) -> tidemill_broker::Result<Box<dyn Consumer>> {
        if options.group.is_some() && !self.done.swap(true, Ordering::Relaxed) {
            let topic = Topic::new(TICKS)?;
            self.inner.delete_topic(&topic).await?;
            let spec = TopicSpec::new(topic, NonZeroU32::MIN);
            self.inner.create_topic(&spec).await?;
            for millis in [10_000, 11_000, 12_000] {
                self.inner.send(tick("A", millis, "10", "1")).await?;
            }
        }
        self.inner.consumer(options).await
    }
}

/// What was known of the topic when the run began was taken for what it is when its task is opened, and
/// the first records of the new one were passed over.
#[tokio::test(start_paused = true)]
async fn an_input_that_is_made_anew_while_a_run_starts_halts() {
    let broker = two_ticks().await;
    let stores = Arc::new(MemoryStores::default());
    let of =
        |broker: Arc<dyn Broker>| Pipeline::in_order(bars_plan(), vec![broker], stores.clone());
    run(&of(Arc::new(broker.clone()))).await.unwrap();
    let made_anew = MadeAnew {
        inner: broker.clone(),
        done: AtomicBool::new(false),
    };
    let pipeline = of(Arc::new(made_anew));
    let said = "market-data-updates/0 is not the log this pipeline has read: \
                it was deleted and created again";
    let error = run(&pipeline).await.unwrap_err();
    assert!(error.to_string().contains(said), "{error}");
    halts(&pipeline, &broker, said).await;
    assert_eq!(read_all(&broker, "bars-1s").await.len(), 2);
}
