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
    let Some((found, _held)) = held_unless_writable(dir)? else {
        return Ok(None);
    };
    let to = tempfile::tempdir()
        .map_err(|error| failed("make a copy in", &std::env::temp_dir(), error))?;
    let mut stores = Vec::with_capacity(found.len());
    for (number, at) in found.into_iter().enumerate() {
        // Called as its task.
        let dir = to.path().join(number.to_string());
        let dir = dir.join(at.file_name().unwrap_or_default());
        copy(&at, &dir).map_err(|error| failed("copy", &at, error))?;
        stores.push(Store::new(dir, at));
    }
    Ok(Some((to, stores)))
}

/// Stores, and the locks of their owners.
type Held = (Vec<PathBuf>, Vec<File>);

/// The stores in and below `dir`, if one of them cannot be written, and what keeps owners away from all
/// for as long as it is held; else nothing.
pub(in crate::cli) fn held_unless_writable(dir: &Path) -> Result<Option<Held>, Failure> {
    let found = stores_below(dir)?;
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
    let mut held = Vec::new();
    for store in &found {
        held.extend(free(store)?);
    }
    Ok(Some((found, held)))
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

/// The stores of a task, an instance or a pipeline; none where there is nothing.
pub(super) fn stores_below(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    below(dir).map_err(|error| failed("list", dir, error))
}

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

/// Refuses a store whose owner is at work: who cannot write may still be told by its lock. Keeps owners
/// away for as long as what it returns is held.
fn free(store: &Path) -> Result<Vec<File>, Failure> {
    let instance = store.parent().and_then(Path::parent);
    let mut held = Vec::new();
    for dir in instance.into_iter().chain([store]) {
        for name in LOCKS {
            let path = dir.join(name);
            // What cannot be asked may be in use: only a lock that is not there has no holder.
            let unknown = |doing, error| {
                let help = "run this as the owner of the state, or let it read the lock";
                Err(failed(doing, &path, error).help(help))
            };
            let lock = match File::open(&path) {
                Ok(lock) => lock,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return unknown("open", error),
            };
            match lock.try_lock_shared() {
                Ok(()) => held.push(lock),
                Err(TryLockError::WouldBlock) => {
                    let message = format!("{} is in use", dir.display());
                    return Err(Failure::new(Exit::Fenced, message).help("stop the other process"));
                }
                Err(TryLockError::Error(error)) => return unknown("lock", error),
            }
        }
    }
    Ok(held)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// An instance with one store, both with the lock of nobody.
    fn instance() -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("tasks/0");
        fs::create_dir_all(&store).unwrap();
        fs::write(dir.path().join("LOCK"), "7").unwrap();
        fs::write(store.join("lock"), "7").unwrap();
        (dir, store)
    }

    #[test]
    fn a_store_is_free_while_nobody_holds_its_lock_and_kept_so() {
        let (dir, store) = instance();
        let lock = File::open(dir.path().join("LOCK")).unwrap();
        lock.try_lock().unwrap();
        let refused = free(&store).unwrap_err();
        assert_eq!(refused.exit, Exit::Fenced);
        lock.unlock().unwrap();
        let held = free(&store).unwrap();
        assert!(matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        lock.try_lock().unwrap();
    }

    #[test]
    fn a_store_without_locks_is_free() {
        let (dir, store) = instance();
        fs::remove_file(dir.path().join("LOCK")).unwrap();
        fs::remove_file(store.join("lock")).unwrap();
        assert!(free(&store).unwrap().is_empty());
    }

    /// It once was, and a store was copied while its owner wrote to it.
    #[test]
    fn a_lock_that_cannot_be_opened_is_not_taken_for_free() {
        for of_store in [false, true] {
            let (dir, store) = instance();
            let path = match of_store {
                false => dir.path().join("LOCK"),
                true => store.join("lock"),
            };
            fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
            if File::open(&path).is_ok() {
                // To root everything is permitted, but not to follow a link for ever.
                fs::remove_file(&path).unwrap();
                symlink(&path, &path).unwrap();
            }
            let refused = free(&store).unwrap_err();
            assert_eq!(refused.exit, Exit::Io);
            let told = refused.to_string();
            assert!(told.contains(path.to_str().unwrap()), "{told}");
            assert!(told.contains("help: "), "{told}");
        }
    }
}
