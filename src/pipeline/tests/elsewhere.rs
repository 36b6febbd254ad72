//! Sinks on the broker of the transactions and on another one.

use tidemill_broker_file::{FileBroker, FileOptions, Fsync};

use super::*;

/// Nothing else asks of `at_most_once` that it sends anything: of all that breaks, any part may be lost.
#[tokio::test(start_paused = true)]
async fn whatever_the_guarantee_everything_is_written_when_nothing_breaks() {
    for guarantee in ["at_least_once", "at_most_once"] {
        let (main, other) = (broker_with(2).await, MemoryBroker::default());
        let file = format!(
            r#"
            [pipeline]
            format = 1
            name = "copy"
            guarantee = "{guarantee}"
            commit = {{ interval = "100ms", records = 10 }}
            [brokers.main]
            url = "mem://"
            [brokers.other]
            url = "mem://"
            [topics.market-data-updates]
            broker = "main"
            event = "MarketDataUpdate"
            start = "earliest"
            [sinks.here]
            from = "market-data-updates"
            topic = {{ broker = "main", topic = "here" }}
            [sinks.there]
            from = "market-data-updates"
            topic = {{ broker = "other", topic = "there" }}
            "#
        );
        let parsed = crate::config::Pipeline::parse("copy.toml", &file, &|_| None);
        let plan = parsed.unwrap_or_else(|problems| panic!("{problems}")).plan;
        assert_eq!(&*plan.brokers[0].name, "main");
        for index in 0..100 {
            let tick = tick(&format!("P{}", index % 7), index, "1", "1");
            main.send(tick).await.unwrap();
        }
        let poison = NewRecord::new(Topic::new("market-data-updates").unwrap(), "{");
        main.send(poison.key("P0")).await.unwrap();
        let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(main.clone()), Arc::new(other.clone())];
        let pipeline = Pipeline::in_order(plan, brokers, Arc::new(MemoryStores::default()));
        run(&pipeline).await.unwrap();
        let sorted = async |broker: &MemoryBroker, topic| {
            let mut all = read_all(broker, topic).await;
            all.sort_unstable();
            all
        };
        let here = sorted(&main, "here").await;
        assert_eq!(here.len(), 100, "{guarantee}");
        assert_eq!(sorted(&other, "there").await, here, "{guarantee}");
        assert_eq!(read_all(&main, "copy.dead-letter").await, ["{"]);
    }
}

const TWO_BROKERS: &str = r#"
    [pipeline]
    format = 1
    name = "copy"
    [brokers.feed]
    url = "file://feed"
    [brokers.main]
    url = "mem://"
    [topics.market-data-updates]
    broker = "feed"
    event = "MarketDataUpdate"
    start = "earliest"
    [sinks.out]
    from = "market-data-updates"
    topic = { broker = "main", topic = "out" }
"#;

fn parsed(file: &str) -> Plan {
    let parsed = crate::config::Pipeline::parse("copy.toml", file, &|_| None);
    parsed.unwrap_or_else(|problems| panic!("{problems}")).plan
}

/// The marker was durable, the records were not: with the power gone, the input ended before what had been
/// read of it, grew past that again, and what had come instead was never read.
#[tokio::test]
async fn what_was_read_of_another_log_is_durable_when_it_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let options = FileOptions {
        fsync: Fsync::Never,
        ..FileOptions::default()
    };
    let feed = FileBroker::open(dir.path(), options.clone()).await.unwrap();
    let updates = Topic::new("market-data-updates").unwrap();
    let spec = TopicSpec::new(updates.clone(), NonZeroU32::MIN);
    feed.create_topic(&spec).await.unwrap();
    for index in 0..10 {
        feed.send(tick("A", index, "1", "1")).await.unwrap();
    }
    let main = MemoryBroker::default();
    let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(feed.clone()), Arc::new(main.clone())];
    let stores = Arc::new(MemoryStores::default());
    let pipeline = Pipeline::in_order(parsed(TWO_BROKERS), brokers, stores);
    run(&pipeline).await.unwrap();
    assert_eq!(read_all(&main, "out").await.len(), 10);
    // Readers see what is durable.
    let durable = FileBroker::open_reader(dir.path(), options).await.unwrap();
    assert_eq!(read_all(&durable, updates.as_str()).await.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_home_without_the_changelog_that_another_broker_has_is_refused_and_no_other() {
    let (feed, main) = (broker_with(1).await, MemoryBroker::default());
    feed.send(tick("A", 0, "1", "1")).await.unwrap();
    let over = async |main: &MemoryBroker| {
        let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(feed.clone()), Arc::new(main.clone())];
        let stores = Arc::new(MemoryStores::default());
        run(&Pipeline::in_order(parsed(TWO_BROKERS), brokers, stores)).await
    };
    let changelog = Topic::new("copy.changelog").unwrap();
    let spec = TopicSpec::new(changelog.clone(), NonZeroU32::MIN);
    feed.create_topic(&spec).await.unwrap();
    // Nothing was ever committed to it.
    over(&main).await.unwrap();
    let commit = NewRecord::new(changelog, "of another home").key("k");
    feed.send(commit).await.unwrap();
    // There are two, and home has the one that counts.
    over(&main).await.unwrap();
    assert_eq!(read_all(&main, "out").await.len(), 1);
    let moved = over(&MemoryBroker::default()).await.unwrap_err();
    let Error::Moved { was, home, .. } = &moved else {
        panic!("{moved}");
    };
    assert_eq!([was.as_str(), home.as_str()], ["feed", "main"]);
}

