//! A task that panics is a task that halts.

use tidemill_broker::RecordSet;

use super::hooked::Hooked;
use super::scripted::Scripted;
use super::*;

const COPY: &str = r#"
    [topics.all]
    broker = "main"

    [sinks.all]
    from = "market-data-updates"
    topic = "all"
"#;

async fn ticks() -> MemoryBroker {
    let broker = broker_with(2).await;
    // One in each task.
    let pairs = ["AAPL", "BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD"];
    let of = |partition| {
        let is_there =
            |pair: &&str| tidemill_broker::partition::for_key(pair.as_bytes(), 2) == partition;
        pairs.into_iter().find(is_there).unwrap()
    };
    let pairs = [of(0), of(1)];
    for second in 0..300 {
        for pair in pairs {
            let tick = tick(pair, second * 1_000, "1", "1");
            broker.send(tick).await.unwrap();
        }
    }
    broker
}

/// The other task goes on, in this run and the next, and what is told is the panic.
async fn halts_alone(broker: Arc<dyn Broker>, rest: &str, stores: Arc<dyn Stores>, said: &str) {
    let plan = plan("guarantee = \"at_least_once\"", rest);
    let pipeline = Pipeline::in_order(plan, vec![broker.clone()], stores);
    for cut in [Cut::Live, Cut::Lockstep] {
        let options = RunOptions { cut, ..until_end() };
        let error = pipeline.run(options, watch::channel(false).1).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Panicked { .. }), "{error:?}");
        assert_eq!(error.kind(), Kind::Internal);
        let text = error.to_string();
        let told = ["task 0-0 panicked", said, "a mistake in tidemill"];
        assert!(told.iter().all(|part| text.contains(part)), "{text}");
    }
    assert_eq!(read(&*broker, "all", 1).await.len(), 300);
}

/// Every task was stopped with it, and all that was told is that a part had stopped before its time.
#[tokio::test(start_paused = true)]
async fn a_task_that_panics_halts_and_the_others_go_on() {
    let inner = ticks().await;
    let broker = Scripted::new(&inner).on_append(|sets: &[RecordSet]| {
        let is_first = |set: &RecordSet| set.at.partition == 0;
        assert!(!sets.iter().any(is_first), "nothing for the first");
        Duration::ZERO
    });
    let stores = Arc::new(MemoryStores::default());
    halts_alone(Arc::new(broker), COPY, stores, "nothing for the first").await;
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_writing_behind_panics_halts_and_the_others_go_on() {
    let stores = Hooked::on_write(|task| {
        assert_ne!(task, "0-0", "no store of the first");
        Ok(())
    });
    halts_alone(
        Arc::new(ticks().await),
        COPY,
        stores,
        "no store of the first",
    )
    .await;
}

#[derive(Debug)]
struct Unopened;

#[async_trait::async_trait]
impl Stores for Unopened {
    async fn open(
        &self,
        pipeline: &str,
        task: &str,
    ) -> tidemill_state::Result<Arc<dyn tidemill_state::StateStore>> {
        assert_ne!(task, "0-0", "it does not open");
        MemoryStores::default().open(pipeline, task).await
    }

    async fn set_aside(&self, _task: &str, _why: &str) -> tidemill_state::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_while_it_is_opened_halts_and_the_others_go_on() {
    let broker = ticks().await;
    halts_alone(
        Arc::new(broker),
        COPY,
        Arc::new(Unopened),
        "it does not open",
    )
    .await;
}
