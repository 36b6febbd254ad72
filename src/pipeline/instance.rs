//! The directory of an instance: its lock, and the stores of its tasks.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tidemill_state::{Identity, MemoryDisk, MemoryStore, SledOptions, SledStore, StateStore};

use super::open::Stores;
use super::{Error, Result};
use crate::events;

/// Most instances of one pipeline that look for a directory on one machine.
const INSTANCES_MAX: u32 = 1024;

/// Locked by a run alone, shared by those that work on the state of an instance that does not run.
const LOCK: &str = "LOCK";

/// Locked by the one that works on the state, and says who that is.
const WORK: &str = "WORK";

/// A locked directory. Holds the lock until dropped.
#[derive(Debug)]
pub struct Instance {
    name: String,
    dir: PathBuf,
    locks: Vec<File>,
}

/// Refuses the directory of all instances as that of one: its store would lie beside theirs, and be a
/// stranger to what they hold.
fn refuse_all(root: &Path, pipeline: &str, dir: &Path) -> Result<()> {
    // A directory that is named without a pipeline is what it is.
    if pipeline.is_empty() {
        return Ok(());
    }
    let all = root.join(pipeline);
    // One that is not there is told by its name.
    let place = |path: &Path| {
        path.canonicalize()
            .or_else(|_| std::path::absolute(path))
            .unwrap_or_else(|_| path.to_owned())
    };
    match place(dir) == place(&all) {
        true => Err(Error::NotAnInstance {
            path: all,
            pipeline: pipeline.to_owned(),
        }),
        false => Ok(()),
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        for lock in &self.locks {
            // Closing the file would do, but not while a process that is just being started by another
            // thread still holds a copy of it. If it cannot be said, closing says it.
            let _ = lock.unlock();
        }
    }
}

impl Instance {
    /// Takes the directory of a pipeline's instance, to run it: `dir` if given, else
    /// `ROOT/PIPELINE/N` with the lowest N that does not run.
    ///
    /// # Errors
    ///
    /// If it is in use, cannot be made, or is the directory of all instances. If somebody works on the state of an instance that does not
    /// run: the next number would be a stranger to that state and build all of it anew.
    pub fn take(root: &Path, pipeline: &str, dir: Option<&Path>) -> Result<Self> {
        if let Some(dir) = dir {
            refuse_all(root, pipeline, dir)?;
            return Self::run("0".into(), dir.to_owned())?.map_err(|owner| Error::InUse {
                path: dir.to_owned(),
                owner,
            });
        }
        for number in 0..INSTANCES_MAX {
            let dir = root.join(pipeline).join(number.to_string());
            if let Ok(taken) = Self::run(number.to_string(), dir)? {
                return Ok(taken);
            }
        }
        Err(Error::InUse {
            path: root.join(pipeline),
            owner: format!("{INSTANCES_MAX} other instances"),
        })
    }

