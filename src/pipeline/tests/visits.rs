//! How often the store is visited for what is not in memory.

use super::*;

const PAIRS: usize = 500;

/// Runs until everything there is has been read, and stops with its windows open. Returns how often the
/// store was read.
async fn reads_of_run(
    broker: &MemoryBroker,
    stores: &Arc<MemoryStores>,
    plan: &str,
    number: u64,
) -> u64 {
    let before = stores.disk("0-0").reads();
    let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(broker.clone())];
    let pipeline = Pipeline::in_order(self::plan(plan, BARS), brokers, stores.clone());
    let (stop, stopped) = watch::channel(false);
    let running =
        tokio::spawn(async move { pipeline.run(RunOptions::new("0", number), stopped).await });
    tokio::time::sleep(Duration::from_secs(10)).await;
    stop.send_replace(true);
    running.await.unwrap().unwrap();
    stores.disk("0-0").reads() - before
}

/// Reads of a run that finds a window of each pair in the store, adds to each, and closes all.
async fn reads_with(memory: &str) -> u64 {
    let broker = broker_with(1).await;
    let stores = Arc::new(MemoryStores::default());
    let plan = format!("memory = \"{memory}\"");
    let ticks = async |millis| {
        for pair in 0..PAIRS {
            let tick = tick(&format!("P{pair:03}-USD"), millis, "1.5", "2");
            broker.send(tick).await.unwrap();
        }
    };
    ticks(10).await;
    reads_of_run(&broker, &stores, &plan, 1).await;
    ticks(20).await;
    let last = tick("P000-USD", 5_000, "3", "1");
    broker.send(last).await.unwrap();
    let reads = reads_of_run(&broker, &stores, &plan, 2).await;
    let bars = read_all(&broker, "bars-1s").await;
    assert_eq!(bars.len(), PAIRS);
    assert!(
        bars.iter().all(|bar| bar.contains("\"trades\":2")),
        "{bars:#?}"
    );
    reads
}

#[tokio::test(start_paused = true)]
async fn the_windows_that_a_batch_misses_are_fetched_together() {
    let all_in_memory = reads_with("128MiB").await;
    let for_misses = reads_with("1KiB").await - all_in_memory;
    assert!(
        (1..=20).contains(&for_misses),
        "{for_misses} visits for {PAIRS} windows"
    );
}
