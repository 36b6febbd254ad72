//! Partitions that come and go, and runs that end, while tasks are opened or at work.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use tidemill_broker::{Delivery, Offset, Permit};
use tidemill_state::StateStore;
use tokio::time::{Instant, timeout};

use super::scripted::{Commit, Scripted};
use super::*;

const COPY: &str = r#"
    [topics.all]
    broker = "main"

    [sinks.all]
    from = "market-data-updates"
    topic = "all"
"#;

/// Stores in memory, of which some open only once they may.
#[derive(Debug)]
struct Gated {
    inner: MemoryStores,
    asked: watch::Sender<u64>,
    may_open: watch::Receiver<bool>,
    /// The task that waits; all where there is none.
    task: Option<&'static str>,
}

impl Gated {
    fn new(task: Option<&'static str>) -> (Arc<Self>, watch::Sender<bool>) {
        let (open, may_open) = watch::channel(false);
        let gated = Self {
            inner: MemoryStores::default(),
            asked: watch::channel(0).0,
            may_open,
            task,
        };
        (Arc::new(gated), open)
    }
}

#[async_trait]
impl Stores for Gated {
    async fn open(
        &self,
        pipeline: &str,
        task: &str,
    ) -> tidemill_state::Result<Arc<dyn StateStore>> {
        if self.task.is_none_or(|waits| waits == task) {
            self.asked.send_modify(|asked| *asked += 1);
            let _ = self.may_open.clone().wait_for(|may| *may).await;
        }
        self.inner.open(pipeline, task).await
    }

    async fn set_aside(&self, task: &str, why: &str) -> tidemill_state::Result<()> {
        self.inner.set_aside(task, why).await
    }
}

/// Tasks that had just been opened said so to an intake that no longer listened, and the first 64 of
/// them filled the channel.
#[tokio::test(start_paused = true)]
async fn a_run_of_many_tasks_stops_while_they_are_opened() {
    let broker = broker_with(70).await;
    let (stores, open) = Gated::new(None);
    let pipeline = Pipeline::in_order(
        plan("", COPY),
        vec![Arc::new(broker.clone())],
        stores.clone(),
    );
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { pipeline.run(RunOptions::new("0", 1), stopped).await });
    let mut asked = stores.asked.subscribe();
    asked.wait_for(|asked| *asked == 70).await.unwrap();
    stop.send(true).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    open.send(true).unwrap();
    let end = timeout(Duration::from_secs(3600), running).await;
    end.expect("it hangs").unwrap().unwrap();
}

/// A task that had to go, and came back before it had gone, counted as one that had come to the end of
/// its input: the run ended, and left the rest.
#[tokio::test(start_paused = true)]
async fn a_partition_that_goes_and_comes_back_is_read_to_its_end() {
    let inner = broker_with(1).await;
    for millis in 0..1_000 {
        inner.send(tick("BTC-USD", millis, "1", "1")).await.unwrap();
    }
    let assigned = Mutex::new(None);
    let batches = AtomicU64::new(0);
    let broker = Scripted::new(&inner).on_delivery(move |delivery| {
        match delivery {
            Delivery::Assigned {
                generation,
                partitions,
            } => *assigned.lock().unwrap() = Some((generation.clone(), partitions.clone())),
            Delivery::Records(_) if batches.fetch_add(1, Ordering::Relaxed) == 1 => {
                let (generation, partitions) = assigned.lock().unwrap().clone().unwrap();
                let deadline = Instant::now() + Duration::from_secs(60);
                return vec![
                    Delivery::Revoked {
                        partitions: partitions.clone(),
                        permit: Permit::new(deadline, || {}),
                    },
                    Delivery::Assigned {
                        generation,
                        partitions,
                    },
                ];
            }
            _ => {}
        }
        Vec::new()
    });
    let stores = Arc::new(MemoryStores::default());
    let pipeline = Pipeline::in_order(plan("", COPY), vec![Arc::new(broker)], stores);
    run(&pipeline).await.unwrap();
    assert_eq!(read_all(&inner, "all").await.len(), 1_000);
}

