//! One owner per directory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::{Error, Result};

/// The lock of a directory, released when it is dropped or its process ends, however that ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file would do, but not while a process that is just being started by another
        // thread still holds a copy of it. If it cannot be said, closing says it.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl Lock {
    /// Takes the lock.
    ///
    /// # Errors
    ///
    /// If it is held; names the owner.
    pub(crate) fn take(dir: &Path, owner: &str) -> Result<Self> {
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut owner = String::new();
                // Only for the message: an owner that cannot be read is an unknown one.
                let read = (&file).take(1_024).read_to_string(&mut owner);
                if read.is_err() || owner.trim().is_empty() {
                    owner = "another process".to_owned();
                }
                let owner = owner.trim().to_owned();
                return Err(Error::InUse {
                    path: dir.to_path_buf(),
                    owner,
                });
            }
            Err(errno) => return Err(Error::io("lock", &path)(errno.into())),
        }
        file.set_len(0).map_err(Error::io("write", &path))?;
        writeln!(file, "{owner}, pid {}", std::process::id()).map_err(Error::io("write", &path))?;
        Ok(Self { file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_told_who_the_first_is_and_gets_it_when_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path(), "bars on host-a").unwrap();
        let error = Lock::take(dir.path(), "other").unwrap_err().to_string();
        assert!(error.contains("bars on host-a, pid "), "{error}");
        drop(first);
        Lock::take(dir.path(), "other").unwrap();
    }
}
