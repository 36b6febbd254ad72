//! Directories that format version 1 wrote once, kept in the tree: they are read as they were, and the
//! writer still writes the same bytes.
//!
//! A test that writes and reads with the same code holds no format still. Whoever changes the layout
//! gives it a new version, keeps these dumps and their listings as they are, and adds new ones.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::{
    Broker, BrokerExt as _, Cleanup, GroupOffsets, Headers, ManualClock, Offset, Outcome,
    RecordSet, Retention, Start, Timestamp, TopicPartition, TopicSpec, Transaction,
};
use tidemill_broker_file::{
    Disk, DiskDir, DiskFile, FileBroker, FileOptions, Fsync, Locked, Mode, SimDisk, verify,
};

use crate::dump::unpack;
use crate::support::{at, topic};

/// A directory that its writer left without closing it, in the middle of a write.
const LIVE: &str = include_str!("../stored/version-1.live.dump");
const LIVE_HOLDS: &str = include_str!("../stored/version-1.live.txt");
/// The same directory, opened again and closed.
const RECORDING: &str = include_str!("../stored/version-1.recording.dump");
const RECORDING_HOLDS: &str = include_str!("../stored/version-1.recording.txt");

const START: Timestamp = Timestamp(1_710_000_000_000_000);

/// A disk in memory that gives every directory the same identity.
#[derive(Debug, Clone)]
struct SameDisk(SimDisk);

