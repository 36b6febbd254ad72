//! Loss of power: what was durable is there, a transaction is whole or absent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill_broker::{
    Broker, Cleanup, ConsumerOptions, GroupOffsets, Offset, Outcome, Start, TopicSpec, Transaction,
};
use tidemill_broker_file::{Disk, FileBroker, FileOptions, Fsync, Mode, SimDisk};

use crate::support::{at, create, pass, read, set, topic};

fn options(disk: &SimDisk, fsync: Fsync) -> FileOptions {
    FileOptions {
        disk: Arc::new(disk.clone()),
        split_bytes: 2_000,
        fsync,
        ..FileOptions::default()
    }
}

/// The topics that transactions go to.
pub(crate) async fn create_topics(broker: &FileBroker, partitions: u32) {
    create(broker, "t", partitions).await;
    let compacted =
        TopicSpec::new(topic("latest"), 1.try_into().unwrap()).cleanup(Cleanup::Compact {
            tombstones: Duration::from_secs(60),
        });
    broker.create_topic(&compacted).await.unwrap();
    broker.sync().await.unwrap();
}

/// Transaction `n` puts `n` into every partition and into the group's offset.
pub(crate) fn transaction(n: u64, partitions: u32) -> Transaction {
    Transaction {
        records: (0..partitions)
            .map(|partition| set(at("t", partition), [format!("{n}")]))
            .chain([set(at("latest", 0), [format!("{n}")])])
            .collect(),
        offsets: vec![GroupOffsets {
            group: "g".parse().unwrap(),
            generation: None,
            offsets: vec![(at("t", 0), Offset(n))],
        }],
    }
}

/// How many transactions are whole; fails if one is torn.
pub(crate) async fn whole(broker: &FileBroker, partitions: u32, seed: u64) -> u64 {
    let mut counts = BTreeMap::new();
    for partition in 0..partitions {
        let found = read(broker, &at("t", partition), Start::Earliest).await;
        for (index, (offset, value)) in found.iter().enumerate() {
            assert_eq!(
                (*offset, value.as_str()),
                (index as u64, index.to_string().as_str()),
                "seed {seed}"
            );
        }
        counts.insert(partition, found.len() as u64);
    }
    let count = counts[&0];
    assert!(
        counts.values().all(|other| *other == count),
        "seed {seed}: torn {counts:?}"
    );
    let latest = read(broker, &at("latest", 0), Start::Earliest).await;
    let newest = latest
        .last()
        .map(|(offset, value)| (offset + 1, value.parse::<u64>().unwrap() + 1));
    assert_eq!(
        newest.unwrap_or((0, 0)),
        (count, count),
        "seed {seed}: compacted {latest:?}"
    );
    let offsets = broker
        .committed(&"g".parse().unwrap(), &[at("t", 0)])
        .await
        .unwrap();
    assert_eq!(offsets[0], count.checked_sub(1).map(Offset), "seed {seed}");
    count
}

