//! State on a disk that cannot be written: looked at in a copy, as opening a store writes to it.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::place::{Store, is_store};
use super::{Exit, Failure};
use crate::pipeline;

/// What locks an instance, and what locks a store.
const LOCKS: [&str; 2] = ["LOCK", "lock"];

/// Copies the stores in and below `dir` to a directory for temporary files, if that of one of them
/// cannot be written; else nothing.
pub(super) fn copy_unless_writable(dir: &Path) -> Result<Option<(TempDir, Vec<Store>)>, Failure> {
    let found = below(dir).map_err(|error| failed("list", dir, error))?;
    let is_refused = |store: &PathBuf| match tempfile::tempfile_in(store) {
        Err(error) => matches!(
            error.kind(),
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
        ),
        Ok(_) => false,
    };
    if !found.iter().any(is_refused) {
        return Ok(None);
    }
    let to = tempfile::tempdir()
        .map_err(|error| failed("make a copy in", &std::env::temp_dir(), error))?;
    let mut stores = Vec::with_capacity(found.len());
    for (number, at) in found.into_iter().enumerate() {
        free(&at)?;
        // Called as its task.
        let dir = to.path().join(number.to_string());
        let dir = dir.join(at.file_name().unwrap_or_default());
        copy(&at, &dir).map_err(|error| failed("copy", &at, error))?;
        stores.push(Store { dir, at });
    }
    Ok(Some((to, stores)))
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> Failure {
    let path = path.to_owned();
    pipeline::Error::Io {
        doing,
        path,
        source,
    }
    .into()
}

/// The stores of a task, an instance or a pipeline.
fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    if is_store(dir) {
        return Ok(vec![dir.to_owned()]);
    }
    let entries = |dir: &Path| -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found: Vec<PathBuf> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?;
        found.retain(|path| path.is_dir());
        found.sort();
        Ok(found)
    };
    let mut instances = entries(dir)?;
    instances.insert(0, dir.to_owned());
    let mut stores = Vec::new();
    for instance in instances {
        stores.extend(entries(&instance.join("tasks"))?);
    }
    Ok(stores)
}

/// Refuses a store whose owner is at work: who cannot write may still be told by its lock.
fn free(store: &Path) -> Result<(), Failure> {
    let instance = store.parent().and_then(Path::parent);
    for dir in instance.into_iter().chain([store]) {
        for name in LOCKS {
            let Ok(lock) = File::open(dir.join(name)) else {
                continue;
            };
            if let Err(TryLockError::WouldBlock) = lock.try_lock_shared() {
                let message = format!("{} is in use", dir.display());
                return Err(Failure::new(Exit::Fenced, message).help("stop the other process"));
            }
        }
    }
    Ok(())
}

/// The files of a store. Its savepoints are files of their own, and read where they are.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (ty, path) = (entry.file_type()?, to.join(entry.file_name()));
        if ty.is_dir() && entry.file_name() != "savepoints" {
            copy(&entry.path(), &path)?;
        } else if ty.is_file() {
            // Not its mode: what may not be written there may be here.
            io::copy(&mut File::open(entry.path())?, &mut File::create(path)?)?;
        }
    }
    Ok(())
}
