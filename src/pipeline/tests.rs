//! The engine over the memory broker.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::{
    Broker, BrokerExt, Cleanup, Group, NewRecord, Start, Timestamp, Topic, TopicPartition,
    TopicSpec,
};
use tidemill_broker_memory::MemoryBroker;
use tokio::sync::watch;

use super::*;
use crate::config::Plan;
use crate::config::plan::*;
use crate::events::{Field, Schema, Type};

fn schema(name: &str, fields: &[(&str, Type)], time: usize) -> Arc<Schema> {
    let field = |(name, ty): &(&str, Type)| Field {
        name: (*name).into(),
        ty: *ty,
        required: true,
    };
    Arc::new(Schema {
        name: name.into(),
        fields: fields.iter().map(field).collect(),
        time: Some(time),
    })
}

pub(crate) fn bars_plan() -> Plan {
    let tick = schema(
        "MarketDataUpdate",
        &[
            ("pair", Type::Text),
            ("currentPrice", Type::Decimal(8)),
            ("quantity", Type::Decimal(8)),
            ("timestamp", Type::Time),
        ],
        3,
    );
    let bar = schema(
        "Bar",
        &[
            ("pair", Type::Text),
            ("windowStart", Type::Time),
            ("windowEnd", Type::Time),
            ("open", Type::Decimal(8)),
            ("high", Type::Decimal(8)),
            ("low", Type::Decimal(8)),
            ("close", Type::Decimal(8)),
            ("volume", Type::Decimal(8)),
            ("vwap", Type::Decimal(8)),
            ("trades", Type::Int),
        ],
        2,
    );
    let topic = |name: &str| TopicPlan {
        broker: 0,
        topic: Topic::new(name).unwrap(),
        partitions: None,
        cleanup: Cleanup::default(),
    };
    let aggregate = |output, function| Aggregate { output, function };
    Plan {
        name: Topic::new("bars").unwrap(),
        version: 1,
        config_hash: 1,
        guarantee: Guarantee::ExactlyOnce,
        commit: CommitPolicy {
            interval: Duration::from_millis(100),
            records: 10_000,
            bytes: 1 << 24,
        },
        state_dir: None,
        threads: NonZeroUsize::MIN,
        memory: 1 << 27,
        group: Group::new("bars").unwrap(),
        brokers: vec![BrokerPlan {
            name: "main".into(),
            url: BrokerUrl::Memory,
        }],
        sources: vec![SourcePlan {
            name: "ticks".into(),
            topic: topic("market-data-updates"),
            schema: tick,
            needed: 0b1111,
            key: vec![0],
            start: StartAt::Earliest,
            on_gap: OnGap::Halt,
            out_of_order: Duration::ZERO,
            idle: None,
            broadcast: false,
        }],
        stages: vec![StagePlan {
            name: "bars_1s".into(),
            inputs: vec![Input::Source(0)],
            op: OpPlan::TumblingWindow {
                key: vec![0],
                size: Duration::from_secs(1),
                lateness: Duration::ZERO,
                late: Late::DeadLetter,
                aggregates: vec![
                    aggregate(3, AggregateFunction::First(1)),
                    aggregate(4, AggregateFunction::Max(1)),
                    aggregate(5, AggregateFunction::Min(1)),
                    aggregate(6, AggregateFunction::Last(1)),
                    aggregate(7, AggregateFunction::Sum(2)),
                    aggregate(
                        8,
                        AggregateFunction::Vwap {
                            price: 1,
                            quantity: 2,
                        },
                    ),
                    aggregate(9, AggregateFunction::Count),
                ],
                state: 0,
            },
            ports: vec![("".into(), bar.clone())],
        }],
        sinks: vec![SinkPlan {
            name: "bars".into(),
            inputs: vec![Input::Stage { stage: 0, port: 0 }],
            topic: topic("bars-1s"),
            schema: bar,
            key: vec![],
        }],
        states: vec![StatePlan {
            name: "bars_1s".into(),
            ttl: None,
        }],
        dead_letter: topic("bars.dead-letter"),
    }
}

pub(crate) fn tick(pair: &str, millis: i64, price: &str, quantity: &str) -> NewRecord {
    let mut time = Vec::new();
    crate::events::write_time(millis * 1000, &mut time).unwrap();
    let time = String::from_utf8(time).unwrap();
    let json = format!(
        r#"{{"eventType":"MarketDataUpdate","timestamp":"{time}","version":1,"pair":"{pair}","currentPrice":{price},"quantity":{quantity}}}"#
    );
    NewRecord::new(Topic::new("market-data-updates").unwrap(), json)
        .key(pair.to_owned())
        .timestamp(Timestamp::from_millis(millis))
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
    let pipeline = Pipeline::new(bars_plan(), vec![broker.clone()], stores.clone());
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
        let pipeline = Pipeline::new(parsed.plan, vec![broker.clone()], stores);
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
