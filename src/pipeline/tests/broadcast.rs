//! Inputs that every task reads whole: what comes of them comes once.

use std::collections::BTreeSet;

use super::*;

const FILE: &str = r#"
    [pipeline]
    format = 1
    name = "sums"

    [brokers.main]
    url = "mem://"

    [events.Trade]
    fields = { id = "int", pair = "text", at = "time" }
    time = "at"

    [topics.trades]
    event = "Trade"
    key = "pair"

    [topics.rates]
    event = "Trade"
    key = "pair"
    broadcast = true

    [topics.all]
    partitions = 3
    [topics.sums]
    partitions = 3

    [stages.both]
    from = ["trades", "rates"]
    op = "merge"

    [stages.once]
    from = "both"
    op = "dedupe"
    id = ["id"]
    window = "1h"

    [stages.sum]
    from = "once"
    op = "tumbling_window"
    size = "5s"
    aggregate = { events = "count()" }

    [sinks.all]
    from = "both"
    topic = "all"

    [sinks.sums]
    from = "sum"
    topic = "sums"
"#;

fn parse(file: &str) -> Plan {
    let parsed = crate::config::Pipeline::parse("sums.toml", file, &|_| None);
    parsed.unwrap_or_else(|problems| panic!("{problems}")).plan
}

/// An event at a second.
fn event(topic: &str, id: i64, pair: &str, second: i64) -> NewRecord {
    let json = format!(
        r#"{{"id":{id},"pair":"{pair}","at":"2024-03-11T14:{:02}:{:02}Z"}}"#,
        second / 60,
        second % 60
    );
    let time = Timestamp(1_710_165_600_000_000 + second * 1_000_000);
    let record = NewRecord::new(Topic::new(topic).unwrap(), json);
    record.key(pair.to_owned()).timestamp(time)
}

async fn broker(trades: u32, rates: u32) -> MemoryBroker {
    let broker = MemoryBroker::default();
    for (name, partitions) in [("trades", trades), ("rates", rates)] {
        let partitions = NonZeroU32::new(partitions).unwrap();
        let spec = TopicSpec::new(Topic::new(name).unwrap(), partitions);
        broker.create_topic(&spec).await.unwrap();
    }
    broker
}

async fn send(broker: &MemoryBroker, record: NewRecord) {
    broker.send(record).await.unwrap();
}

/// Fails if two records of a topic have one id.
async fn assert_ids_are_unique(broker: &MemoryBroker, topic: &str) {
    let name = Topic::new(topic).unwrap();
    let partitions = broker.describe_topic(&name).await.unwrap().partitions;
    let mut seen = BTreeSet::new();
    for partition in 0..partitions {
        let at = TopicPartition::new(name.clone(), partition);
        for batch in broker.read_to_end(&at, Start::Earliest).await.unwrap() {
            for record in batch.iter() {
                let mut headers = record.headers();
                let id = headers.find(|(name, _)| ["event-id", "dl-id"].contains(name));
                let id = id.map(|(_, id)| id.to_vec());
                assert!(id.is_some() && seen.insert(id), "{topic}: {record:?}");
            }
        }
    }
}

/// What the same events come to over so many partitions: all of them, their sums, and how many dead letters.
async fn come_to(trades: u32, rates: u32, cut: Cut) -> (Vec<String>, Vec<String>, usize) {
    let broker = broker(trades, rates).await;
    let pipeline = pipeline(parse(FILE), &broker);
    for run in 0..2 {
        for second in run * 60..run * 60 + 60 {
            // Each comes once more, in the other topic.
            send(
                &broker,
                event("trades", second, &format!("P{}", second % 7), second),
            )
            .await;
            let id = second - second % 2;
            send(&broker, event("rates", id, &format!("P{}", id % 7), second)).await;
        }
        let poison = NewRecord::new(Topic::new("rates").unwrap(), "poison");
        send(&broker, poison.key("P1")).await;
        let options = RunOptions {
            cut,
            run: run as u64 + 1,
            ..until_end()
        };
        pipeline
            .run(options, watch::channel(false).1)
            .await
            .unwrap();
    }
    for topic in ["all", "sums", "sums.dead-letter"] {
        assert_ids_are_unique(&broker, topic).await;
    }
    let sorted = async |topic| {
        let mut all = read_all(&broker, topic).await;
        all.sort();
        all
    };
    let dead = read_all(&broker, "sums.dead-letter").await;
    (sorted("all").await, sorted("sums").await, dead.len())
}

