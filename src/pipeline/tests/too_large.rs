//! Results, and what is remembered, that are larger than a broker takes.

use tidemill_broker_memory::MemoryOptions;

use super::*;

const BYTES_MAX: usize = 32 << 10;

const COPY: &str = r#"
    [topics.all]
    broker = "OUT"
    [sinks.all]
    from = "market-data-updates"
    topic = "all"
"#;

fn small() -> MemoryBroker {
    let mut options = MemoryOptions::default();
    options.capabilities.record_bytes_max = BYTES_MAX;
    MemoryBroker::new(options)
}

/// Ticks, the second of which is as large as a small broker takes: what is made of it has an id besides.
/// Its payload.
async fn ticks(broker: &MemoryBroker) -> Vec<u8> {
    let topic = Topic::new("market-data-updates").unwrap();
    let spec = TopicSpec::new(topic, NonZeroU32::MIN);
    broker.create_topic(&spec).await.unwrap();
    let with = |pair: usize| tick(&"X".repeat(pair), 1_000, "1", "1");
    let bytes = |tick: &NewRecord| {
        let parts = [&tick.key, &tick.value];
        parts
            .into_iter()
            .flatten()
            .map(|part| part.len())
            .sum::<usize>()
    };
    // A pair is there twice: as key too.
    let large = with(1 + (BYTES_MAX - bytes(&with(1))) / 2);
    broker.send(tick("A", 0, "1", "1")).await.unwrap();
    let payload = large.value.clone().unwrap();
    broker.send(large).await.unwrap();
    broker.send(tick("A", 2_000, "1", "1")).await.unwrap();
    payload.to_vec()
}

/// Runs twice. The one dead letter: what its headers say, and its payload.
async fn dead_letter(pipeline: &Pipeline, broker: &MemoryBroker) -> (Vec<String>, Vec<u8>) {
    for _ in 0..2 {
        run(pipeline).await.unwrap();
    }
    let at = TopicPartition::new(Topic::new("bars.dead-letter").unwrap(), 0);
    let batches = broker.read_to_end(&at, Start::Earliest).await.unwrap();
    let records: Vec<_> = batches.iter().flat_map(|batch| batch.iter()).collect();
    assert_eq!(records.len(), 1);
    let of = |name: &str| {
        let mut headers = records[0].headers();
        let (_, value) = headers.find(|(found, _)| *found == name).unwrap();
        String::from_utf8(value.to_vec()).unwrap()
    };
    let told = ["dl-class", "dl-stage", "dl-src", "dl-error"].map(of);
    (told.to_vec(), records[0].value.unwrap().to_vec())
}

fn check(told: &[String]) {
    let said = ["sink.too_large", "sink:all", "market-data-updates/0@1"];
    assert_eq!(told[..3], said);
    let words = "for topic `all`, which takes 32768 at most";
    assert!(told[3].ends_with(words), "{told:?}");
}

/// The broker refused the transaction, the task halted, and so did each run after it.
#[tokio::test(start_paused = true)]
async fn a_result_that_is_larger_than_its_broker_takes_goes_to_the_dead_letters() {
    for guarantee in ["exactly_once", "at_least_once", "at_most_once"] {
        let broker = small();
        let payload = ticks(&broker).await;
        let file = format!("guarantee = {guarantee:?}");
        let plan = plan(&file, &COPY.replace("OUT", "main"));
        let (told, left) = dead_letter(&pipeline(plan, &broker), &broker).await;
        check(&told);
        assert!(payload.starts_with(&left), "{guarantee}");
        let all = read_all(&broker, "all").await;
        assert_eq!(all.len(), 2, "{guarantee}: the others are there");
    }
}

/// How much a dead letter may hold is said by the broker it goes to.
#[tokio::test(start_paused = true)]
async fn the_dead_letter_of_a_result_that_is_too_large_is_whole_where_its_broker_takes_it() {
    let (broker, out) = (MemoryBroker::default(), small());
    let payload = ticks(&broker).await;
    let plan = plan(
        r#"dead_letter = { broker = "main", topic = "bars.dead-letter" }"#,
        &format!(
            "[brokers.out]\nurl = \"mem://\"\n{}",
            COPY.replace("OUT", "out")
        ),
    );
    let of = |name: &str| -> Arc<dyn Broker> {
        match name {
            "out" => Arc::new(out.clone()),
            _ => Arc::new(broker.clone()),
        }
    };
    let brokers = plan.brokers.iter().map(|one| of(&one.name)).collect();
    let pipeline = Pipeline::in_order(plan, brokers, Arc::new(MemoryStores::default()));
    let (told, whole) = dead_letter(&pipeline, &broker).await;
    check(&told);
    assert_eq!(whole, payload);
}

/// The changelog refused it, the task halted, and so did each run after it.
#[tokio::test(start_paused = true)]
async fn an_event_that_is_too_large_to_be_held_goes_to_the_dead_letters() {
    let (broker, out) = (broker_with(1).await, small());
    let other = TopicSpec::new(Topic::new("other").unwrap(), NonZeroU32::MIN);
    broker.create_topic(&other).await.unwrap();
    let ticks = [("A", 0), (&*"X".repeat(BYTES_MAX), 1_000), ("A", 2_000)];
    for (pair, millis) in ticks {
        broker.send(tick(pair, millis, "1", "1")).await.unwrap();
    }
    let plan = plan(
        "home = \"out\"",
        r#"
        [brokers.out]
        url = "mem://"
        [topics.other]
        broker = "main"
        event = "MarketDataUpdate"
        key = "pair"
        start = "earliest"
        [topics.all]
        broker = "out"

        [stages.both]
        from = ["market-data-updates", "other"]
        op = "merge"

        [sinks.all]
        from = "both"
        topic = "all"
        "#,
    );
    let brokers: [(&str, Arc<dyn Broker>); 2] =
        [("main", Arc::new(broker)), ("out", Arc::new(out.clone()))];
    let stores = Arc::new(MemoryStores::default());
    let pipeline = Pipeline::new(plan, &brokers, stores).unwrap();
    let (told, _) = dead_letter(&pipeline, &out).await;
    let said = ["merge.too_large", "op:both", "market-data-updates/0@1"];
    assert_eq!(told[..3], said);
    let words = "and the changelog takes records of 32768 at most";
    assert!(told[3].ends_with(words), "{told:?}");
    let all = read_all(&out, "all").await;
    assert_eq!(all.len(), 2, "the others are there");
}
