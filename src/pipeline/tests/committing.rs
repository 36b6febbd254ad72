//! What is committed, how often, and how much of it at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tidemill_broker::Transaction;
use tidemill_state::{Digest, Error as StateError};
use tokio::time::timeout;

use super::hooked::Hooked;
use super::scripted::{Commit, Scripted};
use super::*;

const COPY: &str = r#"
    [topics.all]
    broker = "main"

    [sinks.all]
    from = "market-data-updates"
    topic = "all"
"#;

/// The task ended while its second epoch was being committed, and was opened again at its first: it
/// took the same records once more, and both epochs were committed.
#[tokio::test(start_paused = true)]
async fn a_task_that_is_opened_again_under_a_commit_in_flight_repeats_nothing() {
    let inner = broker_with(1).await;
    let (commits, is_damaged) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
    let damaged = is_damaged.clone();
    let stores = Hooked::on_write(move |_| match damaged.swap(false, Ordering::Relaxed) {
        true => Err(StateError::DigestMismatch {
            epoch: tidemill_state::Epoch(1),
            expected: Digest::EMPTY,
            found: Digest(1),
        }),
        false => Ok(()),
    });
    let damage = is_damaged.clone();
    let broker =
        Scripted::new(&inner).on_commit(move |_| match commits.fetch_add(1, Ordering::Relaxed) {
            1 => {
                damage.store(true, Ordering::Relaxed);
                Commit::Waits(Duration::from_secs(10))
            }
            _ => Commit::Goes,
        });
    let plan = plan(r#"commit = { interval = "400ms" }"#, COPY);
    let pipeline = Pipeline::in_order(plan, vec![Arc::new(broker)], stores.clone());
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { pipeline.run(RunOptions::new("0", 1), stopped).await });

    inner.send(tick("BTC-USD", 0, "1", "1")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(450)).await;
    assert_eq!(read_all(&inner, "all").await.len(), 1);
    inner.send(tick("BTC-USD", 1, "2", "1")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!is_damaged.load(Ordering::Relaxed), "nothing was written");
    inner.send(tick("BTC-USD", 2, "3", "1")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
    let all = read_all(&inner, "all").await;
    assert_eq!(all.len(), 3, "{all:#?}");
}

/// It began again at the first line that was still there.
#[tokio::test(start_paused = true)]
async fn a_task_that_is_opened_again_reads_on_in_its_standard_input() {
    let (input, output) = (MemoryBroker::default(), MemoryBroker::default());
    let file = r#"
        [pipeline]
        format = 1
        name = "copy"
        [brokers.console]
        url = "stdio:"
        [brokers.main]
        url = "mem://"
        [topics.stdin]
        broker = "console"
        event = "MarketDataUpdate"
        [sinks.all]
        from = "stdin"
        topic = { broker = "main", topic = "all" }
        "#;
    let parsed = crate::config::Pipeline::parse("copy.toml", file, &|_| None);
    let plan = parsed.unwrap_or_else(|problems| panic!("{problems}")).plan;
    let named = plan.brokers.iter();
    let brokers = named.map(|broker| -> Arc<dyn Broker> {
        match &*broker.name {
            "console" => Arc::new(input.clone()),
            _ => Arc::new(output.clone()),
        }
    });
    let brokers = brokers.collect();
    let stdin = Topic::new("stdin").unwrap();
    let spec = TopicSpec::new(stdin.clone(), NonZeroU32::MIN);
    input.create_topic(&spec).await.unwrap();
    let line = |millis| {
        let tick = tick("BTC-USD", millis, "1", "1");
        NewRecord::new(stdin.clone(), tick.value.unwrap())
    };
    let is_damaged = Arc::new(AtomicBool::new(false));
    let damaged = is_damaged.clone();
    let stores = Hooked::on_write(move |_| match damaged.swap(false, Ordering::Relaxed) {
        true => Err(StateError::DigestMismatch {
            epoch: tidemill_state::Epoch(1),
            expected: Digest::EMPTY,
            found: Digest(1),
        }),
        false => Ok(()),
    });
    let pipeline = Pipeline::in_order(plan, brokers, stores.clone());
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { pipeline.run(RunOptions::new("0", 1), stopped).await });

    input.send(line(0)).await.unwrap();
    is_damaged.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!is_damaged.load(Ordering::Relaxed), "nothing was written");
    input.send(line(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
    assert_eq!(read_all(&output, "all").await.len(), 2);
}

/// All closed epochs went into one transaction, however large, and no broker takes one of any size:
/// then the whole run ended, and so did the next.
#[tokio::test(start_paused = true)]
async fn epochs_that_are_too_much_for_one_transaction_go_into_several() {
    const BYTES_MAX: usize = 4 << 10;
    let inner = broker_with(8).await;
    for account in 0..64 {
        let pair = format!("{}-{account}", "X".repeat(100));
        inner.send(tick(&pair, account, "1", "1")).await.unwrap();
    }
    let bytes = |transaction: &Transaction| {
        let sets = transaction.records.iter();
        sets.map(tidemill_broker::RecordSet::bytes).sum::<usize>()
    };
    let broker = Scripted::new(&inner).on_commit(move |transaction| {
        match bytes(transaction) > 3 * BYTES_MAX {
            true => Commit::Refused,
            false => Commit::Goes,
        }
    });
    let stores = Arc::new(MemoryStores::default());
    let pipeline = Pipeline::in_order(plan("", COPY), vec![Arc::new(broker)], stores);
    let options = RunOptions {
        bounds: Bounds {
            transaction_bytes: BYTES_MAX,
            ..Bounds::default()
        },
        ..until_end()
    };
    pipeline
        .run(options, watch::channel(false).1)
        .await
        .unwrap();
    assert_eq!(read_all(&inner, "all").await.len(), 64);
}

/// The elder learnt that its commits were refused only with the next epoch that a task of it closed:
/// never, where nothing came any more.
#[tokio::test(start_paused = true)]
async fn a_run_that_is_shut_out_ends_though_nothing_comes_any_more() {
    let input = broker_with(1).await;
    let output = MemoryBroker::default();
    let file = |interval: &str| {
        format!(
            r#"
            [pipeline]
            format = 1
            name = "copy"
            commit = {{ interval = "{interval}" }}
            [brokers.in]
            url = "mem://"
            [brokers.out]
            url = "mem://"
            [topics.market-data-updates]
            broker = "in"
            event = "MarketDataUpdate"
            start = "earliest"
            [topics.all]
            broker = "out"
            [sinks.all]
            from = "market-data-updates"
            topic = "all"
            "#
        )
    };
    let run = |number, interval| {
        let parsed = crate::config::Pipeline::parse("copy.toml", &file(interval), &|_| None);
        let plan = parsed.unwrap_or_else(|problems| panic!("{problems}")).plan;
        let brokers: Vec<Arc<dyn Broker>> = plan
            .brokers
            .iter()
            .map(|broker| -> Arc<dyn Broker> {
                match &*broker.name {
                    "in" => Arc::new(input.clone()),
                    _ => Arc::new(output.clone()),
                }
            })
            .collect();
        let pipeline = Pipeline::in_order(plan, brokers, Arc::new(MemoryStores::default()));
        let (stop, stopped) = watch::channel(false);
        let options = RunOptions::new(format!("{number}"), number);
        let running = tokio::spawn(async move { pipeline.run(options, stopped).await });
        (running, stop)
    };
    let (elder, _stop) = run(1, "1s");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (twin, stop) = run(2, "100ms");
    tokio::time::sleep(Duration::from_secs(1)).await;
    input.send(tick("BTC-USD", 0, "1", "1")).await.unwrap();

    let end = timeout(Duration::from_secs(3600), elder).await;
    let end = end.expect("it goes on without a committer").unwrap();
    assert!(matches!(end, Err(Error::Fenced { .. })), "{end:?}");
    stop.send(true).unwrap();
    twin.await.unwrap().unwrap();
    assert_eq!(read_all(&output, "all").await.len(), 1);
}
