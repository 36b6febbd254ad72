//! What of a store was synced when it had to be.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::trace::{Call, Fd};

/// Says what the only store of a trace was without when it had to be durable.
///
/// Before anything may be written to it: the names of its files and directories, and what its engine is
/// laid out in. After each pass: all that was written.
pub(crate) fn missing(calls: &[Call], store: &str) -> BTreeSet<String> {
    let [conf, db] = ["conf", "db"].map(|name| format!("{store}/sled/{name}"));
    let names = [
        store.to_owned(),
        format!("{store}/sled"),
        format!("{store}/identity.json"),
        format!("{store}/note"),
        conf.clone(),
        db.clone(),
    ];
    let mut missing = BTreeSet::new();
    let mut medium = Medium::default();
    for call in calls {
        medium.apply(call);
        let Call::Write { data, .. } = call else {
            continue;
        };
        match &data[..] {
            b"store.open\n" => medium.synced.clear(),
            b"write_behind.noted\n" => {
                let unnamed = names.iter().filter(|name| medium.unnamed.contains(*name));
                missing.extend(unnamed.map(|name| format!("the name of {name}")));
                let unsynced = [&conf, &db].into_iter();
                let unsynced = unsynced.filter(|file| !medium.synced.contains(*file));
                missing.extend(unsynced.cloned());
            }
            b"write_behind.flushed\n" if medium.written.get(&db).is_some_and(|left| *left > 0) => {
                missing.insert(format!("what was written to {db}"));
            }
            _ => {}
        }
    }
    missing
}

/// What a sync that has begun covers.
#[derive(Debug)]
struct Begun {
    path: String,
    writes: usize,
    names: Vec<String>,
}

/// What is durable, and what is not.
#[derive(Debug, Default)]
struct Medium {
    open: HashMap<Fd, String>,
    begun: HashMap<(u32, u64), Begun>,
    /// Writes to each file that no sync has covered.
    written: BTreeMap<String, usize>,
    /// Files and directories whose directory was not synced since they are there.
    unnamed: BTreeSet<String>,
    /// What was synced since this was last cleared.
    synced: BTreeSet<String>,
}

impl Medium {
    fn apply(&mut self, call: &Call) {
        match call {
            Call::Open { fd, path, .. } => {
                self.open.insert(*fd, path.clone());
            }
            Call::Close { fd } => {
                self.open.remove(fd);
            }
            Call::Create { path } | Call::MakeDir { path } | Call::Rename { to: path, .. } => {
                self.unnamed.insert(path.clone());
            }
            Call::Write { fd, .. } | Call::Truncate { fd, .. } => {
                if let Some(path) = self.open.get(fd) {
                    *self.written.entry(path.clone()).or_default() += 1;
                }
            }
            Call::Sync { fd, number } => {
                if let Some(path) = self.open.get(fd) {
                    let is_within =
                        |name: &&String| name.rsplit_once('/').is_some_and(|(dir, _)| dir == path);
                    let begun = Begun {
                        path: path.clone(),
                        writes: self.written.get(path).copied().unwrap_or_default(),
                        names: self.unnamed.iter().filter(is_within).cloned().collect(),
                    };
                    self.begun.insert((fd.0, *number), begun);
                }
            }
            Call::Synced { fd, number } => {
                if let Some(done) = self.begun.remove(&(fd.0, *number)) {
                    if let Some(left) = self.written.get_mut(&done.path) {
                        *left = left.saturating_sub(done.writes);
                    }
                    for name in &done.names {
                        self.unnamed.remove(name);
                    }
                    self.synced.insert(done.path);
                }
            }
            Call::Unlink { .. } | Call::RemoveDir { .. } | Call::Imported => {}
        }
    }
}