#[test]
fn brokers_are_handed_over_by_name_and_a_wrong_or_missing_name_is_told() {
    let some = || -> Arc<dyn Broker> { Arc::new(MemoryBroker::default()) };
    let over = |names: &[&str]| {
        let brokers: Vec<_> = names.iter().map(|name| (*name, some())).collect();
        let stores = Arc::new(MemoryStores::default());
        Pipeline::new(parsed(TWO_BROKERS), &brokers, stores)
    };
    assert!(over(&["main", "feed"]).is_ok(), "in any order");
    for (names, told) in [
        (&["main"][..], "broker `feed` was not handed over"),
        (&["main", "fed"], "the pipeline has no broker `fed`"),
        (
            &["main", "feed", "main"],
            "broker `main` was handed over twice",
        ),
    ] {
        assert_eq!(over(names).unwrap_err().to_string(), told);
    }
}

/// What was sent early came again otherwise: the other input's record was taken first then.
#[tokio::test(start_paused = true)]
async fn what_the_order_of_inputs_decides_is_not_sent_before_it_is_committed() {
    for (from, sent_early) in [(r#""b""#, 1), (r#"["a", "b"]"#, 0)] {
        let file = format!(
            r#"
            [pipeline]
            format = 1
            name = "once"
            guarantee = "at_least_once"
            commit = "10s"
            [brokers.main]
            url = "mem://"
            [topics.a]
            event = "MarketDataUpdate"
            key = "pair"
            start = "earliest"
            [topics.b]
            event = "MarketDataUpdate"
            key = "pair"
            start = "earliest"
            [stages.once]
            from = {from}
            op = "dedupe"
            id = "timestamp"
            window = "1h"
            [sinks.out]
            from = "once"
            topic = "out"
            [topics.out]
            "#
        );
        let broker = MemoryBroker::default();
        let send = async |topic| {
            let mut tick = tick("A", 0, "1", "1");
            tick.topic = Topic::new(topic).unwrap();
            broker.send(tick).await.unwrap();
        };
        for topic in ["a", "b"] {
            let spec = TopicSpec::new(Topic::new(topic).unwrap(), NonZeroU32::MIN);
            broker.create_topic(&spec).await.unwrap();
        }
        let stores = Arc::new(MemoryStores::default());
        let of = || {
            let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(broker.clone())];
            Pipeline::in_order(parsed(&file), brokers, stores.clone())
        };
        send("b").await;
        let crashed = of();
        let (_stop, stopped) = watch::channel(false);
        let run_on = crashed.run(RunOptions::new("0", 1), stopped);
        let ended = tokio::time::timeout(Duration::from_secs(5), run_on).await;
        assert!(ended.is_err(), "it goes on: {ended:?}");
        assert_eq!(crashed.progress().counts().taken, 1);
        let out = read_all(&broker, "out").await;
        assert_eq!(out.len(), sent_early, "{from}");
        if sent_early == 0 {
            send("a").await;
            run(&of()).await.unwrap();
            assert_eq!(read_all(&broker, "out").await.len(), 1);
        }
    }
}