/// Runs transactions with syncs, splits and cleaning, loses power at a random place, opens, goes on,
/// loses power again.
async fn lose_power_twice(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let fsync = match rng.random_range(0..3) {
        0 => Fsync::Commit,
        1 => Fsync::Every(Duration::from_millis(100)),
        _ => Fsync::Never,
    };
    let partitions = rng.random_range(1..4);
    let mut disk = SimDisk::new(seed);
    disk.set_short_writes(rng.random());
    let broker = FileBroker::open("/log", options(&disk, fsync))
        .await
        .unwrap();
    create_topics(&broker, partitions).await;
    let mut broker = broker;
    let mut next = 0;
    for life in 0..2 {
        let mut durable = next;
        let mut transactor = broker.transactor(&"id".parse().unwrap()).await.unwrap();
        for _ in 0..rng.random_range(0..60) {
            let outcome = transactor.commit(transaction(next, partitions)).await;
            assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
            next += 1;
            if fsync == Fsync::Commit {
                durable = next;
            }
            match rng.random_range(0..20) {
                0 => {
                    broker.sync().await.unwrap();
                    durable = next;
                }
                1 => {
                    broker.clean().await.unwrap();
                    durable = next;
                }
                2 => pass(Duration::from_millis(30)).await,
                3 => tokio::task::yield_now().await,
                _ => {}
            }
        }
        if rng.random() {
            // Killed and opened again first: that makes durable what was only in the page cache.
            drop(broker);
            broker = FileBroker::open("/log", options(&disk, fsync))
                .await
                .unwrap();
            durable = next;
        }
        disk = disk.crash_image(rng.random());
        drop(broker);
        broker = match FileBroker::open("/log", options(&disk, fsync)).await {
            Ok(broker) => broker,
            Err(error) => panic!("seed {seed}, life {life}: {error}"),
        };
        let found = whole(&broker, partitions, seed).await;
        assert!(
            (durable..=next).contains(&found),
            "seed {seed}: {found} of {next}, {durable} were durable"
        );
        assert_eq!(
            tidemill_broker_file::verify("/log", &disk)
                .unwrap()
                .findings,
            []
        );
        next = found;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_durable_is_lost_and_nothing_is_torn_over_400_losses_of_power() {
    for seed in 0..200 {
        lose_power_twice(seed).await;
    }
}

/// Loses power in the middle of whatever goes on: an append, a sync, a split, a compaction, an
/// opening after an earlier loss.
async fn lose_power_anywhere(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let fsync = match rng.random_range(0..3) {
        0 => Fsync::Commit,
        1 => Fsync::Every(Duration::from_millis(100)),
        _ => Fsync::Never,
    };
    let partitions = rng.random_range(1..4);
    let mut disk = SimDisk::new(seed);
    let broker = FileBroker::open("/log", options(&disk, fsync))
        .await
        .unwrap();
    create_topics(&broker, partitions).await;
    drop(broker);
    let (mut durable, mut next) = (0, 0);
    for life in 0..4 {
        // A loss may come while what an earlier one left is being put in order.
        let most = if rng.random() { 12 } else { 400 };
        let changes = rng.random_range(0..most);
        disk.crash_after(changes, rng.random());
        let broker = match FileBroker::open("/log", options(&disk, fsync)).await {
            Ok(broker) => broker,
            Err(error) => panic!("seed {seed}, life {life}: {error}"),
        };
        let found = whole(&broker, partitions, seed).await;
        assert!(
            (durable..=next).contains(&found),
            "seed {seed}, life {life}: {found} of {next}, {durable} were durable"
        );
        if disk.crashed().is_none() {
            // Opening makes durable what it found. Before that only what was durable counts.
            durable = found;
            next = found;
            let mut transactor = broker.transactor(&"id".parse().unwrap()).await.unwrap();
            while disk.crashed().is_none() {
                let mut safe = durable;
                let outcome = transactor.commit(transaction(next, partitions)).await;
                assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
                next += 1;
                if fsync == Fsync::Commit {
                    safe = next;
                }
                match rng.random_range(0..20) {
                    _ if disk.crashed().is_some() => {}
                    0 => {
                        broker.sync().await.unwrap();
                        safe = next;
                    }
                    1 => {
                        broker.clean().await.unwrap();
                        safe = next;
                    }
                    2 => pass(Duration::from_millis(60)).await,
                    3 => tokio::task::yield_now().await,
                    _ => {}
                }
                // What was durable before the image was taken is in it.
                if disk.crashed().is_none() {
                    durable = safe;
                }
            }
        }
        drop(broker);
        disk = disk.crashed().unwrap();
    }
    let broker = FileBroker::open("/log", options(&disk, fsync))
        .await
        .unwrap();
    let found = whole(&broker, partitions, seed).await;
    assert!((durable..=next).contains(&found), "seed {seed}");
    broker.close().await.unwrap();
    let report = tidemill_broker_file::verify("/log", &disk).unwrap();
    assert_eq!((report.findings, report.logs), (vec![], 0), "seed {seed}");
}

#[tokio::test(start_paused = true)]
async fn power_may_be_lost_in_the_middle_of_anything() {
    for seed in 0..150 {
        lose_power_anywhere(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_is_made_whole_or_not_at_all() {
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        disk.crash_after(seed / 3, seed);
        let broker = FileBroker::open("/a/log", options(&disk, Fsync::Never))
            .await
            .unwrap();
        create(&broker, "t", 1).await;
        let image = disk.crashed().unwrap_or_else(|| disk.crash_image(seed));
        drop(broker);
        let broker = FileBroker::open("/a/log", options(&image, Fsync::Never))
            .await
            .unwrap();
        broker.list_topics().await.unwrap();
    }
}

/// A process killed right after it had made a directory once left the next one with a name that nobody ever
/// synced; and a directory made above it had none that was durable at any time.
#[tokio::test(start_paused = true)]
async fn a_new_directory_outlives_the_power_also_where_those_above_it_are_new() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let path = "/a/b/log";
        let image = Arc::new(std::sync::Mutex::new(None));
        {
            // As of the instant at which `FORMAT` has its name.
            let (same, image) = (disk.clone(), Arc::clone(&image));
            disk.watch(move || {
                if same.files().iter().any(|file| file.ends_with("FORMAT")) {
                    let mut image = image.lock().unwrap();
                    image.get_or_insert_with(|| same.kill_image(seed));
                }
            });
        }
        let broker = FileBroker::open(path, options(&disk, Fsync::Commit)).await;
        drop(broker.unwrap());
        let disk = image.lock().unwrap().take().unwrap();

        let broker = FileBroker::open(path, options(&disk, Fsync::Commit))
            .await
            .unwrap();
        create(&broker, "t", 1).await;
        broker.produce(vec![set(at("t", 0), ["0"])]).await.unwrap();
        let disk = disk.crash_image(seed);
        drop(broker);
        let broker = FileBroker::open(path, options(&disk, Fsync::Commit))
            .await
            .unwrap();
        let left = read(&broker, &at("t", 0), Start::Earliest).await;
        assert_eq!(left, [(0, "0".to_owned())], "seed {seed}");
    }
}

/// A reader beside a log whose writer had died together with `DURABLE` told itself of news at every look,
/// and so looked again at once, for ever.
#[tokio::test(start_paused = true)]
async fn a_reader_without_the_word_of_a_writer_waits_for_one() {
    let disk = SimDisk::new(1);
    let writer = FileBroker::open("/log", options(&disk, Fsync::Commit))
        .await
        .unwrap();
    create(&writer, "t", 1).await;
    writer.produce(vec![set(at("t", 0), ["a"])]).await.unwrap();
    writer.sync().await.unwrap();
    let disk = disk.kill_image(2);
    drop(writer);
    disk.remove("/log/DURABLE".as_ref()).unwrap();

    let reader = FileBroker::open_reader("/log", options(&disk, Fsync::Commit))
        .await
        .unwrap();
    let partitions = vec![(at("t", 0), Start::Earliest)];
    let mut consumer = reader
        .consumer(ConsumerOptions::partitions(partitions))
        .await
        .unwrap();
    let mut deliveries = 0;
    while tokio::time::timeout(Duration::from_secs(1), consumer.next())
        .await
        .is_ok()
    {
        deliveries += 1;
    }
    assert!(deliveries < 5, "{deliveries} deliveries of one record");

    let writer = FileBroker::open("/log", options(&disk, Fsync::Commit))
        .await
        .unwrap();
    writer.produce(vec![set(at("t", 0), ["b"])]).await.unwrap();
    writer.sync().await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(1), consumer.next()).await;
    assert!(next.is_ok(), "a new writer was not heard");
}

#[test]
fn what_a_killed_process_wrote_is_there_and_may_still_be_lost_with_the_power() {
    let disk = SimDisk::new(1);
    disk.create_dir("/d".as_ref()).unwrap();
    let path = std::path::Path::new("/d/file");
    let file = disk.open(path, Mode::Create).unwrap();
    disk.sync_dir("/".as_ref()).unwrap();
    disk.sync_dir("/d".as_ref()).unwrap();
    file.write_at(0, &[std::io::IoSlice::new(b"bytes")])
        .unwrap();
    let killed = disk.kill_image(2);
    assert_eq!(killed.bytes(path).unwrap(), b"bytes");
    let lost = (0..50).any(|seed| killed.crash_image(seed).bytes(path).unwrap().is_empty());
    assert!(lost, "what nobody has synced was never lost");
}
