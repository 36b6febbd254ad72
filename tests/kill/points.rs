//! The named crash points. What they are is read from the source, so that nobody can forget one.

use std::collections::BTreeSet;
use std::path::Path;

/// Every crash point of the source.
pub(crate) fn all() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    for part in ["src", "state/src", "brokers"] {
        find(&root.join(part), &mut found);
    }
    assert!(found.len() > 40, "only {found:?}");
    found
}

fn find(path: &Path, found: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            find(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        let text = std::fs::read_to_string(path).unwrap();
        for call in text.split("crash_point!(").skip(1) {
            let name = call.trim_start().strip_prefix('"');
            let name = name.and_then(|rest| rest.split('"').next());
            let name = name.unwrap_or_else(|| panic!("{}: no literal", path.display()));
            found.insert(name.to_owned());
        }
    }
}
