//! Opening a file as a stream of its lines, out of its zip archive if it is in one.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::Crc;
use flate2::read::DeflateDecoder;

use super::error::{Error, Result};
use super::lines::Lines;

/// An opened file.
#[derive(Debug)]
pub(super) struct Opened {
    /// Its lines.
    pub(super) lines: Lines,
    /// Its length in bytes, unpacked.
    pub(super) bytes: u64,
}

/// Opens a file or the one file within a zip archive.
///
/// An archive is unpacked while it is read, never as a whole: its declared sizes are not trusted.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let io = |doing| {
        move |source| Error::Io {
            doing,
            path: path.to_path_buf(),
            source,
        }
    };
    let file = File::open(path).map_err(io("open"))?;
    let metadata = file.metadata().map_err(io("read the size of"))?;
    if metadata.is_dir() {
        return Err(Error::Unclear {
            path: path.to_path_buf(),
            what: "is a directory; name the files in it".into(),
        });
    }
    if is_zip(path) {
        return entry(path, file);
    }
    Ok(Opened {
        lines: Lines::new(Box::new(file)),
        bytes: metadata.len(),
    })
}

/// Whether the name says that it is a zip archive.
pub(super) fn is_zip(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("zip"))
}

fn entry(path: &Path, file: File) -> Result<Opened> {
    let refused = |what: String| Error::Archive {
        path: path.to_path_buf(),
        what,
    };
    let again = file.try_clone().map_err(|source| Error::Io {
        doing: "open",
        path: path.to_path_buf(),
        source,
    })?;
    let mut archive =
        zip::ZipArchive::new(BufReader::new(file)).map_err(|error| refused(unopened(&error)))?;
    let files: Vec<usize> = (0..archive.len())
        .filter(|index| {
            archive
                .name_for_index(*index)
                .is_some_and(|name| !name.ends_with('/'))
        })
        .collect();
    let &[index] = files.as_slice() else {
        return Err(refused(format!(
            "it holds {} files where one is expected",
            files.len()
        )));
    };
    let entry = archive
        .by_index_raw(index)
        .map_err(|error| refused(error.to_string()))?;
    if entry.encrypted() {
        return Err(refused("it is encrypted".into()));
    }
    let (start, packed, bytes, crc) = (
        entry.data_start(),
        entry.compressed_size(),
        entry.size(),
        entry.crc32(),
    );
    let method = entry.compression();
    drop(entry);

    let mut packed_bytes = again;
    packed_bytes
        .seek(SeekFrom::Start(start))
        .map_err(|source| Error::Io {
            doing: "read",
            path: path.to_path_buf(),
            source,
        })?;
    let packed_bytes = BufReader::new(packed_bytes).take(packed);
    let unpacked: Box<dyn Read + Send> = match method {
        zip::CompressionMethod::Stored => Box::new(packed_bytes),
        zip::CompressionMethod::Deflated => Box::new(DeflateDecoder::new(packed_bytes)),
        other => {
            return Err(refused(format!(
                "it is packed with {other:?}; pack it with deflate"
            )));
        }
    };
    Ok(Opened {
        lines: Lines::new(Box::new(Verified {
            inner: unpacked,
            crc: Crc::new(),
            expected: (crc, bytes),
            read: 0,
        })),
        bytes,
    })
}

/// Why an archive cannot be opened, and what to do.
fn unopened(error: &zip::result::ZipError) -> String {
    match error {
        zip::result::ZipError::InvalidArchive(_) => {
            format!("it is cut short or no zip archive at all ({error}); fetch it again")
        }
        other => other.to_string(),
    }
}

/// Refuses to end before what the archive promised has been read.
struct Verified {
    inner: Box<dyn Read + Send>,
    crc: Crc,
    expected: (u32, u64),
    read: u64,
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.crc.update(&buffer[..count]);
        self.read += count as u64;
        if count == 0 && !buffer.is_empty() && (self.crc.sum(), self.read) != self.expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "unpacked {} bytes with checksum {:08x} where the archive promises {} with {:08x}",
                    self.read,
                    self.crc.sum(),
                    self.expected.1,
                    self.expected.0
                ),
            ));
        }
        Ok(count)
    }
}
