//! A store that was not closed is compared with the digest that the log says: by whichever run comes to
//! it, and by none is that lost.

use tidemill_broker::{Headers, RecordSet};
use tidemill_state::{Identity, MemoryStore, State, StateStore as _};

use super::halts::at;
use super::hooked::Hooked;
use super::*;

const ONCE: &str = r#"
    [topics.once]

    [stages.first]
    from = "market-data-updates"
    op = "dedupe"
    id = ["timestamp"]
    window = "1h"

    [sinks.once]
    from = "first"
    topic = "once"
"#;

const TASK: &str = "0-0";

struct Case {
    broker: MemoryBroker,
    stores: Arc<Hooked>,
    /// An element of the store, and what is to be there instead.
    wrong: (Vec<u8>, Vec<u8>),
}

impl Case {
    /// A run that had committed and written behind was killed, and then its store damaged: the time at which
    /// an id was seen, on which no output depends.
    async fn damaged() -> Self {
        let broker = broker_with(1).await;
        for second in 0..10 {
            let tick = tick("A", second * 1_000, "1", "1");
            broker.send(tick).await.unwrap();
        }
        let stores = Hooked::on_write(|_| Ok(()));
        let mut case = Self {
            broker,
            stores,
            wrong: Default::default(),
        };
        case.kill_after(Duration::from_secs(10)).await;
        // Another epoch: what is in the last one is put right as it is redone.
        case.broker.send(tick("B", 0, "1", "1")).await.unwrap();
        case.kill_after(Duration::from_secs(10)).await;
        let identity = Identity {
            pipeline: "bars".into(),
            task: TASK.into(),
        };
        let disk = case.stores.inner.disk(TASK);
        let store = MemoryStore::open(&disk, &identity).unwrap();
        let tables = State::stored_tables(&store).await.unwrap();
        let (table, _) = tables
            .iter()
            .find(|(_, of)| of.name.contains("first"))
            .unwrap();
        let page = store.scan(table.prefix(), None, 1).await.unwrap();
        let (key, value) = page.first().unwrap();
        let mut wrong = value.to_vec();
        wrong[0] ^= 1;
        disk.damage(key, &wrong);
        case.wrong = (key.to_vec(), wrong);
        case
    }

    fn pipeline(&self) -> Pipeline {
        let brokers: Vec<Arc<dyn Broker>> = vec![Arc::new(self.broker.clone())];
        Pipeline::in_order(plan("", ONCE), brokers, self.stores.clone())
    }

    async fn kill_after(&self, time: Duration) {
        let pipeline = self.pipeline();
        let running = tokio::spawn(async move {
            let never = watch::channel(false);
            pipeline.run(RunOptions::new("0", 1), never.1).await
        });
        tokio::time::sleep(time).await;
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        // What it had spawned goes too.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    /// A run that is told to stop after a while.
    async fn stop_after(&self, time: Duration) -> Result<()> {
        let pipeline = self.pipeline();
        let (stop, stopped) = watch::channel(false);
        let running =
            tokio::spawn(async move { pipeline.run(RunOptions::new("0", 1), stopped).await });
        tokio::time::sleep(time).await;
        stop.send_replace(true);
        running.await.unwrap()
    }

    fn set_aside(&self) -> usize {
        self.stores.set_aside.lock().unwrap().len()
    }
}

/// A run over what there is ended before its first pass, or while that compared, and said that the store was
/// in order.
#[tokio::test(start_paused = true)]
async fn a_run_over_what_there_is_compares_a_store_that_was_not_closed_and_rebuilds_it_once() {
    let case = Case::damaged().await;
    run(&case.pipeline()).await.unwrap();
    assert_eq!(case.set_aside(), 1);
    // What is left beside the store says all of it.
    let why = case.stores.set_aside.lock().unwrap()[0].clone();
    assert!(why.contains("failed: ") && why.contains("digest"), "{why}");
    for second in 5..20 {
        let tick = tick("A", second * 1_000, "1", "1");
        case.broker.send(tick).await.unwrap();
    }
    run(&case.pipeline()).await.unwrap();
    assert_eq!(read_all(&case.broker, "once").await.len(), 20 + 1);
    assert_eq!(case.set_aside(), 1, "it is in order now");
}

/// Wherever it is stopped; the pass and the comparison that were under way took what was due with them.
#[tokio::test(start_paused = true)]
async fn a_run_that_is_stopped_before_it_has_compared_leaves_that_to_the_next() {
    let (mut left, mut told) = (0, 0);
    for millis in (0..400).step_by(7) {
        let case = Case::damaged().await;
        case.stores
            .inner
            .disk(TASK)
            .set_latency(Duration::from_millis(10));
        let ended = case.stop_after(Duration::from_millis(millis)).await;
        let found = case.set_aside();
        // Where it had broken off by itself, as what was open then is not committed.
        if let Err(error) = ended {
            assert_eq!(error.kind(), Kind::Integrity, "{error}");
            assert_eq!(found, 1, "{error}");
            told += 1;
        }
        left += usize::from(found == 0);
        case.stores.inner.disk(TASK).heal();
        run(&case.pipeline()).await.unwrap();
        assert_eq!(case.set_aside(), 1, "stopped after {millis} ms");
    }
    assert!((10..50).contains(&left), "{left}");
    assert!((1..10).contains(&told), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_goes_on_compares_beside_its_work() {
    let case = Case::damaged().await;
    case.stop_after(Duration::from_secs(10)).await.unwrap();
    assert_eq!(case.set_aside(), 1);
    // Killed again before it could be compared again: that is due once more.
    case.kill_after(Duration::from_secs(1)).await;
    let (key, wrong) = &case.wrong;
    case.stores.inner.disk(TASK).damage(key, wrong);
    case.kill_after(Duration::from_secs(10)).await;
    assert_eq!(case.set_aside(), 2);
}

/// The halt closed the store as one that is in order, and the next run went on with it.
#[tokio::test(start_paused = true)]
async fn a_state_that_is_wrong_again_once_it_was_rebuilt_halts_every_run() {
    let case = Case::damaged().await;
    let mut set = RecordSet::new(at("bars.changelog", 0));
    let (key, wrong) = &case.wrong;
    set.push(None, Some(key), Some(wrong), &Headers::new());
    for acks in case.broker.produce(vec![set]).await.unwrap() {
        acks.into_result().unwrap();
    }
    for rebuilt in 1..=2 {
        let error = run(&case.pipeline()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity, "{error}");
        assert_eq!(case.set_aside(), rebuilt, "once in each run");
    }
}
