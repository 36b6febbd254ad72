//! A log directory in which any bytes may be wrong: opening, checking and reading it never panic, and
//! what `verify` finds sound can be opened and read.
//!
//! The first byte chooses: whether checksums are put right again ([`seal`](super::seal)), and whether
//! the rest replaces one file whole. Otherwise edits follow: file, what to do, place (2 bytes),
//! length, bytes.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tidemill::broker::{
    Broker, BrokerExt, Cleanup, Error, GroupOffsets, Headers, ManualClock, Offset, Outcome,
    RecordSet, Start, Timestamp, Topic, TopicPartition, TopicSpec, Transaction,
};
use tidemill::file::{Disk, FileBroker, FileOptions, Fsync, Mode, SimDisk, verify};

use super::seal::seal;

/// Bits of the first byte.
const SEALED: u8 = 1;
const WHOLE: u8 = 2;

/// Partitions of one topic that are read: a damaged manifest may have a million.
const PARTITIONS_READ: u32 = 4;

/// Virtual time after which reading has hung.
const PATIENCE: Duration = Duration::from_secs(600);

const ROOT: &str = "/log";

/// Damages a directory as the bytes say, checks it, opens it and reads it.
///
/// # Panics
///
/// If `verify` finds it sound and it cannot be opened and read.
pub(crate) fn run(data: &[u8]) {
    let Some((setting, edits)) = data.split_first() else {
        return;
    };
    let before = files();
    let mut files = before.clone();
    if setting & WHOLE != 0 {
        let Some((which, bytes)) = edits.split_first() else {
            return;
        };
        let at = usize::from(*which) % files.len();
        if let Some(file) = files.values_mut().nth(at) {
            *file = bytes.to_vec();
        }
    } else {
        edit(&mut files, edits);
    }
    if setting & SEALED != 0 {
        seal(&mut files, before);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(check(&files));
}

async fn check(files: &BTreeMap<PathBuf, Vec<u8>>) {
    let disk = disk_of(files);
    let report = verify(ROOT, &disk);
    // A reader in another process, before a writer repairs anything.
    if let Ok(reader) = FileBroker::open_reader(ROOT, options(&disk)).await {
        let _ = read(&reader).await;
    }
    let opened = FileBroker::open(ROOT, options(&disk)).await;
    let read = match opened {
        Ok(broker) => {
            let records = read(&broker).await;
            if broker.torn().is_some()
                && let Ok(report) = &report
            {
                assert!(!report.findings.is_empty(), "cut, but found sound before");
            }
            records
        }
        Err(error) => Err(error),
    };
    let Ok(report) = report else {
        return;
    };
    if report.findings.iter().any(|finding| !finding.harmless) {
        return;
    }
    match read {
        Ok(records) => assert!(records <= report.records, "{records} read: {report:?}"),
        Err(error) => panic!("found sound, but {error}: {report:?}"),
    }
}

/// Reads the first partitions of every topic to their ends; answers how many records there were.
async fn read(broker: &FileBroker) -> Result<u64, Error> {
    let mut records = 0;
    for topic in broker.list_topics().await? {
        let partitions = broker.describe_topic(&topic).await?.partitions;
        for partition in 0..partitions.min(PARTITIONS_READ) {
            let at = TopicPartition::new(topic.clone(), partition);
            broker.watermarks(&at).await?;
            broker.offset_at(&at, Timestamp(5)).await?;
            let batches = tokio::time::timeout(PATIENCE, broker.read_to_end(&at, Start::Earliest))
                .await
                .unwrap_or_else(|_| panic!("reading {at} hangs"))?;
            let mut last = None;
            for record in batches.iter().flat_map(|batch| batch.iter()) {
                assert!(Some(record.offset) > last, "{at}: offsets do not rise");
                last = Some(record.offset);
                records += 1;
                let _ = record.headers().count();
            }
        }
    }
    Ok(records)
}

/// Edits files; see the module.
fn edit(files: &mut BTreeMap<PathBuf, Vec<u8>>, mut edits: &[u8]) {
    while let [which, what, high, low, len, rest @ ..] = edits {
        let (bytes, after) = rest.split_at(rest.len().min(usize::from(*len)));
        edits = after;
        let which = usize::from(*which) % files.len();
        let Some(path) = files.keys().nth(which).cloned() else {
            return;
        };
        let Some(file) = files.get_mut(&path) else {
            return;
        };
        let at = (usize::from(*high) << 8 | usize::from(*low)) % (file.len() + 1);
        let end = (at + bytes.len()).min(file.len());
        match what % 6 {
            0 => drop(file.splice(at..end, bytes.iter().copied())),
            1 => drop(file.splice(at..at, bytes.iter().copied())),
            2 => drop(file.drain(at..end)),
            3 => file.truncate(at),
            4 => {
                // A piece of another file, or of this one, once more.
                let from = usize::from(bytes.first().copied().unwrap_or(0)) % files.len();
                let Some(piece) = files.values().nth(from).cloned() else {
                    return;
                };
                if let Some(file) = files.get_mut(&path) {
                    file.truncate(at);
                    file.extend_from_slice(&piece[at.min(piece.len())..]);
                }
            }
            _ if files.len() > 1 => drop(files.remove(&path)),
            _ => {}
        }
    }
}

fn options(disk: &SimDisk) -> FileOptions {
    FileOptions {
        disk: Arc::new(disk.clone()),
        clock: Arc::new(ManualClock::starting_at(Timestamp(1_000))),
        fsync: Fsync::Never,
        ..FileOptions::default()
    }
}

fn disk_of(files: &BTreeMap<PathBuf, Vec<u8>>) -> SimDisk {
    let disk = SimDisk::new(0);
    for (path, bytes) in files {
        if let Some(parent) = path.parent() {
            disk.create_dir(parent).expect("a directory");
        }
        disk.open(path, Mode::Create).expect("a file");
        disk.set_bytes(path, bytes.clone()).expect("a file");
    }
    // Opening lists them, and a damaged directory may have no file in them.
    for name in ["log", "topics"] {
        disk.create_dir(&Path::new(ROOT).join(name))
            .expect("a directory");
    }
    disk
}

/// The files of a small directory that has everything: segments, two log files, a compacted topic,
/// a deleted one, offsets of a group.
fn files() -> &'static BTreeMap<PathBuf, Vec<u8>> {
    static FILES: OnceLock<BTreeMap<PathBuf, Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let disk = SimDisk::new(7);
        runtime.block_on(fill(&disk)).expect("a directory");
        let paths = disk.files().into_iter();
        paths
            .map(|path| {
                let bytes = disk.bytes(&path).expect("its bytes");
                (path, bytes)
            })
            .collect()
    })
}

