//! The file `FORMAT`: which version, which directory.

use super::{Reader, VERSION, Writer, crc32c};

const MAGIC: &[u8; 16] = b"tidemill log\r\n\0\x1a";

/// What `FORMAT` says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// A directory this version reads.
    Known { uuid: [u8; 16] },
    /// One written by a newer version.
    Newer { version: u32 },
    /// Not a file of ours, or damaged at this byte.
    Damaged { at: u64, what: &'static str },
}

pub(crate) fn encode(uuid: [u8; 16]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.bytes(MAGIC).u32(VERSION).bytes(&uuid);
    let crc = crc32c(&writer.0);
    writer.u32(crc);
    writer.0
}

pub(crate) fn parse(bytes: &[u8]) -> Identity {
    let mut reader = Reader::new(bytes);
    if reader.array() != Some(*MAGIC) {
        return Identity::Damaged {
            at: 0,
            what: "these are not the first bytes of a tidemill log",
        };
    }
    let damaged = Identity::Damaged {
        at: 16,
        what: "the checksum does not match",
    };
    // The version stands before everything that a later version may lay out anew.
    match reader.u32() {
        None => return damaged,
        Some(version) if version > VERSION => return Identity::Newer { version },
        Some(_) => {}
    }
    let Some(uuid) = reader.array() else {
        return damaged;
    };
    match reader.u32() {
        Some(crc) if crc == crc32c(&bytes[..bytes.len().min(36)]) && reader.is_empty() => {
            Identity::Known { uuid }
        }
        _ => damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_comes_back_and_a_newer_one_is_told_apart() {
        let bytes = encode([7; 16]);
        assert_eq!(parse(&bytes), Identity::Known { uuid: [7; 16] });
        let mut newer = bytes.clone();
        newer[16] = 2;
        assert_eq!(parse(&newer), Identity::Newer { version: 2 });
        for len in 0..bytes.len() {
            assert!(matches!(parse(&bytes[..len]), Identity::Damaged { .. }));
        }
    }
}
