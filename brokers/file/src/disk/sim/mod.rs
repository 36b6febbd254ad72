//! A disk in memory that loses power, runs full and fails, on a seed.

mod calls;
mod inode;
mod names;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use self::inode::Inode;
use self::names::{Copies, Dir, Node};
use crate::shared::lock;

/// What a [`SimDisk`] can be told to do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A read fails.
    Read,
    /// A write fails, having written a part.
    Write,
    /// Making a file durable fails. As with Linux, what it was about can be read all the same, no later
    /// sync writes it, and it is lost with the power, or [whenever the cache runs
    /// short](SimDisk::kill_image).
    Sync,
    /// Making a directory durable fails; a later sync may, as in a journal.
    SyncDir,
    /// Making a directory durable fails as the disk is full; a later sync may.
    SyncDirFull,
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
    /// How many may be open.
    open_max: Option<usize>,
    writes: u64,
    syncs: u64,
    /// After how many changes an image is taken, and with which seed.
    crash: Option<(u64, u64)>,
    image: Option<SimDisk>,
    watcher: Option<Watcher>,
}

/// Hears of each change before it happens.
type Watcher = Arc<dyn Fn() + Send + Sync>;

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
                open_max: None,
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
                        Node::File(Arc::new(Mutex::new(Inode::holding(bytes))))
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
    /// what was not synced is still to be lost with the power; nobody holds a lock. What a failed sync
    /// was about may be gone from the cache by now, all or some pages of it, as the seed says.
    pub fn kill_image(&self, seed: u64) -> Self {
        let image = Self::new(seed);
        let state = lock(&self.state);
        let mut copies = Copies::new(SmallRng::seed_from_u64(seed ^ 0xe71c_7ed5));
        let dirs = state.dirs.iter();
        let dirs = dirs.map(|(path, dir)| (path.clone(), copies.of_dir(dir)));
        let dirs = dirs.collect();
        drop(state);
        lock(&image.state).dirs = dirs;
        image
    }

    /// Limits how many bytes can still be written, but for what is cut or removed; `None` lifts the limit.
    pub fn set_space(&self, bytes: Option<u64>) {
        lock(&self.state).space = bytes;
    }

    /// Limits how many files may be open, as for a process that has as many as it may; `None` lifts the
    /// limit. Directories count, too, also while one is listed.
    pub fn set_open_max(&self, files: Option<usize>) {
        lock(&self.state).open_max = files;
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
        state.open_max = None;
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
        let bytes = lock(&inode).bytes().to_vec();
        Ok(bytes)
    }

    /// Puts other bytes into a file, durably: damage.
    ///
    /// # Errors
    ///
    /// If there is no such file.
    pub fn set_bytes(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        let inode = self.inode(path)?;
        *lock(&inode) = Inode::holding(bytes);
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

    /// A handle of another open file.
    fn handle(&self) -> io::Result<Arc<()>> {
        const EMFILE: i32 = 24;
        // One count is the disk's own.
        match self.open_max {
            Some(max) if Arc::strong_count(&self.open) > max => {
                Err(io::Error::from_raw_os_error(EMFILE))
            }
            _ => Ok(Arc::clone(&self.open)),
        }
    }

    /// Takes in that as many bytes are free again, also if somebody has the file open.
    fn give_back(&mut self, bytes: u64) {
        if let Some(space) = &mut self.space {
            *space += bytes;
        }
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

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}
