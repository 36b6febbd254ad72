//! Inputs that are idle, or seem to be.

use std::collections::VecDeque;

use async_trait::async_trait;
use tidemill_broker::{
    Batch, Consumer, ConsumerOptions, Delivery, Generation, Layer, Offset, RecordSet,
};
use tokio::time::Instant;

use super::scripted::{Commit, Scripted};
use super::*;

const TWO: &str = r#"
    idle = "1s"

    [topics.others]
    broker = "main"
    event = "MarketDataUpdate"
    key = "pair"
    start = "earliest"
    idle = "1s"

    [topics.bars-10s]
    broker = "main"

    [stages.both]
    op = "merge"
    from = ["market-data-updates", "others"]

    [stages.ten]
    from = "both"
    op = "tumbling_window"
    size = "10s"
    event = "Bar"

    [stages.ten.aggregate]
    open = "first(currentPrice)"
    high = "max(currentPrice)"
    low = "min(currentPrice)"
    close = "last(currentPrice)"
    volume = "sum(quantity)"

    [sinks.bars]
    from = "ten"
    topic = "bars-10s"
"#;

const FIRST: &str = "market-data-updates";
const PAIRS: usize = 20;
const SECOND: &str = "others";

/// A broker on which reading takes a while.
#[derive(Debug)]
struct Slow(MemoryBroker);

const SLOW: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct SlowConsumer {
    inner: Box<dyn Consumer>,
    held: VecDeque<(Instant, Batch)>,
}

#[async_trait]
impl Layer for Slow {
    fn inner(&self) -> &dyn Broker {
        &self.0
    }

    async fn consume(
        &self,
        options: ConsumerOptions,
    ) -> tidemill_broker::Result<Box<dyn Consumer>> {
        Ok(Box::new(SlowConsumer {
            inner: self.0.consumer(options).await?,
            held: VecDeque::new(),
        }))
    }
}

#[async_trait]
impl Consumer for SlowConsumer {
    async fn next(&mut self) -> tidemill_broker::Result<Delivery> {
        loop {
            if let Some((at, _)) = self.held.front() {
                tokio::time::sleep_until(*at).await;
                let (_, batch) = self.held.pop_front().unwrap();
                return Ok(Delivery::Records(batch));
            }
            match self.inner.next().await? {
                Delivery::Records(batch) => self.held.push_back((Instant::now() + SLOW, batch)),
                other => return Ok(other),
            }
        }
    }

    async fn commit(
        &mut self,
        generation: Option<&Generation>,
        offsets: &[(TopicPartition, Offset)],
    ) -> tidemill_broker::Result<()> {
        self.inner.commit(generation, offsets).await
    }

    async fn seek(&mut self, at: &TopicPartition, offset: Offset) -> tidemill_broker::Result<()> {
        self.held.retain(|(_, batch)| batch.at() != at);
        self.inner.seek(at, offset).await
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        self.inner.pause(partitions);
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        self.inner.resume(partitions);
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.inner.position(at)
    }
}

async fn two_topics() -> MemoryBroker {
    let broker = broker_with(1).await;
    for name in [SECOND, "bars-10s"] {
        let spec = TopicSpec::new(Topic::new(name).unwrap(), NonZeroU32::MIN);
        broker.create_topic(&spec).await.unwrap();
    }
    broker
}

async fn send(broker: &MemoryBroker, topic: &str, pair: &str, seconds: i64) {
    let mut record = tick(pair, seconds * 1_000, "1.5", "2");
    record.topic = Topic::new(topic).unwrap();
    broker.send(record).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_input_whose_records_are_on_their_way_is_not_idle() {
    let broker = two_topics().await;
    let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(Slow(broker.clone()))];
    let pipeline = Pipeline::in_order(plan("", TWO), brokers, Arc::new(MemoryStores::default()));
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { pipeline.run(RunOptions::new("0", 1), stopped).await });
    send(&broker, FIRST, "BTC-USD", 1).await;
    send(&broker, FIRST, "BTC-USD", 25).await;
    send(&broker, SECOND, "ETH-USD", 2).await;
    send(&broker, SECOND, "ETH-USD", 25).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    stop.send_replace(true);
    running.await.unwrap().unwrap();
    assert_eq!(read_all(&broker, "bars-10s").await.len(), 2);
    assert!(read_all(&broker, "bars.dead-letter").await.is_empty());
}

/// Runs one due thing at a time until told.
async fn run_until(pipeline: &Pipeline, run: u64, until: impl Future<Output = ()>) {
    let options = RunOptions {
        bounds: Bounds {
            due_at_once: 1,
            ..Bounds::default()
        },
        ..RunOptions::new("0", run)
    };
    let (stop, stopped) = watch::channel(false);
    let until = async {
        until.await;
        stop.send_replace(true);
    };
    let (ended, ()) = futures::join!(pipeline.run(options, stopped), until);
    ended.unwrap();
}

