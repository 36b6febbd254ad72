//! Records leave by their age, however little is appended after them.

use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::{Broker, Cleanup, ManualClock, Retention, Start, Timestamp, TopicSpec};
use tidemill_broker_file::{FileBroker, FileOptions, Fsync, SimDisk};

use crate::support::{at, create, numbered, pass, read, set, topic, values};

const MINUTE: Duration = Duration::from_secs(60);

struct Log {
    broker: FileBroker,
    disk: SimDisk,
    clock: Arc<ManualClock>,
}

impl Log {
    /// A log whose files are split at 64 MiB, with a topic `brief` that keeps records for so long, and `all`.
    async fn new(age: Duration) -> Self {
        let clock = Arc::new(ManualClock::starting_at(Timestamp(0)));
        let disk = SimDisk::new(1);
        let options = FileOptions {
            clock: clock.clone(),
            disk: Arc::new(disk.clone()),
            fsync: Fsync::Never,
            ..FileOptions::default()
        };
        let broker = FileBroker::open("/log", options).await.unwrap();
        let spec = TopicSpec::new(topic("brief"), 1.try_into().unwrap());
        let spec = spec.cleanup(Cleanup::Delete(Retention {
            age: Some(age),
            bytes: None,
        }));
        broker.create_topic(&spec).await.unwrap();
        create(&broker, "all", 1).await;
        Self {
            broker,
            disk,
            clock,
        }
    }

    /// Appends a record, and lets the work beside the calls do what it has to.
    async fn append(&self, name: &str, number: u64) {
        let records = set(at(name, 0), values(number..number + 1));
        let acks = self.broker.produce(vec![records]).await.unwrap();
        assert!(acks[0].failure().is_none());
        pass(Duration::from_millis(1)).await;
    }

    async fn read(&self, name: &str) -> Vec<(u64, String)> {
        read(&self.broker, &at(name, 0), Start::Earliest).await
    }

    /// The number of the newest log file: so many were begun.
    fn begun(&self) -> u64 {
        let files = self.disk.files();
        let mut logs = files.iter().filter(|path| path.starts_with("/log/log"));
        let newest = logs.next_back().unwrap().file_stem().unwrap();
        newest.to_str().unwrap().parse().unwrap()
    }
}

/// Only segments leave, and a log file was split at 64 MiB alone: a quiet topic kept its records for months.
#[tokio::test(start_paused = true)]
async fn what_a_quiet_topic_keeps_no_longer_leaves_long_before_the_log_file_is_full() {
    let log = Log::new(60 * MINUTE).await;
    for number in 0..60 {
        log.append("brief", number).await;
        log.append("all", number).await;
        log.clock.advance(MINUTE);
    }
    assert_eq!(log.read("brief").await, numbered(0..60));
    let begun = log.begun();
    // What is too old leaves within a quarter of the age, as a segment spans no more, and a look or two.
    for number in 60..140 {
        log.append("all", number).await;
        let found = log.read("brief").await;
        let kept = 120_u64.saturating_sub(number);
        let stayed = found.len() as u64;
        assert!((kept..=kept + 18).contains(&stayed), "{number}: {stayed}");
        assert_eq!(found, numbered(60 - stayed..60));
        log.clock.advance(MINUTE);
    }
    assert_eq!(log.read("brief").await, []);
    assert_eq!(log.read("all").await, numbered(0..140));
    assert_eq!(log.begun(), begun + 1, "what is left is too young");
}

#[tokio::test(start_paused = true)]
async fn a_log_file_is_ended_for_its_age_once_a_minute_at_most() {
    let log = Log::new(Duration::from_millis(1)).await;
    let begun = log.begun();
    for number in 0..600 {
        log.append("brief", number).await;
        log.clock.advance(Duration::from_secs(1));
    }
    let ended = log.begun() - begun;
    assert!((8..=9).contains(&ended), "{ended}");
    // Once the clock is right again, after a leap of a year, the next look is a minute away, not a year.
    let right = Timestamp(600_000_000);
    log.clock.set(right.plus(365 * 24 * 60 * MINUTE));
    log.append("brief", 600).await;
    log.clock.set(right);
    log.append("brief", 601).await;
    log.clock.advance(2 * MINUTE);
    let begun = log.begun();
    log.append("all", 0).await;
    assert_eq!(
        log.begun(),
        begun,
        "what was appended in a year to come is not old"
    );
}

#[tokio::test(start_paused = true)]
async fn a_log_file_without_records_of_a_topic_that_keeps_them_briefly_is_not_ended() {
    let log = Log::new(MINUTE).await;
    let begun = log.begun();
    for number in 0..100 {
        log.append("all", number).await;
        log.clock.advance(60 * MINUTE);
    }
    assert_eq!(log.begun(), begun);
}
