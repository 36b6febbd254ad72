//! Damage: told with file and byte, or never there; no wrong data, no panic.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill_broker::{
    Broker, BrokerExt, Cleanup, Consumer, ConsumerOptions, Error, Offset, Start, Timestamp,
    TopicPartition, TopicSpec,
};
use tidemill_broker_file::{Disk, FileBroker, FileOptions, Fsync, SimDisk, verify};

use crate::support::{at, create, numbered, read, set, topic, values};

fn options(disk: &SimDisk) -> FileOptions {
    FileOptions {
        disk: Arc::new(disk.clone()),
        fsync: Fsync::Never,
        ..FileOptions::default()
    }
}

/// A disk with segments and a log, everything durable.
async fn filled() -> SimDisk {
    let disk = SimDisk::new(1);
    let broker = FileBroker::open("/log", options(&disk)).await.unwrap();
    create(&broker, "t", 2).await;
    for round in 0..2 {
        for n in round * 500..round * 500 + 500 {
            broker
                .produce(vec![
                    set(at("t", 0), values(n..n + 1)),
                    set(at("t", 1), values(n..n + 1)),
                ])
                .await
                .unwrap();
        }
        match round {
            0 => broker.clean().await.unwrap(),
            _ => broker.sync().await.unwrap(),
        }
    }
    drop(broker);
    disk
}

/// Everything in a partition up to the first error.
async fn read_carefully(broker: &FileBroker, at: &TopicPartition) -> Result<usize, Error> {
    let batches = broker.read_to_end(at, Start::Earliest).await?;
    let mut count = 0;
    for record in batches.iter().flat_map(|batch| batch.iter()) {
        assert_eq!(record.offset, Offset(count));
        assert_eq!(record.value, Some(format!("v{count}").as_bytes()));
        assert_eq!(record.timestamp, Timestamp(7));
        count += 1;
    }
    Ok(count as usize)
}

/// What became of a damaged copy: an error somewhere, or all of the data.
async fn outcome(disk: &SimDisk) -> Result<usize, Error> {
    let broker = FileBroker::open("/log", options(disk)).await?;
    assert!(
        broker.torn().is_none(),
        "everything was durable: {:?}",
        broker.torn()
    );
    let mut total = 0;
    for partition in 0..2 {
        total += read_carefully(&broker, &at("t", partition)).await?;
    }
    Ok(total)
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_anywhere_is_told_or_harmless() {
    let disk = filled().await;
    let mut rng = SmallRng::seed_from_u64(4);
    for path in disk.files() {
        let bytes = disk.bytes(&path).unwrap();
        for page in (0..bytes.len()).step_by(4_096) {
            let at = rng.random_range(page..bytes.len().min(page + 4_096));
            let copy = disk.kill_image(0);
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << rng.random_range(0..8);
            copy.set_bytes(&path, damaged).unwrap();
            check(&copy, &path, at).await;
        }
    }
}

/// The segment of a log of one partition.
fn only_segment(disk: &SimDisk) -> PathBuf {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "segment");
    let mut segments = disk.files().into_iter().filter(is_segment);
    let found = segments.next().expect("a segment");
    assert_eq!(segments.next(), None);
    found
}

/// Blocks before the one that is sought were passed over unchecked: one that seemed to be longer took the
/// next with it, and nobody was told.
#[tokio::test(start_paused = true)]
async fn a_block_that_is_passed_over_takes_no_other_with_it() {
    let disk = SimDisk::new(1);
    let broker = FileBroker::open("/log", options(&disk)).await.unwrap();
    create(&broker, "t", 1).await;
    for n in 0..3 {
        let record = set(at("t", 0), values(n..n + 1));
        broker.produce(vec![record]).await.unwrap();
    }
    broker.clean().await.unwrap();
    let segment = only_segment(&disk);
    let mut bytes = disk.bytes(&segment).unwrap();
    let length = 8..12;
    let one = u32::from_le_bytes(bytes[length.clone()].try_into().unwrap());
    bytes[length].copy_from_slice(&(2 * one).to_le_bytes());
    disk.set_bytes(&segment, bytes).unwrap();
    let from = Start::Offset(Offset(1));
    let told = broker.read_to_end(&at("t", 0), from).await;
    assert!(
        matches!(&told, Err(Error::Damaged { path, at: 0, .. }) if *path == segment),
        "{told:?}"
    );
}

