//! A new version of a file over state that an older one wrote, and events that come several ways.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::{Broker, BrokerExt, NewRecord, Start, Topic, TopicPartition, TopicSpec};
use tidemill_broker_memory::MemoryBroker;
use tokio::sync::watch;

use crate::config;
use crate::pipeline::{MemoryStores, Pipeline, Result, RunOptions};

/// A file over the topics `a` and `b`, and what else it says.
pub(super) fn file(rest: &str) -> String {
    let topics = ["a", "b"].map(|name| {
        format!(
            r#"
            [topics.{name}]
            broker = "main"
            event = "Trade"
            key = "account"
            start = "earliest"
            "#
        )
    });
    file_over(&(topics.concat() + rest))
}

/// The same over topics of its own.
pub(super) fn file_over(topics_and_rest: &str) -> String {
    format!(
        r#"
        [pipeline]
        format = 1
        name = "p"

        [brokers.main]
        url = "mem://"

        [events.Trade]
        fields = {{ account = "text", side = "text", n = "int", amount = "decimal(8)", at = "time" }}
        time = "at"

        {topics_and_rest}
        "#
    )
}

pub(super) fn sink(name: &str, from: &str) -> String {
    format!(
        "[sinks.{name}]\nfrom = \"{from}\"\ntopic = {{ broker = \"main\", topic = \"{name}\" }}\n"
    )
}

pub(super) struct World {
    broker: MemoryBroker,
    stores: Arc<MemoryStores>,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::over(&["a", "b"], 1).await
    }

    /// One with these topics, of so many partitions each.
    pub(super) async fn over(topics: &[&str], partitions: u32) -> Self {
        let broker = MemoryBroker::default();
        for name in topics {
            let partitions = NonZeroU32::new(partitions).unwrap();
            let spec = TopicSpec::new(Topic::new(name).unwrap(), partitions);
            broker.create_topic(&spec).await.unwrap();
        }
        Self {
            broker,
            stores: Arc::default(),
        }
    }

    pub(super) async fn send(&self, topic: &str, second: u32, n: i64) {
        let value = format!(
            r#"{{"eventType":"Trade","account":"x","side":"buy","n":{n},"amount":1.5,"at":"2024-01-01T00:00:{second:02}Z"}}"#
        );
        let record = NewRecord::new(Topic::new(topic).unwrap(), value).key("x");
        self.broker.send(record).await.unwrap();
    }

    /// Runs over what there is, taking any version, and leaves open what is open.
    pub(super) async fn run(&self, file: &str) -> Result<()> {
        self.run_as(file, true).await
    }

    pub(super) fn pipeline(&self, file: &str) -> Pipeline {
        let plan = config::Pipeline::parse("p.toml", file, &|_| None);
        let broker = Arc::new(self.broker.clone());
        Pipeline::in_order(plan.unwrap().plan, vec![broker], self.stores.clone())
    }

    pub(super) async fn run_as(&self, file: &str, accept_new_version: bool) -> Result<()> {
        let pipeline = self.pipeline(file);
        let options = RunOptions {
            accept_new_version,
            ..RunOptions::new("0", 1)
        };
        let (stop, stopped) = watch::channel(false);
        let stopping = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stop.send_replace(true);
        };
        tokio::join!(pipeline.run(options, stopped), stopping).0
    }

    /// Values of a topic with their event ids.
    pub(super) async fn read(&self, topic: &str) -> Vec<(String, Vec<u8>)> {
        let at = TopicPartition::new(Topic::new(topic).unwrap(), 0);
        let batches = self.broker.read_to_end(&at, Start::Earliest).await.unwrap();
        let records = batches.iter().flat_map(|batch| batch.iter());
        let read = records.map(|record| {
            let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            let mut headers = record.headers();
            let id = headers.find(|(name, _)| *name == "event-id");
            (value, id.map_or_else(Vec::new, |(_, id)| id.to_vec()))
        });
        read.collect()
    }
}

pub(super) const WINDOW: &str = r#"
    [stages.w]
    from = "a"
    op = "tumbling_window"
    size = "1m"
    event = "Sum"
    aggregate = { s = "sum(amount)" }
"#;

pub(super) const ONCE: &str = r#"
    [stages.once]
    from = "a"
    op = "dedupe"
    id = ["n"]
    window = "1h"
"#;

pub(super) const BOTH: &str = r#"
    [stages.both]
    from = ["a", "b"]
    op = "merge"
"#;

#[tokio::test(start_paused = true)]
async fn state_that_was_kept_of_other_types_or_by_another_key_is_not_taken_over() {
    let cases = [
        (
            WINDOW,
            "w",
            "amount = \"decimal(8)\"",
            "amount = \"decimal(2)\"",
        ),
        (WINDOW, "w", "amount = \"decimal(8)\"", "amount = \"int\""),
        (ONCE, "once", "n = \"int\"", "n = \"decimal(2)\""),
        (
            ONCE,
            "once",
            "key = \"account\"",
            "key = [\"account\", \"side\"]",
        ),
        (
            BOTH,
            "both",
            "amount = \"decimal(8)\"",
            "amount = \"decimal(2)\"",
        ),
    ];
    for (stage, name, was, now) in cases {
        let world = World::new().await;
        let first = file(&(stage.to_owned() + &sink("out", name)));
        world.send("a", 1, 1).await;
        world.run(&first).await.unwrap();
        let second = first.replace(was, now);
        assert_ne!(first, second);
        let error = world.run(&second).await.unwrap_err().to_string();
        assert!(
            error.contains("what means something else to the new version"),
            "{name}: {now}: {error}"
        );
        world.run(&first).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_a_merge_holds_is_whole_whatever_a_later_version_asks_of_it() {
    let world = World::new().await;
    let first = file(&format!(
        "{BOTH}{}",
        WINDOW.replace("from = \"a\"", "from = \"both\"") + &sink("sums", "w")
    ));
    for second in 1..4 {
        world.send("a", second, i64::from(second)).await;
    }
    world.run(&first).await.unwrap();
    let second = first.clone() + &sink("all", "both");
    world.run(&second).await.unwrap();
    world.send("a", 40, 9).await;
    world.send("b", 30, 9).await;
    world.run(&second).await.unwrap();
    let all = world.read("all").await;
    assert!(all.len() >= 3, "{}", all.len());
    for (value, _) in all {
        assert!(value.contains(r#""side":"buy","n":"#), "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_comes_two_ways_has_two_ids() {
    let world = World::new().await;
    let pipeline = file(
        &(r#"
        [stages.sides]
        from = "a"
        op = "key_by"
        key = ["side"]

        [stages.both]
        from = ["a", "sides"]
        op = "merge"
        "#
        .to_owned()
            + &sink("out", "both")),
    );
    for second in 1..9 {
        world.send("a", second, i64::from(second)).await;
    }
    world.run(&pipeline).await.unwrap();
    let out = world.read("out").await;
    assert!(out.len() > 8, "{}", out.len());
    let mut ids: Vec<_> = out.iter().map(|(_, id)| id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), out.len());
}