impl Disk for SameDisk {
    fn create_dir(&self, path: &Path) -> std::io::Result<()> {
        self.0.create_dir(path)
    }
    fn list(&self, path: &Path) -> std::io::Result<Vec<String>> {
        self.0.list(path)
    }
    fn open(&self, path: &Path, mode: Mode) -> std::io::Result<Arc<dyn DiskFile>> {
        self.0.open(path, mode)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        self.0.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> std::io::Result<()> {
        self.0.remove_dir(path)
    }
    fn open_dir(&self, path: &Path) -> std::io::Result<Box<dyn DiskDir>> {
        self.0.open_dir(path)
    }
    fn lock(&self, path: &Path, owner: &str) -> std::io::Result<Locked> {
        self.0.lock(path, owner)
    }
    fn room(&self, path: &Path) -> std::io::Result<u64> {
        self.0.room(path)
    }
    fn unique(&self) -> std::io::Result<[u8; 16]> {
        Ok(*b"the same for all")
    }
    fn is_slow(&self) -> bool {
        false
    }
}

fn disk() -> SameDisk {
    SameDisk(SimDisk::new(1))
}

fn options(disk: &SameDisk, clock: &Arc<ManualClock>) -> FileOptions {
    FileOptions {
        clock: Arc::clone(clock) as _,
        disk: Arc::new(disk.clone()),
        fsync: Fsync::Never,
        ..FileOptions::default()
    }
}

/// Records with and without all there may be.
fn records(name: &str, partition: u32, number: i64) -> RecordSet {
    let mut set = RecordSet::new(at(name, partition));
    let time = |more| {
        Some(
            START
                .plus(Duration::from_secs(number as u64))
                .plus(Duration::from_micros(more)),
        )
    };
    let key = format!("k{}", number % 3);
    let value = format!("{{\"n\":{number}}}");
    let headers = Headers::new()
        .with("event-id", number.to_string())
        .with("event-id", [0xff, 0x00])
        .with("", "");
    set.push(
        time(0),
        Some(key.as_bytes()),
        Some(value.as_bytes()),
        &headers,
    );
    set.push(time(1), None, Some(b""), &Headers::new());
    if number % 2 == 0 {
        let key = format!("x{number}");
        set.push(time(2), Some(key.as_bytes()), None, &Headers::new());
    }
    set
}

async fn create(broker: &FileBroker, name: &str, partitions: u32, cleanup: Cleanup) {
    let spec = TopicSpec::new(topic(name), partitions.try_into().unwrap()).cleanup(cleanup);
    broker.create_topic(&spec).await.unwrap();
}

/// One transaction with records for each of these topics, and offsets of two groups.
async fn commit(broker: &FileBroker, names: &[&str], number: i64) {
    let of = |group: &str, partition| GroupOffsets {
        group: group.parse().unwrap(),
        generation: None,
        offsets: vec![(at("ticks", partition), Offset(number as u64))],
    };
    let transaction = Transaction {
        records: names.iter().map(|name| records(name, 0, number)).collect(),
        offsets: vec![of("bars", 0), of("Other.group", 1)],
    };
    let mut transactor = broker.transactor(&"id".parse().unwrap()).await.unwrap();
    let outcome = transactor.commit(transaction).await;
    assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
}

/// Has every kind of file, frame and block of the format written, and then a process stopped in the middle
/// of a frame.
async fn write_live(disk: &SameDisk) {
    let clock = Arc::new(ManualClock::starting_at(START));
    let broker = FileBroker::open("/log", options(disk, &clock))
        .await
        .unwrap();
    let compact = Cleanup::Compact {
        tombstones: Duration::from_secs(60),
    };
    let brief = Cleanup::Delete(Retention {
        age: Some(Duration::from_secs(3_600)),
        bytes: Some(100_000),
    });
    create(&broker, "ticks", 2, Cleanup::default()).await;
    create(&broker, "latest", 1, compact).await;
    create(&broker, "brief", 1, brief).await;
    create(&broker, "doomed", 1, brief).await;
    for number in 0..4 {
        commit(&broker, &["ticks", "latest", "brief", "doomed"], number).await;
    }
    broker.clean().await.unwrap();
    // What is in segments is appended to, compacted again, or too old by now; a topic goes with its segments.
    clock.advance(Duration::from_secs(4_000));
    for number in 4..7 {
        commit(&broker, &["latest", "ticks"], number).await;
    }
    broker.produce(vec![records("ticks", 1, 7)]).await.unwrap();
    broker.delete_topic(&topic("doomed")).await.unwrap();
    broker.clean().await.unwrap();
    // A log of every kind of frame.
    create(&broker, "new", 1, brief).await;
    create(&broker, "gone", 1, compact).await;
    for number in 8..10 {
        commit(&broker, &["new", "latest", "ticks", "gone"], number).await;
    }
    broker.delete_topic(&topic("gone")).await.unwrap();
    broker.sync().await.unwrap();
    broker.produce(vec![records("ticks", 0, 10)]).await.unwrap();
    drop(broker);
    // Half a frame.
    let log = disk
        .0
        .files()
        .into_iter()
        .find(|path| path.starts_with("/log/log"))
        .unwrap();
    let whole = disk.0.bytes(&log).unwrap();
    let torn = [&whole[..], &whole[64..164]].concat();
    disk.0.set_bytes(&log, torn).unwrap();
}

/// What a directory holds, as text.
async fn listing(broker: &dyn Broker) -> String {
    let mut text = String::new();
    for name in broker.list_topics().await.unwrap() {
        let described = broker.describe_topic(&name).await.unwrap();
        writeln!(text, "{name}: {:?}", described.cleanup).unwrap();
        for partition in 0..described.partitions {
            let at = TopicPartition::new(name.clone(), partition);
            let marks = broker.watermarks(&at).await.unwrap();
            let (low, high, gone) = (marks.low, marks.high, marks.tombstones_gone);
            writeln!(text, "{at}: {low} to {high}, tombstones gone below {gone}").unwrap();
            for group in ["bars", "Other.group"] {
                let group = group.parse().unwrap();
                let next = broker
                    .committed(&group, std::slice::from_ref(&at))
                    .await
                    .unwrap();
                if let Some(next) = next[0] {
                    writeln!(text, "{at}: {group} is at {next}").unwrap();
                }
            }
            for batch in broker.read_to_end(&at, Start::Earliest).await.unwrap() {
                for record in batch.iter() {
                    let shown = |bytes: Option<&[u8]>| match bytes {
                        Some(bytes) => format!("\"{}\"", bytes.escape_ascii()),
                        None => "none".to_owned(),
                    };
                    let (offset, time) = (record.offset, record.timestamp.0);
                    let (key, value) = (shown(record.key), shown(record.value));
                    write!(text, "{at} {offset} {time} key {key} value {value}").unwrap();
                    for (name, value) in record.headers() {
                        write!(text, " {name:?} {}", shown(Some(value))).unwrap();
                    }
                    text.push('\n');
                }
            }
        }
    }
    text
}

/// The dump of everything below `root`, but for the lock, which names a process.
fn pack(disk: &dyn Disk, root: &Path) -> String {
    let mut dump = String::new();
    pack_below(disk, root, Path::new(""), &mut dump);
    dump
}

fn pack_below(disk: &dyn Disk, root: &Path, below: &Path, dump: &mut String) {
    for name in disk.list(&root.join(below)).unwrap() {
        let name = below.join(name);
        let shown = name.display();
        if disk.list(&root.join(&name)).is_ok() {
            writeln!(dump, "dir {shown}").unwrap();
            pack_below(disk, root, &name, dump);
        } else if name != Path::new("LOCK") {
            writeln!(dump, "file {shown}").unwrap();
            let file = disk.open(&root.join(&name), Mode::Read).unwrap();
            let mut bytes = Vec::new();
            let length = usize::try_from(file.len().unwrap()).unwrap();
            file.read_at(0, length, &mut bytes).unwrap();
            for line in bytes.chunks(32) {
                let digits: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(dump, "{digits}").unwrap();
            }
        }
    }
}

/// A dump without its comments.
fn bare(dump: &str) -> String {
    let lines = dump.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Compares line by line; what differs is left where it can be looked at.
fn assert_same(what: &str, found: &str, expected: &str) {
    if found == expected {
        return;
    }
    let left = Path::new(env!("CARGO_TARGET_TMPDIR")).join(what);
    std::fs::write(&left, found).unwrap();
    for (number, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(
            found,
            expected,
            "{what}, line {}: see {}",
            number + 1,
            left.display()
        );
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "{what}");
}

#[tokio::test(start_paused = true)]
async fn a_directory_of_version_1_is_read_record_by_record() {
    for (dump, holds) in [(LIVE, LIVE_HOLDS), (RECORDING, RECORDING_HOLDS)] {
        let disk = disk();
        unpack(dump, &disk, Path::new("/log"));
        let clock = Arc::new(ManualClock::starting_at(START));
        let reader = FileBroker::open_reader("/log", options(&disk, &clock))
            .await
            .unwrap();
        assert_same("read by a reader", &listing(&reader).await, &bare(holds));
        assert_eq!(
            pack(&disk, Path::new("/log")),
            bare(dump),
            "a reader changes nothing"
        );
        drop(reader);
    }
}

#[tokio::test(start_paused = true)]
async fn a_torn_directory_of_version_1_is_cut_and_closes_to_the_recording_of_version_1() {
    let disk = disk();
    unpack(LIVE, &disk, Path::new("/log"));
    let found = verify("/log", &disk).unwrap();
    assert!(
        found.findings.iter().all(|finding| finding.harmless),
        "{found:?}"
    );
    let clock = Arc::new(ManualClock::starting_at(
        START.plus(Duration::from_secs(4_000)),
    ));
    let broker = FileBroker::open("/log", options(&disk, &clock))
        .await
        .unwrap();
    let torn = broker.torn().unwrap();
    assert_eq!(
        (torn.bytes, torn.path.as_path()),
        (100, Path::new("/log/log/00000000000000000003.log"))
    );
    assert_same(
        "opened to write",
        &listing(&broker).await,
        &bare(RECORDING_HOLDS),
    );
    broker.close().await.unwrap();
    assert_same(
        "version-1.recording.dump",
        &pack(&disk, Path::new("/log")),
        &bare(RECORDING),
    );
    assert_eq!(verify("/log", &disk).unwrap().findings, []);
}

#[tokio::test(start_paused = true)]
async fn the_writer_still_writes_the_bytes_of_version_1() {
    let disk = disk();
    write_live(&disk).await;
    assert_same(
        "version-1.live.dump",
        &pack(&disk, Path::new("/log")),
        &bare(LIVE),
    );
}