/// Each rebalance waited for room among the commands of a task that was not there to take them, and
/// with it every other task.
#[tokio::test(start_paused = true)]
async fn any_number_of_rebalances_passes_by_a_task_that_is_stuck() {
    let inner = broker_with(2).await;
    let pairs = ["BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD"];
    let home = |pair: &str| tidemill_broker::partition::for_key(pair.as_bytes(), 2);
    let lucky = pairs.iter().find(|pair| home(pair) == 1).unwrap();
    for millis in 0..10 {
        inner.send(tick(lucky, millis, "1", "1")).await.unwrap();
    }
    let is_first = AtomicBool::new(true);
    let broker = Scripted::new(&inner).on_delivery(move |delivery| {
        let Delivery::Assigned {
            generation,
            partitions,
        } = delivery
        else {
            return Vec::new();
        };
        assert!(is_first.swap(false, Ordering::Relaxed));
        let again = |_| Delivery::Assigned {
            generation: generation.clone(),
            partitions: partitions.clone(),
        };
        (0..40).map(again).collect()
    });
    let (stores, open) = Gated::new(Some("0-0"));
    let pipeline = Pipeline::in_order(plan("", COPY), vec![Arc::new(broker)], stores);
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { pipeline.run(RunOptions::new("0", 1), stopped).await });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(read_all(&inner, "all").await.len(), 10);
    stop.send(true).unwrap();
    open.send(true).unwrap();
    running.await.unwrap().unwrap();
}

/// A task heard nothing while its changelog was redone, however long that took: the group took it for
/// gone with all that its process had.
#[tokio::test(start_paused = true)]
async fn a_task_that_is_to_go_while_its_changelog_is_redone_goes() {
    let inner = broker_with(1).await;
    let one_by_one = plan("commit = { records = 1 }", COPY);
    for millis in 0..100 {
        inner.send(tick("BTC-USD", millis, "1", "1")).await.unwrap();
    }
    let options = RunOptions {
        // An epoch for each record.
        cut: Cut::Lockstep,
        ..until_end()
    };
    let first = pipeline(one_by_one.clone(), &inner);
    first.run(options, watch::channel(false).1).await.unwrap();

    let slow = Scripted::new(&inner).pace(Duration::from_secs(1));
    let stores = Arc::new(MemoryStores::default());
    let pipeline = Pipeline::in_order(one_by_one, vec![Arc::new(slow)], stores);
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { pipeline.run(RunOptions::new("0", 1), stopped).await });
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = Instant::now();
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
    assert!(
        before.elapsed() < Duration::from_secs(5),
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_more_is_fetched_for_a_task_that_has_halted() {
    let inner = broker_with(2).await;
    let pairs = ["BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD"];
    let home = |pair: &str| tidemill_broker::partition::for_key(pair.as_bytes(), 2);
    let bad = *pairs.iter().find(|pair| home(pair) == 0).unwrap();
    inner.send(tick(bad, 0, "1", "1")).await.unwrap();
    inner.faults().reject_key(&Topic::new("all").unwrap(), bad);
    let paused = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
    let told = paused.clone();
    let broker = Scripted::new(&inner).on_pause(move |partitions, is_paused| {
        let mut paused = told.lock().unwrap();
        for at in partitions {
            match is_paused {
                true => paused.insert(at.partition),
                false => paused.remove(&at.partition),
            };
        }
    });
    let stores = Arc::new(MemoryStores::default());
    let pipeline = Pipeline::in_order(plan("", COPY), vec![Arc::new(broker)], stores);
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { pipeline.run(RunOptions::new("0", 1), stopped).await });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*paused.lock().unwrap(), [0].into());
    stop.send(true).unwrap();
    running.await.unwrap().unwrap_err();
}

