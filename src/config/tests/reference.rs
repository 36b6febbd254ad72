//! The reference names every key that the checker knows, and no other.

use std::collections::BTreeSet;

use super::{changed, problems};
use crate::config::reference::SECTIONS;

/// For each section, where in the right file a key that does not exist is put.
const PLACES: &[(&str, &str, &str)] = &[
    ("pipeline", "name = \"gate\"", "name = \"gate\"\nzz = 1"),
    (
        "commit",
        "name = \"gate\"",
        "name = \"gate\"\ncommit = { zz = 1 }",
    ),
    (
        "dead_letter",
        "name = \"gate\"",
        "name = \"gate\"\ndead_letter = { topic = \"dead\", zz = 1 }",
    ),
    ("brokers", "url = \"mem://\"", "url = \"mem://\"\nzz = 1"),
    ("topics", "[topics.bars]", "[topics.bars]\nzz = 1"),
    (
        "retention",
        "[topics.bars]",
        "[topics.bars]\nretention = { zz = 1 }",
    ),
    ("events", "time = \"at\"", "time = \"at\"\nzz = 1"),
    ("state", "[sinks.out]", "[state.bar]\nzz = 1\n\n[sinks.out]"),
    (
        "key_by",
        "[sinks.out]",
        "[stages.x]\nop = \"key_by\"\nzz = 1\n\n[sinks.out]",
    ),
    (
        "dedupe",
        "[sinks.out]",
        "[stages.x]\nop = \"dedupe\"\nzz = 1\n\n[sinks.out]",
    ),
    ("tumbling_window", "size = \"1m\"", "size = \"1m\"\nzz = 1"),
    (
        "route",
        "[sinks.out]",
        "[stages.x]\nop = \"route\"\nzz = 1\n\n[sinks.out]",
    ),
    (
        "merge",
        "[sinks.out]",
        "[stages.x]\nop = \"merge\"\nzz = 1\n\n[sinks.out]",
    ),
    (
        "leftover",
        "size = \"1m\"",
        "size = \"1m\"\nlate = { zz = 1 }",
    ),
    ("sinks", "topic = \"bars\"", "topic = \"bars\"\nzz = 1"),
    (
        "sink_topic",
        "topic = \"bars\"",
        "topic = { topic = \"bars\", zz = 1 }",
    ),
];

/// The keys that the checker knows there, as it says itself.
fn known(from: &str, to: &str) -> BTreeSet<String> {
    let problems = problems(&changed(&[(from, to)]));
    let unknown = problems
        .iter()
        .find(|problem| problem.code.as_str() == "E0103")
        .unwrap();
    let help = unknown.help.as_deref().unwrap();
    let (_, list) = help.split_once("known here: ").unwrap();
    let quoted = list.split('`').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

#[test]
fn every_key_that_the_checker_knows_is_explained_and_no_other() {
    for (name, from, to) in PLACES {
        let section = SECTIONS.iter().find(|section| section.name == *name);
        let keys = section.unwrap().keys.iter();
        let explained: BTreeSet<String> = keys.map(|key| key.name.to_owned()).collect();
        assert_eq!(explained, known(from, to), "{name}");
    }
}

#[test]
fn every_section_and_operator_is_explained() {
    // What stages share is part of each operator.
    let asked = PLACES.iter().map(|(name, _, _)| *name).chain(["stages"]);
    let asked: BTreeSet<&str> = asked.collect();
    let all: BTreeSet<&str> = SECTIONS.iter().map(|section| section.name).collect();
    assert_eq!(asked, all);
    for name in crate::config::file::SECTIONS {
        assert!(all.contains(name), "{name}");
    }
    for (name, _) in crate::config::ops::OPS {
        assert!(all.contains(name), "{name}");
    }
}
