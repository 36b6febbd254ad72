//! What a disk may hold after the power went in the middle of a trace.
//!
//! What was synced is there. Of what was not, each file keeps nothing, a prefix, or each page of 4 KiB
//! as it was at some instant since. `sync_file_range` makes nothing durable. Operations on
//! directories survive in their order, as a journal keeps them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use rand::Rng as _;
use rand::rngs::SmallRng;

use crate::trace::{Call, Fd};

const PAGE: u64 = 4096;

/// An image, and what the program had acknowledged until then.
#[derive(Debug, Default)]
pub(crate) struct Image {
    files: BTreeMap<String, Vec<u8>>,
    dirs: BTreeSet<String>,
    /// Epochs that were acknowledged: see [`Promise`].
    pub(crate) epochs: u64,
    /// Stores that may have been written to: their notes, which say so before, had been synced.
    pub(crate) noted: BTreeSet<String>,
    /// Imports that had ended well.
    pub(crate) imports: usize,
}

/// From when on an epoch must not be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Its task knows that it is committed: the log makes each commit durable.
    AtCommit,
    /// The log says that it is durable: it makes what was committed durable now and then.
    AtSync,
    /// Nothing tells which of the logs it was that became durable.
    Untold,
}

impl Promise {
    /// The line among the crash points that were passed which gives it.
    pub(crate) fn line(self) -> &'static [u8] {
        match self {
            Self::AtCommit => b"task.committed\n",
            Self::AtSync => b"sync.published\n",
            Self::Untold => b"",
        }
    }
}

/// A file by whatever name, or none.
#[derive(Debug, Default)]
struct File {
    durable: Vec<u8>,
    // Since then, in order.
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: u64, data: Vec<u8> },
    Truncate { len: u64 },
}

impl File {
    /// Makes the first `count` changes durable.
    fn settle(&mut self, count: usize) {
        for change in self.pending.drain(..count) {
            apply(&change, &mut self.durable);
        }
    }

    /// Itself as every program saw it.
    fn seen(&self) -> Vec<u8> {
        let mut seen = self.durable.clone();
        self.pending
            .iter()
            .for_each(|change| apply(change, &mut seen));
        seen
    }

    /// What is left of it.
    fn survive(&self, chance: &mut SmallRng) -> Vec<u8> {
        let mut left = self.durable.clone();
        match chance.random_range(0..4) {
            0 => {}
            1 => {
                let kept = chance.random_range(0..=self.pending.len());
                for change in &self.pending[..kept] {
                    apply(change, &mut left);
                }
                if let Some(Change::Write { at, data }) = self.pending.get(kept) {
                    let torn = data[..chance.random_range(0..=data.len())].to_vec();
                    apply(
                        &Change::Write {
                            at: *at,
                            data: torn,
                        },
                        &mut left,
                    );
                }
            }
            2 => self.survive_by_page(&mut left, chance),
            // As after a kill.
            _ => return self.seen(),
        }
        left
    }

    fn survive_by_page(&self, left: &mut Vec<u8>, chance: &mut SmallRng) {
        // How many changes each page, and the file's length, have seen.
        let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
        let all = self.pending.len();
        let lengths = chance.random_range(0..=all);
        let mut len = left.len() as u64;
        for (index, change) in self.pending.iter().enumerate() {
            match change {
                Change::Truncate { len: to } if index < lengths => {
                    left.resize(*to as usize, 0);
                    len = *to;
                }
                Change::Truncate { .. } => {}
                Change::Write { at, data } => {
                    let end = at + data.len() as u64;
                    let mut from = *at;
                    while from < end {
                        let page = from / PAGE;
                        let to = end.min((page + 1) * PAGE);
                        let until =
                            *seen
                                .entry(page)
                                .or_insert_with(|| match chance.random_range(0..3) {
                                    0 => 0,
                                    1 => all,
                                    _ => chance.random_range(0..=all),
                                });
                        if index < until {
                            let part = data[(from - at) as usize..(to - at) as usize].to_vec();
                            apply(
                                &Change::Write {
                                    at: from,
                                    data: part,
                                },
                                left,
                            );
                        }
                        from = to;
                    }
                    if index < lengths {
                        len = len.max(end);
                    }
                }
            }
        }
        left.resize(len as usize, 0);
    }
}

fn apply(change: &Change, to: &mut Vec<u8>) {
    match change {
        Change::Truncate { len } => to.resize(*len as usize, 0),
        Change::Write { at, data } => {
            let end = *at as usize + data.len();
            if to.len() < end {
                to.resize(end, 0);
            }
            to[*at as usize..end].copy_from_slice(data);
        }
    }
}

/// The disk after the first calls of a trace, and then no power.
pub(crate) fn build(calls: &[Call], promise: Promise, chance: &mut SmallRng) -> Image {
    build_with(calls, promise, |file| file.survive(chance))
}

/// The same, but nothing that was written is lost: as after a kill.
pub(crate) fn build_whole(calls: &[Call]) -> Image {
    build_with(calls, Promise::AtCommit, File::seen)
}

/// The same, but nothing that was not synced is left.
pub(crate) fn build_durable(calls: &[Call]) -> Image {
    build_with(calls, Promise::Untold, |file| file.durable.clone())
}

