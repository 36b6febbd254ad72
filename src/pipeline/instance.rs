//! The directory of an instance: its lock, and the stores of its tasks.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tidemill_state::{Identity, MemoryDisk, MemoryStore, SledOptions, SledStore, StateStore};

use super::open::Stores;
use super::{Error, Result};
use crate::events;

/// Most instances of one pipeline that look for a directory on one machine.
const INSTANCES_MAX: u32 = 1024;

/// A locked directory. Holds the lock until dropped.
#[derive(Debug)]
pub struct Instance {
    name: String,
    dir: PathBuf,
    lock: File,
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Closing the file would do, but not while a process that is just being started by another
        // thread still holds a copy of it. If it cannot be said, closing says it.
        let _ = self.lock.unlock();
    }
}

impl Instance {
    /// Takes the directory of a pipeline's instance: `dir` if given, else
    /// `ROOT/PIPELINE/N` with the lowest N nobody holds.
    ///
    /// # Errors
    ///
    /// If it is in use, or cannot be made.
    pub fn take(root: &Path, pipeline: &str, dir: Option<&Path>) -> Result<Self> {
        if let Some(dir) = dir {
            return Self::lock("0".into(), dir.to_owned());
        }
        for number in 0..INSTANCES_MAX {
            let dir = root.join(pipeline).join(number.to_string());
            match Self::lock(number.to_string(), dir) {
                Err(Error::InUse { .. }) => {}
                taken => return taken,
            }
        }
        Err(Error::InUse {
            path: root.join(pipeline),
            owner: format!("{INSTANCES_MAX} other instances"),
        })
    }

    /// Takes every instance of a pipeline that has a directory, so that none can run: `dir` if
    /// given, else all of `ROOT/PIPELINE`. Makes no directory.
    ///
    /// # Errors
    ///
    /// If one is in use, or cannot be read.
    pub fn take_all(root: &Path, pipeline: &str, dir: Option<&Path>) -> Result<Vec<Self>> {
        if let Some(dir) = dir {
            return match dir.is_dir() {
                true => Ok(vec![Self::lock("0".into(), dir.to_owned())?]),
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
        let take = |number: u32| Self::lock(number.to_string(), parent.join(number.to_string()));
        numbers.into_iter().map(take).collect()
    }

    /// The directories of its tasks' stores, sorted.
    ///
    /// # Errors
    ///
    /// If they cannot be listed.
    pub fn stores(&self) -> Result<Vec<PathBuf>> {
        stores_in(&self.dir)
    }

    fn lock(name: String, dir: PathBuf) -> Result<Self> {
        let failed = |doing, path: &Path, source| Error::Io {
            doing,
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(&dir).map_err(|source| failed("create", &dir, source))?;
        let path = dir.join("LOCK");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|source| failed("open", &path, source))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let owner = std::fs::read_to_string(&path).unwrap_or_default();
                let owner = match owner.trim() {
                    "" => "another process".to_owned(),
                    pid => format!("process {pid}"),
                };
                return Err(Error::InUse { path: dir, owner });
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(failed("lock", &path, source)),
        }
        std::fs::write(&path, std::process::id().to_string())
            .map_err(|source| failed("write", &path, source))?;
        Ok(Self { name, dir, lock })
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
