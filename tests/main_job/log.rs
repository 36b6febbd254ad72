//! Log directories against `tests/oracle/log.py`, which reads them by the words of
//! `brokers/file/FORMAT.md` alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemill_broker::{
    Broker as _, Cleanup, Group, GroupOffsets, Headers, Offset, Outcome, RecordSet, Retention,
    Timestamp, Topic, TopicPartition, TopicSpec, Transaction,
};
use tidemill_broker_file::{FileBroker, FileOptions, RealDisk};

use super::{Job, python, repository, say, skip, trades_below};

#[path = "../../brokers/file/tests/file/dump.rs"]
mod dump;

/// What the reader in Python prints of a directory; `None` without python3.
fn by_the_words(directory: &Path, of: Option<&str>) -> Option<Vec<String>> {
    let read = python("log.py").arg(directory).args(of).output().ok()?;
    let told = String::from_utf8_lossy(&read.stderr);
    assert!(read.status.success(), "{}: {told}", directory.display());
    let printed = String::from_utf8(read.stdout).unwrap();
    Some(printed.lines().map(str::to_owned).collect())
}

/// What the command prints of a directory: all topics, and in each the partitions one after the other.
async fn by_the_command(job: &Job, directory: &Path) -> Vec<String> {
    let log = format!("file://{}", directory.display());
    let reader = FileBroker::open_reader(directory, FileOptions::default());
    let mut printed = Vec::new();
    for topic in reader.await.unwrap().list_topics().await.unwrap() {
        let read = ["read", topic.as_str(), "--broker", &log, "--json"];
        let read = String::from_utf8(job.tidemill(&read).await).unwrap();
        let mut records: Vec<(u64, u64, &str)> = read.lines().map(placed).collect();
        records.sort_unstable();
        printed.extend(records.into_iter().map(|(.., line)| line.to_owned()));
    }
    printed
}

fn placed(line: &str) -> (u64, u64, &str) {
    let record: serde_json::Value = serde_json::from_str(line).unwrap();
    let number = |name: &str| record[name].as_u64().unwrap();
    (number("partition"), number("offset"), line)
}

/// Has a directory read both ways, and compares every byte. Says how many records there are; `None`
/// without python3.
async fn both_read_the_same(what: &str, job: &Job, directory: &Path) -> Option<usize> {
    let Some(expected) = by_the_words(directory, None) else {
        skip::skip(&format!("main job: {what}"), "python3");
        return None;
    };
    let found = by_the_command(job, directory).await;
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected, "{what}");
    }
    assert_eq!(found.len(), expected.len(), "{what}");
    say(&format!("{what}: {} records, read alike", found.len()));
    Some(found.len())
}

#[tokio::test]
async fn what_the_main_job_left_is_read_by_the_words_of_the_format_alone() {
    let files = trades_below(&repository("pipelines/data/crypto"));
    let job = Job::new();
    job.make_bars(&files, "1").await;
    let read = both_read_the_same("the main job", &job, &job.path("data")).await;
    assert!(read.is_none_or(|records| records > 1_000), "{read:?}");
}

/// What an older version wrote, and what every later one must read as that did.
#[tokio::test]
async fn what_version_1_stored_is_read_by_the_words_of_the_format_alone() {
    let job = Job::new();
    let stored = repository("brokers/file/tests/stored");
    for name in ["version-1.live", "version-1.recording"] {
        let text = |kind: &str| fs::read_to_string(stored.join(format!("{name}.{kind}"))).unwrap();
        let listed = text("txt")
            .lines()
            .filter(|line| line.contains(" key "))
            .count();
        let directory = job.path(name);
        dump::unpack(&text("dump"), &RealDisk, &directory);
        let read = both_read_the_same(name, &job, &directory).await;
        assert!(
            read.is_none_or(|read| read == listed && listed > 40),
            "{name}: {read:?}"
        );
    }
}

fn topic(name: &str) -> Topic {
    name.parse().unwrap()
}