/// What waits for it stands in nobody's way, though it is more than its inbox takes.
#[tokio::test(start_paused = true)]
async fn a_task_that_is_blocked_holds_up_no_other() {
    let inner = broker_with(2).await;
    // Each task writes into the partition that it reads: a key lies in the same one everywhere.
    let pairs = ["BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD"];
    let of = |partition| {
        let home = |pair: &&str| tidemill_broker::partition::for_key(pair.as_bytes(), 2);
        pairs
            .into_iter()
            .find(|pair| home(pair) == partition)
            .unwrap()
    };
    for number in 0..4_000 {
        for pair in [of(0), of(1)] {
            inner.send(tick(pair, number, "1", "1")).await.unwrap();
        }
    }
    let (free, is_free) = watch::channel(false);
    let broker = Scripted::new(&inner).on_append(move |sets| {
        let is_blocked = sets.iter().any(|set| set.at.partition == 0) && !*is_free.borrow();
        match is_blocked {
            true => Duration::from_secs(3_600),
            false => Duration::ZERO,
        }
    });
    let plan = plan("guarantee = \"at_least_once\"", COPY);
    let (group, topic) = (plan.group.clone(), plan.sources[0].topic.topic.clone());
    let stores = Arc::new(MemoryStores::default());
    let pipeline = Pipeline::in_order(plan, vec![Arc::new(broker)], stores);
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { pipeline.run(RunOptions::new("0", 1), stopped).await });
    tokio::time::sleep(Duration::from_secs(60)).await;
    let written = (
        read(&inner, "all", 0).await.len(),
        read(&inner, "all", 1).await.len(),
    );
    assert_eq!(written, (0, 4_000));
    let read_next = [0, 1].map(|partition| TopicPartition::new(topic.clone(), partition));
    let committed = inner.committed(&group, &read_next).await.unwrap();
    assert_eq!(
        committed,
        [None, Some(Offset(4_000))],
        "the other commits on"
    );
    // It goes on where it was.
    free.send_replace(true);
    tokio::time::sleep(Duration::from_secs(2 * 3_600)).await;
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
    assert_eq!(read(&inner, "all", 0).await.len(), 4_000);
}

/// Nobody listened to the group meanwhile: the member was taken for gone, and its last commit refused.
#[tokio::test(start_paused = true)]
async fn a_stop_that_takes_longer_than_a_session_commits_what_was_taken() {
    let inner = broker_with(1).await;
    for millis in 0..10 {
        inner.send(tick("BTC-USD", millis, "1", "1")).await.unwrap();
    }
    let broker = Scripted::new(&inner).on_commit(move |_| Commit::Waits(Duration::from_secs(100)));
    let plan = plan(r#"commit = { interval = "1h" }"#, COPY);
    let pipeline = Pipeline::in_order(
        plan,
        vec![Arc::new(broker)],
        Arc::new(MemoryStores::default()),
    );
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(async move { pipeline.run(RunOptions::new("0", 1), stopped).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(read_all(&inner, "all").await.len(), 0);
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
    assert_eq!(read_all(&inner, "all").await.len(), 10);
}

/// A consumer that was moved back delivers again what was taken.
#[tokio::test(start_paused = true)]
async fn records_that_come_again_are_taken_once() {
    let inner = broker_with(1).await;
    for millis in 0..10 {
        inner.send(tick("BTC-USD", millis, "1", "1")).await.unwrap();
    }
    let broker = Scripted::new(&inner).on_delivery(|delivery| match delivery {
        Delivery::Records(batch) => vec![Delivery::Records(batch.clone())],
        _ => Vec::new(),
    });
    let stores = Arc::new(MemoryStores::default());
    let pipeline = Pipeline::in_order(plan("", COPY), vec![Arc::new(broker)], stores);
    run(&pipeline).await.unwrap();
    assert_eq!(read_all(&inner, "all").await.len(), 10);
    assert_eq!(pipeline.progress().counts().taken, 10);
}
