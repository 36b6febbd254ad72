//! What the broker calls.

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use rand::Rng;

use super::inode::{Change, Inode};
use super::names::{DirChange, Node};
use super::{Fault, SimDisk, normal};
use crate::disk::{Disk, DiskDir, DiskFile, Guard, Locked, Mode};
use crate::shared::lock;

fn input_output_error() -> io::Error {
    io::Error::other("input/output error (injected)")
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
        let mut state = lock(&self.state);
        let _open = state.handle()?;
        Ok(state.dir(path)?.now.keys().cloned().collect())
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        if mode == Mode::Create {
            self.about_to_change();
        }
        let mut state = lock(&self.state);
        let open = state.handle()?;
        let (dir, name) = state.parent(path)?;
        let mut freed = 0;
        let inode = match (dir.now.get(&name), mode) {
            (Some(Node::Dir), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(Node::File(inode)), Mode::Create) => {
                let mut held = lock(inode);
                freed = held.bytes().len() as u64;
                held.change(Change::Truncate(0));
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
        state.give_back(freed);
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
        let freed = dir.room_of(&to);
        let change = DirChange::Rename(from, to);
        change.apply(&mut dir.now);
        dir.pending.push(change);
        state.give_back(freed);
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
        let freed = dir.room_of(&name);
        let change = DirChange::Unlink(name);
        change.apply(&mut dir.now);
        dir.pending.push(change);
        state.give_back(freed);
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

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn DiskDir>> {
        let mut state = lock(&self.state);
        let open = state.handle()?;
        state.dir(path)?;
        Ok(Box::new(SimDir {
            disk: self.clone(),
            path: path.to_path_buf(),
            _open: open,
        }))
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

    fn room(&self, _path: &Path) -> io::Result<u64> {
        Ok(lock(&self.state).space.unwrap_or(u64::MAX))
    }

    fn unique(&self) -> io::Result<[u8; 16]> {
        Ok(lock(&self.state).rng.random())
    }

    fn is_slow(&self) -> bool {
        false
    }
}

struct SimDir {
    disk: SimDisk,
    path: PathBuf,
    _open: Arc<()>,
}

impl fmt::Debug for SimDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDir")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl DiskDir for SimDir {
    fn sync(&self) -> io::Result<()> {
        self.disk.about_to_change();
        let mut state = lock(&self.disk.state);
        state.syncs += 1;
        if state.meets(Fault::SyncDir) {
            return Err(input_output_error());
        }
        if state.meets(Fault::SyncDirFull) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let dir = state.dir(&self.path)?;
        for change in dir.pending.drain(..) {
            change.apply(&mut dir.durable);
        }
        Ok(())
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
        if lock(&self.disk.state).meets(Fault::Read) {
            return Err(input_output_error());
        }
        let inode = lock(&self.inode);
        let bytes = inode.bytes();
        let start = bytes.len().min(at as usize);
        let end = bytes.len().min(start + len);
        into.extend_from_slice(&bytes[start..end]);
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
            let grows = end.saturating_sub(inode.bytes().len()) as u64;
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
        let freed = inode.bytes().len().saturating_sub(len as usize) as u64;
        state.give_back(freed);
        inode.change(Change::Truncate(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.about_to_change();
        let mut state = lock(&self.disk.state);
        state.syncs += 1;
        let mut inode = lock(&self.inode);
        if state.meets(Fault::Sync) {
            inode.fail_to_sync();
            return Err(input_output_error());
        }
        inode.sync();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.inode).bytes().len() as u64)
    }
}
