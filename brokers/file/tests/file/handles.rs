//! A process that has as many files open as it may.

use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::{
    Broker, BrokerExt as _, ConsumerOptions, Delivery, Error, Offset, Start, Timestamp,
};
use tidemill_broker_file::{FileBroker, FileOptions, Fsync, SimDisk, verify};
use tokio::time::timeout;

use crate::support::{at, create, numbered, read, set, values};

#[track_caller]
fn is_told(error: &Error) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let cause = cause.unwrap_or_default();
    assert!(cause.contains("os error 24"), "{error}: {cause}");
    assert!(error.is_transient(), "{error}: {cause}");
}

/// Three records in a segment, of a log whose files are split at 200 bytes.
async fn open(disk: &SimDisk, fsync: Fsync) -> FileBroker {
    let options = FileOptions {
        disk: Arc::new(disk.clone()),
        fsync,
        split_bytes: 200,
        ..FileOptions::default()
    };
    let broker = FileBroker::open("/log", options).await.unwrap();
    create(&broker, "t", 1).await;
    let first = set(at("t", 0), values(0..3));
    broker.produce(vec![first]).await.unwrap();
    broker.clean().await.unwrap();
    broker
}

/// One of each that opens files: an append to a new log file, a split, and a read from segments. Says how
/// many records there are then, and how many calls were refused.
async fn do_everything(broker: &FileBroker, mut there: u64) -> (u64, u32) {
    let mut refused = 0;
    for _ in 0..3 {
        let more = set(at("t", 0), values(there..there + 3));
        match broker.produce(vec![more]).await {
            Ok(acks) => {
                assert!(acks[0].failure().is_none(), "{acks:?}");
                there += 3;
            }
            Err(error) => {
                is_told(&error);
                refused += 1;
            }
        }
        // What is appended can be made durable without another file.
        broker.sync().await.unwrap();
        if let Err(error) = broker.clean().await {
            is_told(&error);
            refused += 1;
        }
        let from = Start::Offset(Offset(there / 2));
        if let Err(error) = broker.read_to_end(&at("t", 0), from).await {
            is_told(&error);
            refused += 1;
        }
    }
    (there, refused)
}

/// One such moment once stopped the log until the process was started again.
#[tokio::test(start_paused = true)]
async fn a_process_without_file_handles_is_told_so_and_goes_on_once_it_has_some() {
    for fsync in [Fsync::Commit, Fsync::Never] {
        let mut free = 0;
        loop {
            let disk = SimDisk::new(free);
            let broker = open(&disk, fsync).await;
            disk.set_open_max(Some(disk.open_files() + free as usize));
            let (there, refused) = do_everything(&broker, 3).await;
            disk.set_open_max(None);
            let (there, after) = do_everything(&broker, there).await;
            assert_eq!(after, 0, "with {free} files free");
            let found = read(&broker, &at("t", 0), Start::Earliest).await;
            assert_eq!(found, numbered(0..there), "with {free} files free");
            broker.close().await.unwrap();
            assert_eq!(verify("/log", &disk).unwrap().findings, []);
            if refused == 0 {
                assert!(free > 0);
                break;
            }
            free += 1;
        }
    }
}

/// The partition once fell silent, as after an offset that is out of range, until somebody sought in it.
#[tokio::test(start_paused = true)]
async fn a_reader_without_file_handles_reads_on_once_it_has_some() {
    for start in [Start::Earliest, Start::At(Timestamp(7))] {
        let disk = SimDisk::new(1);
        let broker = open(&disk, Fsync::Never).await;
        disk.set_open_max(Some(0));
        let options = ConsumerOptions::partitions(vec![(at("t", 0), start)]);
        let mut consumer = broker.consumer(options).await.unwrap();
        let first = consumer.next().await.unwrap();
        assert!(matches!(first, Delivery::Assigned { .. }), "{first:?}");
        for _ in 0..3 {
            let next = timeout(Duration::from_secs(1), consumer.next()).await;
            is_told(&next.expect("it is told each time").unwrap_err());
        }
        disk.set_open_max(None);
        let next = timeout(Duration::from_secs(1), consumer.next()).await;
        let Ok(Ok(Delivery::Records(batch))) = next else {
            panic!("{start:?}: {next:?}");
        };
        assert_eq!((batch.len(), batch.next()), (3, Offset(3)), "{start:?}");
    }
}
