//! A disk that is full, and what the log does of itself to have room again.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::{
    Broker, Cleanup, Error, ManualClock, Retention, Start, Timestamp, TopicSpec,
};
use tidemill_broker_file::{FileBroker, FileOptions, Fsync, SimDisk, verify};

use crate::support::{at, create, numbered, pass, read, set, topic, values};

/// Bytes of a log file before it is split.
const LOG: u64 = 4_000;

fn options(disk: &SimDisk, clock: &Arc<ManualClock>) -> FileOptions {
    FileOptions {
        clock: clock.clone(),
        disk: Arc::new(disk.clone()),
        fsync: Fsync::Never,
        split_bytes: LOG,
        ..FileOptions::default()
    }
}

async fn keeping(disk: &SimDisk, clock: &Arc<ManualClock>, retention: Retention) -> FileBroker {
    let broker = FileBroker::open("/log", options(disk, clock))
        .await
        .unwrap();
    let spec = TopicSpec::new(topic("t"), 1.try_into().unwrap());
    let spec = spec.cleanup(Cleanup::Delete(retention));
    broker.create_topic(&spec).await.unwrap();
    broker
}

/// Appends one record, and lets the work beside the calls do what it has to. Whether there was room.
async fn append(broker: &FileBroker, next: &mut u64) -> bool {
    let records = set(at("t", 0), values(*next..*next + 1));
    let appended = match broker.produce(vec![records]).await {
        Ok(acks) => acks[0].failure().map(|(_, error)| error.to_string()),
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::StorageFull => {
            Some(source.to_string())
        }
        Err(error) => panic!("{error}"),
    };
    pass(Duration::from_millis(1)).await;
    *next += u64::from(appended.is_none());
    appended.is_none()
}

fn sizes(disk: &SimDisk) -> BTreeMap<PathBuf, usize> {
    let size = |path: PathBuf| {
        let len = disk.bytes(&path).unwrap().len();
        (path, len)
    };
    disk.files().into_iter().map(size).collect()
}

/// What is there is the newest that was acknowledged, without a gap.
async fn expect_the_newest(broker: &FileBroker, next: u64, what: &str) {
    let found = read(broker, &at("t", 0), Start::Earliest).await;
    assert_eq!(
        found,
        numbered(next - found.len() as u64..next),
        "{what}: {next} were acknowledged"
    );
}

/// The split came first, so that on a full disk nothing that was to leave ever left.
#[tokio::test(start_paused = true)]
async fn a_log_on_a_full_disk_goes_on_with_the_room_of_what_retention_lets_go() {
    let clock = Arc::new(ManualClock::starting_at(Timestamp(0)));
    let mut refused = 0;
    for room in (0..3 * LOG).step_by(211) {
        let disk = SimDisk::new(room);
        let hour = Retention {
            age: Some(Duration::from_secs(3_600)),
            bytes: None,
        };
        let broker = keeping(&disk, &clock, hour).await;
        let mut next = 0;
        while next < 300 {
            assert!(append(&broker, &mut next).await);
        }
        disk.set_space(Some(room));
        while append(&broker, &mut next).await {}
        // Nothing is old enough yet.
        for _ in 0..3 {
            refused += usize::from(!append(&broker, &mut next).await);
        }
        clock.advance(Duration::from_secs(3_601));
        let full = next;
        for attempt in 0..100 {
            let went = append(&broker, &mut next).await;
            assert!(went || attempt < 5, "room for {room}: {next}");
        }
        expect_the_newest(&broker, next, &format!("room for {room}, full at {full}")).await;
        disk.set_space(None);
        broker.close().await.unwrap();
        assert_eq!(verify("/log", &disk).unwrap().findings, []);
    }
    assert!(refused > 100, "{refused}");
}

/// With retention by size the log has room for what it keeps, one log file, and the segments this becomes:
/// it once took room for the log file twice.
#[tokio::test(start_paused = true)]
async fn what_is_too_much_leaves_before_a_split_takes_its_room() {
    let clock = Arc::new(ManualClock::starting_at(Timestamp(0)));
    let disk = SimDisk::new(1);
    let few = Retention {
        age: None,
        bytes: Some(5 * LOG),
    };
    let broker = keeping(&disk, &clock, few).await;
    let mut next = 0;
    while next < 1_000 {
        assert!(append(&broker, &mut next).await);
    }
    let kept: usize = sizes(&disk).values().sum();
    disk.set_space(Some((8 * LOG).saturating_sub(kept as u64)));
    while next < 3_000 {
        assert!(append(&broker, &mut next).await, "{next}");
    }
    expect_the_newest(&broker, next, "room for little more than is kept").await;
}