/// A reader came from the log to a segment that it had read from before, and read all again that had come
/// to it meanwhile.
#[tokio::test(start_paused = true)]
async fn what_was_read_in_the_log_is_not_read_again_in_a_segment() {
    let disk = SimDisk::new(1);
    let broker = FileBroker::open("/log", options(&disk)).await.unwrap();
    create(&broker, "t", 1).await;
    let append = async |n: u64| {
        let value = format!("{n:0>60000}");
        let appended = broker.produce(vec![set(at("t", 0), [value])]).await;
        appended.unwrap();
    };
    append(0).await;
    broker.clean().await.unwrap();
    let mut options = ConsumerOptions::partitions(vec![(at("t", 0), Start::Earliest)]);
    options.batch_records_max = 1;
    let mut consumer = broker.consumer(options).await.unwrap();
    for n in 1..40 {
        append(n).await;
    }
    let read_to = async |consumer: &mut dyn Consumer, end: u64| {
        while consumer.position(&at("t", 0)) < Some(Offset(end)) {
            consumer.next().await.unwrap();
        }
    };
    read_to(&mut *consumer, 30).await;
    broker.clean().await.unwrap();
    let segment = only_segment(&disk);
    let mut bytes = disk.bytes(&segment).unwrap();
    bytes[5 * 60_000] ^= 1;
    disk.set_bytes(&segment, bytes).unwrap();
    read_to(&mut *consumer, 40).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_cut_anywhere_is_told_or_harmless() {
    let disk = filled().await;
    let mut rng = SmallRng::seed_from_u64(5);
    for path in disk.files() {
        let bytes = disk.bytes(&path).unwrap();
        for page in (0..bytes.len()).step_by(4_096) {
            let at = rng.random_range(page..bytes.len().min(page + 4_096));
            let copy = disk.kill_image(0);
            copy.set_bytes(&path, bytes[..at].to_vec()).unwrap();
            check(&copy, &path, at).await;
        }
    }
}

async fn check(copy: &SimDisk, path: &Path, at: usize) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let before = verify("/log", copy);
    // Without them everything is there all the same; an index is rebuilt.
    let expendable = matches!(name, "LOCK" | "DURABLE") || name.ends_with(".index");
    if name.ends_with(".index") {
        let findings = before.unwrap().findings;
        assert!(
            findings.iter().any(|finding| finding.path == path),
            "{name} at {at}: {findings:?}"
        );
    } else if !expendable {
        let told = match &before {
            Ok(report) => report.findings.iter().any(|finding| finding.path == path),
            Err(_) => true,
        };
        assert!(told, "{name} at {at}: {before:?}");
    }
    match outcome(copy).await {
        Ok(count) => assert!(expendable && count == 2_000, "{name} at {at}: {count}"),
        Err(Error::Damaged {
            path: named,
            at: byte,
            ..
        }) => {
            assert!(!expendable, "{name} at {at}");
            assert!(
                byte <= at as u64 || name == "MANIFEST" || name == "FORMAT",
                "{} byte {byte} for {at} of {name}",
                named.display()
            );
            assert_eq!(named, path);
        }
        Err(Error::NewerFormat { .. }) => assert_eq!(name, "FORMAT"),
        Err(error) => panic!("{name} at {at}: {error}"),
    }
}