    /// Takes every instance of a pipeline that has a directory, so that none can run: `dir` if
    /// given, else all of `ROOT/PIPELINE`. Makes no directory. `verb` says what is done meanwhile.
    ///
    /// # Errors
    ///
    /// If one is in use, or cannot be read, or `dir` is the directory of all.
    pub fn take_all(
        root: &Path,
        pipeline: &str,
        dir: Option<&Path>,
        verb: &str,
    ) -> Result<Vec<Self>> {
        if let Some(dir) = dir {
            refuse_all(root, pipeline, dir)?;
            return match dir.is_dir() {
                true => Ok(vec![Self::work("0".into(), dir.to_owned(), verb)?]),
                false => Ok(Vec::new()),
            };
        }
        let parent = root.join(pipeline);
        let failed = |source| Error::Io {
            doing: "list",
            path: parent.clone(),
            source,
        };
        let mut numbers = Vec::new();
        match std::fs::read_dir(&parent) {
            Ok(entries) => {
                for entry in entries {
                    let name = entry.map_err(failed)?.file_name();
                    numbers.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        numbers.sort_unstable();
        let take = |number: u32| {
            let name = number.to_string();
            let dir = parent.join(&name);
            Self::work(name, dir, verb)
        };
        numbers.into_iter().map(take).collect()
    }

    /// Takes the first instance of a pipeline that has none yet, to make its state.
    ///
    /// # Errors
    ///
    /// As for [`take_all`](Self::take_all).
    pub fn take_first(root: &Path, pipeline: &str, dir: Option<&Path>, verb: &str) -> Result<Self> {
        if let Some(dir) = dir {
            refuse_all(root, pipeline, dir)?;
        }
        let first = || root.join(pipeline).join("0");
        Self::work("0".into(), dir.map_or_else(first, Path::to_owned), verb)
    }

    /// The directories of its tasks' stores, sorted.
    ///
    /// # Errors
    ///
    /// If they cannot be listed.
    pub fn stores(&self) -> Result<Vec<PathBuf>> {
        stores_in(&self.dir)
    }

    /// Locks a directory to run in it; says who runs there already, if somebody does.
    fn run(name: String, dir: PathBuf) -> Result<std::result::Result<Self, String>> {
        let lock = open(&dir, LOCK)?;
        if lock_or_not(lock.try_lock(), &dir, LOCK)? {
            tell(&dir, LOCK, &std::process::id().to_string())?;
            let locks = vec![lock];
            return Ok(Ok(Self { name, dir, locks }));
        }
        // Shared with those that work on the state; not with a run.
        if lock_or_not(lock.try_lock_shared(), &dir, LOCK)? {
            let owner = owner(&dir, WORK);
            return Err(Error::InUse { path: dir, owner });
        }
        Ok(Err(owner(&dir, LOCK)))
    }

    /// Locks a directory to work on its state.
    fn work(name: String, dir: PathBuf, verb: &str) -> Result<Self> {
        let mut locks = Vec::with_capacity(2);
        let lock = open(&dir, LOCK)?;
        if !lock_or_not(lock.try_lock_shared(), &dir, LOCK)? {
            let owner = owner(&dir, LOCK);
            return Err(Error::InUse { path: dir, owner });
        }
        locks.push(lock);
        let work = open(&dir, WORK)?;
        if !lock_or_not(work.try_lock(), &dir, WORK)? {
            let owner = owner(&dir, WORK);
            return Err(Error::InUse { path: dir, owner });
        }
        locks.push(work);
        let text = format!("{} (`{verb}`)", std::process::id());
        // Only for the message to others: looking at state needs no room.
        let _ = tell(&dir, WORK, &text);
        Ok(Self { name, dir, locks })
    }

    /// Its name: part of transactional ids and markers.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether an earlier run has left state in it.
    pub fn holds_state(&self) -> bool {
        std::fs::read_dir(self.dir.join("tasks")).is_ok_and(|mut tasks| tasks.next().is_some())
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

fn failed(doing: &'static str, path: PathBuf, source: std::io::Error) -> Error {
    Error::Io {
        doing,
        path,
        source,
    }
}

/// Opens a file to lock, which is made if need be.
fn open(dir: &Path, name: &str) -> Result<File> {
    std::fs::create_dir_all(dir).map_err(|source| failed("create", dir.to_owned(), source))?;
    let path = dir.join(name);
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|source| failed("open", path, source))
}

/// Whether a lock was got, or has another holder.
fn lock_or_not(
    tried: std::result::Result<(), TryLockError>,
    dir: &Path,
    name: &str,
) -> Result<bool> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(source)) => Err(failed("lock", dir.join(name), source)),
    }
}

/// Says who holds a lock.
fn tell(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    std::fs::write(&path, text).map_err(|source| failed("write", path, source))
}

fn owner(dir: &Path, name: &str) -> String {
    let owner = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    match owner.trim() {
        "" => "another process".to_owned(),
        pid => format!("process {pid}"),
    }
}

/// The stores of an instance's directory.
fn stores_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let parent = dir.join("tasks");
    let failed = |source| Error::Io {
        doing: "list",
        path: parent.clone(),
        source,
    };
    let entries = match std::fs::read_dir(&parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Stores in a directory, one of its own for each task.
#[derive(Debug)]
pub struct SledStores {
    dir: PathBuf,
    run: u64,
}

impl SledStores {
    /// Stores under `dir`; `run` is the number drawn for this run, from which new stores get
    /// theirs.
    pub fn new(dir: PathBuf, run: u64) -> Self {
        Self { dir, run }
    }

    /// How the store of a task is opened.
    pub fn options(&self, pipeline: &str, task: &str) -> SledOptions {
        SledOptions {
            path: Self::path(&self.dir, task),
            new_id: events::Identity::of("store")
                .number(self.run)
                .text(task)
                .finish(),
            owner: format!("process {}", std::process::id()),
            cache_bytes: SledOptions::CACHE_BYTES,
            identity: Identity {
                pipeline: pipeline.to_owned(),
                task: task.to_owned(),
            },
        }
    }

    /// Where the store of a task lies.
    pub fn path(dir: &Path, task: &str) -> PathBuf {
        dir.join("tasks").join(task)
    }
}

#[async_trait]
impl Stores for SledStores {
    async fn open(
        &self,
        pipeline: &str,
        task: &str,
    ) -> tidemill_state::Result<Arc<dyn StateStore>> {
        let options = self.options(pipeline, task);
        Ok(Arc::new(SledStore::open(options).await?))
    }

    async fn set_aside(&self, task: &str, why: &str) -> tidemill_state::Result<()> {
        tidemill_state::set_aside(&Self::path(&self.dir, task), why).map(drop)
    }
}

/// Stores in memory: for logs that do not outlive the process, and for tests.
#[derive(Debug, Default)]
pub struct MemoryStores {
    disks: Mutex<BTreeMap<String, MemoryDisk>>,
}

impl MemoryStores {
    /// What stands in for the disk of a task, made on first use.
    pub fn disk(&self, task: &str) -> MemoryDisk {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        disks.entry(task.to_owned()).or_default().clone()
    }
}

#[async_trait]
impl Stores for MemoryStores {
    async fn open(
        &self,
        pipeline: &str,
        task: &str,
    ) -> tidemill_state::Result<Arc<dyn StateStore>> {
        let identity = Identity {
            pipeline: pipeline.to_owned(),
            task: task.to_owned(),
        };
        Ok(Arc::new(MemoryStore::open(&self.disk(task), &identity)?))
    }

    async fn set_aside(&self, task: &str, _why: &str) -> tidemill_state::Result<()> {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        disks.remove(task);
        Ok(())
    }
}
