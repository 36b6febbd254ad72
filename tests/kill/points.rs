//! The list of named crash points, and how each is reached.

use std::collections::BTreeSet;
use std::path::Path;

/// How a crash point is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By `tidemill run` over a log on disk: here.
    Run,
    /// By what this test does not do; says which one does.
    Elsewhere(&'static str),
}

const SIMULATOR: Way = Way::Elsewhere("needs a broker with faults: the simulator passes it");
const STATE: Way = Way::Elsewhere("passed by the tests of `state`");

/// Every crash point of the source.
pub(crate) const POINTS: &[(&str, Way)] = &[
    ("commit.answered", Way::Run),
    ("commit.composed", Way::Run),
    ("commit.reopened", SIMULATOR),
    ("intake.revoked", SIMULATOR),
    ("recover.begin", Way::Run),
    ("recover.redone", Way::Run),
    ("redo.spill", STATE),
    ("restore.block", STATE),
    ("savepoint.rename", STATE),
    ("savepoint.synced", STATE),
    ("store.aside", STATE),
    ("store.open", Way::Run),
    ("task.closed", Way::Run),
    ("task.committed", Way::Run),
    ("task.processed", Way::Run),
    ("task.taken", Way::Run),
    ("write_behind.chunk", Way::Run),
    ("write_behind.durable", Way::Run),
    ("write_behind.flushed", Way::Run),
    ("write_behind.noted", Way::Run),
    ("write_behind.stored", Way::Run),
];

/// The last hit of a point at which a process is killed: each start passes some of them once for each
/// task.
pub(crate) fn nth_max(point: &str) -> u64 {
    let (part, _) = point.split_once('.').unwrap_or((point, ""));
    match part {
        "recover" | "store" | "write_behind" => 2,
        _ => 5,
    }
}

#[test]
fn every_crash_point_of_the_source_is_in_the_list() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    for part in ["src", "state/src", "brokers"] {
        find(&root.join(part), &mut found);
    }
    let listed: BTreeSet<String> = POINTS.iter().map(|(point, _)| point.to_string()).collect();
    assert_eq!(found, listed);
}

fn find(path: &Path, found: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            find(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        let text = std::fs::read_to_string(path).unwrap();
        let names = text.split("crash_point!(\"").skip(1);
        let names = names.filter_map(|rest| rest.split('"').next());
        // Those of the macro's own tests kill nothing.
        found.extend(
            names
                .filter(|name| !name.starts_with("test."))
                .map(str::to_owned),
        );
    }
}
