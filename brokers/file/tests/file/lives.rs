//! Many lives of one directory: syncs fail, processes die and the power goes, in any order.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill_broker::{Broker, Error, Outcome};
use tidemill_broker_file::{Fault, FileBroker, FileOptions, Fsync, SimDisk};

use crate::crash::{create_topics, transaction, whole};
use crate::support::pass;

const PARTITIONS: u32 = 2;

fn options(disk: &SimDisk, fsync: Fsync) -> FileOptions {
    FileOptions {
        disk: Arc::new(disk.clone()),
        split_bytes: 20_000,
        fsync,
        ..FileOptions::default()
    }
}

/// Transactions from `next` on, with syncs, splits and pauses, until something fails or enough is done.
/// Returns how many may be there, and how many were told to be durable.
async fn live(broker: &FileBroker, rng: &mut SmallRng, fsync: Fsync, from: u64) -> (u64, u64) {
    let (mut next, mut durable) = (from, from);
    let Ok(mut transactor) = broker.transactor(&"id".parse().unwrap()).await else {
        return (next, durable);
    };
    for _ in 0..rng.random_range(0..40) {
        match transactor.commit(transaction(next, PARTITIONS)).await {
            Outcome::Committed(_) => next += 1,
            Outcome::NotCommitted(_) => break,
            Outcome::Unknown(_) => {
                next += 1;
                break;
            }
        }
        if fsync == Fsync::Commit {
            durable = next;
        }
        let told = match rng.random_range(0..12) {
            0 => broker.sync().await,
            1 => broker.clean().await,
            2 => {
                pass(Duration::from_millis(60)).await;
                continue;
            }
            _ => continue,
        };
        match told {
            Ok(()) => durable = next,
            Err(_) => break,
        }
    }
    (next, durable)
}

async fn many_lives(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let fsync = match rng.random() {
        true => Fsync::Commit,
        false => Fsync::Every(Duration::from_millis(50)),
    };
    let mut disk = SimDisk::new(seed);
    let broker = FileBroker::open("/log", options(&disk, fsync))
        .await
        .unwrap();
    create_topics(&broker, PARTITIONS).await;
    drop(broker);
    let (mut next, mut durable) = (0, 0);
    for life in 0..8 {
        if rng.random_range(0..4) > 0 {
            let faults = [Fault::Sync, Fault::Sync, Fault::SyncDir, Fault::Write];
            let fault = faults[rng.random_range(0..faults.len())];
            disk.fail(fault, rng.random_range(0..12));
        }
        match FileBroker::open("/log", options(&disk, fsync)).await {
            Ok(broker) => {
                let found = whole(&broker, PARTITIONS, seed).await;
                assert!(
                    (durable..=next).contains(&found),
                    "seed {seed}, life {life}: {found} of {next}, {durable} were told to be durable"
                );
                // Opening tells that what it found is durable.
                (next, durable) = live(&broker, &mut rng, fsync, found).await;
            }
            // A fault met while opening.
            Err(Error::Io { .. } | Error::Poisoned { .. }) => {}
            Err(error) => panic!("seed {seed}, life {life}: {error}"),
        }
        disk.heal();
        disk = match rng.random() {
            true => disk.kill_image(rng.random()),
            false => disk.crash_image(rng.random()),
        };
    }
    let broker = FileBroker::open("/log", options(&disk, fsync))
        .await
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let found = whole(&broker, PARTITIONS, seed).await;
    assert!((durable..=next).contains(&found), "seed {seed}");
    broker.close().await.unwrap();
    let report = tidemill_broker_file::verify("/log", &disk).unwrap();
    assert_eq!((report.findings, report.logs), (vec![], 0), "seed {seed}");
}

#[tokio::test(start_paused = true)]
async fn what_was_told_to_be_durable_is_there_whatever_fails() {
    for seed in 0..300 {
        many_lives(seed).await;
    }
}

/// A test that finds nothing proves nothing, unless it finds what was put there.
#[cfg(feature = "planted-bugs")]
#[tokio::test(start_paused = true)]
async fn an_acknowledgement_before_the_sync_is_found() {
    tidemill_crash_point::planted::plant("early_acknowledgement");
    let mut found = 0;
    for seed in 0..20 {
        // On this thread, as the bug is planted there.
        let lives = tokio::spawn(many_lives(seed)).await;
        found += u32::from(lives.is_err_and(|error| error.is_panic()));
    }
    tidemill_crash_point::planted::plant("");
    assert!(found > 0, "20 seeds passed with a bug planted");
}
