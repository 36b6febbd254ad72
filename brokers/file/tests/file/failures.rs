//! A disk that is full, and one that fails.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tidemill_broker::{
    Broker, BrokerExt, Class, Cleanup, ConsumerOptions, Delivery, Error, Offset, Outcome, Start,
    Timestamp, TopicSpec, Transaction,
};
use tidemill_broker_file::{Fault, FileBroker, FileOptions, Fsync, SimDisk, verify};

use crate::support::{at, create, numbered, read, set, topic, values};

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
async fn whether_a_change_lasts_whose_sync_failed_is_not_known() {
    let spec = TopicSpec::new(topic("u"), 1.try_into().unwrap());
    for change in ["commit", "create", "delete"] {
        let disk = SimDisk::new(1);
        let broker = open(&disk, Fsync::Commit).await;
        let by_hand = ConsumerOptions {
            group: Some("g".parse().unwrap()),
            ..ConsumerOptions::partitions(vec![(at("t", 0), Start::Earliest)])
        };
        let mut consumer = broker.consumer(by_hand).await.unwrap();
        disk.fail(Fault::Sync, 0);
        let changed = match change {
            "commit" => consumer.commit(None, &[(at("t", 0), Offset(1))]).await,
            "create" => broker.create_topic(&spec).await,
            _ => broker.delete_topic(&topic("t")).await,
        };
        let error = changed.unwrap_err();
        assert_eq!(error.class(), Class::UnknownOutcome, "{change}: {error}");
        assert!(matches!(broker.sync().await, Err(Error::Poisoned { .. })));
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

/// What one round of everything may run into: appends over several log files, a split, retention and
/// compaction, an index that is read, and giving the directory up.
async fn do_everything(disk: &SimDisk, acknowledged: &mut u64) -> Result<(), Error> {
    let options = FileOptions {
        split_bytes: 3_000,
        ..options(disk, Fsync::Commit)
    };
    let broker = FileBroker::open("/log", options).await?;
    for (name, cleanup) in [
        ("t", Cleanup::default()),
        (
            "newest",
            Cleanup::Compact {
                tombstones: Duration::from_secs(60),
            },
        ),
    ] {
        let spec = TopicSpec::new(topic(name), 1.try_into().unwrap()).cleanup(cleanup);
        match broker.create_topic(&spec).await {
            Ok(()) | Err(Error::TopicExists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    for round in 0..3 {
        for _ in 0..20 {
            let next = *acknowledged;
            let sets = vec![
                set(at("t", 0), values(next..next + 1)),
                set(at("newest", 0), values(next..next + 1)),
            ];
            for acks in broker.produce(sets).await? {
                acks.into_result()?;
            }
            *acknowledged += 1;
        }
        broker.clean().await?;
        if round == 1 {
            read_from(&broker, *acknowledged / 2).await?;
        }
    }
    broker.close().await
}

async fn read_from(broker: &FileBroker, offset: u64) -> Result<usize, Error> {
    let start = Start::Offset(Offset(offset));
    let batches = broker.read_to_end(&at("t", 0), start).await?;
    Ok(batches.iter().map(|batch| batch.len()).sum())
}

/// Everything acknowledged is there, once, and nothing that was refused.
async fn expect_all(disk: &SimDisk, acknowledged: u64, what: &str) {
    let broker = FileBroker::open("/log", options(disk, Fsync::Commit))
        .await
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    if acknowledged > 0 {
        let found = read(&broker, &at("t", 0), Start::Earliest).await;
        assert_eq!(found, numbered(0..acknowledged), "{what}");
        let newest = read(&broker, &at("newest", 0), Start::Earliest).await;
        let last = newest.last().map(|(_, value)| value.clone());
        assert_eq!(last, Some(format!("v{}", acknowledged - 1)), "{what}");
    }
    broker.close().await.unwrap();
    let report = verify("/log", disk).unwrap();
    assert_eq!(report.findings, [], "{what}");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fills_up_in_any_phase_is_told_and_loses_nothing() {
    for (refused, room) in (0..40_000).step_by(97).enumerate() {
        let disk = SimDisk::new(room);
        disk.set_space(Some(room));
        let mut acknowledged = 0;
        let Err(error) = do_everything(&disk, &mut acknowledged).await else {
            assert!(refused > 100, "{refused} phases were refused");
            return expect_all(&disk, acknowledged, "with all the room it takes").await;
        };
        let what = format!("room for {room} bytes, then `{error}`");
        assert!(
            matches!(&error, Error::Io { source, .. } if source.kind() == ErrorKind::StorageFull),
            "{what}"
        );
        disk.set_space(None);
        expect_all(&disk, acknowledged, &what).await;
        // With room all goes on, from what was acknowledged.
        do_everything(&disk, &mut acknowledged)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        expect_all(&disk, acknowledged, &what).await;
    }
    panic!("40 KB were not enough");
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_is_told_and_takes_nothing_for_damaged_or_torn() {
    let disk = SimDisk::new(1);
    let mut acknowledged = 0;
    do_everything(&disk, &mut acknowledged).await.unwrap();
    for after in 0..400 {
        let disk = disk.kill_image(0);
        disk.fail(Fault::Read, after);
        match do_everything(&disk, &mut acknowledged.clone()).await {
            Ok(()) => {
                assert!(after > 20, "only {after} reads");
                return;
            }
            Err(Error::Io { path, .. }) => assert!(path.starts_with("/log"), "{path:?}"),
            // The work beside the calls met it.
            Err(error) => {
                let told = error.to_string();
                assert!(
                    told.contains("/log/") && told.contains("(injected)"),
                    "{told}"
                );
            }
        }
        disk.heal();
        let broker = FileBroker::open("/log", options(&disk, Fsync::Commit))
            .await
            .unwrap();
        assert!(broker.torn().is_none(), "read {after}");
        let found = read(&broker, &at("t", 0), Start::Earliest).await;
        assert!(found.len() as u64 >= acknowledged, "read {after}");
        assert_eq!(found, numbered(0..found.len() as u64));
    }
    panic!("400 reads were not enough");
}

/// The rename had worked, and only its name could not be made durable for want of room. The next round once
/// went on by the old manifest, and emptied segments that the one on disk lists.
#[tokio::test(start_paused = true)]
async fn a_manifest_that_is_there_but_not_durably_for_want_of_room_stops_the_log() {
    let mut stopped = 0;
    for after in 0..8 {
        for changes in (0..30).step_by(2) {
            let disk = SimDisk::new(1);
            let broker = open(&disk, Fsync::Never).await;
            broker.clean().await.unwrap();
            let more = vec![set(at("t", 0), values(5..8))];
            broker.produce(more).await.unwrap();
            broker.sync().await.unwrap();
            disk.fail(Fault::SyncDirFull, after);
            let cleaned = broker.clean().await;
            if matches!(cleaned, Err(Error::Poisoned { .. })) {
                stopped += 1;
            } else if let Err(error) = cleaned {
                assert!(matches!(error, Error::Io { .. }), "{error}");
            }
            disk.heal();
            disk.crash_after(changes, changes);
            let _ = broker.clean().await;
            let image = disk.crashed().unwrap_or_else(|| disk.crash_image(changes));
            drop(broker);
            let what = format!("directory {after}, change {changes}");
            let broker = FileBroker::open("/log", options(&image, Fsync::Never)).await;
            let broker = broker.unwrap_or_else(|error| panic!("{what}: {error}"));
            let found = read(&broker, &at("t", 0), Start::Earliest).await;
            assert_eq!(found, numbered(0..8), "{what}");
            broker.close().await.unwrap();
            assert_eq!(verify("/log", &image).unwrap().findings, [], "{what}");
        }
    }
    assert!(stopped > 0);
}

/// The header of a new log file fitted, the frame did not. An empty commit then waited for the header to be
/// durable, which nobody had asked for.
#[tokio::test(start_paused = true)]
async fn an_empty_commit_is_answered_also_where_only_a_header_fitted() {
    let disk = SimDisk::new(1);
    let broker = open(&disk, Fsync::Commit).await;
    broker.clean().await.unwrap();
    disk.set_space(Some(64));
    let refused = broker.produce(vec![set(at("t", 0), ["x"])]).await;
    assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
    let mut transactor = broker.transactor(&"id".parse().unwrap()).await.unwrap();
    let empty = transactor.commit(Transaction::default());
    let outcome = tokio::time::timeout(Duration::from_secs(60), empty).await;
    assert!(matches!(outcome, Ok(Outcome::Committed(_))), "{outcome:?}");
}

/// Readers in the writer's own process once saw what was still to be synced, and what they had told of it
/// was gone after a loss of power.
#[tokio::test(start_paused = true)]
async fn what_was_read_is_there_after_a_loss_of_power_where_each_commit_is_synced() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let broker = open(&disk, Fsync::Commit).await;
        let mut produce = Box::pin(broker.produce(vec![set(at("t", 0), values(5..8))]));
        assert!(futures::poll!(&mut produce).is_pending());
        let marks = broker
            .watermarks(&at("t", 0))
            .now_or_never()
            .unwrap()
            .unwrap();
        assert_eq!((marks.last_stable, marks.high), (Offset(5), Offset(8)));
        let mut consumer = broker
            .consumer(ConsumerOptions::partitions(vec![(
                at("t", 0),
                Start::Earliest,
            )]))
            .now_or_never()
            .unwrap()
            .unwrap();
        let mut next = 0;
        while let Some(delivery) = consumer.next().now_or_never() {
            if let Delivery::Records(batch) = delivery.unwrap() {
                next = batch.next().0;
            }
        }
        let at_time = broker.offset_at(&at("t", 0), Timestamp(8)).now_or_never();
        assert_eq!(at_time.unwrap().unwrap(), Offset(5));
        let image = disk.crash_image(seed);
        let after = FileBroker::open("/log", options(&image, Fsync::Commit))
            .await
            .unwrap();
        let left = read(&after, &at("t", 0), Start::Earliest).await;
        assert!(
            next <= left.len() as u64,
            "seed {seed}: read up to {next}, left {left:?}"
        );
        // Once it is synced, who waits is told.
        assert!(produce.await.unwrap()[0].failure().is_none());
        loop {
            if let Delivery::Records(batch) = consumer.next().await.unwrap() {
                assert_eq!(batch.next(), Offset(8));
                break;
            }
        }
    }
}
