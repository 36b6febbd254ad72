//! In lockstep, epochs that are too much for one transaction go into several, in the same order.

use std::sync::atomic::{AtomicU64, Ordering};

use tidemill_broker::Transaction;

use super::scripted::{Commit, Scripted};
use super::*;

const PARTITIONS: u32 = 4;
const BYTES_MAX: usize = 4 << 10;

/// All of them write into one partition.
const COPY: &str = r#"
    [topics.all]
    partitions = 1
    [sinks.all]
    from = "market-data-updates"
    topic = "all"
"#;

async fn ticks() -> MemoryBroker {
    let broker = broker_with(PARTITIONS).await;
    for number in 0..80 {
        let pair = format!("{}-{number}", "X".repeat(200));
        // Of some partitions there are more than of others.
        let partition = [0, 1, 2, 3, 0, 1, 0][number as usize % 7];
        let tick = tick(&pair, number, "1", "1").partition(partition);
        broker.send(tick).await.unwrap();
    }
    broker
}

fn options(transaction_bytes: usize, run: u64) -> RunOptions {
    RunOptions {
        cut: Cut::Lockstep,
        run,
        bounds: Bounds {
            transaction_bytes,
            ..Bounds::default()
        },
        ..until_end()
    }
}

fn over(broker: impl Broker, stores: &Arc<MemoryStores>) -> Pipeline {
    let plan = plan("commit = { records = 5 }", COPY);
    Pipeline::in_order(plan, vec![Arc::new(broker)], stores.clone())
}

fn bytes(transaction: &Transaction) -> usize {
    let sets = transaction.records.iter();
    sets.map(tidemill_broker::RecordSet::bytes).sum()
}

/// They went into one transaction, however large; a broker that did not take it halted every run. Broken
/// off between two of the several, the next run goes on where that one was.
#[tokio::test(start_paused = true)]
async fn what_is_too_much_for_one_transaction_goes_into_several_in_the_same_order() {
    let broker = ticks().await;
    let pipeline = over(broker.clone(), &Arc::default());
    let whole = options(usize::MAX, 1);
    pipeline.run(whole, watch::channel(false).1).await.unwrap();
    let expected = read_all(&broker, "all").await;
    assert_eq!(expected.len(), 80);

    for last in 1.. {
        let broker = ticks().await;
        let commits = Arc::new(AtomicU64::new(0));
        let counted = commits.clone();
        let breaks = Scripted::new(&broker).on_commit(move |transaction| {
            match counted.fetch_add(1, Ordering::Relaxed) {
                _ if bytes(transaction) > 2 * BYTES_MAX => Commit::Refused,
                commit if commit < last => Commit::Goes,
                _ => Commit::Waits(Duration::from_secs(3_600)),
            }
        });
        let stores = Arc::default();
        let pipeline = over(breaks, &stores);
        let running = tokio::spawn(async move {
            let never = watch::channel(false);
            pipeline.run(options(BYTES_MAX, 1), never.1).await
        });
        tokio::time::sleep(Duration::from_secs(60)).await;
        let is_all = running.is_finished();
        running.abort();
        let _ = running.await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let rest = over(broker.clone(), &stores);
        let again = options(BYTES_MAX, 2);
        rest.run(again, watch::channel(false).1).await.unwrap();
        assert_eq!(read_all(&broker, "all").await, expected, "after {last}");
        if is_all {
            assert!(last > 10, "{last} transactions");
            return;
        }
    }
}
