//! Write-behind, crash and redo against the model: what is recovered is what was committed, always.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tidemill_state::{Epoch, MemoryDisk, MemoryStore, StateStore, Survivors, UNWATCHED};
use tokio::task::JoinSet;

use crate::model::{Log, Task, identity};

#[derive(Debug, Clone)]
enum Step {
    Set(u8, Option<u8>),
    SetElement(u8, u8, Option<u8>),
    Push(u8, u8),
    Pop(u8),
    Extend(u8, u8),
    /// Event time goes on by so much, or back.
    Time(i64),
    /// What the watermark has passed expires, no more than so much of it, once or until nothing is left.
    Expire {
        behind: i64,
        most: usize,
        all: bool,
    },
    Close,
    Commit,
    RollBack,
    Pass,
    /// A pass that is given up after so many calls of the store.
    PassUntil(u8),
    /// A pass beside the steps that follow.
    PassBeside,
    Check,
    Crash {
        log_kept: u8,
        store: Lost,
    },
}

#[derive(Debug, Clone)]
enum Lost {
    All,
    Nothing,
    From(u8),
    Some(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..12_u8;
    let value = prop::option::weighted(0.7, any::<u8>());
    prop_oneof![
        8 => (key.clone(), value.clone()).prop_map(|(key, value)| Step::Set(key, value)),
        6 => (0..4_u8, key.clone(), value).prop_map(|(k, e, v)| Step::SetElement(k, e, v)),
        4 => (0..4_u8, any::<u8>()).prop_map(|(key, value)| Step::Push(key, value)),
        4 => (0..4_u8).prop_map(Step::Pop),
        4 => (0..4_u8, key).prop_map(|(key, element)| Step::Extend(key, element)),
        6 => (-5..15_i64).prop_map(Step::Time),
        4 => (-5..20_i64, 0..6_usize, any::<bool>())
            .prop_map(|(behind, most, all)| Step::Expire { behind, most, all }),
        6 => Just(Step::Close),
        6 => Just(Step::Commit),
        1 => Just(Step::RollBack),
        2 => Just(Step::Pass),
        3 => (0..12_u8).prop_map(Step::PassUntil),
        3 => Just(Step::PassBeside),
        1 => Just(Step::Check),
        2 => (0..3_u8, lost()).prop_map(|(log_kept, store)| Step::Crash { log_kept, store }),
    ]
}

fn lost() -> impl Strategy<Value = Lost> {
    prop_oneof![
        Just(Lost::All),
        Just(Lost::Nothing),
        any::<u8>().prop_map(Lost::From),
        any::<u64>().prop_map(Lost::Some),
    ]
}

fn open(disk: &MemoryDisk) -> Arc<dyn StateStore> {
    Arc::new(MemoryStore::open(disk, &identity()).unwrap())
}

async fn run(steps: Vec<Step>, table_bytes: usize, ttl: Option<u64>) {
    let disk = MemoryDisk::new();
    disk.set_latency(Duration::from_millis(1));
    let mut log = Log::default();
    let recover = async |log: &Log| {
        Task::recover_with_ttl(open(&disk), log, table_bytes, ttl)
            .await
            .unwrap()
    };
    let mut task = recover(&log).await;
    let mut now = 0;
    let mut beside = JoinSet::new();
    for step in steps {
        match step {
            Step::Set(key, value) => {
                task.set(&[key], value.map(|v| vec![v; 3]).as_deref()).await;
            }
            Step::SetElement(key, element, value) => {
                task.set_element(&[key], &[element], value.map(|v| vec![v]).as_deref())
                    .await;
            }
            Step::Push(key, value) => task.push(&[key], &[value]).await,
            Step::Pop(key) => task.pop(&[key]).await,
            Step::Extend(key, element) => task.extend(&[key], &[element]).await,
            Step::Time(by) => {
                now += by;
                task.set_time(now);
            }
            Step::Expire { behind, most, all } => {
                task.expire(now - behind, most).await;
                if all {
                    task.expire(now - behind, usize::MAX).await;
                }
            }
            Step::Close if task.in_flight.is_none() => task.close(),
            Step::Close => {}
            Step::Commit => task.commit(&mut log),
            Step::RollBack => task.roll_back(&log).await,
            Step::Pass => {
                task.state
                    .write_behind()
                    .pass(log.make_durable())
                    .await
                    .unwrap();
                task.state.write_behind().verify(UNWATCHED).await.unwrap();
            }
            Step::PassUntil(calls) => {
                let behind = task.state.write_behind();
                let pass = behind.pass(log.make_durable());
                let until = Duration::from_micros(u64::from(calls) * 1_000 + 500);
                if let Ok(pass) = tokio::time::timeout(until, pass).await {
                    pass.unwrap();
                }
            }
            Step::PassBeside => {
                let (behind, durable) = (task.state.write_behind(), log.make_durable());
                beside.spawn(async move { behind.pass(durable).await.map(|_| ()) });
            }
            Step::Check if task.in_flight.is_none() => {
                task.close();
                task.commit(&mut log);
                task.check().await;
            }
            Step::Check => {}
            Step::Crash { log_kept, store } => {
                beside.shutdown().await;
                drop(task);
                log.crash(usize::from(log_kept));
                let mut bits = 0;
                disk.crash(match store {
                    Lost::All => Survivors::None,
                    Lost::Nothing => Survivors::All,
                    Lost::From(n) => {
                        Survivors::Prefix(Box::new(move |count| usize::from(n) % (count + 1)))
                    }
                    Lost::Some(mask) => Survivors::Subset(Box::new(move || {
                        bits += 1;
                        mask.rotate_left(bits) & 1 == 1
                    })),
                });
                task = recover(&log).await;
                task.set_time(now);
                let newest = task.recovered.newest().unwrap_or_default();
                assert!(task.recovered.epoch.unwrap_or_default() <= newest);
                assert!(newest <= task.state.last_committed().epoch);
                let nothing = task.state.last_committed().epoch == Epoch::NONE;
                assert!(nothing || !task.state.is_verified());
                task.check().await;
            }
        }
    }
    while let Some(pass) = beside.join_next().await {
        pass.unwrap().unwrap();
    }
    task.roll_back(&log).await;
    task.check().await;
    if ttl.is_none() {
        return;
    }
    // Nothing that has expired is left anywhere.
    for _ in 0..3 {
        task.expire(i64::MAX, 4).await;
    }
    task.expire(i64::MAX, usize::MAX).await;
    task.close();
    task.commit(&mut log);
    task.check().await;
    assert!(task.is_empty().await);
    let behind = task.state.write_behind();
    behind.pass(log.make_durable()).await.unwrap();
    drop((task, behind));
    assert!(recover(&log).await.is_empty().await);
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_recovered_is_what_was_committed(
        steps in prop::collection::vec(step(), 1..150),
        table_bytes in prop_oneof![Just(0), Just(2_000), Just(usize::MAX)],
        ttl in prop::option::weighted(0.7, 1..30_u64),
    ) {
        paused().block_on(run(steps, table_bytes, ttl));
    }
}

#[tokio::test]
async fn a_store_written_ahead_of_the_durable_log_is_found_out() {
    let disk = MemoryDisk::new();
    let mut log = Log::default();
    let mut task = Task::recover(open(&disk), &log, usize::MAX).await.unwrap();
    task.set(b"k", Some(b"1")).await;
    task.close();
    task.commit(&mut log);
    log.make_durable()(Epoch(1)).await.unwrap();
    task.set(b"k", Some(b"2")).await;
    task.close();
    task.commit(&mut log);
    // The planted fault: the log is not made durable before the pass goes on.
    task.state
        .write_behind()
        .pass(async |_| Ok::<_, Infallible>(()))
        .await
        .unwrap();
    drop(task);
    disk.crash(Survivors::None);
    log.crash(0);
    let error = Task::recover(open(&disk), &log, usize::MAX)
        .await
        .unwrap_err();
    assert!(error.is_integrity(), "{error}");
    assert!(
        error.to_string().contains("the log lost something"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_log_that_lost_what_an_interrupted_pass_had_written_is_found_out() {
    let disk = MemoryDisk::new();
    let mut log = Log::default();
    let mut task = Task::recover(open(&disk), &log, usize::MAX).await.unwrap();
    for round in 1..=2_u8 {
        task.set(b"k", Some(&[round])).await;
        task.close();
        task.commit(&mut log);
        if round == 1 {
            task.state
                .write_behind()
                .pass(log.make_durable())
                .await
                .unwrap();
        }
    }
    disk.set_latency(Duration::from_millis(2));
    let behind = task.state.write_behind();
    // Long enough for the note and the first chunk, too short for the epoch.
    let given_up = tokio::time::timeout(Duration::from_millis(5), behind.pass(log.make_durable()));
    assert!(given_up.await.is_err());
    drop((task, behind));
    disk.crash(Survivors::All);
    // A log that said "durable" and was not.
    log.epochs.truncate(1);
    let error = Task::recover(open(&disk), &log, usize::MAX)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("the store has seen epoch 2"),
        "{error}"
    );
}

#[tokio::test]
async fn a_log_that_cannot_be_made_durable_stops_the_pass_before_it_writes() {
    let disk = MemoryDisk::new();
    let mut log = Log::default();
    let mut task = Task::recover(open(&disk), &log, usize::MAX).await.unwrap();
    task.set(b"k", Some(b"1")).await;
    task.close();
    task.commit(&mut log);
    let failed = task
        .state
        .write_behind()
        .pass(async |_| Err("disk full"))
        .await;
    assert!(matches!(failed, Err(tidemill_state::Error::Log { .. })));
    assert_eq!(disk.unsynced(), 0);
    let (note, stored) = {
        let store = open_after_drop(task, &disk);
        (store.note().await.unwrap(), store.stored().await.unwrap())
    };
    assert_eq!((note.newest, stored), (None, None));
}

fn open_after_drop(task: Task, disk: &MemoryDisk) -> Arc<dyn StateStore> {
    drop(task);
    open(disk)
}