fn at(name: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(topic(name), partition)
}

/// Small files, so that a few records fill many.
async fn open(directory: &Path, split_bytes: u64) -> FileBroker {
    let options = FileOptions {
        split_bytes,
        ..FileOptions::default()
    };
    FileBroker::open(directory, options).await.unwrap()
}

async fn create(broker: &FileBroker, name: &str, partitions: u32, cleanup: Cleanup) {
    let spec = TopicSpec::new(topic(name), partitions.try_into().unwrap()).cleanup(cleanup);
    broker.create_topic(&spec).await.unwrap();
}

/// Records with and without all there may be, of this number.
fn records(name: &str, partition: u32, number: u64) -> RecordSet {
    let mut set = RecordSet::new(at(name, partition));
    let time = Some(Timestamp(1_710_000_000_000_000 + number as i64));
    let json = format!("{{ \"number\" : {number}.50,\n \"text\":\"\\u00e9 \u{e9}\" }}");
    let keys = [format!("k{}", number % 7), String::new()];
    let headers = Headers::new()
        .with("event-id", number.to_string())
        .with("event-id", [0xff, 0x00])
        .with("", "");
    set.push(
        time,
        Some(keys[0].as_bytes()),
        Some(json.as_bytes()),
        &headers,
    );
    set.push(
        time,
        Some(keys[1].as_bytes()),
        Some(b"\xff\xfe"),
        &Headers::new(),
    );
    set.push(time, Some(b"\xf0\x28"), Some(b"\"tab\\t\" \x01"), &headers);
    set.push(time, None, Some(b""), &Headers::new());
    if number.is_multiple_of(5) {
        set.push(time, Some(keys[0].as_bytes()), None, &Headers::new());
    }
    set
}

/// Commits records with these numbers into every topic, each with offsets of two groups.
async fn commit(broker: &FileBroker, names: &[&str], numbers: std::ops::Range<u64>) {
    let mut transactor = broker.transactor(&"id".parse().unwrap()).await.unwrap();
    for number in numbers {
        let of = |group: &str, name: &str| GroupOffsets {
            group: group.parse::<Group>().unwrap(),
            generation: None,
            offsets: vec![(at(name, 0), Offset(number))],
        };
        let transaction = Transaction {
            records: names.iter().map(|name| records(name, 0, number)).collect(),
            offsets: vec![of("bars", names[0]), of("Other.group", names[0])],
        };
        let outcome = transactor.commit(transaction).await;
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
        let apart = records("ticks", 1 + (number % 2) as u32, number);
        broker.produce(vec![apart]).await.unwrap();
    }
}

/// Leaves a directory with every kind of file, frame, block and record that the format knows.
async fn everything(directory: &Path) {
    let compact = Cleanup::Compact {
        tombstones: Duration::ZERO,
    };
    let brief = Cleanup::Delete(Retention {
        age: Some(Duration::from_secs(86_400)),
        bytes: Some(8_000),
    });
    let all = ["ticks", "latest", "brief", "doomed"];
    // Split, compacted, expired, and a topic that is gone with its segments.
    let broker = open(directory, 10_000).await;
    create(&broker, "ticks", 3, Cleanup::Delete(Retention::default())).await;
    create(&broker, "latest", 1, compact).await;
    create(&broker, "brief", 1, brief).await;
    create(&broker, "doomed", 1, brief).await;
    create(&broker, "empty", 2, compact).await;
    commit(&broker, &all, 0..120).await;
    broker.clean().await.unwrap();
    broker.delete_topic(&topic("doomed")).await.unwrap();
    create(&broker, "doomed", 2, compact).await;
    commit(&broker, &all, 120..150).await;
    broker.close().await.unwrap();
    // Appended to segments that are there; more compacted topics, and some of them not compacted since.
    let broker = open(directory, 200_000).await;
    commit(&broker, &all, 150..160).await;
    broker.close().await.unwrap();
    // And a log with every kind of frame.
    let broker = open(directory, 1_000_000).await;
    commit(&broker, &all, 160..170).await;
    create(&broker, "new", 1, brief).await;
    commit(&broker, &["new", "latest"], 170..180).await;
    broker.delete_topic(&topic("doomed")).await.unwrap();
    broker.sync().await.unwrap();
}