fn build_with(
    calls: &[Call],
    promise: Promise,
    mut survive: impl FnMut(&File) -> Vec<u8>,
) -> Image {
    // Epochs that tasks knew to be committed, by now and when the log began to make them durable.
    let (mut committed, mut begun) = (0, 0);
    let mut image = Image::default();
    let mut files: Vec<File> = Vec::new();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut open: HashMap<Fd, (usize, bool)> = HashMap::new();
    let mut syncs: HashMap<(u32, u64), (usize, usize)> = HashMap::new();
    // Notes that say of their stores that they may be written to, once they are durable.
    let mut notes: BTreeMap<usize, String> = BTreeMap::new();
    // Changes of each file that were settled, to count those of a sync from its begin.
    let mut settled: Vec<usize> = Vec::new();
    let new_file = |files: &mut Vec<File>, settled: &mut Vec<usize>| {
        files.push(File::default());
        settled.push(0);
        files.len() - 1
    };
    for call in calls {
        match call {
            Call::Create { path } => {
                let file = new_file(&mut files, &mut settled);
                names.insert(path.clone(), file);
            }
            Call::Open {
                fd,
                path,
                truncated,
            } => {
                // Directories are opened to be synced: their order is kept anyway.
                let Some(&file) = names.get(path) else {
                    continue;
                };
                if *truncated {
                    files[file].pending.push(Change::Truncate { len: 0 });
                }
                open.insert(*fd, (file, path == "hits"));
            }
            Call::Close { fd } => {
                open.remove(fd);
            }
            Call::Write { fd, at, data } => {
                let (file, is_hits) = open[fd];
                if is_hits {
                    committed += u64::from(data == b"task.committed\n");
                    if data == b"sync.begun\n" {
                        begun = committed;
                    }
                    match promise {
                        Promise::AtCommit => image.epochs = committed,
                        Promise::AtSync if data == promise.line() => image.epochs = begun,
                        Promise::AtSync | Promise::Untold => {}
                    }
                }
                let data = data.clone();
                if is_note(&data)
                    && let Some(store) = store_of(file, &names)
                {
                    notes.insert(file, store);
                }
                files[file].pending.push(Change::Write { at: *at, data });
            }
            Call::Truncate { fd, len } => {
                let (file, _) = open[fd];
                files[file].pending.push(Change::Truncate { len: *len });
            }
            Call::Sync { fd, number } => {
                if let Some((file, _)) = open.get(fd) {
                    let covers = settled[*file] + files[*file].pending.len();
                    syncs.insert((fd.0, *number), (*file, covers));
                }
            }
            Call::Synced { fd, number } => {
                if let Some((file, covers)) = syncs.remove(&(fd.0, *number)) {
                    let count = covers.saturating_sub(settled[file]);
                    files[file].settle(count);
                    settled[file] += count;
                    if files[file].pending.is_empty() {
                        image.noted.extend(notes.remove(&file));
                    }
                }
            }
            Call::Rename { from, to } => rename(from, to, &mut names, &mut image.dirs),
            Call::Unlink { path } => {
                names.remove(path);
            }
            Call::MakeDir { path } => {
                image.dirs.insert(path.clone());
            }
            Call::RemoveDir { path } => {
                image.dirs.remove(path);
            }
            Call::Imported => image.imports += 1,
        }
    }
    for (path, file) in names {
        let left = survive(&files[file]);
        image.files.insert(path, left);
    }
    image
}

/// Whether this is a slot of a note that there is an epoch of which the store may hold something. Its bytes
/// are described beside the code that writes it.
fn is_note(data: &[u8]) -> bool {
    const HAS_EPOCH: u8 = 1;
    data.len() == 24 && data[16] & HAS_EPOCH != 0
}

/// The directory of the store whose note this file is.
fn store_of(file: usize, names: &BTreeMap<String, usize>) -> Option<String> {
    let mut notes = names.iter().filter(|(_, of)| **of == file);
    let store = notes.find_map(|(path, _)| path.strip_suffix("/note"));
    store.map(str::to_owned)
}

/// A trace without the syncs of files whose path ends so.
pub(crate) fn without_syncs_of(calls: &[Call], end: &str) -> Vec<Call> {
    let mut open: HashMap<Fd, bool> = HashMap::new();
    let is_kept = |call: &&Call| {
        match call {
            Call::Open { fd, path, .. } => {
                open.insert(*fd, path.ends_with(end));
            }
            Call::Sync { fd, .. } => return !open.get(fd).copied().unwrap_or_default(),
            _ => {}
        }
        true
    };
    calls.iter().filter(is_kept).cloned().collect()
}

fn rename(from: &str, to: &str, names: &mut BTreeMap<String, usize>, dirs: &mut BTreeSet<String>) {
    let below = format!("{from}/");
    let moved = |path: &str| {
        let rest = path.strip_prefix(from)?;
        (rest.is_empty() || path.starts_with(&below)).then(|| format!("{to}{rest}"))
    };
    for old in names.keys().cloned().collect::<Vec<_>>() {
        if let (Some(new), Some(file)) = (moved(&old), names.get(&old).copied()) {
            names.remove(&old);
            names.insert(new, file);
        }
    }
    *dirs = std::mem::take(dirs)
        .into_iter()
        .map(|old| moved(&old).unwrap_or(old))
        .collect();
}

impl Image {
    /// Writes it out.
    pub(crate) fn write(&self, root: &Path) {
        std::fs::create_dir_all(root).unwrap();
        for dir in &self.dirs {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        for (path, content) in &self.files {
            std::fs::write(root.join(path), content).unwrap();
        }
    }
}
