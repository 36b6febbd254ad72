//! Reading a savepoint, and checking it.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use bytes::Bytes;

use super::{BLOCK_MAX, FORMAT, MAGIC, MANIFEST_MAX, Savepoint};
use crate::directory::crc32c;
use crate::off_thread::off_thread;
use crate::store::Page;
use crate::{Digest, Epoch, Error, Result, Share};

/// Reads a savepoint, checking as it goes.
pub(super) struct Reader {
    file: BufReader<File>,
    pub(super) head: Savepoint,
    /// Bytes read so far.
    pub(super) at: u64,
    /// Bytes of the file.
    pub(super) bytes: u64,
    pub(super) elements: u64,
    digest: Digest,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let bytes = file.metadata().map_err(Error::io("look at", path))?.len();
        let nothing = Savepoint {
            pipeline: String::new(),
            task: String::new(),
            epoch: Epoch::NONE,
            changelog_offset: 0,
            digest: Digest::EMPTY,
            attached: Vec::new(),
            path: path.to_path_buf(),
        };
        let mut reader = Self {
            file: BufReader::new(file),
            head: nothing,
            at: 0,
            bytes,
            elements: 0,
            digest: Digest::EMPTY,
        };
        if reader.array::<8>()? != *MAGIC {
            return Err(reader.damaged("it is not a savepoint"));
        }
        let format = reader.number()?;
        if format > FORMAT {
            let path = path.to_path_buf();
            return Err(Error::NewerFormat {
                path,
                found: format,
                known: FORMAT,
            });
        }
        let length = reader.number()?;
        let manifest = reader.bytes(length, MANIFEST_MAX)?;
        let mut checked = format.to_le_bytes().to_vec();
        checked.extend_from_slice(&length.to_le_bytes());
        checked.extend_from_slice(&manifest);
        if reader.number()? != crc32c(&checked) {
            return Err(reader.damaged("the checksum of its manifest is wrong"));
        }
        let head: Savepoint = serde_json::from_slice(&manifest)
            .map_err(|error| reader.damaged(format!("its manifest cannot be read: {error}")))?;
        reader.head = Savepoint {
            path: path.to_path_buf(),
            ..head
        };
        Ok(reader)
    }

    /// [`block`](Self::block), beside the tasks of the runtime.
    pub(super) async fn next(mut self) -> Result<(Self, Option<Page>)> {
        off_thread(move || {
            let page = self.block()?;
            Ok((self, page))
        })
        .await
    }

    /// The next block, or `None` at an end that agrees with what was read.
    fn block(&mut self) -> Result<Option<Page>> {
        let length = self.number()?;
        let crc = self.number()?;
        if length == 0 {
            let end = self.bytes(24, 24)?;
            let mut expected = self.elements.to_le_bytes().to_vec();
            expected.extend_from_slice(&self.digest.0.to_le_bytes());
            if crc != crc32c(&end) || end != expected || self.digest != self.head.digest {
                return Err(self.damaged("its end does not agree with what was read"));
            }
            return match self.file.read(&mut [0]) {
                Ok(0) => Ok(None),
                Ok(_) => Err(self.damaged("it goes on after its end")),
                Err(error) => Err(Error::io("read", &self.head.path)(error)),
            };
        }
        let block = Bytes::from(self.bytes(length, BLOCK_MAX)?);
        if crc != crc32c(&block) {
            return Err(self.damaged("the checksum of a block is wrong"));
        }
        let mut page = Page::new();
        let mut rest = block.clone();
        while !rest.is_empty() {
            let split = || {
                let (key, more) = rest.split_first_chunk::<4>()?;
                let (value, _) = more.split_first_chunk::<4>()?;
                let key = u32::from_le_bytes(*key) as usize;
                let end = key
                    .checked_add(u32::from_le_bytes(*value) as usize)?
                    .checked_add(8)?;
                (end <= rest.len()).then_some((8 + key, end))
            };
            let Some((middle, end)) = split() else {
                return Err(self.damaged("an element does not fit into its block"));
            };
            let (key, value) = (rest.slice(8..middle), rest.slice(middle..end));
            rest = rest.slice(end..);
            self.digest.add(Share::of(&key, &value));
            self.elements += 1;
            page.push((key, value));
        }
        Ok(Some(page))
    }

    fn number(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, length: u32, max: u32) -> Result<Vec<u8>> {
        if length > max {
            return Err(self.damaged(format!("a length of {length} is beyond {max}")));
        }
        // What a damaged length promises is not allocated before it is there.
        let mut bytes = Vec::new();
        let read = self
            .file
            .by_ref()
            .take(u64::from(length))
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", &self.head.path))?;
        self.at += read as u64;
        if read < length as usize {
            return Err(self.damaged("it is cut short"));
        }
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        match self.file.read_exact(bytes) {
            Ok(()) => {
                self.at += bytes.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it is cut short"))
            }
            Err(error) => Err(Error::io("read", &self.head.path)(error)),
        }
    }

    fn damaged(&self, what: impl std::fmt::Display) -> Error {
        Error::damaged(&self.head.path, format!("{what} (at byte {})", self.at))
    }
}
