//! Looking at state, checking it, and going back to it.

use super::reset::Bars;
use super::*;

fn json(ran: &Ran) -> serde_json::Value {
    serde_json::from_str(&ran.output).unwrap_or_else(|_| panic!("{}{}", ran.output, ran.errors))
}

impl Bars {
    async fn state_json(&self, args: &[&str]) -> serde_json::Value {
        let ran = self
            .command(&[&["state"], args, &["--json"]].concat())
            .await;
        assert_eq!(ran.exit, Exit::Ok, "{}", ran.errors);
        json(&ran)
    }

    fn store(&self, task: &str) -> std::path::PathBuf {
        self.dir.path().join("state/tasks").join(task)
    }
}

#[tokio::test]
async fn tables_are_listed_with_what_they_hold_and_the_digest_of_the_last_commit() {
    let bars = Bars::new(1).await;
    bars.send(0..3).await;
    bars.run_well().await;
    let listed = bars.state_json(&["ls", "FILE", "STATE"]).await;
    let task = &listed["tasks"][0];
    let marker = bars.markers().await.remove(0);
    assert_eq!(task["epoch"], marker.epoch.0);
    assert_eq!(task["digest"], marker.digest.to_string());
    assert_eq!(
        (&task["clean"], &task["compared"]),
        (&true.into(), &true.into())
    );
    let table = |name: &str| {
        let tables = task["tables"].as_array().unwrap();
        let table = tables.iter().find(|table| table["name"] == name).unwrap();
        table["elements"].clone()
    };
    assert_eq!(table("second"), 3 * 40);
    // Of the input, of the stage, and of what it has closed.
    assert_eq!(table("tidemill.time"), 3);
    // The same by directory: of the instance, and of the task.
    for dir in [bars.dir.path().join("state"), bars.store("0-0")] {
        let ran = piped(&["state", "ls", dir.to_str().unwrap(), "--json"]).await;
        assert_eq!(json(&ran)["tasks"][0]["digest"], marker.digest.to_string());
    }
    let ran = bars.command(&["state", "ls", "FILE", "STATE"]).await;
    assert!(ran.output.contains("tidemill.time"), "{}", ran.output);
    let empty = tempfile::tempdir().unwrap();
    let ran = piped(&["state", "ls", empty.path().to_str().unwrap()]).await;
    assert_eq!(ran.exit, Exit::Io);
    assert!(
        ran.errors.contains("there is no state in"),
        "{}",
        ran.errors
    );
}

#[tokio::test]
async fn an_open_window_is_shown_as_the_event_it_would_make() {
    let bars = Bars::new(2).await;
    bars.send(7..8).await;
    bars.run_well().await;
    let ran = bars
        .command(&["state", "get", "FILE", "second", "P3", "STATE", "--json"])
        .await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.errors);
    assert_eq!(ran.output.lines().count(), 1);
    let value = &json(&ran)["value"];
    assert_eq!(value["firings"], 1);
    let event = &value["event"];
    assert_eq!(event["pair"], "P3");
    assert_eq!(event["windowEnd"], "1970-01-01T00:00:08.000000Z");
    assert_eq!(
        (&event["close"], &event["trades"]),
        (&7.5.into(), &1.into())
    );
    let time = bars
        .command(&[
            "state",
            "get",
            "FILE",
            "tidemill.time",
            "STATE",
            "--task",
            "0-1",
            "--json",
        ])
        .await;
    let lines = time.output.lines();
    let keys = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let keys: Vec<_> = keys.map(|line| line["key"].clone()).collect();
    let stage = ["state second, windows closed", "state second"];
    assert_eq!(keys, [stage[0], stage[1], "market-data-updates/1"]);
    // Without the file, bytes are bytes.
    let state = bars.state();
    let ran = piped(&["state", "get", &state, "second", "--limit", "1", "--json"]).await;
    assert!(json(&ran)["valueHex"].as_str().unwrap().starts_with("0x"));
    let ran = bars
        .command(&["state", "get", "FILE", "secnd", "STATE"])
        .await;
    assert_eq!(ran.exit, Exit::Usage);
    assert!(
        ran.errors.contains("the tables are second, tidemill.time"),
        "{}",
        ran.errors
    );
    let ran = bars
        .command(&["state", "get", "FILE", "second", "P99", "STATE"])
        .await;
    assert_eq!(ran.output, "there is nothing under this key\n");
}

