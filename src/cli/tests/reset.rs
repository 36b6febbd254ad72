//! Resetting, from run to run.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use tempfile::TempDir;
use tidemill_broker::{Start, Timestamp, TopicPartition};

use super::*;
use crate::events::identity::EVENT_ID;
use crate::pipeline::tests::{BARS, file as pipeline_file, tick_at};

/// A pipeline of bars in a directory of its own.
pub(super) struct Bars {
    pub(super) dir: TempDir,
}

/// What a sink's topic holds: how often each event, by id, was written.
type Written = BTreeMap<(Vec<u8>, String), usize>;

impl Bars {
    pub(super) async fn new(partitions: u32) -> Self {
        let bars = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        bars.write_file("");
        bars.create(partitions).await;
        bars
    }

    fn write_file(&self, more: &str) {
        let dir = self.dir.path().display().to_string();
        let late = BARS.replace("size = \"1s\"", "size = \"1s\"\nlateness = \"1h\"");
        let exactly_once = "guarantee = \"exactly_once\"";
        let text = pipeline_file(&format!("file://{dir}/data"), exactly_once, &late) + more;
        std::fs::write(self.file(), text).unwrap();
    }

    pub(super) fn file(&self) -> String {
        self.dir.path().join("bars.toml").display().to_string()
    }

    pub(super) fn state(&self) -> String {
        self.dir.path().join("state").display().to_string()
    }

    pub(super) async fn broker(&self) -> FileBroker {
        let data = self.dir.path().join("data");
        FileBroker::open(&data, FileOptions::default())
            .await
            .unwrap()
    }

    async fn create(&self, partitions: u32) {
        let broker = self.broker().await;
        let partitions = NonZeroU32::new(partitions).unwrap();
        let spec = TopicSpec::new(input(), partitions);
        broker.create_topic(&spec).await.unwrap();
        broker.close().await.unwrap();
    }

    /// Deletes the input and creates it again.
    async fn recreate(&self, partitions: u32) {
        let broker = self.broker().await;
        broker.delete_topic(&input()).await.unwrap();
        broker.close().await.unwrap();
        self.create(partitions).await;
    }

    /// Ticks of 40 pairs in each of the seconds.
    pub(super) async fn send(&self, seconds: std::ops::Range<i64>) {
        let broker = self.broker().await;
        for second in seconds {
            for pair in 0..40 {
                let price = format!("{second}.5");
                let micros = second * 1_000_000;
                let record = tick_at(&format!("P{pair}"), micros + pair, &price, "2");
                let record = record.timestamp(Timestamp(micros));
                broker.send(record).await.unwrap();
            }
        }
        broker.close().await.unwrap();
    }

    pub(super) async fn command(&self, args: &[&str]) -> Ran {
        let (file, state) = (self.file(), self.state());
        let mut all = Vec::new();
        for arg in args {
            match *arg {
                "FILE" => all.push(file.as_str()),
                "STATE" => all.extend(["--state-dir", &state]),
                arg => all.push(arg),
            }
        }
        piped(&all).await
    }

    /// Runs to the end of the input.
    pub(super) async fn run(&self) -> Ran {
        self.command(&["run", "FILE", "STATE", "--until-end"]).await
    }

    pub(super) async fn run_well(&self) {
        let ran = self.run().await;
        assert_eq!(ran.exit, Exit::Ok, "{}", ran.errors);
    }

    pub(super) async fn reset(&self, args: &[&str]) -> Ran {
        let all = [&["offsets", "reset", "FILE", "STATE"], args].concat();
        self.command(&all).await
    }

    async fn reset_well(&self, args: &[&str]) -> serde_json::Value {
        let ran = self.reset(&[args, &["--yes", "--json"]].concat()).await;
        assert_eq!(ran.exit, Exit::Ok, "{}", ran.errors);
        serde_json::from_str(&ran.output).unwrap()
    }

    pub(super) async fn written(&self) -> Written {
        let broker = self.broker().await;
        let mut written = Written::new();
        let topic: Topic = "bars-1s".parse().unwrap();
        let partitions = broker.describe_topic(&topic).await.unwrap().partitions;
        for partition in 0..partitions {
            let at = TopicPartition::new(topic.clone(), partition);
            let batches = broker.read_to_end(&at, Start::Earliest).await.unwrap();
            for record in batches.iter().flat_map(|batch| batch.iter()) {
                let id = record.header(EVENT_ID).unwrap().to_vec();
                let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                *written.entry((id, value)).or_default() += 1;
            }
        }
        broker.close().await.unwrap();
        written
    }

    /// The last marker of each task.
    pub(super) async fn markers(&self) -> Vec<crate::pipeline::Marker> {
        let broker = self.broker().await;
        let topic: Topic = "bars.changelog".parse().unwrap();
        let mut markers = Vec::new();
        for partition in 0..broker.describe_topic(&topic).await.unwrap().partitions {
            let at = TopicPartition::new(topic.clone(), partition);
            let batches = broker.read_to_end(&at, Start::Earliest).await.unwrap();
            let records = batches.iter().flat_map(|batch| batch.iter());
            let last = records
                .filter(|record| record.key == Some(crate::pipeline::MARKER_KEY))
                .last()
                .unwrap();
            markers.push(crate::pipeline::Marker::decode(last.value.unwrap()).unwrap());
        }
        broker.close().await.unwrap();
        markers
    }

