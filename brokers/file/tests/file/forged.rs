//! Bytes that this program never wrote, with checksums that hold: told as damage, and no panic.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crc_fast::{CrcAlgorithm, Digest};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tidemill_broker::{
    Broker, BrokerExt, Cleanup, Error, Headers, RecordSet, Result, Start, Timestamp, TopicSpec,
};
use tidemill_broker_file::{FileBroker, FileOptions, Fsync, SimDisk};

use crate::support::{at, topic};

fn crc(parts: &[&[u8]]) -> u32 {
    let mut crc = Digest::new(CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|part| crc.update(part));
    crc.finalize() as u32
}

fn put(bytes: &mut [u8], at: usize, word: u32) {
    bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
}

/// Makes the checksum of the one block of a segment hold.
fn seal_block(disk: &SimDisk, block: &mut [u8]) {
    let uuid = &disk.bytes(Path::new("/log/FORMAT")).unwrap()[20..36];
    let sum = crc(&[&block[72..], &block[8..72]]) ^ crc(&[uuid]);
    put(block, 4, sum);
}

async fn open(disk: &SimDisk) -> Result<FileBroker> {
    let options = FileOptions {
        disk: Arc::new(disk.clone()),
        fsync: Fsync::Never,
        ..FileOptions::default()
    };
    FileBroker::open("/log", options).await
}

async fn append(broker: &FileBroker, keys: &[&str]) -> Result<()> {
    let mut records = RecordSet::new(at("t", 0));
    for key in keys {
        let value = Some(&b"v"[..]);
        records.push(
            Some(Timestamp(7)),
            Some(key.as_bytes()),
            value,
            &Headers::new(),
        );
    }
    broker
        .produce(vec![records])
        .await?
        .remove(0)
        .into_result()?;
    Ok(())
}

/// A compacted topic with one block, of the offsets 0, 2 and 3, and that block's file.
async fn compacted() -> (SimDisk, PathBuf) {
    let disk = SimDisk::new(1);
    let broker = open(&disk).await.unwrap();
    let tombstones = Duration::from_secs(60);
    let spec = TopicSpec::new(topic("t"), 1.try_into().unwrap());
    let spec = spec.cleanup(Cleanup::Compact { tombstones });
    broker.create_topic(&spec).await.unwrap();
    append(&broker, &["a", "b", "c", "b"]).await.unwrap();
    broker.close().await.unwrap();
    let broker = open(&disk).await.unwrap();
    broker.clean().await.unwrap();
    broker.close().await.unwrap();
    let mut files = disk.files().into_iter();
    let segment = files.find(|path| path.extension().is_some_and(|end| end == "segment"));
    (disk, segment.unwrap())
}

/// Reads all there is, appends, and has everything split and compacted. Nobody may wait for ever.
async fn work(disk: &SimDisk) -> Result<Vec<u64>> {
    let broker = open(disk).await?;
    let batches = broker.read_to_end(&at("t", 0), Start::Earliest).await;
    let appended = append(&broker, &["a", "d"]).await;
    let cleaned = tokio::time::timeout(Duration::from_secs(60), broker.clean()).await;
    let cleaned = cleaned.expect("who splits and compacts did not panic");
    let batches = batches?;
    appended?;
    cleaned?;
    let records = batches.iter().flat_map(|batch| batch.iter());
    Ok(records.map(|record| record.offset.0).collect())
}

/// Offsets that do not rise were once subtracted from each other by who compacts them.
#[tokio::test(start_paused = true)]
async fn offsets_that_do_not_rise_in_a_block_are_damage() {
    let (disk, path) = compacted().await;
    let block = disk.bytes(&path).unwrap();
    assert_eq!(
        (block[12], block[16]),
        (3, 1),
        "a sparse block of three records"
    );
    assert_eq!(work(&disk.kill_image(0)).await.unwrap(), [0, 2, 3]);
    for deltas in [[2, 0, 3], [0, 2, 2], [3, 2, 1], [0, 2, 4], [0, 2, u32::MAX]] {
        let copy = disk.kill_image(0);
        let mut forged = block.clone();
        for (record, delta) in deltas.into_iter().enumerate() {
            put(&mut forged, 72 + record * 24 + 20, delta);
        }
        seal_block(&copy, &mut forged);
        copy.set_bytes(&path, forged).unwrap();
        let told = work(&copy).await;
        assert!(
            matches!(&told, Err(Error::Damaged { path: named, .. }) if *named == path),
            "{deltas:?}: {told:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_do_not_fill_their_block_are_damage() {
    let (disk, path) = compacted().await;
    let block = disk.bytes(&path).unwrap();
    for (record, field, word) in [(0, 8, 0), (2, 12, 2), (1, 16, u32::MAX), (2, 12, u32::MAX)] {
        let copy = disk.kill_image(0);
        let mut forged = block.clone();
        put(&mut forged, 72 + record * 24 + field, word);
        seal_block(&copy, &mut forged);
        copy.set_bytes(&path, forged).unwrap();
        let told = work(&copy).await;
        assert!(
            matches!(told, Err(Error::Damaged { .. })),
            "{record} {field}: {told:?}"
        );
    }
}

/// Sums of what it says may overflow.
#[tokio::test(start_paused = true)]
async fn whatever_numbers_a_manifest_has_nothing_panics() {
    let (disk, _) = compacted().await;
    let path = Path::new("/log/MANIFEST");
    let manifest = disk.bytes(path).unwrap();
    let mut rng = SmallRng::seed_from_u64(9);
    let edges = [
        0,
        1,
        1 << 31,
        1 << 32,
        1 << 62,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];
    let mut refused = 0;
    for _ in 0..2_000 {
        let copy = disk.kill_image(0);
        let mut forged = manifest.clone();
        for _ in 0..rng.random_range(1..4) {
            let number = match rng.random_range(0..3) {
                0 => rng.random(),
                _ => *edges.choose(&mut rng).unwrap(),
            };
            let bytes = &u64::to_le_bytes(number)[..*[4, 8].choose(&mut rng).unwrap()];
            let from = rng.random_range(12..forged.len() - 8);
            forged[from..from + bytes.len()].copy_from_slice(bytes);
        }
        let sum = crc(&[&forged[12..]]);
        put(&mut forged, 8, sum);
        copy.set_bytes(path, forged).unwrap();
        refused += usize::from(work(&copy).await.is_err());
    }
    assert!(refused > 1_000, "{refused}");
}