#[tokio::test]
async fn a_damaged_store_is_told_set_aside_and_rebuilt() {
    let bars = Bars::new(1).await;
    bars.send(0..3).await;
    bars.run_well().await;
    let digests = bars.digests().await;
    let ran = bars.command(&["state", "fsck", "FILE", "STATE"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}{}", ran.output, ran.errors);
    assert!(
        ran.output.contains("the digest is that of epoch"),
        "{}",
        ran.output
    );

    std::fs::remove_file(bars.store("0-0").join("identity.json")).unwrap();
    let ran = bars.command(&["state", "fsck", "FILE", "STATE"]).await;
    assert_eq!(ran.exit, Exit::Integrity, "{}{}", ran.output, ran.errors);
    assert!(ran.output.contains("--set-aside"), "{}", ran.output);
    let ran = bars
        .command(&["state", "fsck", "FILE", "STATE", "--set-aside", "--json"])
        .await;
    assert_eq!(ran.exit, Exit::Integrity);
    let aside = json(&ran)["tasks"][0]["setAside"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(Path::new(&aside).join("sled").exists());
    bars.run_well().await;
    assert_eq!(bars.digests().await, digests);
    let listed = bars.state_json(&["ls", "FILE", "STATE"]).await;
    assert_eq!(listed["tasks"][0]["digest"], digests[0].to_string());
}

#[tokio::test]
async fn a_store_that_holds_other_values_than_were_committed_is_found() {
    let bars = Bars::new(1).await;
    bars.send(0..1).await;
    bars.run_well().await;
    let options = tidemill_state::SledOptions {
        path: bars.store("0-0"),
        identity: tidemill_state::read_identity(&bars.store("0-0"))
            .unwrap()
            .unwrap(),
        owner: "a test".into(),
        new_id: 0,
        cache_bytes: 1 << 20,
    };
    use tidemill_state::StateStore as _;
    let store = tidemill_state::SledStore::open(options).await.unwrap();
    let page = store
        .scan(bytes::Bytes::from_static(&[0, 1]), None, 1)
        .await
        .unwrap();
    let change = tidemill_state::Change {
        key: page[0].0.clone(),
        value: None,
    };
    store.write(vec![change]).await.unwrap();
    store.sync().await.unwrap();
    let owned = bars.command(&["state", "fsck", "FILE", "STATE"]).await;
    assert_eq!(owned.exit, Exit::Fenced, "{}", owned.errors);
    assert!(
        owned.errors.contains("in use by a test"),
        "{}",
        owned.errors
    );
    store.close().await.unwrap();
    let ran = bars.command(&["state", "fsck", "FILE", "STATE"]).await;
    assert_eq!(ran.exit, Exit::Integrity);
    assert!(ran.output.contains("was committed"), "{}", ran.output);
}

#[tokio::test]
async fn a_restored_savepoint_follows_the_log_to_the_same_state() {
    let bars = Bars::new(2).await;
    bars.send(0..3).await;
    bars.run_well().await;
    let saved = bars.state_json(&["savepoint", "FILE", "STATE"]).await;
    let saved = saved["savepoints"].as_array().unwrap().clone();
    assert_eq!(saved.len(), 2);
    let digests = bars.digests().await;
    assert_eq!(saved[0]["digest"], digests[0].to_string());
    let listed = bars
        .state_json(&["savepoint", "FILE", "STATE", "--list"])
        .await;
    assert_eq!(listed["savepoints"], serde_json::json!(saved));

    bars.send(3..6).await;
    bars.run_well().await;
    let (written, digests) = (bars.written().await, bars.digests().await);
    let path = |index: usize| saved[index]["path"].as_str().unwrap();
    let from = [
        "state",
        "restore",
        "FILE",
        "STATE",
        "--from",
        path(0),
        "--from",
        path(1),
    ];
    let told = bars.command(&from).await;
    assert_eq!(told.exit, Exit::Usage, "{}", told.errors);
    assert!(
        told.errors.contains("give `--yes` to do it"),
        "{}",
        told.errors
    );
    assert!(!bars.store("0-0").join("aside-1").exists());
    let done = bars.command(&[&from[..], &["--yes"]].concat()).await;
    assert_eq!(done.exit, Exit::Ok, "{}", done.errors);
    assert!(bars.store("0-0").join("aside-1/sled").exists());
    let listed = bars.state_json(&["ls", "FILE", "STATE"]).await;
    for (task, digest) in listed["tasks"].as_array().unwrap().iter().zip(&digests) {
        assert_eq!(task["digest"], digest.to_string());
    }
    bars.run_well().await;
    assert_eq!(bars.written().await, written);
    assert_eq!(bars.digests().await, digests);
    let ran = bars.command(&["state", "fsck", "FILE", "STATE"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.output);
}

#[tokio::test]
async fn a_savepoint_newer_than_the_log_damaged_or_of_another_pipeline_is_refused() {
    let bars = Bars::new(1).await;
    for second in 0..2 {
        bars.send(second..second + 1).await;
        bars.run_well().await;
    }
    let saved = bars.state_json(&["savepoint", "FILE", "STATE"]).await;
    let path = saved["savepoints"][0]["path"].as_str().unwrap().to_owned();
    let kept = bars.dir.path().join("kept.tms");
    std::fs::copy(&path, &kept).unwrap();
    let kept = kept.to_str().unwrap();
    let restore = ["state", "restore", "FILE", "STATE", "--yes", "--from"];

    // Another log, which has come less far.
    let other = Bars::new(1).await;
    other
        .reset(&["--to", "latest", "--drop-state", "--yes"])
        .await;
    let other_epoch = other.markers().await[0].epoch;
    assert!(other_epoch < bars.markers().await[0].epoch);
    let ran = other.command(&[&restore[..], &[kept]].concat()).await;
    assert_eq!(ran.exit, Exit::Integrity, "{}", ran.errors);
    assert!(ran.errors.contains("newer than the log"), "{}", ran.errors);

    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let ran = bars.command(&[&restore[..], &[&path]].concat()).await;
    assert_eq!(ran.exit, Exit::Integrity, "{}", ran.errors);
    let ran = bars.command(&["state", "fsck", "FILE", "STATE"]).await;
    assert_eq!(ran.exit, Exit::Integrity);
    assert!(ran.output.contains("delete it"), "{}", ran.output);
    assert!(
        !bars.store("0-0").join("aside-1").exists(),
        "nothing was done"
    );
}
