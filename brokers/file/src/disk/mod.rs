//! What the broker asks of a disk: few enough calls that one in memory can lose power and fail.

mod real;
#[cfg(feature = "simulate")]
mod sim;

use std::fmt;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

pub use real::RealDisk;
#[cfg(feature = "simulate")]
pub use sim::{Fault, SimDisk};

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// To read what is there.
    Read,
    /// To read and write what is there.
    Write,
    /// To read and write a file that is made, or emptied if there is one.
    Create,
}

/// What became of asking for a lock.
#[derive(Debug)]
pub enum Locked {
    /// It is ours until the guard drops.
    Ours(Box<dyn Guard>),
    /// Somebody else has it; this is what they wrote into it.
    Theirs(String),
}

/// Holds a lock until it drops.
pub trait Guard: fmt::Debug + Send + Sync {}

/// A directory tree.
///
/// Paths are used as given. Nothing is durable before it is synced: a file's bytes by
/// [`DiskFile::sync_data`], its name by [`DiskDir::sync`] of its directory.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Makes a directory, and those above it, for its owner alone. Fine if it is there.
    ///
    /// # Errors
    ///
    /// Whatever the file system says; so with every method here.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    ///
    /// As above.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Opens a file.
    ///
    /// # Errors
    ///
    /// As above; `NotFound` where there is none and `mode` makes none.
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name in the same directory, replacing what has it: at once or not at
    /// all.
    ///
    /// # Errors
    ///
    /// As above.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a file's name away. Who has it open may go on reading.
    ///
    /// # Errors
    ///
    /// As above.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Takes away an empty directory.
    ///
    /// # Errors
    ///
    /// As above.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Opens a directory, to make the names in it durable.
    ///
    /// # Errors
    ///
    /// As above.
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn DiskDir>>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    ///
    /// As above. After an error nothing is known of what is durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.open_dir(path)?.sync()
    }

    /// Takes an exclusive lock on a file, made if need be, and writes `owner` into it.
    ///
    /// # Errors
    ///
    /// As above.
    fn lock(&self, path: &Path, owner: &str) -> io::Result<Locked>;

    /// How many more bytes can be written to where this lies; more than there are where nobody knows.
    ///
    /// # Errors
    ///
    /// As above.
    fn room(&self, path: &Path) -> io::Result<u64>;

    /// Sixteen bytes that no other directory has.
    ///
    /// # Errors
    ///
    /// If the machine has no randomness to give.
    fn unique(&self) -> io::Result<[u8; 16]>;

    /// Whether waiting for this disk takes time, so that threads of their own should do it. Where
    /// it does not, everything runs on the caller's runtime, in one order for one seed.
    fn is_slow(&self) -> bool;
}

/// An open directory. What is to be made durable for certain is opened before it is changed: a process that
/// has as many files open as it may can open none after.
pub trait DiskDir: fmt::Debug + Send + Sync {
    /// Makes the names in it durable.
    ///
    /// # Errors
    ///
    /// Whatever the file system says. After an error nothing is known of what is durable.
    fn sync(&self) -> io::Result<()>;
}

/// An open file. Reading and writing at places, so that many may share it.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Appends up to `len` bytes from `at` on to `into` and returns how many; fewer only at the end
    /// of the file.
    ///
    /// # Errors
    ///
    /// Whatever the file system says; so with every method here.
    fn read_at(&self, at: u64, len: usize, into: &mut Vec<u8>) -> io::Result<usize>;

    /// Writes from `at` on and returns how many bytes; perhaps fewer than given, never none.
    ///
    /// # Errors
    ///
    /// As above; a part may have been written.
    fn write_at(&self, at: u64, parts: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Cuts the file.
    ///
    /// # Errors
    ///
    /// As above.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Makes the bytes and the length durable.
    ///
    /// # Errors
    ///
    /// As above. After an error nothing is known of what is durable, and asking again proves
    /// nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    ///
    /// As above.
    fn len(&self) -> io::Result<u64>;

    /// Whether it holds no byte.
    ///
    /// # Errors
    ///
    /// As above.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// How many parts one system call takes on Linux.
const PARTS_MAX: usize = 1_024;

/// Writes all of `parts` from `at` on.
pub(crate) fn write_all(file: &dyn DiskFile, mut at: u64, parts: &[&[u8]]) -> io::Result<()> {
    let mut slices: Vec<_> = parts
        .iter()
        .filter(|part| !part.is_empty())
        .map(|part| IoSlice::new(part))
        .collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        let count = rest.len().min(PARTS_MAX);
        let written = match file.write_at(at, &rest[..count]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        at += written as u64;
        IoSlice::advance_slices(&mut rest, written);
    }
    Ok(())
}

/// Reads a whole file.
pub(crate) fn read_whole(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Mode::Read)?;
    let len = file.len()?;
    let mut bytes = Vec::new();
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    bytes.try_reserve_exact(len)?;
    file.read_at(0, len, &mut bytes)?;
    Ok(bytes)
}
