//! The engine over the memory broker.

mod accepted;
mod ahead;
mod any_graph;
mod backlog;
mod broadcast;
mod clocks;
mod committing;
mod cutting;
mod elsewhere;
mod fan_in;
mod finer_keys;
mod follow;
mod halts;
mod hooked;
mod identity;
mod idle;
mod leaving;
mod lockstep;
mod marked;
mod metrics;
mod old_store;
mod overflow;
mod own_topics;
mod panics;
mod reassigned;
mod refused;
mod renamed;
mod scripted;
mod taken;
mod too_large;
mod under_way;
mod verifying;
mod versions;
mod visits;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::{
    Broker, BrokerExt, NewRecord, Start, Timestamp, Topic, TopicPartition, TopicSpec,
};
use tidemill_broker_memory::MemoryBroker;
use tokio::sync::watch;

use super::*;
use crate::config::Plan;

/// A pipeline file over one broker that reads market data, and what else it says.
pub(crate) fn file(url: &str, pipeline: &str, rest: &str) -> String {
    format!(
        r#"
        [pipeline]
        format = 1
        name = "bars"
        {pipeline}

        [brokers.main]
        url = "{url}"

        [topics.market-data-updates]
        broker = "main"
        event = "MarketDataUpdate"
        key = "pair"
        start = "earliest"
        {rest}
        "#
    )
}

/// The plan of such a file over `mem://`.
pub(crate) fn plan(pipeline: &str, rest: &str) -> Plan {
    let file = file("mem://", pipeline, rest);
    let parsed = crate::config::Pipeline::parse("bars.toml", &file, &|_| None);
    parsed.unwrap_or_else(|problems| panic!("{problems}")).plan
}

pub(crate) const BARS: &str = r#"
    [topics.bars-1s]
    broker = "main"

    [stages.second]
    from = "market-data-updates"
    op = "tumbling_window"
    size = "1s"
    event = "Bar"

    [stages.second.aggregate]
    open = "first(currentPrice)"
    high = "max(currentPrice)"
    low = "min(currentPrice)"
    close = "last(currentPrice)"
    volume = "sum(quantity)"
    vwap = "vwap(currentPrice, quantity)"
    trades = "count()"

    [sinks.bars]
    from = "second"
    topic = "bars-1s"
"#;

pub(crate) fn bars_plan() -> Plan {
    plan("", BARS)
}

async fn broker_with(partitions: u32) -> MemoryBroker {
    let broker = MemoryBroker::default();
    let topic = Topic::new("market-data-updates").unwrap();
    let spec = TopicSpec::new(topic, NonZeroU32::new(partitions).unwrap());
    broker.create_topic(&spec).await.unwrap();
    broker
}

fn pipeline(plan: Plan, broker: &MemoryBroker) -> Pipeline {
    let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(broker.clone())];
    Pipeline::in_order(plan, brokers, Arc::new(MemoryStores::default()))
}

fn until_end() -> RunOptions {
    RunOptions {
        until_end: watch::channel(true).1,
        ..RunOptions::new("0", 1)
    }
}

async fn run(pipeline: &Pipeline) -> Result<()> {
    pipeline.run(until_end(), watch::channel(false).1).await
}

async fn read_all(broker: &dyn Broker, topic: &str) -> Vec<String> {
    let name = Topic::new(topic).unwrap();
    let partitions = broker.describe_topic(&name).await.unwrap().partitions;
    let mut all = Vec::new();
    for partition in 0..partitions {
        all.extend(read(broker, topic, partition).await);
    }
    all
}

fn tick(pair: &str, millis: i64, price: &str, quantity: &str) -> NewRecord {
    tick_at(pair, millis * 1000, price, quantity)
}

/// An update at an instant in microseconds.
pub(crate) fn tick_at(pair: &str, micros: i64, price: &str, quantity: &str) -> NewRecord {
    let mut time = Vec::new();
    crate::events::write_time(micros, &mut time).unwrap();
    let time = String::from_utf8(time).unwrap();
    let json = format!(
        r#"{{"eventType":"MarketDataUpdate","timestamp":"{time}","version":1,"pair":"{pair}","currentPrice":{price},"quantity":{quantity}}}"#
    );
    NewRecord::new(Topic::new("market-data-updates").unwrap(), json)
        .key(pair.to_owned())
        .timestamp(Timestamp(micros))
}

