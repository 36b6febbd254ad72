//! A store that was away for so long that what tells of removed keys is gone from the changelog.

use tidemill_broker::ManualClock;
use tidemill_state::UNWATCHED;

use super::halts::at;
use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Runs until everything there is has been read, and stops with its windows open.
async fn run_and_stop(broker: &MemoryBroker, stores: &Arc<MemoryStores>, number: u64) {
    let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(broker.clone())];
    let pipeline = Pipeline::in_order(bars_plan(), brokers, stores.clone());
    let (stop, stopped) = watch::channel(false);
    let running =
        tokio::spawn(async move { pipeline.run(RunOptions::new("0", number), stopped).await });
    tokio::time::sleep(Duration::from_secs(10)).await;
    stop.send_replace(true);
    running.await.unwrap().unwrap();
}

/// A broker whose clock is moved by hand, with the topic of ticks.
async fn timed_broker() -> (Arc<ManualClock>, MemoryBroker) {
    let clock = Arc::new(ManualClock::starting_at(Timestamp::from_millis(0)));
    let broker = MemoryBroker::with_clock(clock.clone());
    let topic = Topic::new("market-data-updates").unwrap();
    let spec = TopicSpec::new(topic, NonZeroU32::MIN);
    broker.create_topic(&spec).await.unwrap();
    (clock, broker)
}

/// The store of an instance that was switched off holds a window that another has closed since. Its
/// tombstone has gone with a compaction, so following the changelog from where the store was would keep
/// the window open, and write its bar a second time.
#[tokio::test(start_paused = true)]
async fn a_store_older_than_the_changelogs_tombstones_is_rebuilt_exactly() {
    let (clock, broker) = timed_broker().await;
    let (old, new): (Arc<MemoryStores>, Arc<MemoryStores>) = Default::default();

    broker.send(tick("A", 100, "1", "1")).await.unwrap();
    broker.send(tick("B", 200, "2", "1")).await.unwrap();
    run_and_stop(&broker, &old, 1).await;
    broker.send(tick("A", 5_000, "5", "1")).await.unwrap();
    run_and_stop(&broker, &new, 2).await;
    assert_eq!(read_all(&broker, "bars-1s").await.len(), 2);

    clock.advance(8 * DAY);
    broker.clean();
    let store = old.open("bars", "0-0").await.unwrap();
    let stored = store.stored().await.unwrap().unwrap();
    let changelog = broker.watermarks(&at("bars.changelog", 0)).await.unwrap();
    assert!(
        stored.changelog_offset < changelog.tombstones_gone.0,
        "the store is not old: {stored:?}, {changelog:?}"
    );
    drop(store);

    broker.send(tick("B", 6_000, "6", "1")).await.unwrap();
    let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(broker.clone())];
    let pipeline = Pipeline::in_order(bars_plan(), brokers, old.clone());
    run(&pipeline).await.unwrap();
    let bars = read_all(&broker, "bars-1s").await;
    let of = |pair: &str, second: u32| {
        let start = format!("1970-01-01T00:00:0{second}.000000Z");
        let is = |bar: &&String| bar.contains(pair) && bar.contains(&format!("Start\":\"{start}"));
        bars.iter().filter(is).count()
    };
    let counts = [
        of("\"A\"", 0),
        of("\"B\"", 0),
        of("\"A\"", 5),
        of("\"B\"", 6),
    ];
    assert_eq!((bars.len(), counts), (4, [1; 4]), "{bars:#?}");
    // What it holds now has the digest that the log says.
    run(&pipeline).await.unwrap();
    assert_eq!(read_all(&broker, "bars-1s").await, bars);
}

/// What it holds and the changelog together would keep what was removed since.
#[tokio::test(start_paused = true)]
async fn a_savepoint_older_than_the_changelogs_tombstones_is_refused() {
    let (clock, broker) = timed_broker().await;
    let stores = Arc::new(MemoryStores::default());
    broker.send(tick("A", 100, "1", "1")).await.unwrap();
    broker.send(tick("B", 200, "2", "1")).await.unwrap();
    run_and_stop(&broker, &stores, 1).await;

    let plan = bars_plan();
    let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(broker.clone())];
    let logs = task_logs(&plan, &brokers).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let saved = savepoint(&plan, &broker, &*stores, &logs[0], dir.path(), UNWATCHED);
    let path = saved.await.unwrap().unwrap().path;
    broker.send(tick("A", 5_000, "5", "1")).await.unwrap();
    run_and_stop(&broker, &stores, 2).await;
    let found = restorable(&plan, &broker, &logs, &path, UNWATCHED);
    let found = found.await.unwrap();
    assert!(found.savepoint.epoch < found.last);

    clock.advance(8 * DAY);
    broker.clean();
    let refused = restorable(&plan, &broker, &logs, &path, UNWATCHED);
    let refused = refused.await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Integrity);
    let said = "has forgotten what was removed below offset";
    assert!(refused.to_string().contains(said), "{refused}");
}