/// Each task took all of it for its own: it wrote each event, had windows for keys of others under the ids
/// of theirs, and set aside each poison.
#[tokio::test(start_paused = true)]
async fn what_every_task_reads_comes_to_the_same_whatever_the_partitions() {
    let one = come_to(1, 1, Cut::Lockstep).await;
    assert_eq!((one.0.len(), one.2), (240, 2), "{one:?}");
    for (trades, rates) in [(2, 1), (4, 1), (3, 2), (1, 3), (4, 4)] {
        let several = come_to(trades, rates, Cut::Lockstep).await;
        assert_eq!(several, one, "{trades} and {rates} partitions");
    }
    let live = come_to(4, 2, Cut::Live).await;
    assert_eq!((live.0, live.2), (one.0, one.2));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_lies_where_its_key_does_not_belong_is_set_aside_where_it_would_miss_a_broadcast()
 {
    let home = tidemill_broker::partition::for_key(b"P1", 2);
    let merged = FILE.replace(
        "from = \"both\"\n    op = \"dedupe\"",
        "from = \"trades\"\n    op = \"dedupe\"",
    );
    for (file, aside) in [(FILE, 1), (merged.as_str(), 0)] {
        let broker = broker(2, 1).await;
        send(&broker, event("trades", 1, "P1", 1).partition(home)).await;
        send(&broker, event("trades", 2, "P1", 2).partition(1 - home)).await;
        send(&broker, event("rates", 3, "P1", 3)).await;
        run(&pipeline(parse(file), &broker)).await.unwrap();
        let dead = read_all(&broker, "sums.dead-letter").await;
        assert_eq!(dead.len(), aside, "{dead:?}");
        assert_eq!(read_all(&broker, "all").await.len(), 3 - aside);
    }
}

#[tokio::test(start_paused = true)]
async fn state_by_a_key_that_a_broadcast_topic_does_not_declare_is_refused_where_there_are_several_tasks()
 {
    let undeclared = FILE.replace("key = \"pair\"\n    broadcast", "broadcast");
    let undeclared = undeclared.replace("op = \"merge\"", "op = \"key_by\"\n    key = [\"pair\"]");
    let one = broker(1, 3).await;
    run(&pipeline(parse(&undeclared), &one)).await.unwrap();
    let several = broker(2, 3).await;
    let error = run(&pipeline(parse(&undeclared), &several))
        .await
        .unwrap_err();
    let said = "topic `rates` is shared out among 2 tasks by no declared key";
    assert!(error.to_string().contains(said), "{error}");
    let known = undeclared.replace("[topics.trades]", "[topics.trades]\n    partitions = 2");
    let problems = crate::config::Pipeline::parse("sums.toml", &known, &|_| None).unwrap_err();
    let said = "keeps state by `pair`, but the topic `rates` that 2 tasks share declares no key";
    assert!(problems.to_string().contains(said), "{problems}");
}

#[tokio::test(start_paused = true)]
async fn every_task_reads_a_broadcast_topic_whole_and_writes_down_the_order_and_one_passes_it_on() {
    let broker = broker_with(2).await;
    let notices = Topic::new("notices").unwrap();
    broker
        .create_topic(&TopicSpec::new(notices.clone(), NonZeroU32::MIN))
        .await
        .unwrap();
    let mut notice = tick("BTC-USD", 700, "1", "1");
    notice.topic = notices;
    broker.send(notice).await.unwrap();
    for (pair, millis) in [
        ("BTC-USD", 0),
        ("ETH-USD", 500),
        ("SOL-USD", 1000),
        ("XRP-USD", 1500),
    ] {
        broker.send(tick(pair, millis, "10", "1")).await.unwrap();
    }
    let plan = plan(
        "",
        r#"
        [topics.notices]
        broker = "main"
        event = "MarketDataUpdate"
        broadcast = true
        start = "earliest"

        [topics.all]
        broker = "main"

        [stages.both]
        from = ["market-data-updates", "notices"]
        op = "merge"

        [sinks.all]
        from = "both"
        topic = "all"
        "#,
    );
    run(&pipeline(plan, &broker)).await.unwrap();
    let all = read_all(&broker, "all").await;
    let notices = all
        .iter()
        .filter(|record| record.contains("\"currentPrice\":1,"));
    assert_eq!((all.len(), notices.count()), (5, 1), "{all:?}");

    let control = Topic::new("bars.control").unwrap();
    let mut steps = Vec::new();
    for partition in 0..2 {
        let at = TopicPartition::new(control.clone(), partition);
        for batch in broker.read_to_end(&at, Start::Earliest).await.unwrap() {
            for record in batch.iter() {
                steps.extend(Control::decode(record.value.unwrap()).unwrap().steps);
            }
        }
    }
    let taken = |of: u32| {
        steps
            .iter()
            .filter(move |step| matches!(step, Step::Taken { input, .. } if *input == of))
    };
    assert_eq!(
        taken(1).count(),
        2,
        "each task took the broadcast input once: {steps:?}"
    );
}
