//! State by a key that holds the topic's: each of its keys lies in one partition, whole.

use super::*;

const FILE: &str = r#"
    [pipeline]
    format = 1
    name = "bars"

    [brokers.main]
    url = "mem://"

    [events.Trade]
    fields = { id = "int", pair = "text", venue = "text", at = "time" }
    time = "at"

    [topics.trades]
    broker = "main"
    event = "Trade"
    key = "pair"
    start = "earliest"

    [topics.bars]
    broker = "main"
    partitions = 3

    [stages.by-venue]
    from = "trades"
    op = "key_by"
    key = ["venue", "pair"]

    [stages.once]
    from = "by-venue"
    op = "dedupe"
    id = ["id"]
    window = "1h"

    [stages.minute]
    from = "once"
    op = "tumbling_window"
    size = "1m"
    key = ["pair", "venue"]
    aggregate = { trades = "count()" }

    [sinks.bars]
    from = "minute"
    topic = "bars"
"#;

/// The bars of the same trades over a topic of so many partitions, sorted.
async fn bars(partitions: u32) -> Vec<String> {
    let parsed = crate::config::Pipeline::parse("bars.toml", FILE, &|_| None);
    let plan = parsed.unwrap_or_else(|problems| panic!("{problems}")).plan;
    let broker = MemoryBroker::default();
    let topic = Topic::new("trades").unwrap();
    let spec = TopicSpec::new(topic.clone(), NonZeroU32::new(partitions).unwrap());
    broker.create_topic(&spec).await.unwrap();
    let pipeline = pipeline(plan, &broker);
    for minute in 0..2 {
        for number in minute * 60..minute * 60 + 60 {
            let json = format!(
                r#"{{"id":{},"pair":"P{}","venue":"V{}","at":"2024-03-11T14:3{minute}:{:02}Z"}}"#,
                // The last thirty are the first, once more.
                number % 90,
                number % 5,
                number % 3,
                number % 60,
            );
            let record = NewRecord::new(topic.clone(), json).key(format!("P{}", number % 5));
            broker.send(record).await.unwrap();
        }
        // Twice, so that what was seen is read back.
        run(&pipeline).await.unwrap();
    }
    let mut all = read_all(&broker, "bars").await;
    all.sort();
    all
}

#[tokio::test(start_paused = true)]
async fn two_partitions_give_what_one_gives() {
    let one = bars(1).await;
    let trades = |count: u32| {
        let counted = format!(r#""trades":{count}"#);
        one.iter().filter(|bar| bar.contains(&counted)).count()
    };
    assert_eq!((one.len(), trades(4), trades(2)), (30, 15, 15), "{one:?}");
    assert_eq!(bars(2).await, one);
    assert_eq!(bars(7).await, one);
}

#[test]
fn topics_partitioned_by_different_parts_of_the_key_do_not_meet() {
    let file = FILE
        .replace(
            "[topics.bars]",
            r#"[topics.others]
               broker = "main"
               event = "Trade"
               key = "venue"
               partitions = 2
               [topics.bars]"#,
        )
        .replace(r#"key = "pair""#, "key = \"pair\"\npartitions = 2")
        .replace(r#"from = "trades""#, r#"from = ["trades", "others"]"#);
    let problems = crate::config::Pipeline::parse("bars.toml", &file, &|_| None).unwrap_err();
    let told = "E0148 stages.once: `others` is partitioned by `venue` and `trades` by `pair`";
    assert!(problems.to_string().contains(told), "{problems}");
}
