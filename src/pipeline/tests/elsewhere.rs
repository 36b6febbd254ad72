//! Sinks on the broker of the transactions and on another one.

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
        let pipeline = Pipeline::new(plan, brokers, Arc::new(MemoryStores::default()));
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
