//! Reading a file front to back in large pieces.

use std::io;
use std::sync::Arc;

use crate::disk::DiskFile;

/// How much is read at once: large enough that system calls do not count, small enough to stay in
/// the processor's cache while it is decoded.
pub(crate) const WINDOW_BYTES: usize = 512 * 1024;

/// A stretch of a file in memory that moves forward.
#[derive(Debug)]
pub(crate) struct Window {
    file: Arc<dyn DiskFile>,
    /// Where to take the file for ended, though there may be more.
    pub(crate) end: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl Window {
    pub(crate) fn new(file: Arc<dyn DiskFile>, end: u64) -> Self {
        Self {
            file,
            end,
            at: 0,
            bytes: Vec::new(),
        }
    }

    /// The `len` bytes from `at` on; `None` if the file ends before.
    pub(crate) fn get(&mut self, at: u64, len: usize) -> io::Result<Option<&[u8]>> {
        if at.checked_add(len as u64).is_none_or(|end| end > self.end) {
            return Ok(None);
        }
        let held = self.at..self.at + self.bytes.len() as u64;
        if !(held.contains(&at) && at + len as u64 <= held.end) {
            let wanted = (self.end - at).min(len.max(WINDOW_BYTES) as u64) as usize;
            self.bytes.clear();
            self.bytes.try_reserve_exact(wanted)?;
            self.at = at;
            self.file.read_at(at, wanted, &mut self.bytes)?;
        }
        let start = (at - self.at) as usize;
        Ok(self.bytes.get(start..start + len))
    }
}
