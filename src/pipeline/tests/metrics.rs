//! What can be watched is counted, and described.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};

use super::*;

#[test]
fn a_run_counts_what_it_takes_writes_sets_aside_and_commits() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    ::metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let broker = broker_with(1).await;
            for millis in [10, 20, 1_010] {
                let tick = tick("BTC-USD", millis, "1.5", "2");
                broker.send(tick).await.unwrap();
            }
            let topic = Topic::new("market-data-updates").unwrap();
            let poison = NewRecord::new(topic, "no event").key("BTC-USD");
            broker.send(poison).await.unwrap();
            run(&pipeline(bars_plan(), &broker)).await.unwrap();
        });
    });
    let mut counted = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        if let DebugValue::Counter(count) = value {
            *counted.entry(key.key().name().to_owned()).or_insert(0) += count;
        }
    }
    for (name, count) in [
        ("tidemill_records_taken_total", 4),
        ("tidemill_records_written_total", 2),
        ("tidemill_records_set_aside_total", 1),
        ("tidemill_dead_letters_total", 1),
        ("tidemill_records_committed_total", 4),
    ] {
        assert_eq!(counted.get(name), Some(&count), "{name}: {counted:?}");
    }
}

#[test]
fn every_metric_is_described_and_none_else() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = BTreeSet::new();
    for part in ["src", "brokers", "state"] {
        collect(&root.join(part), &mut named);
    }
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    assert!(named.len() > 10, "{named:?}");
    assert_eq!(names(&text, "`tidemill_"), named);
}

fn collect(path: &Path, named: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), named);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        let text = std::fs::read_to_string(path).unwrap();
        for call in ["counter!(", "gauge!(", "histogram!("] {
            named.extend(names(&text, &format!("{call}\"tidemill_")));
        }
    }
}

/// The metrics that stand behind `before`, which ends with the beginning of their names.
fn names(text: &str, before: &str) -> BTreeSet<String> {
    let rest = text.split(before).skip(1);
    let is_name = |c: char| c == '_' || c.is_ascii_lowercase();
    rest.map(|rest| rest.split(|c| !is_name(c)).next().unwrap())
        .map(|name| format!("tidemill_{name}"))
        .collect()
}
