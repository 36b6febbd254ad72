//! A disk in memory that loses power, runs full and fails, on a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Disk, DiskFile, Guard, Locked, Mode};
use crate::shared::lock;

/// What of a write survives a loss of power by itself.
const PAGE_BYTES: usize = 4_096;

/// A real disk has written back by then what nobody synced.
const PENDING_MAX: usize = 4_096;

/// What a [`SimDisk`] can be told to do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A write fails, having written a part.
    Write,
    /// Making a file durable fails, and what it was about is lost with the power.
    Sync,
    /// Making a directory durable fails.
    SyncDir,
}

/// A disk in memory. Clones share it.
///
/// It knows what was synced and what was not, so that [`crash_image`](Self::crash_image) can tell
/// what a loss of power may leave.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    rng: SmallRng,
    dirs: BTreeMap<PathBuf, Dir>,
    locked: BTreeMap<PathBuf, String>,
    /// Bytes that still fit.
    space: Option<u64>,
    short_writes: bool,
    /// How many more calls of each kind succeed.
    faults: Vec<(Fault, u32)>,
    /// Held by each open file.
    open: Arc<()>,
    writes: u64,
    syncs: u64,
    /// After how many changes an image is taken, and with which seed.
    crash: Option<(u64, u64)>,
    image: Option<SimDisk>,
    watcher: Option<Watcher>,
}

/// Hears of each change before it happens.
type Watcher = Arc<dyn Fn() + Send + Sync>;

#[derive(Clone)]
enum Node {
    File(Arc<Mutex<Inode>>),
    Dir,
}

#[derive(Default)]
struct Dir {
    now: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    pending: Vec<DirChange>,
}

#[derive(Clone)]
enum DirChange {
    Link(String, Node),
    Unlink(String),
    Rename(String, String),
}

impl DirChange {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            Self::Link(name, node) => {
                names.insert(name.clone(), node.clone());
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

/// Copies of files, one for each however many directories or changes name it.
#[derive(Default)]
struct Copies(BTreeMap<*const Mutex<Inode>, Node>);

impl Copies {
    fn of_node(&mut self, node: &Node) -> Node {
        let Node::File(inode) = node else {
            return Node::Dir;
        };
        let copy = self.0.entry(Arc::as_ptr(inode));
        let copy = copy.or_insert_with(|| Node::File(Arc::new(Mutex::new(lock(inode).clone()))));
        copy.clone()
    }

    fn of_names(&mut self, names: &BTreeMap<String, Node>) -> BTreeMap<String, Node> {
        let names = names.iter();
        names
            .map(|(name, node)| (name.clone(), self.of_node(node)))
            .collect()
    }

    fn of_dir(&mut self, dir: &Dir) -> Dir {
        let pending = dir.pending.iter().map(|change| match change {
            DirChange::Link(name, node) => DirChange::Link(name.clone(), self.of_node(node)),
            other => other.clone(),
        });
        let pending = pending.collect();
        Dir {
            now: self.of_names(&dir.now),
            durable: self.of_names(&dir.durable),
            pending,
        }
    }
}

#[derive(Clone, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => write(to, *at, bytes),
            Self::Truncate(len) => to.resize(*len, 0),
        }
    }
}

