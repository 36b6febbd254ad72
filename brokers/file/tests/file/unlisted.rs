//! What the manifest does not list is no part of the log, and the next writer removes it.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::{Broker, Cleanup, Retention, Start, TopicSpec};
use tidemill_broker_file::{Disk, FileBroker, FileOptions, Mode, RealDisk, SimDisk, verify};

use crate::support::{at, create, numbered, read, set, topic, values};

fn options(disk: &SimDisk) -> FileOptions {
    FileOptions {
        disk: Arc::new(disk.clone()),
        ..FileOptions::default()
    }
}

fn put(disk: &SimDisk, path: &Path) {
    let file = disk.open(path, Mode::Create).unwrap();
    file.write_at(0, &[IoSlice::new(b"left")]).unwrap();
}

/// A process killed after it had installed a manifest, and before it had removed what that no longer
/// lists, once left the old segments there for good.
#[tokio::test]
async fn segments_that_a_crash_has_left_are_removed_by_the_next_writer() {
    let disk = SimDisk::new(1);
    let broker = FileBroker::open("/log", options(&disk)).await.unwrap();
    create(&broker, "t", 2).await;
    broker
        .produce(vec![set(at("t", 0), values(0..100))])
        .await
        .unwrap();
    broker.close().await.unwrap();
    let before: Vec<PathBuf> = disk.files();

    let dir = Path::new("/log/topics/0000000000000000/0");
    for name in [
        // Expired or compacted away.
        "00000000000000000000.7.segment",
        "00000000000000000000.7.index",
        // About to take a place.
        "00000000000000000000.0.index.new",
    ] {
        put(&disk, &dir.join(name));
    }
    // Of somebody else.
    put(&disk, &dir.join("notes.txt"));
    // Who only reads removes nothing.
    let reader = FileBroker::open_reader("/log", options(&disk))
        .await
        .unwrap();
    assert_eq!(disk.files().len(), before.len() + 4);
    drop(reader);

    let broker = FileBroker::open("/log", options(&disk)).await.unwrap();
    let mut after = disk.files();
    let notes = after.iter().position(|path| path.ends_with("notes.txt"));
    after.remove(notes.expect("what is not ours stays"));
    assert_eq!(after, before);
    assert_eq!(
        read(&broker, &at("t", 0), Start::Earliest).await,
        numbered(0..100)
    );
    broker.close().await.unwrap();
    assert!(verify("/log", &disk).unwrap().findings.is_empty());
}

/// A lost index once stopped the log for good as soon as its segment was to leave.
#[tokio::test]
async fn a_lost_index_keeps_no_segment_from_leaving() {
    let disk = SimDisk::new(1);
    let broker = FileBroker::open("/log", options(&disk)).await.unwrap();
    let little = Cleanup::Delete(Retention {
        age: None,
        bytes: Some(100),
    });
    let newest = Cleanup::Compact {
        tombstones: Duration::from_secs(60),
    };
    for (name, cleanup) in [("little", little), ("newest", newest)] {
        let spec = TopicSpec::new(topic(name), 1.try_into().unwrap()).cleanup(cleanup);
        broker.create_topic(&spec).await.unwrap();
    }
    for round in 0..3 {
        for name in ["little", "newest"] {
            let value = [format!("{round}").repeat(9_000)];
            broker.produce(vec![set(at(name, 0), value)]).await.unwrap();
        }
        broker.clean().await.unwrap();
        for path in disk.files() {
            if path
                .extension()
                .is_some_and(|extension| extension == "index")
            {
                disk.remove(&path).unwrap();
            }
        }
    }
    for name in ["little", "newest"] {
        let left = read(&broker, &at(name, 0), Start::Earliest).await;
        assert_eq!(left.len(), 1, "{name}");
        assert!(left[0].1.starts_with('2'));
    }
    broker.close().await.unwrap();
}

#[tokio::test]
async fn a_topic_that_was_deleted_leaves_no_file_behind() {
    let dir = tempfile::tempdir().unwrap();
    let broker = FileBroker::open(dir.path(), FileOptions::default())
        .await
        .unwrap();
    for name in ["kept", "gone"] {
        create(&broker, name, 1).await;
        broker
            .produce(vec![set(at(name, 0), values(0..10))])
            .await
            .unwrap();
    }
    broker.clean().await.unwrap();
    let topics = || {
        std::fs::read_dir(dir.path().join("topics"))
            .unwrap()
            .count()
    };
    assert_eq!(topics(), 2);
    broker.delete_topic(&topic("gone")).await.unwrap();
    broker.close().await.unwrap();
    assert_eq!(topics(), 1);
    assert!(verify(dir.path(), &RealDisk).unwrap().findings.is_empty());
}

/// A copy beside a topic's directory was deleted without a word, and a file among them stopped the log.
#[tokio::test]
async fn what_is_somebody_elses_among_the_topics_stays_and_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let open = || FileBroker::open(dir.path(), FileOptions::default());
    let broker = open().await.unwrap();
    for name in ["kept", "gone"] {
        create(&broker, name, 1).await;
        let records = vec![set(at(name, 0), values(0..10))];
        broker.produce(records).await.unwrap();
    }
    broker.clean().await.unwrap();
    let topics = dir.path().join("topics");
    let copy = topics.join("0000000000000000.bak/0");
    std::fs::create_dir_all(&copy).unwrap();
    let foreign = [
        copy.join("00000000000000000000.0.segment"),
        topics.join(".DS_Store"),
        topics.join("0000000000000001/notes.txt"),
        topics.join("0000000000000001/0/notes.txt"),
        dir.path().join("log/notes.txt"),
    ];
    for path in &foreign {
        std::fs::write(path, "not ours").unwrap();
    }
    broker.delete_topic(&topic("gone")).await.unwrap();
    broker.clean().await.unwrap();
    broker.close().await.unwrap();
    let broker = open().await.unwrap();
    broker
        .produce(vec![set(at("kept", 0), values(10..20))])
        .await
        .unwrap();
    broker.clean().await.unwrap();
    broker.close().await.unwrap();
    for path in &foreign {
        assert!(path.exists(), "{}", path.display());
    }
    let left = std::fs::read_dir(topics.join("0000000000000001/0")).unwrap();
    assert_eq!(left.count(), 1, "what was ours has gone");
    assert!(verify(dir.path(), &RealDisk).unwrap().findings.is_empty());
}
