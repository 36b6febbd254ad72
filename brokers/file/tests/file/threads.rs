//! Many at once, on the machine's disk.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tempfile::TempDir;
use tidemill_broker::{Broker, ConsumerOptions, Delivery, Offset, Start};
use tidemill_broker_file::{FileBroker, FileOptions, Fsync, RealDisk, verify};

use crate::support::{at, create, set};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn producers_readers_and_the_splitter_do_not_disturb_each_other() {
    const ROUNDS: u64 = 300;
    for fsync in [Fsync::Commit, Fsync::Every(Duration::from_millis(1))] {
        let dir = TempDir::new().unwrap();
        let options = FileOptions {
            fsync,
            split_bytes: 16 << 10,
            unsplit_max: 3,
            poll: Duration::from_millis(1),
            ..FileOptions::default()
        };
        let path = dir.path().join("log");
        let broker = FileBroker::open(&path, options.clone()).await.unwrap();
        create(&broker, "t", 2).await;
        broker.sync().await.unwrap();
        let beside = FileBroker::open_reader(&path, options).await.unwrap();
        let mut tasks = Vec::new();
        for producer in 0..4 {
            let broker = broker.clone();
            tasks.push(tokio::spawn(async move {
                for round in 0..ROUNDS / 4 {
                    let value = format!("{producer}:{round}");
                    let sets = vec![set(at("t", 0), [&value, &value]), set(at("t", 1), [&value])];
                    for acks in broker.produce(sets).await.unwrap() {
                        assert!(acks.failure().is_none());
                    }
                }
            }));
        }
        for reader in [broker.clone(), beside.clone()] {
            tasks.push(tokio::spawn(async move {
                let start = vec![(at("t", 0), Start::Earliest)];
                let mut consumer = reader
                    .consumer(ConsumerOptions::partitions(start))
                    .await
                    .unwrap();
                let mut next = 0;
                while next < ROUNDS * 2 {
                    if let Delivery::Records(batch) = consumer.next().await.unwrap() {
                        for record in batch.iter() {
                            assert_eq!(record.offset, Offset(next));
                            next += 1;
                        }
                    }
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        broker.close().await.unwrap();
        let report = verify(&path, &RealDisk).unwrap();
        assert_eq!((report.records, report.logs), (ROUNDS * 3, 0));
        assert_eq!(report.findings, []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_ends_also_when_the_log_is_split_meanwhile() {
    let dir = TempDir::new().unwrap();
    let options = FileOptions {
        fsync: Fsync::Never,
        ..FileOptions::default()
    };
    let broker = FileBroker::open(dir.path().join("log"), options)
        .await
        .unwrap();
    create(&broker, "t", 1).await;
    for _ in 0..30 {
        broker.produce(vec![set(at("t", 0), ["x"])]).await.unwrap();
        let cleaning = {
            let broker = broker.clone();
            tokio::spawn(async move { broker.clean().await })
        };
        tokio::task::yield_now().await;
        // Far beyond any pause of the machine: who waits so long waits for ever.
        tokio::time::timeout(Duration::from_secs(600), broker.sync())
            .await
            .unwrap()
            .unwrap();
        cleaning.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn nobody_else_may_look_into_the_directory() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    let broker = FileBroker::open(&path, FileOptions::default())
        .await
        .unwrap();
    create(&broker, "t", 1).await;
    broker.produce(vec![set(at("t", 0), ["x"])]).await.unwrap();
    broker.close().await.unwrap();
    let mut todo = vec![path];
    while let Some(path) = todo.pop() {
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        if path.is_dir() {
            assert_eq!(mode, 0o700, "{}", path.display());
            todo.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        } else {
            assert_eq!(mode, 0o600, "{}", path.display());
        }
    }
}
