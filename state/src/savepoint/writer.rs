//! Writing a savepoint.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tidemill_crash_point::crash_point;

use super::{BLOCK_MAX, FORMAT, MAGIC, MANIFEST_MAX, Savepoint, delete_interrupted};
use crate::directory::{crc32c, create_dir, sync_dir};
use crate::store::Page;
use crate::{Digest, Error, Result, Share};

/// Writes a savepoint under another name.
///
/// Dropped before it is finished, it deletes what it has written.
pub(super) struct Writer {
    file: File,
    is_finished: bool,
    temporary: PathBuf,
    elements: u64,
    pub(super) digest: Digest,
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.is_finished {
            // Why it was not finished is told; what cannot be deleted now is when the next one begins.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

impl Writer {
    pub(super) fn create(head: &Savepoint) -> Result<Self> {
        let temporary = head.path.with_extension("tmp");
        if let Some(dir) = head.path.parent() {
            create_dir(dir)?;
            delete_interrupted(dir)?;
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(Error::io("create", &temporary))?;
        let manifest = serde_json::to_vec(head)
            .map_err(|error| Error::io("encode", &temporary)(error.into()))?;
        let mut checked = FORMAT.to_le_bytes().to_vec();
        let length = u32::try_from(manifest.len()).unwrap_or(u32::MAX);
        if length > MANIFEST_MAX {
            return Err(Error::invalid(format!(
                "{} bytes are attached; too many",
                manifest.len()
            )));
        }
        checked.extend_from_slice(&length.to_le_bytes());
        checked.extend_from_slice(&manifest);
        let mut writer = Self {
            file,
            is_finished: false,
            temporary,
            elements: 0,
            digest: Digest::EMPTY,
        };
        writer.write(MAGIC)?;
        writer.write(&checked)?;
        writer.write(&crc32c(&checked).to_le_bytes())?;
        Ok(writer)
    }

    pub(super) fn block(mut self, page: &Page) -> Result<Self> {
        let mut block = vec![0; 8];
        let mut scratch = Vec::new();
        for (key, value) in page {
            for part in [key, value] {
                let length = u32::try_from(part.len())
                    .map_err(|_| Error::invalid("a value has 4 GiB or more"))?;
                scratch.extend_from_slice(&length.to_le_bytes());
            }
            block.append(&mut scratch);
            block.extend_from_slice(key);
            block.extend_from_slice(value);
            self.digest.add(Share::of(key, value));
            self.elements += 1;
            // A page of long values is cut into several blocks.
            if block.len() > (BLOCK_MAX / 4) as usize {
                self.frame(&mut block)?;
            }
        }
        if block.len() > 8 {
            self.frame(&mut block)?;
        }
        Ok(self)
    }

    /// Writes a block whose first 8 bytes are left for length and checksum.
    fn frame(&mut self, block: &mut Vec<u8>) -> Result<()> {
        let length = u32::try_from(block.len() - 8).unwrap_or(u32::MAX);
        if length > BLOCK_MAX {
            return Err(Error::invalid(format!(
                "an element has {length} bytes or more"
            )));
        }
        let crc = crc32c(&block[8..]);
        block[..4].copy_from_slice(&length.to_le_bytes());
        block[4..8].copy_from_slice(&crc.to_le_bytes());
        self.write(block)?;
        block.truncate(8);
        Ok(())
    }

    pub(super) fn finish(mut self, path: &Path) -> Result<()> {
        let mut end = self.elements.to_le_bytes().to_vec();
        end.extend_from_slice(&self.digest.0.to_le_bytes());
        self.write(&0_u32.to_le_bytes())?;
        self.write(&crc32c(&end).to_le_bytes())?;
        self.write(&end)?;
        self.file
            .sync_all()
            .map_err(Error::io("sync", &self.temporary))?;
        crash_point!("savepoint.synced");
        std::fs::rename(&self.temporary, path).map_err(Error::io("rename to", path))?;
        self.is_finished = true;
        crash_point!("savepoint.rename");
        match path.parent() {
            Some(dir) => sync_dir(dir),
            None => Ok(()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(Error::io("write", &self.temporary))
    }
}
