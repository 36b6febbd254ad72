//! Writing, reading, opening again.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidemill_broker::{
    Broker, Error, GroupOffsets, Offset, Outcome, Start, Timestamp, Transaction,
};
use tidemill_broker_file::{FileBroker, FileOptions, Fsync};

use crate::support::{at, create, numbered, read, set, topic, values};

async fn open(dir: &TempDir) -> FileBroker {
    FileBroker::open(dir.path().join("log"), FileOptions::default())
        .await
        .unwrap()
}

#[tokio::test]
async fn what_was_produced_is_read_again_after_drop_and_after_close() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir).await;
    create(&broker, "t", 2).await;
    broker
        .produce(vec![set(at("t", 1), values(0..1000))])
        .await
        .unwrap();
    assert_eq!(
        read(&broker, &at("t", 1), Start::Earliest).await,
        numbered(0..1000)
    );
    drop(broker);

    let broker = open(&dir).await;
    assert_eq!(
        read(&broker, &at("t", 1), Start::Earliest).await,
        numbered(0..1000)
    );
    broker
        .produce(vec![set(at("t", 1), values(1000..1500))])
        .await
        .unwrap();
    broker.sync().await.unwrap();
    broker.close().await.unwrap();
    let logs = std::fs::read_dir(dir.path().join("log/log"))
        .unwrap()
        .count();
    assert_eq!(logs, 0);

    let broker = open(&dir).await;
    assert_eq!(
        read(&broker, &at("t", 1), Start::Earliest).await,
        numbered(0..1500)
    );
    broker
        .produce(vec![set(at("t", 1), values(1500..1600))])
        .await
        .unwrap();
    assert_eq!(
        read(&broker, &at("t", 1), Start::Offset(Offset(1400))).await,
        numbered(1400..1600)
    );
    broker.clean().await.unwrap();
    assert_eq!(
        read(&broker, &at("t", 1), Start::Earliest).await,
        numbered(0..1600)
    );
    assert!(broker.torn().is_none());
}

#[tokio::test]
async fn a_transaction_carries_records_and_offsets_together() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir).await;
    create(&broker, "in", 1).await;
    create(&broker, "out", 2).await;
    let mut transactor = broker.transactor(&"id".parse().unwrap()).await.unwrap();
    let group = "g".parse().unwrap();
    let transaction = |first: u64| Transaction {
        records: vec![
            set(at("out", 0), values(first..first + 3)),
            set(at("out", 1), values(first..first + 2)),
            set(at("out", 0), values(first + 3..first + 4)),
        ],
        offsets: vec![GroupOffsets {
            group: "g".parse().unwrap(),
            generation: None,
            offsets: vec![(at("in", 0), Offset(first))],
        }],
    };
    let outcome = transactor.commit(transaction(0)).await;
    assert!(
        matches!(&outcome, Outcome::Committed(appended) if appended.len() == 2),
        "{outcome:?}"
    );
    let mut second = broker.transactor(&"id".parse().unwrap()).await.unwrap();
    let outcome = transactor.commit(transaction(4)).await;
    assert!(
        matches!(&outcome, Outcome::NotCommitted(rejection) if rejection.error.is_fenced()),
        "{outcome:?}"
    );
    assert!(matches!(
        second.commit(transaction(4)).await,
        Outcome::Committed(_)
    ));
    drop(broker);
    let broker = open(&dir).await;
    assert_eq!(
        read(&broker, &at("out", 0), Start::Earliest).await,
        numbered(0..8)
    );
    assert_eq!(
        broker.committed(&group, &[at("in", 0)]).await.unwrap(),
        [Some(Offset(4))]
    );
    broker.close().await.unwrap();
    let broker = open(&dir).await;
    assert_eq!(
        broker.committed(&group, &[at("in", 0)]).await.unwrap(),
        [Some(Offset(4))]
    );
}

#[tokio::test]
async fn a_second_writer_is_refused_and_told_who_has_it() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir).await;
    let path = dir.path().join("log");
    let refused = FileBroker::open(&path, FileOptions::default())
        .await
        .unwrap_err();
    let owner = format!("process {}", std::process::id());
    assert!(matches!(refused, Error::InUse { owner: found, .. } if found == owner));
    drop(broker);
    FileBroker::open(&path, FileOptions::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir).await);
    let format = dir.path().join("log/FORMAT");
    let mut bytes = std::fs::read(&format).unwrap();
    bytes[16] = 9;
    std::fs::write(&format, bytes).unwrap();
    for result in [
        FileBroker::open(dir.path().join("log"), FileOptions::default()).await,
        FileBroker::open_reader(dir.path().join("log"), FileOptions::default()).await,
    ] {
        assert!(matches!(
            result.unwrap_err(),
            Error::NewerFormat {
                found: 9,
                known: 1,
                ..
            }
        ));
    }
}

#[tokio::test]
async fn a_foreign_directory_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    let refused = FileBroker::open(dir.path(), FileOptions::default())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("letter.txt"), "{refused}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_record_that_is_too_large_is_named_and_nothing_is_appended() {
    let dir = TempDir::new().unwrap();
    let options = FileOptions {
        record_bytes_max: 100,
        ..FileOptions::default()
    };
    let broker = FileBroker::open(dir.path().join("log"), options)
        .await
        .unwrap();
    create(&broker, "t", 1).await;
    let refused = broker
        .produce(vec![set(at("t", 0), ["a".into(), "x".repeat(101)])])
        .await
        .unwrap_err();
    assert!(matches!(
        refused,
        Error::TooLarge {
            index: 1,
            bytes: 104,
            limit: 100,
            ..
        }
    ));
    let refused = broker
        .produce(vec![set(at("u", 0), ["a"])])
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::UnknownTopic { .. }));
    let refused = broker
        .produce(vec![set(at("t", 1), ["a"])])
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::UnknownPartition { .. }));
    assert_eq!(
        broker.watermarks(&at("t", 0)).await.unwrap().high,
        Offset(0)
    );
}