/// Half a segment once stayed, and kept the last room from all others.
#[tokio::test(start_paused = true)]
async fn a_split_that_ran_out_of_room_leaves_nothing_behind() {
    let clock = Arc::new(ManualClock::starting_at(Timestamp(0)));
    let segments = |disk: &SimDisk| {
        let mut sizes = sizes(disk);
        // One that stays describes more than its segment has, as after a crash.
        sizes.retain(|path, _| path.extension().is_none_or(|end| end != "index"));
        sizes
    };
    let mut refused = 0;
    for room in (0..20_000).step_by(53) {
        let disk = SimDisk::new(room);
        let broker = FileBroker::open("/log", options(&disk, &clock))
            .await
            .unwrap();
        for name in ["t", "u"] {
            create(&broker, name, 2).await;
        }
        let newest = Cleanup::Compact {
            tombstones: Duration::from_secs(60),
        };
        let spec = TopicSpec::new(topic("newest"), 1.try_into().unwrap()).cleanup(newest);
        broker.create_topic(&spec).await.unwrap();
        let everywhere = [("newest", 0), ("t", 0), ("t", 1), ("u", 1)];
        for round in 0..3 {
            for (name, partition) in everywhere {
                let records = set(at(name, partition), values(round * 20..(round + 1) * 20));
                broker.produce(vec![records]).await.unwrap();
            }
            if round < 2 {
                // The first becomes segments, the next goes on in them.
                let before = segments(&disk);
                let space = if round == 0 { None } else { Some(room) };
                disk.set_space(space);
                if broker.clean().await.is_err() {
                    assert_eq!(segments(&disk), before, "room for {room}");
                    refused += 1;
                }
                disk.set_space(None);
            }
        }
        for (name, partition) in &everywhere[1..] {
            let found = read(&broker, &at(name, *partition), Start::Earliest).await;
            assert_eq!(found, numbered(0..60), "room for {room}");
        }
        broker.close().await.unwrap();
        assert_eq!(verify("/log", &disk).unwrap().findings, []);
    }
    assert!(refused > 10, "{refused}");
}

/// Nothing leaves before it was split, and a log file was split at 64 MiB alone: a smaller disk filled up
/// first, for good.
#[tokio::test(start_paused = true)]
async fn a_log_on_a_disk_smaller_than_a_log_file_goes_on_for_ever() {
    const DISK: u64 = 5 << 20;
    for (fsync, kept, bytes) in [
        (Fsync::Commit, 1 << 20, 10_000),
        (Fsync::default(), 1 << 20, 200_000),
        (Fsync::Never, 3 << 20, 50_000),
    ] {
        let disk = SimDisk::new(kept);
        let options = FileOptions {
            disk: Arc::new(disk.clone()),
            fsync,
            ..FileOptions::default()
        };
        let broker = FileBroker::open("/log", options.clone()).await.unwrap();
        let few = Retention {
            age: None,
            bytes: Some(kept),
        };
        let spec = TopicSpec::new(topic("t"), 1.try_into().unwrap());
        let spec = spec.cleanup(Cleanup::Delete(few));
        broker.create_topic(&spec).await.unwrap();
        let used: usize = sizes(&disk).values().sum();
        disk.set_space(Some(DISK - used as u64));
        let value = "x".repeat(bytes);
        let count = 5 * DISK / bytes as u64;
        for appended in 0..count {
            let acks = broker.produce(vec![set(at("t", 0), [&value])]).await;
            let acks = acks.unwrap_or_else(|error| panic!("{fsync:?}, {appended}: {error:?}"));
            assert!(acks[0].failure().is_none(), "{fsync:?}, {appended}");
        }
        let found = read(&broker, &at("t", 0), Start::Earliest).await;
        let expected = count - found.len() as u64..count;
        assert!(found.iter().map(|(offset, _)| *offset).eq(expected));
        assert!((found.len() * bytes) as u64 >= kept, "{}", found.len());
        broker.close().await.unwrap();
        assert_eq!(verify("/log", &disk).unwrap().findings, []);
    }
}