/// Event time stood where it was once the last of them fell silent: what came out in the end depended on
/// which that was.
#[tokio::test(start_paused = true)]
async fn once_all_inputs_are_silent_event_time_is_where_the_furthest_is() {
    for order in [[(FIRST, 25), (SECOND, 12)], [(SECOND, 12), (FIRST, 25)]] {
        let broker = two_topics().await;
        let pipeline = pipeline(plan("", TWO), &broker);
        send(&broker, FIRST, "BTC-USD", 5).await;
        let feed = async {
            for (topic, seconds) in order {
                tokio::time::sleep(Duration::from_millis(500)).await;
                send(&broker, topic, "ETH-USD", seconds).await;
            }
            tokio::time::sleep(Duration::from_secs(20)).await;
        };
        run_until(&pipeline, 1, feed).await;
        let bars = read_all(&broker, "bars-10s").await;
        assert_eq!(bars.len(), 2, "{order:?}: {bars:?}");
        // It never goes back, over a restart neither.
        send(&broker, SECOND, "ETH-USD", 13).await;
        run_until(&pipeline, 2, tokio::time::sleep(Duration::from_secs(20))).await;
        assert_eq!(read_all(&broker, "bars-10s").await, bars);
        assert_eq!(read_all(&broker, "bars.dead-letter").await.len(), 1, "late");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_silence_of_all_made_due_is_made_due_by_who_follows() {
    let broker = two_topics().await;
    let plan = plan("commit = { interval = \"1s\", records = 1 }", TWO);
    // Commits take a while, so that there is an instant between two of them.
    let slow = Scripted::new(&broker).on_commit(|_| Commit::Waits(Duration::from_millis(10)));
    let stores = Arc::new(MemoryStores::default());
    let first = Pipeline::in_order(plan.clone(), vec![Arc::new(slow)], stores);
    // The first input is at 5 s when both fall silent, the second, ahead of it, before it: that makes a
    // window of each pair due, one at once. The run is stopped after the first.
    send(&broker, SECOND, "SOL-USD", 12).await;
    let feed = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for pair in 0..PAIRS {
            send(&broker, FIRST, &format!("P{pair:02}-USD"), 5).await;
        }
        while read_all(&broker, "bars-10s").await.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    run_until(&first, 1, feed).await;
    let written = read_all(&broker, "bars-10s").await.len();
    assert!((1..PAIRS).contains(&written), "stopped between: {written}");
    // Now one comes for a window of those.
    let last = format!("P{:02}-USD", PAIRS - 1);
    send(&broker, FIRST, &last, 7).await;
    run_until(&first, 2, tokio::time::sleep(Duration::from_secs(5))).await;
    assert_eq!(read_all(&broker, "bars.dead-letter").await.len(), 1, "late");
    let written = read_all(&broker, "bars-10s").await;

    let again = two_topics().await;
    for topic in [FIRST, SECOND, "bars.control"] {
        let at = TopicPartition::new(Topic::new(topic).unwrap(), 0);
        let name = if topic == "bars.control" {
            "recorded-control"
        } else {
            topic
        };
        let mut set = RecordSet::new(TopicPartition::new(Topic::new(name).unwrap(), 0));
        for batch in broker.read_to_end(&at, Start::Earliest).await.unwrap() {
            batch.iter().for_each(|record| set.push_ref(record));
        }
        if topic != name {
            let spec = TopicSpec::new(set.at.topic.clone(), NonZeroU32::MIN);
            again.create_topic(&spec).await.unwrap();
        }
        for acks in again.produce(vec![set]).await.unwrap() {
            acks.into_result().unwrap();
        }
    }
    let options = RunOptions {
        cut: Cut::Lockstep,
        follow: Some(Topic::new("recorded-control").unwrap()),
        ..until_end()
    };
    let follower = pipeline(plan, &again);
    follower
        .run(options, watch::channel(false).1)
        .await
        .unwrap();
    let followed = read_all(&again, "bars-10s").await;
    assert_eq!(followed[..written.len()], written[..]);
    assert_eq!(read_all(&again, "bars.dead-letter").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn where_a_run_began_at_the_end_is_known_after_a_crash_that_came_before_any_record() {
    let broker = broker_with(1).await;
    broker.send(tick("BTC-USD", 10, "1.5", "2")).await.unwrap();
    let mut plan = bars_plan();
    plan.sources[0].start = crate::config::plan::StartAt::Latest;
    {
        let first = pipeline(plan.clone(), &broker);
        let (_stop, never) = watch::channel(false);
        let running = first.run(RunOptions::new("0", 1), never);
        let crash = tokio::time::timeout(Duration::from_secs(60), running).await;
        assert!(crash.is_err(), "it was still running");
    }
    broker.send(tick("BTC-USD", 20, "2.5", "2")).await.unwrap();
    run(&pipeline(plan, &broker)).await.unwrap();
    let bars = read_all(&broker, "bars-1s").await;
    assert_eq!(bars.len(), 1, "of what came meanwhile");
    assert!(bars[0].contains("2.5"), "{bars:?}");
}
