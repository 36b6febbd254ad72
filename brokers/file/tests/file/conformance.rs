//! The contract, on the machine's disk and on one in memory.

use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::conformance::{Given, Subject};
use tidemill_broker_file::{Disk, FileBroker, FileOptions, Fsync, RealDisk, SimDisk};

tidemill_broker::conformance! { on_the_machines_disk: on(Arc::new(RealDisk), Fsync::Never) }
tidemill_broker::conformance! {
    on_a_disk_in_memory: on(Arc::new(SimDisk::new(1)), Fsync::Every(Duration::from_millis(100)))
}

fn on(disk: Arc<dyn Disk>, fsync: Fsync) -> Subject {
    let open = move |given: Given| {
        let options = FileOptions {
            clock: given.clock,
            disk: Arc::clone(&disk),
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