#[tokio::test]
async fn logs_are_split_in_the_background_and_reading_goes_on_across_all_of_them() {
    let dir = TempDir::new().unwrap();
    let options = FileOptions {
        split_bytes: 4_000,
        fsync: Fsync::Never,
        ..FileOptions::default()
    };
    let broker = FileBroker::open(dir.path().join("log"), options.clone())
        .await
        .unwrap();
    create(&broker, "t", 2).await;
    for n in 0..300 {
        broker
            .produce(vec![
                set(at("t", 0), values(n * 2..n * 2 + 2)),
                set(at("t", 1), values(n..n + 1)),
            ])
            .await
            .unwrap();
    }
    assert_eq!(
        read(&broker, &at("t", 0), Start::Earliest).await,
        numbered(0..600)
    );
    assert_eq!(
        read(&broker, &at("t", 1), Start::Earliest).await,
        numbered(0..300)
    );
    broker.close().await.unwrap();
    let broker = FileBroker::open(dir.path().join("log"), options)
        .await
        .unwrap();
    assert_eq!(
        read(&broker, &at("t", 0), Start::Offset(Offset(333))).await,
        numbered(333..600)
    );
}

#[tokio::test]
async fn a_time_is_found_in_segments_and_in_the_log() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir).await;
    create(&broker, "t", 1).await;
    for half in 0..2 {
        let mut records = set(at("t", 0), [] as [&str; 0]);
        for n in half * 500..half * 500 + 500 {
            records.push(
                Some(Timestamp(n * 10)),
                None,
                Some(b"x"),
                &Default::default(),
            );
        }
        broker.produce(vec![records]).await.unwrap();
        if half == 0 {
            broker.clean().await.unwrap();
        }
    }
    for (time, offset) in [
        (-5, 0),
        (0, 0),
        (1, 1),
        (4_990, 499),
        (4_991, 500),
        (9_990, 999),
        (9_991, 1_000),
    ] {
        let found = broker
            .offset_at(&at("t", 0), Timestamp(time))
            .await
            .unwrap();
        assert_eq!(found, Offset(offset), "time {time}");
    }
}

#[tokio::test]
async fn a_deleted_topic_is_gone_and_a_new_one_of_its_name_is_another() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir).await;
    create(&broker, "t", 1).await;
    broker
        .produce(vec![set(at("t", 0), values(0..10))])
        .await
        .unwrap();
    let before = broker.describe_topic(&topic("t")).await.unwrap().identity;
    broker.clean().await.unwrap();
    broker
        .produce(vec![set(at("t", 0), values(10..20))])
        .await
        .unwrap();
    broker.delete_topic(&topic("t")).await.unwrap();
    assert!(broker.describe_topic(&topic("t")).await.is_err());
    create(&broker, "t", 1).await;
    broker
        .produce(vec![set(at("t", 0), values(0..3))])
        .await
        .unwrap();
    let after = broker.describe_topic(&topic("t")).await.unwrap().identity;
    assert_ne!(before, after);
    drop(broker);
    let broker = open(&dir).await;
    assert_eq!(
        broker.describe_topic(&topic("t")).await.unwrap().identity,
        after
    );
    assert_eq!(
        read(&broker, &at("t", 0), Start::Earliest).await,
        numbered(0..3)
    );
    broker.close().await.unwrap();
    assert_eq!(
        std::fs::read_dir(dir.path().join("log/topics"))
            .unwrap()
            .count(),
        1
    );
    let broker = open(&dir).await;
    assert_eq!(
        read(&broker, &at("t", 0), Start::Earliest).await,
        numbered(0..3)
    );
}

#[tokio::test]
async fn a_reader_beside_the_writer_sees_what_is_durable_and_follows() {
    let dir = TempDir::new().unwrap();
    let options = FileOptions {
        fsync: Fsync::Never,
        poll: Duration::from_millis(1),
        ..FileOptions::default()
    };
    let path = dir.path().join("log");
    let broker = FileBroker::open(&path, options.clone()).await.unwrap();
    create(&broker, "t", 1).await;
    broker.sync().await.unwrap();
    let reader = FileBroker::open_reader(&path, options.clone())
        .await
        .unwrap();
    broker
        .produce(vec![set(at("t", 0), values(0..10))])
        .await
        .unwrap();
    assert_eq!(read(&reader, &at("t", 0), Start::Earliest).await, []);
    broker.sync().await.unwrap();
    assert_eq!(
        read(&reader, &at("t", 0), Start::Earliest).await,
        numbered(0..10)
    );
    for round in 1..20 {
        let from = round * 10;
        broker
            .produce(vec![set(at("t", 0), values(from..from + 10))])
            .await
            .unwrap();
        match round % 3 {
            0 => broker.clean().await.unwrap(),
            _ => broker.sync().await.unwrap(),
        }
        assert_eq!(
            read(&reader, &at("t", 0), Start::Earliest).await,
            numbered(0..from + 10)
        );
    }
    assert!(matches!(
        reader.produce(vec![set(at("t", 0), ["x"])]).await,
        Err(Error::Unsupported { .. })
    ));
    let shared = Arc::new(reader);
    drop(broker);
    assert_eq!(
        read(&*shared, &at("t", 0), Start::Earliest).await,
        numbered(0..200)
    );
}