/// Such a log file was once taken for torn, and cut where nothing proved that it had been durable.
#[tokio::test(start_paused = true)]
async fn a_manifest_or_log_file_of_a_newer_version_is_refused_and_left_as_it_is() {
    let disk = filled().await;
    for (name, whole) in [("MANIFEST", usize::MAX), (".log", 64)] {
        let ends = |path: &&std::path::PathBuf| path.to_str().unwrap().ends_with(name);
        let files = disk.files();
        let path = files.iter().find(ends).unwrap();
        let mut bytes = disk.bytes(path).unwrap();
        let whole = whole.min(bytes.len());
        bytes[12] = 2;
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[12..whole]);
        bytes[8..12].copy_from_slice(&(crc as u32).to_le_bytes());
        let copy = disk.kill_image(0);
        copy.set_bytes(path, bytes.clone()).unwrap();
        copy.remove("/log/DURABLE".as_ref()).unwrap();
        let refusals = [
            FileBroker::open("/log", options(&copy)).await.unwrap_err(),
            FileBroker::open_reader("/log", options(&copy))
                .await
                .unwrap_err(),
            verify("/log", &copy).unwrap_err(),
        ];
        for refusal in refusals {
            assert!(
                matches!(&refusal, Error::NewerFormat { path: named, found: 2, known: 1 } if named == path),
                "{name}: {refusal}"
            );
        }
        assert_eq!(copy.bytes(path).unwrap(), bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_torn_tail_is_cut_and_reported() {
    let disk = filled().await;
    let broker = FileBroker::open("/log", options(&disk)).await.unwrap();
    broker
        .produce(vec![set(at("t", 0), values(1_000..1_100))])
        .await
        .unwrap();
    drop(broker);
    let path = disk
        .files()
        .into_iter()
        .find(|path| path.extension().is_some_and(|ext| ext == "log"))
        .unwrap();
    let whole = disk.bytes(&path).unwrap();
    let mut zeros = whole.clone();
    let end = whole.len() - 1_000;
    zeros[end..].fill(0);
    zeros.resize(whole.len() + 10_000, 0);
    for bytes in [whole[..whole.len() - 1].to_vec(), zeros] {
        let copy = disk.kill_image(0);
        copy.set_bytes(&path, bytes).unwrap();
        // A reader waits for more instead of calling it damage, and cuts nothing.
        let reader = FileBroker::open_reader("/log", options(&copy))
            .await
            .unwrap();
        assert_eq!(
            read(&reader, &at("t", 0), Start::Earliest).await,
            numbered(0..1_000)
        );
        assert!(copy.bytes(&path).unwrap().len() >= end);
        let broker = FileBroker::open("/log", options(&copy)).await.unwrap();
        let torn = broker.torn().unwrap();
        assert_eq!(torn.path, path);
        assert!(torn.bytes > 0);
        assert_eq!(
            read(&broker, &at("t", 0), Start::Earliest).await,
            numbered(0..1_000)
        );
        broker
            .produce(vec![set(at("t", 0), values(1_000..1_001))])
            .await
            .unwrap();
        drop(broker);
        let broker = FileBroker::open("/log", options(&copy)).await.unwrap();
        assert!(broker.torn().is_none());
        assert_eq!(
            read(&broker, &at("t", 0), Start::Earliest).await,
            numbered(0..1_001)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_index_is_built_anew() {
    let disk = filled().await;
    for path in disk.files() {
        if path.extension().is_some_and(|ext| ext == "index") {
            disk.set_bytes(&path, b"junk".to_vec()).unwrap();
        }
    }
    let broker = FileBroker::open("/log", options(&disk)).await.unwrap();
    for start in [0, 1, 250, 499, 777] {
        let start = Start::Offset(Offset(start));
        let found = read(&broker, &at("t", 0), start).await;
        assert_eq!(found, read(&broker, &at("t", 1), start).await);
        let Start::Offset(Offset(first)) = start else {
            unreachable!()
        };
        assert_eq!(found, numbered(first..1_000));
    }
    drop(broker);
    assert_eq!(verify("/log", &disk).unwrap().findings, []);
}

#[tokio::test(start_paused = true)]
async fn a_missing_file_is_told_or_harmless() {
    let disk = filled().await;
    for path in disk.files() {
        let copy = disk.kill_image(0);
        copy.remove(&path).unwrap();
        check(&copy, &path, 0).await;
    }
}

/// A segment that was put in another's place, say by who restored the wrong file, was once taken for that
/// partition's when it was compacted, and rewritten as its own.
#[tokio::test(start_paused = true)]
async fn a_segment_in_the_place_of_another_is_told_and_never_rewritten() {
    let disk = SimDisk::new(1);
    let broker = FileBroker::open("/log", options(&disk)).await.unwrap();
    let newest = Cleanup::Compact {
        tombstones: Duration::from_secs(60),
    };
    let spec = TopicSpec::new(topic("t"), 2.try_into().unwrap()).cleanup(newest);
    broker.create_topic(&spec).await.unwrap();
    for partition in 0..2 {
        // Equally long, so that only what is inside can tell.
        for name in ["a", "b"] {
            let value = [format!("{name}{partition}")];
            let records = set(at("t", partition), value);
            broker.produce(vec![records]).await.unwrap();
        }
    }
    broker.close().await.unwrap();
    let segment = |partition: u32| {
        let dir = format!("/log/topics/0000000000000000/{partition}");
        let mut files = disk.files().into_iter();
        let found = files.find(|path| {
            path.starts_with(&dir) && path.extension().is_some_and(|end| end == "segment")
        });
        found.expect("a segment")
    };
    let foreign = disk.bytes(&segment(1)).unwrap();
    disk.set_bytes(&segment(0), foreign.clone()).unwrap();

    let findings = verify("/log", &disk).unwrap().findings;
    assert!(findings.iter().any(|finding| finding.path == segment(0)));
    let broker = FileBroker::open("/log", options(&disk)).await.unwrap();
    let told = broker.read_to_end(&at("t", 0), Start::Earliest).await;
    assert!(matches!(told, Err(Error::Damaged { path, .. }) if path == segment(0)));
    let cleaned = broker.clean().await.unwrap_err();
    assert!(
        cleaned.to_string().contains("does not belong here"),
        "{cleaned}"
    );
    drop(broker);
    assert_eq!(
        disk.bytes(&segment(0)).unwrap(),
        foreign,
        "nothing was touched"
    );
}