    pub(super) async fn digests(&self) -> Vec<tidemill_state::Digest> {
        let markers = self.markers().await;
        markers.iter().map(|marker| marker.digest).collect()
    }
}

fn input() -> Topic {
    "market-data-updates".parse().unwrap()
}

fn doubled(written: &Written) -> Written {
    let twice = |(event, count): (&(Vec<u8>, String), &usize)| (event.clone(), 2 * count);
    written.iter().map(twice).collect()
}

#[tokio::test]
async fn after_a_reset_to_the_earliest_the_same_events_are_written_again_and_the_state_is_the_same()
{
    let bars = Bars::new(2).await;
    bars.send(0..5).await;
    bars.run_well().await;
    let (first, digests) = (bars.written().await, bars.digests().await);
    assert_eq!(first.len(), 5 * 40);
    assert!(first.values().all(|count| *count == 1));
    assert!(
        digests
            .iter()
            .all(|digest| *digest != tidemill_state::Digest::EMPTY)
    );

    let told = bars.reset(&["--to", "earliest", "--drop-state"]).await;
    assert_eq!(told.exit, Exit::Usage, "{}", told.errors);
    assert!(
        told.output.contains("would be dropped: 20"),
        "{}",
        told.output
    );
    assert!(told.errors.ends_with("give `--yes` to do it\n"));
    assert_eq!(bars.digests().await, digests, "nothing was done");

    let done = bars.reset_well(&["--to", "earliest", "--drop-state"]).await;
    assert_eq!(done["setAside"], serde_json::json!([]));
    let empty = tidemill_state::Digest::EMPTY;
    assert_eq!(bars.digests().await, [empty, empty]);
    bars.run_well().await;
    assert_eq!(bars.written().await, doubled(&first));
    assert_eq!(bars.digests().await, digests);
    // And once more over stores that are lost: the changelog alone gives the same.
    std::fs::remove_dir_all(bars.state()).unwrap();
    bars.run_well().await;
    assert_eq!(bars.digests().await, digests);
}

#[tokio::test]
async fn a_reset_to_the_latest_skips_what_was_not_read_and_keeps_the_state() {
    let bars = Bars::new(1).await;
    bars.send(0..2).await;
    bars.run_well().await;
    let (first, digests) = (bars.written().await, bars.digests().await);
    bars.send(2..4).await;
    let done = bars.reset_well(&["--to", "latest", "--keep-state"]).await;
    assert_eq!(done["tasks"][0]["inputs"][0]["was"], 80);
    assert_eq!(done["tasks"][0]["inputs"][0]["next"], 160);
    assert_eq!(bars.digests().await, digests);
    bars.run_well().await;
    assert_eq!(bars.written().await, first);
    bars.send(4..5).await;
    bars.run_well().await;
    assert_eq!(bars.written().await.len(), first.len() + 40);
}

#[tokio::test]
async fn an_instant_or_an_offset_says_where_to_go_on() {
    let bars = Bars::new(1).await;
    bars.send(0..4).await;
    bars.run_well().await;
    for (to, next) in [("1970-01-01T00:00:02Z", 80), ("80", 80), ("160", 160)] {
        let done = bars.reset_well(&["--to", to, "--drop-state"]).await;
        assert_eq!(done["tasks"][0]["inputs"][0]["next"], next);
    }
    let refused = bars.reset(&["--to", "161", "--drop-state"]).await;
    assert_eq!(refused.exit, Exit::Usage);
    assert!(
        refused.errors.contains("goes from offset 0 to 160"),
        "{}",
        refused.errors
    );
    for wrong in [
        &["--to", "yesterday", "--drop-state"][..],
        &["--to", "latest"],
        &["--to", "latest", "--keep-state", "--drop-state"],
        &["--to", "latest", "--keep-state", "--source", "tick"],
        &["--to", "latest", "--keep-state", "--partition", "1"],
    ] {
        let refused = bars.reset(wrong).await;
        assert_eq!(refused.exit, Exit::Usage, "{wrong:?}");
    }
}

#[tokio::test]
async fn a_reset_of_one_partition_leaves_the_other_as_it_is() {
    let bars = Bars::new(2).await;
    bars.send(0..3).await;
    bars.run_well().await;
    let (first, digests) = (bars.written().await, bars.digests().await);
    let offset = bars.reset(&["--to", "0", "--drop-state", "--yes"]).await;
    assert_eq!(offset.exit, Exit::Usage, "of which partition?");
    bars.reset_well(&["--to", "0", "--partition", "1", "--drop-state"])
        .await;
    assert_eq!(
        bars.digests().await,
        [digests[0], tidemill_state::Digest::EMPTY]
    );
    bars.run_well().await;
    let again = bars.written().await;
    assert!(again.values().any(|count| *count == 1) && again.values().any(|count| *count == 2));
    assert_eq!(again.len(), first.len());
    assert_eq!(bars.digests().await, digests);
}

