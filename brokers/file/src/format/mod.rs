//! The bytes on disk. `FORMAT.md` describes every one of them; this is the code to it.

pub(crate) mod block;
mod bytes;
pub(crate) mod frame;
pub(crate) mod identity;
pub(crate) mod index;
pub(crate) mod log_header;
pub(crate) mod manifest;

pub(crate) use bytes::{Reader, Writer};

/// The version written, and the newest read.
pub(crate) const VERSION: u32 = 1;

/// Offsets, places and the numbers of files and topics lie below this, so that counting on from one
/// never overflows. A larger one was not written by this program.
pub(crate) const COUNT_MAX: u64 = 1 << 62;

/// The version of a whole file or header that begins with `magic`, the checksum of all that follows it
/// and a version, if that is newer than what is read here.
pub(crate) fn newer(magic: &[u8; 8], bytes: &[u8]) -> Option<u32> {
    let mut reader = Reader::new(bytes);
    let is_whole = reader.array()? == *magic && reader.u32()? == crc32c(bytes.get(12..)?);
    reader
        .u32()
        .filter(|version| is_whole && *version > VERSION)
}

/// CRC32C of some bytes.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// A CRC32C taken piece by piece.
#[derive(Debug)]
pub(crate) struct Crc(crc_fast::Digest);

impl Crc {
    pub(crate) fn new() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(&self) -> u32 {
        self.0.finalize() as u32
    }
}

/// The CRC32C of `a` followed by the `len` bytes whose CRC32C is `b`.
pub(crate) fn crc32c_joined(a: u32, b: u32, len: u64) -> u32 {
    crc_fast::checksum_combine(
        crc_fast::CrcAlgorithm::Crc32Iscsi,
        u64::from(a),
        u64::from(b),
        len,
    ) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let mut crc = Crc::new();
        crc.update(b"1234");
        crc.update(b"56789");
        assert_eq!(crc.finish(), 0xe306_9283);
        assert_eq!(
            crc32c_joined(crc32c(b"1234"), crc32c(b"56789"), 5),
            0xe306_9283
        );
        assert_eq!(
            crc32c_joined(crc32c(b""), crc32c(b"56789"), 5),
            crc32c(b"56789")
        );
    }
}