/// The one log file.
fn log_file(directory: &Path) -> PathBuf {
    let entries = fs::read_dir(directory.join("log")).unwrap();
    let files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

#[tokio::test]
async fn every_kind_of_file_is_read_by_the_words_of_the_format_alone() {
    let job = Job::new();
    let directory = job.path("data");
    everything(&directory).await;
    let Some(count) = both_read_the_same("segments and a log", &job, &directory).await else {
        return;
    };

    // Half a commit that nobody was told of.
    let log = log_file(&directory);
    let whole = fs::read(&log).unwrap();
    let torn = [&whole[..], &whole[64..164]].concat();
    fs::write(&log, torn).unwrap();
    let read = both_read_the_same("a torn tail", &job, &directory).await;
    assert_eq!(read, Some(count));
    fs::write(&log, whole).unwrap();

    offsets_and_watermarks_are_the_same(&directory).await;

    // Of the newest frames nobody knows that they are durable then.
    let durable = directory.join("DURABLE");
    let said = fs::read(&durable).unwrap();
    fs::remove_file(&durable).unwrap();
    both_read_the_same("no word of the writer", &job, &directory).await;
    fs::write(&durable, said).unwrap();

    let broker = open(&directory, 10_000).await;
    broker.close().await.unwrap();
    assert_eq!(fs::read_dir(directory.join("log")).unwrap().count(), 0);
    let read = both_read_the_same("a recording", &job, &directory).await;
    assert!(read.is_some_and(|left| left < count), "nothing was expired");
}

async fn offsets_and_watermarks_are_the_same(directory: &Path) {
    let reader = FileBroker::open_reader(directory, FileOptions::default());
    let reader = reader.await.unwrap();
    let mut offsets = Vec::new();
    let groups = ["Other.group", "bars"].map(|name| name.parse::<Group>().unwrap());
    let mut topics = Vec::new();
    for name in reader.list_topics().await.unwrap() {
        let described = reader.describe_topic(&name).await.unwrap();
        let mut marks = Vec::new();
        for partition in 0..described.partitions {
            let at = TopicPartition::new(name.clone(), partition);
            let found = reader.watermarks(&at).await.unwrap();
            marks.push([found.low.0, found.high.0]);
            for group in &groups {
                let committed = reader.committed(group, std::slice::from_ref(&at)).await;
                if let Some(next) = committed.unwrap()[0] {
                    let (group, name) = (group.as_str(), name.as_str());
                    offsets.push(serde_json::json!([group, name, partition, next.0]));
                }
            }
        }
        let micros = |time: Duration| time.as_micros() as u64;
        topics.push(match described.cleanup {
            Cleanup::Delete(Retention { age, bytes }) => serde_json::json!({
                "topic": name.as_str(), "cleanup": "delete", "ageMicros": age.map(micros),
                "bytes": bytes, "partitions": marks,
            }),
            Cleanup::Compact { tombstones } => serde_json::json!({
                "topic": name.as_str(), "cleanup": "compact",
                "tombstonesMicros": micros(tombstones), "partitions": marks,
            }),
        });
    }
    let parsed = |of: &str| -> Vec<serde_json::Value> {
        let lines = by_the_words(directory, Some(of)).unwrap();
        lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    assert_eq!(parsed("--topics"), topics);
    let key = |entry: &serde_json::Value| entry.to_string();
    let mut expected = parsed("--offsets");
    expected.sort_by_key(key);
    offsets.sort_by_key(key);
    assert!(!offsets.is_empty());
    assert_eq!(offsets, expected);
}