fn write(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if to.len() < at + bytes.len() {
        to.resize(at + bytes.len(), 0);
    }
    to[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.pending.push(change);
        if self.pending.len() > PENDING_MAX {
            let oldest = self.pending.remove(0);
            oldest.apply(&mut self.durable);
        }
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// What a loss of power may leave.
    fn crashed(&self, rng: &mut SmallRng) -> Vec<u8> {
        let mut left = self.durable.clone();
        match rng.random_range(0..4) {
            0 => {}
            1 => {
                let whole = rng.random_range(0..=self.pending.len());
                for change in &self.pending[..whole] {
                    change.apply(&mut left);
                }
                if let Some(Change::Write { at, bytes }) = self.pending.get(whole) {
                    let part = rng.random_range(0..=bytes.len());
                    write(&mut left, *at, &bytes[..part]);
                }
            }
            2 => left = self.now.clone(),
            _ => {
                let mut pages = BTreeSet::new();
                for change in &self.pending {
                    if let Change::Write { at, bytes } = change {
                        pages.extend(at / PAGE_BYTES..=(at + bytes.len()) / PAGE_BYTES);
                    }
                }
                if rng.random() {
                    left.resize(self.now.len(), 0);
                }
                for page in pages {
                    let start = page * PAGE_BYTES;
                    let end = (start + PAGE_BYTES).min(left.len()).min(self.now.len());
                    if rng.random() && start < end {
                        left[start..end].copy_from_slice(&self.now[start..end]);
                    }
                }
            }
        }
        left
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        let mut dirs = BTreeMap::new();
        dirs.insert(PathBuf::from("/"), Dir::default());
        Self {
            state: Arc::new(Mutex::new(State {
                rng: SmallRng::seed_from_u64(seed),
                dirs,
                locked: BTreeMap::new(),
                space: None,
                short_writes: false,
                faults: Vec::new(),
                open: Arc::new(()),
                writes: 0,
                syncs: 0,
                crash: None,
                image: None,
                watcher: None,
            })),
        }
    }

    /// A disk as this one may be found after the power was lost now: of what was not synced a part
    /// is gone, as the seed says. Names in a directory are lost from the latest backwards; of a
    /// file's writes all, none, a beginning, or single pages of 4 KiB are there.
    pub fn crash_image(&self, seed: u64) -> Self {
        let image = Self::new(seed);
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed_da7a);
        let mut dirs = BTreeMap::new();
        let state = lock(&self.state);
        let mut todo = vec![PathBuf::from("/")];
        while let Some(path) = todo.pop() {
            let mut names = BTreeMap::new();
            if let Some(dir) = state.dirs.get(&path) {
                names = dir.durable.clone();
                let kept = match rng.random_range(0..3) {
                    0 => 0,
                    1 => dir.pending.len(),
                    _ => rng.random_range(0..=dir.pending.len()),
                };
                for change in &dir.pending[..kept] {
                    change.apply(&mut names);
                }
            }
            let mut left = BTreeMap::new();
            for (name, node) in names {
                let node = match node {
                    Node::Dir => {
                        todo.push(path.join(&name));
                        Node::Dir
                    }
                    Node::File(inode) => {
                        let bytes = lock(&inode).crashed(&mut rng);
                        Node::File(Arc::new(Mutex::new(Inode {
                            now: bytes.clone(),
                            durable: bytes,
                            pending: Vec::new(),
                        })))
                    }
                };
                left.insert(name, node);
            }
            dirs.insert(
                path,
                Dir {
                    now: left.clone(),
                    durable: left,
                    pending: Vec::new(),
                },
            );
        }
        drop(state);
        lock(&image.state).dirs = dirs;
        image
    }

    /// Takes a [crash image](Self::crash_image) before the change that comes after so many others,
    /// also in the middle of a call: writes, syncs, renames and removals are changes.
    pub fn crash_after(&self, changes: u64, seed: u64) {
        let mut state = lock(&self.state);
        state.crash = Some((changes, seed));
        state.image = None;
    }

    /// The image taken by [`crash_after`](Self::crash_after), once its time has come.
    pub fn crashed(&self) -> Option<Self> {
        lock(&self.state).image.clone()
    }

    /// Calls `watcher` before each change: writes, syncs, renames and removals. It may take images.
    pub fn watch(&self, watcher: impl Fn() + Send + Sync + 'static) {
        lock(&self.state).watcher = Some(Arc::new(watcher));
    }

    /// A change is about to happen.
    fn about_to_change(&self) {
        let (seed, watcher) = {
            let mut state = lock(&self.state);
            let seed = match &mut state.crash {
                Some((left, _)) if *left > 0 => {
                    *left -= 1;
                    None
                }
                crash => crash.take().map(|(_, seed)| seed),
            };
            (seed, state.watcher.clone())
        };
        if let Some(seed) = seed {
            let image = self.crash_image(seed);
            lock(&self.state).image = Some(image);
        }
        if let Some(watcher) = watcher {
            watcher();
        }
    }

    /// A disk as this one is found after its process was killed: everything written is there, and
    /// what was not synced is still to be lost with the power; nobody holds a lock.
    pub fn kill_image(&self, seed: u64) -> Self {
        let image = Self::new(seed);
        let state = lock(&self.state);
        let mut copies = Copies::default();
        let dirs = state.dirs.iter();
        let dirs = dirs.map(|(path, dir)| (path.clone(), copies.of_dir(dir)));
        let dirs = dirs.collect();
        drop(state);
        lock(&image.state).dirs = dirs;
        image
    }

    /// Limits how many bytes can still be written; `None` lifts the limit.
    pub fn set_space(&self, bytes: Option<u64>) {
        lock(&self.state).space = bytes;
    }

    /// Lets writes now and then take only a part of what they are given, which is no error.
    pub fn set_short_writes(&self, short: bool) {
        lock(&self.state).short_writes = short;
    }

    /// Lets one call of this kind fail, after this many have succeeded.
    pub fn fail(&self, fault: Fault, after: u32) {
        lock(&self.state).faults.push((fault, after));
    }

    /// Ends what it was told to do wrong and has not done yet.
    pub fn heal(&self) {
        let mut state = lock(&self.state);
        state.faults.clear();
        state.space = None;
    }

    /// How many writes and how many syncs there were.
    pub fn counts(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.writes, state.syncs)
    }

    /// How many files are open; one that was opened twice counts twice.
    pub fn open_files(&self) -> usize {
        // One count is the disk's own.
        Arc::strong_count(&lock(&self.state).open) - 1
    }

    /// The names of all files.
    pub fn files(&self) -> Vec<PathBuf> {
        let state = lock(&self.state);
        let mut files = Vec::new();
        for (path, dir) in &state.dirs {
            for (name, node) in &dir.now {
                if matches!(node, Node::File(_)) {
                    files.push(path.join(name));
                }
            }
        }
        files
    }

    /// The bytes of a file as they are read now.
    ///
    /// # Errors
    ///
    /// If there is no such file.
    pub fn bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        let inode = self.inode(path)?;
        let bytes = lock(&inode).now.clone();
        Ok(bytes)
    }

    /// Puts other bytes into a file, durably: damage.
    ///
    /// # Errors
    ///
    /// If there is no such file.
    pub fn set_bytes(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        let inode = self.inode(path)?;
        *lock(&inode) = Inode {
            now: bytes.clone(),
            durable: bytes,
            pending: Vec::new(),
        };
        Ok(())
    }

    fn inode(&self, path: &Path) -> io::Result<Arc<Mutex<Inode>>> {
        let mut state = lock(&self.state);
        let (dir, name) = state.parent(path)?;
        match dir.now.get(&name) {
            Some(Node::File(inode)) => Ok(Arc::clone(inode)),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl State {
    fn dir(&mut self, path: &Path) -> io::Result<&mut Dir> {
        let path = normal(path);
        self.dirs
            .get_mut(&path)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn parent(&mut self, path: &Path) -> io::Result<(&mut Dir, String)> {
        let path = normal(path);
        let name = path
            .file_name()
            .ok_or(io::ErrorKind::InvalidInput)?
            .to_string_lossy()
            .into_owned();
        let parent = path.parent().unwrap_or(Path::new("/")).to_path_buf();
        Ok((self.dir(&parent)?, name))
    }

    /// Whether this call is the one to fail.
    fn meets(&mut self, fault: Fault) -> bool {
        let Some(index) = self.faults.iter().position(|(kind, _)| *kind == fault) else {
            return false;
        };
        if self.faults[index].1 == 0 {
            self.faults.remove(index);
            return true;
        }
        self.faults[index].1 -= 1;
        false
    }
}

/// A path from the root, without `.`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for component in path.components() {
        if let Component::Normal(name) = component {
            normal.push(name);
        }
    }
    normal
}

fn input_output_error() -> io::Error {
    io::Error::other("input/output error (injected)")
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

struct SimGuard {
    disk: SimDisk,
    path: PathBuf,
}

impl fmt::Debug for SimGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimGuard")
            .field("path", &self.path)
            .finish()
    }
}