/// What was only in the page cache once counted for what stays: it went with the power, and older records had
/// already gone for its sake.
#[tokio::test(start_paused = true)]
async fn a_loss_of_power_leaves_as_much_as_retention_keeps() {
    const KEPT: u64 = 2 * LOG;
    let clock = Arc::new(ManualClock::starting_at(Timestamp(0)));
    let few = Retention {
        age: None,
        bytes: Some(KEPT),
    };
    let mut crashes = 0;
    for after in 0..400 {
        let disk = SimDisk::new(after);
        let broker = keeping(&disk, &clock, few).await;
        let mut next = 0;
        while next < 100 {
            assert!(append(&broker, &mut next).await);
        }
        broker.clean().await.unwrap();
        disk.crash_after(after, after);
        while next < 250 {
            assert!(append(&broker, &mut next).await);
        }
        let Some(image) = disk.crashed() else { break };
        crashes += 1;
        drop(broker);
        let broker = FileBroker::open("/log", options(&image, &clock))
            .await
            .unwrap();
        let found = read(&broker, &at("t", 0), Start::Earliest).await;
        let block = 72 + 20 + "keyv100".len() as u64;
        let left = found.len() as u64 * block;
        assert!(left >= KEPT, "crash {after}: {left} bytes");
    }
    assert!(crashes > 100, "{crashes}");
}

/// It was once refused for the room that there had not been, and only the next was not.
#[tokio::test(start_paused = true)]
async fn the_first_append_after_a_full_disk_has_room_again_goes() {
    let clock = Arc::new(ManualClock::starting_at(Timestamp(0)));
    let disk = SimDisk::new(1);
    let mut options = options(&disk, &clock);
    options.unsplit_max = 1;
    let broker = FileBroker::open("/log", options).await.unwrap();
    create(&broker, "t", 1).await;
    disk.set_space(Some(LOG + LOG / 2));
    let mut next = 0;
    while append(&broker, &mut next).await {}
    // Once more: by now it is known that nothing can be split.
    assert!(!append(&broker, &mut next).await);
    disk.set_space(None);
    assert!(append(&broker, &mut next).await);
    expect_the_newest(&broker, next, "room again").await;
}

/// All that was appended before was once as old as the leap was far, until the directory was opened again.
#[tokio::test(start_paused = true)]
async fn nothing_leaves_by_a_clock_that_leapt_ahead_and_was_set_right() {
    const HOUR: i64 = 3_600_000_000;
    let clock = Arc::new(ManualClock::starting_at(Timestamp(10 * HOUR)));
    let disk = SimDisk::new(1);
    let hour = Retention {
        age: Some(Duration::from_secs(3_600)),
        bytes: None,
    };
    let broker = keeping(&disk, &clock, hour).await;
    let mut next = 0;
    for shown in [10 * HOUR, 100 * HOUR, 10 * HOUR + 1] {
        clock.set(Timestamp(shown));
        assert!(append(&broker, &mut next).await);
    }
    broker.clean().await.unwrap();
    expect_the_newest(&broker, next, "set right").await;
    let found = read(&broker, &at("t", 0), Start::Earliest).await;
    assert_eq!(found, numbered(0..3));
}

/// What is appended by a clock that was set back was once as old as that clock said.
#[tokio::test(start_paused = true)]
async fn records_appended_after_the_clock_was_set_back_are_not_older_than_those_before() {
    const HOUR: i64 = 3_600_000_000;
    let clock = Arc::new(ManualClock::starting_at(Timestamp(10 * HOUR)));
    let disk = SimDisk::new(1);
    let broker = FileBroker::open("/log", options(&disk, &clock))
        .await
        .unwrap();
    let hour = Retention {
        age: Some(Duration::from_secs(3_600)),
        bytes: None,
    };
    let spec = TopicSpec::new(topic("t"), 2.try_into().unwrap());
    let spec = spec.cleanup(Cleanup::Delete(hour));
    broker.create_topic(&spec).await.unwrap();
    let append = |partition| broker.produce(vec![set(at("t", partition), ["v0"])]);
    append(0).await.unwrap();
    clock.set(Timestamp(0));
    append(1).await.unwrap();
    clock.set(Timestamp(10 * HOUR + 1));
    broker.clean().await.unwrap();
    for partition in 0..2 {
        let found = read(&broker, &at("t", partition), Start::Earliest).await;
        assert_eq!(found, numbered(0..1), "partition {partition}");
    }
}