async fn fill(disk: &SimDisk) -> Result<(), Error> {
    let broker = FileBroker::open(ROOT, options(disk)).await?;
    let two = NonZeroU32::MIN.saturating_add(1);
    let topic = |name| Topic::new(name).expect("a name");
    broker
        .create_topic(&TopicSpec::new(topic("t"), two))
        .await?;
    let tombstones = Duration::from_secs(1);
    let compacted = TopicSpec::new(topic("c"), NonZeroU32::MIN);
    let compacted = compacted.cleanup(Cleanup::Compact { tombstones });
    broker.create_topic(&compacted).await?;
    let gone = TopicSpec::new(topic("gone"), NonZeroU32::MIN);
    broker.create_topic(&gone).await?;
    let mut transactor = broker.transactor(&"fuzz".parse()?).await?;
    for round in 0..3u64 {
        let mut headers = Headers::new();
        headers.push("name", b"value");
        let mut records = Vec::new();
        for (name, partition) in [("t", 0), ("t", 1), ("c", 0)] {
            let at = TopicPartition::new(topic(name), partition);
            let mut set = RecordSet::new(at);
            for n in 0..4u8 {
                let key = [b'a' + n % 2];
                let value = (name == "t" || n != 2).then_some(&b"a payload"[..]);
                let time = Timestamp((round * 4) as i64 + i64::from(n));
                set.push(Some(time), Some(&key), value, &headers);
            }
            records.push(set);
        }
        let read = TopicPartition::new(topic("t"), 0);
        let offsets = vec![GroupOffsets {
            group: "readers".parse()?,
            generation: None,
            offsets: vec![(read, Offset(round * 4))],
        }];
        let outcome = transactor.commit(Transaction { records, offsets }).await;
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
        match round {
            0 => broker.clean().await?,
            1 => broker.delete_topic(&topic("gone")).await?,
            _ => {}
        }
        broker.sync().await?;
    }
    drop((transactor, broker));
    Ok(())
}
