//! The contract, on the machine's disk and on one in memory, which loses power whenever a broker is opened
//! again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemill_broker::conformance::{CLAUSES, Given, Subject};
use tidemill_broker_file::{Disk, FileBroker, FileOptions, Fsync, RealDisk, SimDisk};

const NOW_AND_THEN: Fsync = Fsync::Every(Duration::from_millis(100));

tidemill_broker::conformance! {
    on_the_machines_disk: on(|_| Arc::new(RealDisk), Fsync::Never)
}
tidemill_broker::conformance! { on_a_disk_that_loses_power: losing_power(1, NOW_AND_THEN) }
tidemill_broker::conformance! {
    on_a_disk_that_every_commit_waits_for: losing_power(1, Fsync::Commit).waiting()
}

fn on(disk: impl Fn(&Given) -> Arc<dyn Disk> + Send + Sync + 'static, fsync: Fsync) -> Subject {
    let open = move |given: Given| {
        let options = FileOptions {
            disk: disk(&given),
            clock: given.clock,
            fsync,
            // Small, so that what is tested lies in segments and in the log.
            split_bytes: 8 << 10,
            record_bytes_max: 1 << 20,
            ..FileOptions::default()
        };
        async move { FileBroker::open(given.directory, options).await.unwrap() }
    };
    Subject::cleaned(open, |broker| async move { broker.clean().await.unwrap() })
}

/// A disk of which a broker that is opened again finds what a loss of power may have left.
fn losing_power(seed: u64, fsync: Fsync) -> Subject {
    let state = Mutex::new((SimDisk::new(seed), BTreeSet::new()));
    let disk = move |given: &Given| -> Arc<dyn Disk> {
        let (disk, opened) = &mut *state.lock().unwrap();
        if !opened.insert(given.directory.clone()) {
            *disk = disk.crash_image(seed);
        }
        Arc::new(disk.clone())
    };
    on(disk, fsync)
}

#[tokio::test(start_paused = true)]
async fn what_was_synced_outlives_any_loss_of_power() {
    let durability = |name: &str| name.starts_with("durability::");
    for clause in CLAUSES.iter().filter(|clause| durability(clause.name)) {
        for seed in 0..20 {
            for fsync in [Fsync::Never, NOW_AND_THEN, Fsync::Commit] {
                clause.check(&losing_power(seed, fsync)).await;
            }
        }
    }
}