async fn read(broker: &dyn Broker, topic: &str, partition: u32) -> Vec<String> {
    let at = TopicPartition::new(Topic::new(topic).unwrap(), partition);
    let batches = broker.read_to_end(&at, Start::Earliest).await.unwrap();
    let records = batches.iter().flat_map(|batch| batch.iter());
    records
        .map(|record| String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn ticks_become_bars_and_a_second_run_goes_on_where_the_first_ended() {
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::default());
    let topic = Topic::new("market-data-updates").unwrap();
    broker
        .create_topic(&TopicSpec::new(topic, NonZeroU32::new(2).unwrap()))
        .await
        .unwrap();
    for (millis, price, quantity) in [
        (0, "10", "1"),
        (500, "12.5", "3"),
        (1000, "11", "2"),
        (1999, "9", "1"),
    ] {
        broker
            .send(tick("BTC-USD", millis, price, quantity))
            .await
            .unwrap();
    }
    let stores = Arc::new(MemoryStores::default());
    let pipeline = Pipeline::in_order(bars_plan(), vec![broker.clone()], stores.clone());
    let (_stop, stopped) = watch::channel(false);
    let options = RunOptions {
        until_end: watch::channel(true).1,
        ..RunOptions::new("0", 1)
    };
    pipeline
        .run(options.clone(), stopped.clone())
        .await
        .unwrap();
    let mut bars = read(&*broker, "bars-1s", 0).await;
    bars.extend(read(&*broker, "bars-1s", 1).await);
    assert_eq!(
        bars,
        [
            r#"{"eventType":"Bar","pair":"BTC-USD","windowStart":"1970-01-01T00:00:00.000000Z","windowEnd":"1970-01-01T00:00:01.000000Z","open":10,"high":12.5,"low":10,"close":12.5,"volume":4,"vwap":11.875,"trades":2}"#,
            r#"{"eventType":"Bar","pair":"BTC-USD","windowStart":"1970-01-01T00:00:01.000000Z","windowEnd":"1970-01-01T00:00:02.000000Z","open":11,"high":11,"low":9,"close":9,"volume":3,"vwap":10.33333333,"trades":2}"#,
        ]
    );

    broker.send(tick("BTC-USD", 1500, "1", "1")).await.unwrap();
    broker.send(tick("BTC-USD", 2500, "7", "1")).await.unwrap();
    pipeline.run(options, stopped).await.unwrap();
    let mut bars = read(&*broker, "bars-1s", 0).await;
    bars.extend(read(&*broker, "bars-1s", 1).await);
    assert_eq!(bars.len(), 3);
    let mut dead = read(&*broker, "bars.dead-letter", 0).await;
    dead.extend(read(&*broker, "bars.dead-letter", 1).await);
    assert_eq!(dead.len(), 1, "the tick of a window that has fired is late");
}

/// A dropped event moves event time too. A window that looked only at the events it got placed a late
/// one by where the batch happened to end; and what could not be decoded came before everything that
/// was set aside later, batch by batch.
#[tokio::test(start_paused = true)]
async fn what_comes_out_does_not_depend_on_how_batches_are_cut() {
    let file = r#"
        [pipeline]
        format = 1
        name = "bars"
        commit = { interval = "1s", records = RECORDS }
        [brokers.main]
        url = "mem://"
        [topics.market-data-updates]
        event = "MarketDataUpdate"
        key = "pair"
        start = "earliest"
        [topics.out]
        [stages.buys]
        from = "market-data-updates"
        op = "route"
        field = "side"
        cases = { all = "BUY" }
        otherwise = { drop = "only purchases count" }
        [stages.second]
        from = "buys.all"
        op = "tumbling_window"
        size = "1s"
        lateness = "2s"
        aggregate = { n = "count()" }
        [sinks.out]
        from = "second"
        topic = "out"
    "#;
    let buy = |millis| (millis, "1", "BUY");
    let ticks = [
        buy(0),
        // Nobody buys, and the first window is due.
        (1_500, "1", "SELL"),
        // In time for a second firing.
        buy(500),
        (5_000, "1", "SELL"),
        // Too late.
        buy(700),
        (5_100, "none", "BUY"),
        buy(800),
        buy(9_000),
    ];
    let mut seen = Vec::new();
    for records in [1, 2, 3, 100] {
        let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::default());
        let topic = Topic::new("market-data-updates").unwrap();
        broker
            .create_topic(&TopicSpec::new(topic, NonZeroU32::MIN))
            .await
            .unwrap();
        for (millis, price, side) in ticks {
            let mut tick = tick("BTC-USD", millis, price, "1");
            let json = String::from_utf8(tick.value.unwrap().to_vec()).unwrap();
            let side = format!(r#","side":"{side}"}}"#);
            tick.value = Some(json.replace('}', &side).into());
            broker.send(tick).await.unwrap();
        }
        let file = file.replace("RECORDS", &records.to_string());
        let parsed = crate::config::Pipeline::parse("cut.toml", &file, &|_| None).unwrap();
        let stores = Arc::new(MemoryStores::default());
        let pipeline = Pipeline::in_order(parsed.plan, vec![broker.clone()], stores);
        let options = RunOptions {
            until_end: watch::channel(true).1,
            cut: Cut::Lockstep,
            ..RunOptions::new("0", 1)
        };
        let (_stop, stopped) = watch::channel(false);
        pipeline.run(options, stopped).await.unwrap();
        let bars = read(&*broker, "out", 0).await;
        let dead = read(&*broker, "bars.dead-letter", 0).await;
        assert_eq!((bars.len(), dead.len()), (3, 3), "{bars:?} {dead:?}");
        seen.push((records, bars, dead));
    }
    for (records, bars, dead) in &seen[1..] {
        assert_eq!(
            (bars, dead),
            (&seen[0].1, &seen[0].2),
            "{records} at a time"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_output_is_refused_halts_and_the_others_go_on() {
    let broker = broker_with(2).await;
    // Two pairs in different partitions, so in different tasks.
    let pairs = ["BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD"];
    let home = |pair: &str| tidemill_broker::partition::for_key(pair.as_bytes(), 2);
    let (bad, good) = (
        pairs[0],
        *pairs
            .iter()
            .find(|pair| home(pair) != home(pairs[0]))
            .unwrap(),
    );
    for millis in [0, 500, 1000, 1500] {
        broker.send(tick(bad, millis, "10", "1")).await.unwrap();
        broker.send(tick(good, millis, "20", "1")).await.unwrap();
    }
    broker
        .faults()
        .reject_key(&Topic::new("bars-1s").unwrap(), bad);
    let error = run(&pipeline(bars_plan(), &broker)).await.unwrap_err();
    assert!(error.to_string().contains("was refused"), "{error}");
    let bars = read_all(&broker, "bars-1s").await;
    assert_eq!(bars.len(), 2);
    assert!(bars.iter().all(|bar| bar.contains(good)), "{bars:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_input_holds_a_merge_back_until_it_is_idle_and_the_clock_is_written_down() {
    let broker = broker_with(1).await;
    let other = Topic::new("other").unwrap();
    broker
        .create_topic(&TopicSpec::new(other, NonZeroU32::MIN))
        .await
        .unwrap();
    let plan = plan(
        "",
        r#"
        [topics.other]
        broker = "main"
        event = "MarketDataUpdate"
        key = "pair"
        start = "earliest"
        idle = "30s"

        [topics.all]
        broker = "main"

        [stages.both]
        from = ["market-data-updates", "other"]
        op = "merge"

        [sinks.all]
        from = "both"
        topic = "all"
        "#,
    );
    for millis in [0, 1000] {
        broker
            .send(tick("BTC-USD", millis, "10", "1"))
            .await
            .unwrap();
    }
    let pipeline = pipeline(plan, &broker);
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { pipeline.run(RunOptions::new("0", 1), stopped).await });
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(
        read_all(&broker, "all").await.is_empty(),
        "the other input may still speak"
    );
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(
        read_all(&broker, "all").await.len(),
        1,
        "up to the watermark of the first"
    );
    let at = TopicPartition::new(Topic::new("bars.control").unwrap(), 0);
    let control = broker.read_to_end(&at, Start::Earliest).await.unwrap();
    let records = control.iter().flat_map(|batch| batch.iter());
    let steps: Vec<Step> = records
        .flat_map(|record| Control::decode(record.value.unwrap()).unwrap().steps)
        .collect();
    assert!(steps.contains(&Step::Idle { input: 1 }), "{steps:?}");
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_not_the_topics_is_refused_once_the_topic_has_two_partitions() {
    let by_venue = r#"
        [topics.bars-1s]
        broker = "main"

        [stages.by-venue]
        from = "market-data-updates"
        op = "tumbling_window"
        size = "1s"
        event = "Bar"
        key = "pair"
        aggregate = { trades = "count()" }

        [sinks.bars]
        from = "by-venue"
        topic = "bars-1s"
    "#;
    let mut plan = plan("", by_venue);
    // As if the file had not declared the topic's key.
    plan.sources[0].key.clear();
    run(&pipeline(plan.clone(), &broker_with(1).await))
        .await
        .unwrap();
    let error = run(&pipeline(plan, &broker_with(2).await))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("2 partitions"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn events_of_records_without_a_key_are_keyed_as_their_topic_declares() {
    let once = r#"
        [topics.once]
        broker = "main"

        [stages.first]
        from = "market-data-updates"
        op = "dedupe"
        id = ["currentPrice"]
        window = "1h"

        [sinks.once]
        from = "first"
        topic = "once"
    "#;
    let broker = broker_with(1).await;
    for pair in ["BTC-USD", "ETH-USD", "BTC-USD"] {
        let mut tick = tick(pair, 0, "10", "1");
        tick.key = None;
        broker.send(tick).await.unwrap();
    }
    run(&pipeline(plan("", once), &broker)).await.unwrap();
    let at = TopicPartition::new(Topic::new("once").unwrap(), 0);
    let batches = broker.read_to_end(&at, Start::Earliest).await.unwrap();
    let records = batches.iter().flat_map(|batch| batch.iter());
    let keys: Vec<_> = records
        .map(|record| String::from_utf8_lossy(record.key.unwrap()).into_owned())
        .collect();
    assert_eq!(keys, ["BTC-USD", "ETH-USD"]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_pipeline_is_refused_until_the_new_version_is_accepted() {
    let broker = broker_with(1).await;
    broker.send(tick("BTC-USD", 0, "10", "1")).await.unwrap();
    let mut first = pipeline(bars_plan(), &broker);
    run(&first).await.unwrap();
    let longer = BARS.replace("size = \"1s\"", "size = \"2s\"");
    first = pipeline(plan("", &longer), &broker);
    let error = run(&first).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
    assert_eq!(
        error.to_string(),
        "the pipeline has changed since its state was written: stage `second`: size 1s -> 2s"
    );
    let options = RunOptions {
        accept_new_version: true,
        ..until_end()
    };
    first.run(options, watch::channel(false).1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_new_version_to_which_an_open_window_means_something_else_is_refused_and_changes_nothing()
{
    let broker = broker_with(1).await;
    broker.send(tick("BTC-USD", 0, "10", "1")).await.unwrap();
    let stores = Arc::new(MemoryStores::default());
    let of = |plan: Plan| Pipeline::in_order(plan, vec![Arc::new(broker.clone())], stores.clone());
    // Stopped in the middle of a window.
    let (stop, stopped) = watch::channel(false);
    let first = of(bars_plan());
    let running = tokio::spawn(async move { first.run(RunOptions::new("0", 1), stopped).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.send_replace(true);
    running.await.unwrap().unwrap();

    let others = [
        BARS.replace("trades = \"count()\"", ""),
        BARS.replace("size = \"1s\"", "size = \"2s\""),
        BARS.replace("max(currentPrice)", "min(currentPrice)"),
    ];
    for other in others {
        let options = RunOptions {
            accept_new_version: true,
            ..until_end()
        };
        let (_running, stopped) = watch::channel(false);
        let error = of(plan("", &other)).run(options, stopped).await;
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("its state `second` holds what means something else to the new version"),
            "{text}"
        );
    }
    run(&of(bars_plan())).await.unwrap();
    assert_eq!(read_all(&broker, "bars-1s").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_marker_that_says_nothing_of_its_plan_still_refuses_a_changed_pipeline() {
    let broker = broker_with(1).await;
    broker.send(tick("BTC-USD", 0, "10", "1")).await.unwrap();
    run(&pipeline(bars_plan(), &broker)).await.unwrap();
    // As versions wrote them that noted down nothing but the hash.
    let at = TopicPartition::new(Topic::new("bars.changelog").unwrap(), 0);
    let batches = broker.read_to_end(&at, Start::Earliest).await.unwrap();
    let records = batches.iter().flat_map(|batch| batch.iter());
    let marker = records
        .filter(|record| record.key == Some(MARKER_KEY))
        .last()
        .unwrap();
    assert!(marker.headers().any(|(name, _)| name == "plan"));
    let bare = NewRecord::new(at.topic.clone(), marker.value.unwrap().to_vec())
        .key(MARKER_KEY.to_vec())
        .partition(0);
    broker.send(bare).await.unwrap();
    run(&pipeline(bars_plan(), &broker)).await.unwrap();
    let longer = BARS.replace("size = \"1s\"", "size = \"2s\"");
    let error = run(&pipeline(plan("", &longer), &broker))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_new_version_that_is_accepted_stays_accepted_though_nothing_comes_in_lockstep() {
    let broker = broker_with(2).await;
    for pair in ["BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD"] {
        broker.send(tick(pair, 0, "10", "1")).await.unwrap();
    }
    let lockstep = RunOptions {
        cut: Cut::Lockstep,
        ..until_end()
    };
    let first = pipeline(bars_plan(), &broker);
    let (_running, stop) = watch::channel(false);
    first.run(lockstep.clone(), stop.clone()).await.unwrap();
    let longer = BARS.replace("size = \"1s\"", "size = \"2s\"");
    let second = pipeline(plan("", &longer), &broker);
    let accepted = RunOptions {
        accept_new_version: true,
        ..lockstep.clone()
    };
    second.run(accepted, stop.clone()).await.unwrap();
    second.run(lockstep.clone(), stop.clone()).await.unwrap();
    let error = first.run(lockstep, stop).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity, "{error}");
}

#[tokio::test(start_paused = true)]
async fn control_records_that_are_about_to_be_written_are_not_followed() {
    let broker = broker_with(1).await;
    let options = RunOptions {
        follow: Some(Topic::new("bars.control").unwrap()),
        ..until_end()
    };
    let (_running, stop) = watch::channel(false);
    let error = pipeline(bars_plan(), &broker).run(options, stop).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("cannot be followed"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_input_that_was_deleted_and_created_again_is_not_taken_for_the_old_one() {
    let broker = broker_with(1).await;
    broker.send(tick("BTC-USD", 0, "10", "1")).await.unwrap();
    let pipeline = pipeline(bars_plan(), &broker);
    run(&pipeline).await.unwrap();
    let topic = Topic::new("market-data-updates").unwrap();
    broker.delete_topic(&topic).await.unwrap();
    broker
        .create_topic(&TopicSpec::new(topic, NonZeroU32::MIN))
        .await
        .unwrap();
    let error = run(&pipeline).await.unwrap_err();
    assert!(
        error.to_string().contains("deleted and created again"),
        "{error}"
    );
    assert_eq!(error.kind(), Kind::Integrity);
}

#[tokio::test(start_paused = true)]
async fn without_a_group_a_second_process_of_any_name_shuts_out_the_first() {
    // Inputs and outputs on two brokers: no group hands out the partitions.
    let rest = BARS.replace(
        "[topics.bars-1s]\n    broker = \"main\"",
        "[brokers.out]\n    url = \"mem://\"\n    [topics.bars-1s]\n    broker = \"out\"",
    );
    let plan = plan(
        "dead_letter = { broker = \"out\", topic = \"dead\" }",
        &rest,
    );
    let (input, outputs) = (broker_with(1).await, MemoryBroker::default());
    let process = || {
        let brokers: Vec<Arc<dyn Broker>> = plan
            .brokers
            .iter()
            .map(|broker| match &*broker.name {
                "out" => Arc::new(outputs.clone()) as Arc<dyn Broker>,
                _ => Arc::new(input.clone()),
            })
            .collect();
        Pipeline::in_order(plan.clone(), brokers, Arc::new(MemoryStores::default()))
    };
    let live = |name: &str, run| RunOptions::new(name, run);
    let second = Duration::from_secs(1);
    let send = async |millis| {
        input.send(tick("A", millis, "1", "1")).await.unwrap();
        tokio::time::sleep(second).await;
    };

    let (stop, stopped) = watch::channel(false);
    let first = process();
    let mut first = tokio::spawn({
        let stopped = stopped.clone();
        async move { first.run(live("east", 1), stopped).await }
    });
    for millis in [0, 1_000, 2_000] {
        send(millis).await;
    }
    let taken_over = process();
    let taken_over = tokio::spawn(async move { taken_over.run(live("west", 2), stopped).await });
    tokio::time::sleep(second).await;
    for millis in [3_000, 4_000, 5_000] {
        send(millis).await;
    }
    let ended = tokio::time::timeout(60 * second, &mut first).await;
    let error = ended.expect("the first goes on").unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced, "{error}");
    stop.send_replace(true);
    taken_over.await.unwrap().unwrap();
    // Five windows have ended, each written once, whoever wrote it.
    assert_eq!(read_all(&outputs, "bars-1s").await.len(), 5);
}
