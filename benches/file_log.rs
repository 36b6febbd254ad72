//! The log on disk against a plain loop over the same bytes on the same disk in the same run.
//!
//! `cargo bench --bench file_log` prints, as medians of interleaved rounds, records of 200 bytes in
//! batches of 256:
//!
//! * **plain**: each batch written to one file as it is, without a checksum, `fdatasync` each 100 ms;
//! * **write**: produced to a log with `fsync=100ms`, until all is durable;
//! * **split**: the same until it is split into segments as well, in which each byte is written once more;
//! * **read**: the same log read back by a consumer, CRC checked.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark reads the clock and prints"
)]

mod market;

use std::fs::File;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::num::NonZeroU32;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use market::{Claim, claim, median, per_second, row, seconds, verdict};
use tidemill::broker::{
    Broker, ConsumerOptions, Delivery, RecordSet, Start, Timestamp, Topic, TopicPartition,
    TopicSpec,
};
use tidemill_broker_file::{FileBroker, FileOptions};

const RECORDS: usize = 3_000_000;
const PER_BATCH: usize = 256;
const ROUNDS: usize = 5;
const BYTES: usize = 200;

fn plain(path: &Path, batch: &[u8]) {
    let mut file = File::create_new(path).expect("a file");
    let mut synced = Instant::now();
    for _ in 0..RECORDS / PER_BATCH {
        file.write_all(batch).expect("written");
        if synced.elapsed() >= Duration::from_millis(100) {
            file.sync_data().expect("durable");
            synced = Instant::now();
        }
    }
    file.sync_data().expect("durable");
}

fn plain_read(path: &Path, batch: &mut [u8]) {
    let mut file = File::open(path).expect("a file");
    for _ in 0..RECORDS / PER_BATCH {
        file.read_exact(batch).expect("read");
        black_box(&*batch);
    }
}

fn topic() -> TopicPartition {
    TopicPartition::new(Topic::new("records").expect("a name"), 0)
}

/// The seconds until all is durable, and until it is split as well.
async fn write(dir: &Path, set: &RecordSet) -> (f64, f64) {
    let start = Instant::now();
    let options = FileOptions::default()
        .query("fsync=100ms")
        .expect("a policy");
    let broker = FileBroker::open(dir, options).await.expect("a log");
    let spec = TopicSpec::new(topic().topic, NonZeroU32::MIN);
    broker.create_topic(&spec).await.expect("a topic");
    for _ in 0..RECORDS / PER_BATCH {
        broker.produce(vec![set.clone()]).await.expect("written");
    }
    broker.sync().await.expect("durable");
    let durable = start.elapsed().as_secs_f64();
    broker.close().await.expect("split");
    (durable, start.elapsed().as_secs_f64())
}

async fn read(dir: &Path) -> usize {
    let broker = FileBroker::open(dir, FileOptions::default())
        .await
        .expect("a log");
    let options = ConsumerOptions::partitions(vec![(topic(), Start::Earliest)]);
    let mut consumer = broker.consumer(options).await.expect("a consumer");
    let mut count = 0;
    loop {
        match consumer.next().await.expect("a delivery") {
            Delivery::Records(batch) => count += batch.len(),
            Delivery::End { .. } => return count,
            _ => {}
        }
    }
}

fn main() -> ExitCode {
    let root = tempfile::tempdir_in(".").expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut set = RecordSet::new(topic());
    let payload = vec![b'x'; BYTES - 8];
    for at in 0..PER_BATCH as u64 {
        set.push_with(Timestamp(at as i64), Some(&at.to_le_bytes()), &[], |slab| {
            slab.extend_from_slice(&payload)
        });
    }
    let mut batch = vec![b'x'; BYTES * PER_BATCH];
    let mut rounds = vec![Vec::new(); 5];
    for round in 0..ROUNDS {
        let dir = root.path().join(round.to_string());
        let file = root.path().join("plain");
        rounds[0].push(seconds(|| plain(&file, &batch)).0);
        rounds[3].push(seconds(|| plain_read(&file, &mut batch)).0);
        std::fs::remove_file(&file).expect("removed");
        let (durable, split) = runtime.block_on(write(&dir, &set));
        rounds[1].push(durable);
        rounds[4].push(split);
        let (took, count) = seconds(|| runtime.block_on(read(&dir)));
        assert_eq!(count, RECORDS / PER_BATCH * PER_BATCH);
        rounds[2].push(took);
        std::fs::remove_dir_all(&dir).expect("removed");
    }
    let [plain, write, read, plain_read, split] =
        [0, 1, 2, 3, 4].map(|at| median(std::mem::take(&mut rounds[at])));
    row(
        &format!("writes of {BYTES} B records in batches of {PER_BATCH}, fsync each 100 ms"),
        per_second(RECORDS, write, "records"),
        format!("{:.2} x a plain loop that writes and syncs", plain / write),
    );
    row(
        "the same until it is split into segments, so written twice",
        per_second(RECORDS, split, "records"),
        format!("{:.2} x the plain loop", plain / split),
    );
    row(
        "reads, checksums verified",
        per_second(RECORDS, read, "records"),
        format!("{:.2} x a plain loop that reads", plain_read / read),
    );
    claim(
        "writes against a plain loop",
        plain / write,
        Claim::AtLeast(0.5),
    );
    let millions = RECORDS as f64 / read / 1e6;
    claim(
        "millions of records read a second",
        millions,
        Claim::AtLeast(8.0),
    );
    verdict()
}