#[tokio::test]
async fn a_reset_is_the_way_on_when_an_input_was_created_again() {
    let bars = Bars::new(1).await;
    bars.send(0..2).await;
    bars.run_well().await;
    let (first, digests) = (bars.written().await, bars.digests().await);
    bars.recreate(1).await;
    bars.send(0..2).await;
    let halted = bars.run().await;
    assert_eq!(halted.exit, Exit::Integrity, "{}", halted.errors);
    assert!(
        halted.errors.contains("tidemill offsets reset"),
        "{}",
        halted.errors
    );
    let done = bars.reset_well(&["--to", "earliest", "--drop-state"]).await;
    assert_eq!(done["tasks"][0]["inputs"][0]["recreated"], true);
    bars.run_well().await;
    assert_eq!(bars.written().await, doubled(&first));
    assert_eq!(bars.digests().await, digests);
}

#[tokio::test]
async fn a_reset_is_the_way_on_when_the_number_of_partitions_changed() {
    let bars = Bars::new(1).await;
    bars.send(0..2).await;
    bars.run_well().await;
    let first = bars.written().await;
    bars.recreate(3).await;
    bars.send(0..2).await;
    let halted = bars.run().await;
    assert_eq!(halted.exit, Exit::Integrity, "{}", halted.errors);
    assert!(
        halted.errors.contains("tidemill offsets reset"),
        "{}",
        halted.errors
    );
    let kept = bars
        .reset(&["--to", "earliest", "--keep-state", "--yes"])
        .await;
    assert_eq!(kept.exit, Exit::Usage, "keys have moved");
    let done = bars.reset_well(&["--to", "earliest", "--drop-state"]).await;
    assert_eq!(
        done["changelogPartitions"],
        serde_json::json!({ "was": 1, "now": 3 })
    );
    assert_eq!(done["setAside"].as_array().unwrap().len(), 1);
    bars.run_well().await;
    assert_eq!(bars.written().await, doubled(&first));
    assert_eq!(bars.markers().await.len(), 3);
    // And back.
    bars.recreate(1).await;
    bars.send(0..2).await;
    bars.reset_well(&["--to", "earliest", "--drop-state"]).await;
    bars.run_well().await;
    assert!(bars.written().await.values().all(|count| *count == 3));
}

#[tokio::test]
async fn a_reset_is_the_way_on_when_the_file_changed() {
    let bars = Bars::new(1).await;
    bars.send(0..2).await;
    bars.run_well().await;
    bars.write_file(
        "[topics.more]\nbroker = \"main\"\n[sinks.more]\nfrom = \"second\"\ntopic = \"more\"\n",
    );
    let halted = bars.run().await;
    assert_eq!(halted.exit, Exit::Integrity, "{}", halted.errors);
    assert!(
        halted.errors.contains("tidemill offsets reset"),
        "{}",
        halted.errors
    );
    bars.reset_well(&["--to", "latest", "--keep-state"]).await;
    bars.run_well().await;
}

#[tokio::test]
async fn what_is_in_use_is_not_reset() {
    let bars = Bars::new(1).await;
    bars.send(0..1).await;
    bars.run_well().await;
    let args = ["--to", "earliest", "--drop-state", "--yes"];
    let log = bars.broker().await;
    let refused = bars.reset(&args).await;
    assert_eq!(refused.exit, Exit::Fenced, "{}", refused.errors);
    log.close().await.unwrap();
    let state = bars.dir.path().join("state");
    let _instance = crate::pipeline::Instance::take(&state, "bars", Some(&state)).unwrap();
    let refused = bars.reset(&args).await;
    assert_eq!(refused.exit, Exit::Fenced, "{}", refused.errors);
    assert!(
        refused.errors.contains("is in use by process"),
        "{}",
        refused.errors
    );
}

#[tokio::test]
async fn a_pipeline_that_never_ran_can_be_told_where_to_begin() {
    let bars = Bars::new(1).await;
    bars.send(0..3).await;
    bars.reset_well(&["--to", "40", "--drop-state"]).await;
    bars.run_well().await;
    assert_eq!(bars.written().await.len(), 2 * 40);
}

#[tokio::test]
async fn records_read_again_over_kept_state_count_twice() {
    let bars = Bars::new(1).await;
    bars.send(0..2).await;
    bars.run_well().await;
    let told = bars.reset(&["--to", "earliest", "--keep-state"]).await;
    assert!(
        told.output.contains("count twice, or are late"),
        "{}",
        told.output
    );
    bars.reset_well(&["--to", "earliest", "--keep-state"]).await;
    let first = bars.written().await;
    bars.run_well().await;
    // Within the lateness each event fires its window again, with a firing of its own.
    assert!(bars.written().await.len() > first.len());
}
