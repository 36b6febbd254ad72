//! Where each partition hears of the end of a transaction by itself, as with Kafka: what was committed may not show
//! yet to the process that goes on with a task.

use tidemill_broker::TokioClock;
use tidemill_broker_memory::{FaultPlan, MemoryOptions, Persona};

use super::*;

/// Runs one process, takes on its tasks in another that has nothing of it but the log, and returns what came out.
async fn taken_on(seed: u64, late_end: f64) -> Vec<String> {
    let clock = Arc::new(TokioClock::starting_at(Timestamp::from_millis(1_000_000)));
    let broker = MemoryBroker::new(MemoryOptions::new(Persona::Kafka, clock, seed));
    let topic = Topic::new("market-data-updates").unwrap();
    let spec = TopicSpec::new(topic, NonZeroU32::MIN);
    broker.create_topic(&spec).await.unwrap();
    let send = async |seconds: std::ops::Range<i64>| {
        for second in seconds {
            let tick = tick("A", second * 300, "10", "1");
            broker.send(tick).await.unwrap();
        }
    };
    broker.faults().plan(FaultPlan {
        late_end,
        late_end_max: Duration::from_secs(5),
        ..FaultPlan::default()
    });
    send(0..10).await;
    let (stop, stopped) = watch::channel(false);
    let stopping = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.send_replace(true);
    };
    let first = pipeline(bars_plan(), &broker);
    let (ended, ()) = tokio::join!(first.run(RunOptions::new("0", 1), stopped), stopping);
    ended.unwrap();
    drop(first);
    send(10..20).await;
    let second = pipeline(bars_plan(), &broker);
    let options = RunOptions {
        until_end: watch::channel(true).1,
        ..RunOptions::new("1", 1)
    };
    let ended = second.run(options, watch::channel(false).1).await;
    ended.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    broker.faults().heal();
    read_all(&broker, "bars-1s").await
}

/// It took the last marker that showed for the last there was: the group's offsets were ahead of it, and it halted.
#[tokio::test(start_paused = true)]
async fn a_task_goes_on_from_its_last_epoch_though_the_end_of_that_does_not_show_yet() {
    let undisturbed = taken_on(0, 0.0).await;
    assert!(undisturbed.len() > 3, "{undisturbed:#?}");
    for seed in 0..20 {
        assert_eq!(taken_on(seed, 1.0).await, undisturbed, "seed {seed}");
    }
}