impl Guard for SimGuard {}

impl Drop for SimGuard {
    fn drop(&mut self) {
        lock(&self.disk.state).locked.remove(&self.path);
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.about_to_change();
        let mut state = lock(&self.state);
        let mut made = PathBuf::from("/");
        for component in normal(path).components() {
            let Component::Normal(name) = component else {
                continue;
            };
            let name = name.to_string_lossy().into_owned();
            let parent = state.dir(&made)?;
            if !parent.now.contains_key(&name) {
                let change = DirChange::Link(name.clone(), Node::Dir);
                change.apply(&mut parent.now);
                parent.pending.push(change);
            }
            made.push(name);
            state.dirs.entry(made.clone()).or_default();
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        Ok(lock(&self.state).dir(path)?.now.keys().cloned().collect())
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        if mode == Mode::Create {
            self.about_to_change();
        }
        let mut state = lock(&self.state);
        let (dir, name) = state.parent(path)?;
        let inode = match (dir.now.get(&name), mode) {
            (Some(Node::Dir), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(Node::File(inode)), Mode::Create) => {
                lock(inode).change(Change::Truncate(0));
                Arc::clone(inode)
            }
            (Some(Node::File(inode)), _) => Arc::clone(inode),
            (None, Mode::Create) => {
                let inode = Arc::new(Mutex::new(Inode::default()));
                let change = DirChange::Link(name, Node::File(Arc::clone(&inode)));
                change.apply(&mut dir.now);
                dir.pending.push(change);
                inode
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        let open = Arc::clone(&state.open);
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            inode,
            _open: open,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.about_to_change();
        let mut state = lock(&self.state);
        let (_, to) = state.parent(to)?;
        let (dir, from) = state.parent(from)?;
        if !dir.now.contains_key(&from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = DirChange::Rename(from, to);
        change.apply(&mut dir.now);
        dir.pending.push(change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.about_to_change();
        let mut state = lock(&self.state);
        let (dir, name) = state.parent(path)?;
        match dir.now.get(&name) {
            Some(Node::File(_)) => {}
            _ => return Err(io::ErrorKind::NotFound.into()),
        }
        let change = DirChange::Unlink(name);
        change.apply(&mut dir.now);
        dir.pending.push(change);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.about_to_change();
        let mut state = lock(&self.state);
        if !state.dir(path)?.now.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (dir, name) = state.parent(path)?;
        let change = DirChange::Unlink(name);
        change.apply(&mut dir.now);
        dir.pending.push(change);
        // What a crash leaves of it is looked up in the names above.
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.about_to_change();
        let mut state = lock(&self.state);
        state.syncs += 1;
        if state.meets(Fault::SyncDir) {
            return Err(input_output_error());
        }
        let dir = state.dir(path)?;
        for change in dir.pending.drain(..) {
            change.apply(&mut dir.durable);
        }
        Ok(())
    }

    fn lock(&self, path: &Path, owner: &str) -> io::Result<Locked> {
        let path = normal(path);
        if let Some(owner) = lock(&self.state).locked.get(&path) {
            return Ok(Locked::Theirs(owner.clone()));
        }
        if let Err(error) = self.open(&path, Mode::Write) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            self.open(&path, Mode::Create)?;
        }
        lock(&self.state)
            .locked
            .insert(path.clone(), owner.to_owned());
        Ok(Locked::Ours(Box::new(SimGuard {
            disk: self.clone(),
            path,
        })))
    }

    fn unique(&self) -> io::Result<[u8; 16]> {
        Ok(lock(&self.state).rng.random())
    }

    fn is_slow(&self) -> bool {
        false
    }
}

struct SimFile {
    disk: SimDisk,
    inode: Arc<Mutex<Inode>>,
    _open: Arc<()>,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").finish_non_exhaustive()
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, at: u64, len: usize, into: &mut Vec<u8>) -> io::Result<usize> {
        let inode = lock(&self.inode);
        let start = inode.now.len().min(at as usize);
        let end = inode.now.len().min(start + len);
        into.extend_from_slice(&inode.now[start..end]);
        Ok(end - start)
    }

    fn write_at(&self, at: u64, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.disk.about_to_change();
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        for part in parts {
            bytes.extend_from_slice(part);
        }
        let mut state = lock(&self.disk.state);
        state.writes += 1;
        let failed = state.meets(Fault::Write);
        if failed || (state.short_writes && state.rng.random_range(0..4) == 0) {
            let most = bytes.len();
            let part = state.rng.random_range(usize::from(!failed)..=most);
            bytes.truncate(part);
        }
        let mut inode = lock(&self.inode);
        if let Some(space) = &mut state.space {
            let end = at as usize + bytes.len();
            let grows = end.saturating_sub(inode.now.len()) as u64;
            if grows > *space {
                bytes.truncate(bytes.len() - (grows - *space) as usize);
                if bytes.is_empty() {
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
            *space -= grows.min(*space);
        }
        let len = bytes.len();
        inode.change(Change::Write {
            at: at as usize,
            bytes,
        });
        if failed {
            return Err(input_output_error());
        }
        Ok(len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.about_to_change();
        let mut state = lock(&self.disk.state);
        let mut inode = lock(&self.inode);
        let freed = inode.now.len().saturating_sub(len as usize) as u64;
        if let Some(space) = &mut state.space {
            *space += freed;
        }
        inode.change(Change::Truncate(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.about_to_change();
        let mut state = lock(&self.disk.state);
        state.syncs += 1;
        let mut inode = lock(&self.inode);
        if state.meets(Fault::Sync) {
            // The kernel takes the pages for clean: no later sync writes them.
            inode.pending.clear();
            return Err(input_output_error());
        }
        inode.sync();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.inode).now.len() as u64)
    }
}
