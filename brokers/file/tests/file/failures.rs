//! A disk that is full, and one that fails.

use std::sync::Arc;

use tidemill_broker::{Broker, Class, Error, Offset, Outcome, Start, Transaction};
use tidemill_broker_file::{Fault, FileBroker, FileOptions, Fsync, SimDisk};

use crate::support::{at, create, numbered, read, set, values};

fn options(disk: &SimDisk, fsync: Fsync) -> FileOptions {
    FileOptions {
        disk: Arc::new(disk.clone()),
        fsync,
        ..FileOptions::default()
    }
}

async fn open(disk: &SimDisk, fsync: Fsync) -> FileBroker {
    let broker = FileBroker::open("/log", options(disk, fsync))
        .await
        .unwrap();
    create(&broker, "t", 1).await;
    broker
        .produce(vec![set(at("t", 0), values(0..5))])
        .await
        .unwrap();
    broker.sync().await.unwrap();
    broker
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_fails_the_commit_and_the_log_goes_on_once_there_is_room() {
    let disk = SimDisk::new(1);
    let broker = open(&disk, Fsync::Never).await;
    let mut transactor = broker.transactor(&"id".parse().unwrap()).await.unwrap();
    let transaction = || Transaction {
        records: vec![set(at("t", 0), values(5..8))],
        offsets: vec![],
    };
    for room in [0, 1, 40, 100] {
        disk.set_space(Some(room));
        let outcome = transactor.commit(transaction()).await;
        let Outcome::NotCommitted(rejection) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(
            matches!(rejection.error, Error::Io { .. }),
            "{}",
            rejection.error
        );
        assert_eq!(
            broker.watermarks(&at("t", 0)).await.unwrap().high,
            Offset(5)
        );
    }
    disk.set_space(None);
    assert!(matches!(
        transactor.commit(transaction()).await,
        Outcome::Committed(_)
    ));
    drop(broker);
    let broker = FileBroker::open("/log", options(&disk, Fsync::Never))
        .await
        .unwrap();
    assert!(broker.torn().is_none());
    assert_eq!(
        read(&broker, &at("t", 0), Start::Earliest).await,
        numbered(0..8)
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_leaves_the_log_unsplit_and_loses_nothing() {
    let disk = SimDisk::new(1);
    let broker = open(&disk, Fsync::Never).await;
    let mut failures = 0;
    for room in (0..).step_by(40) {
        disk.set_space(Some(room));
        match broker.clean().await {
            Ok(()) => break,
            Err(error) => assert!(matches!(error, Error::Io { .. }), "{error}"),
        }
        failures += 1;
        assert_eq!(
            read(&broker, &at("t", 0), Start::Earliest).await,
            numbered(0..5)
        );
    }
    assert!(failures > 3, "{failures}");
    disk.set_space(None);
    broker.clean().await.unwrap();
    assert_eq!(
        read(&broker, &at("t", 0), Start::Earliest).await,
        numbered(0..5)
    );
    broker.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_poisons_and_opening_again_tells_what_is_there() {
    let disk = SimDisk::new(1);
    let broker = open(&disk, Fsync::Never).await;
    disk.fail(Fault::Write, 0);
    let acks = broker
        .produce(vec![set(at("t", 0), values(5..8))])
        .await
        .unwrap();
    let (_, error) = acks[0].failure().unwrap();
    assert_eq!(error.class(), Class::UnknownOutcome);
    let error = broker
        .produce(vec![set(at("t", 0), ["x"])])
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Poisoned { .. }), "{error}");
    assert!(matches!(broker.sync().await, Err(Error::Poisoned { .. })));
    drop(broker);
    let broker = FileBroker::open("/log", options(&disk, Fsync::Never))
        .await
        .unwrap();
    let found = read(&broker, &at("t", 0), Start::Earliest).await;
    assert!(
        found == numbered(0..5) || found == numbered(0..8),
        "{found:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_is_never_asked_again_and_nothing_is_acknowledged_after_it() {
    for fault in [Fault::Sync, Fault::Write] {
        let disk = SimDisk::new(1);
        let broker = open(&disk, Fsync::Commit).await;
        let mut transactor = broker.transactor(&"id".parse().unwrap()).await.unwrap();
        // The second write is that of the durable end.
        disk.fail(fault, u32::from(fault == Fault::Write));
        let outcome = transactor
            .commit(Transaction {
                records: vec![set(at("t", 0), values(5..6))],
                offsets: vec![],
            })
            .await;
        assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
        let syncs = disk.counts().1;
        assert!(matches!(broker.sync().await, Err(Error::Poisoned { .. })));
        assert!(matches!(broker.close().await, Err(Error::Poisoned { .. })));
        assert_eq!(disk.counts().1, syncs);
        let image = disk.crash_image(3);
        let broker = FileBroker::open("/log", options(&image, Fsync::Commit))
            .await
            .unwrap();
        let found = read(&broker, &at("t", 0), Start::Earliest).await;
        assert!(
            found == numbered(0..5) || found == numbered(0..6),
            "{found:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_while_splitting_poisons_and_loses_nothing() {
    for after in 0..6 {
        for fault in [Fault::Write, Fault::Sync, Fault::SyncDir] {
            let disk = SimDisk::new(1);
            let broker = open(&disk, Fsync::Never).await;
            disk.fail(fault, after);
            let cleaned = broker.clean().await;
            if cleaned.is_err() {
                assert!(matches!(broker.sync().await, Err(Error::Poisoned { .. })));
            }
            drop(broker);
            for disk in [disk.clone(), disk.crash_image(u64::from(after))] {
                disk.set_space(None);
                let broker = FileBroker::open("/log", options(&disk, Fsync::Never)).await;
                // The fault may still be to come.
                let Ok(broker) = broker else { continue };
                assert_eq!(
                    read(&broker, &at("t", 0), Start::Earliest).await,
                    numbered(0..5)
                );
            }
        }
    }
}

/// A sync that fails leaves pages that are read as if they were stored, that no later sync writes, and that
/// may go at any time. The next process once read them, synced in vain, and told that they were durable.
#[tokio::test(start_paused = true)]
async fn what_is_found_after_a_failed_sync_is_made_durable_before_it_is_told() {
    let mut gone = 0;
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let broker = open(&disk, Fsync::Commit).await;
        disk.fail(Fault::Sync, 0);
        let answer = broker.produce(vec![set(at("t", 0), values(5..500))]).await;
        assert!(!answer.is_ok_and(|acks| acks[0].failure().is_none()));
        let disk = disk.kill_image(seed);
        drop(broker);

        let broker = FileBroker::open("/log", options(&disk, Fsync::Commit))
            .await
            .unwrap();
        let found = read(&broker, &at("t", 0), Start::Earliest).await;
        assert!(
            found == numbered(0..5) || found == numbered(0..500),
            "seed {seed}: {found:?}"
        );
        gone += usize::from(broker.torn().is_some());
        broker.sync().await.unwrap();
        let disk = disk.kill_image(seed).crash_image(seed);
        drop(broker);

        let broker = FileBroker::open("/log", options(&disk, Fsync::Commit)).await;
        let broker = broker.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let left = read(&broker, &at("t", 0), Start::Earliest).await;
        assert_eq!(left, found, "seed {seed}: what was told is gone");
    }
    assert!((10..90).contains(&gone), "{gone} of 100 left the cache");
}
