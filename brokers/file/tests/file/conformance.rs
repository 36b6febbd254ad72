//! The contract, on the machine's disk and on one in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use tidemill_broker::conformance::Subject;
use tidemill_broker::{Broker, Timestamp, TokioClock};
use tidemill_broker_file::{FileBroker, FileOptions, Fsync, SimDisk};

/// What keeps a directory for as long as its broker is tested.
struct File {
    real: bool,
    latest: Mutex<Option<(FileBroker, Option<TempDir>)>>,
}

impl File {
    fn new(real: bool) -> Self {
        Self {
            real,
            latest: Mutex::new(None),
        }
    }
}

#[async_trait]
impl Subject for File {
    async fn broker(&self) -> Arc<dyn Broker> {
        let mut options = FileOptions {
            clock: Arc::new(TokioClock::starting_at(Timestamp::from_millis(
                1_381_152_600_000,
            ))),
            // Small, so that what is tested lies in segments and in the log.
            split_bytes: 8 << 10,
            fsync: Fsync::Never,
            record_bytes_max: 1 << 20,
            ..FileOptions::default()
        };
        let (broker, dir) = if self.real {
            let dir = TempDir::new().unwrap();
            let path = dir.path().join("log");
            (FileBroker::open(path, options).await.unwrap(), Some(dir))
        } else {
            options.disk = Arc::new(SimDisk::new(1));
            options.fsync = Fsync::Every(Duration::from_millis(100));
            (FileBroker::open("/log", options).await.unwrap(), None)
        };
        *self.latest.lock().unwrap() = Some((broker.clone(), dir));
        Arc::new(broker)
    }

    async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
    }

    async fn clean(&self, _broker: &dyn Broker) {
        let broker = self.latest.lock().unwrap().as_ref().unwrap().0.clone();
        broker.clean().await.unwrap();
    }
}

mod on_a_disk_in_memory {
    use super::*;
    tidemill_broker::conformance_tests! {
        #[tokio::test(start_paused = true)]
        File::new(false)
    }
}

mod on_the_machines_disk {
    use super::*;
    tidemill_broker::conformance_tests! {
        #[tokio::test(start_paused = true)]
        File::new(true)
    }
}
