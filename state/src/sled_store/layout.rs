//! How elements lie in sled, in its one tree.
//!
//! | Key | Value |
//! | --- | --- |
//! | `s` | how far the store has followed the log: format (1 byte), epoch (8), changelog offset (8), digest (16) |
//! | `k`, key | 0, value; or, if that is longer than [`WHOLE_MAX`], 1, generation (4), number of chunks (4), length of the value (8) |
//! | `c`, length of the key (2), key, generation (4), index (4) | one chunk of a value |
//!
//! All numbers are big endian. A new value goes into a new generation before its head names it, so a head never
//! names chunks that are not there, whenever the writing stops.

use crate::{DecodeError, Digest, Epoch, Stored};

/// Values longer than this are cut. Far below the size from which sled writes a file of its own, which it never
/// syncs.
pub(super) const WHOLE_MAX: usize = 3_072;

const FORMAT: u8 = 1;
const WHOLE: u8 = 0;
const CHUNKED: u8 = 1;

/// The key of [`Stored`].
pub(super) const STORED: &[u8] = b"s";

/// What lies under an element's key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head<'a> {
    /// The value.
    Whole(&'a [u8]),
    /// It lies in so many chunks of that generation, and is so long.
    Chunked {
        generation: u32,
        chunks: u32,
        bytes: u64,
    },
}

pub(super) fn element_key(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(b'k');
    out.extend_from_slice(key);
    out
}

/// What the keys of an element's chunks start with.
pub(super) fn chunks_prefix(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(7 + key.len());
    out.push(b'c');
    // A stored key is two user keys and a few bytes at most.
    out.extend_from_slice(&(key.len() as u16).to_be_bytes());
    out.extend_from_slice(key);
    out
}

pub(super) fn chunk_key(prefix: &[u8], generation: u32, index: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(prefix.len() + 8);
    out.extend_from_slice(prefix);
    out.extend_from_slice(&generation.to_be_bytes());
    out.extend_from_slice(&index.to_be_bytes());
    out
}

pub(super) fn whole(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + value.len());
    out.push(WHOLE);
    out.extend_from_slice(value);
    out
}

/// Takes the key of a chunk apart: the element's key, the generation, the index.
pub(super) fn split_chunk_key(stored: &[u8]) -> Option<(&[u8], u32, u32)> {
    let (length, rest) = stored.strip_prefix(b"c")?.split_first_chunk::<2>()?;
    let (key, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let (generation, index) = rest.split_first_chunk::<4>()?;
    let index = <[u8; 4]>::try_from(index).ok()?;
    Some((
        key,
        u32::from_be_bytes(*generation),
        u32::from_be_bytes(index),
    ))
}

pub(super) fn chunked(value: &[u8], generation: u32) -> Vec<u8> {
    let mut out = vec![CHUNKED];
    out.extend_from_slice(&generation.to_be_bytes());
    out.extend_from_slice(&chunks_of(value.len()).to_be_bytes());
    out.extend_from_slice(&(value.len() as u64).to_be_bytes());
    out
}

fn chunks_of(bytes: usize) -> u32 {
    // A value of 12 TB does not fit into memory.
    bytes.div_ceil(WHOLE_MAX) as u32
}

pub(super) fn head(stored: &[u8]) -> Result<Head<'_>, DecodeError> {
    match stored.split_first() {
        Some((&WHOLE, value)) => Ok(Head::Whole(value)),
        Some((&CHUNKED, rest)) => {
            let parts = || {
                let (generation, rest) = rest.split_first_chunk::<4>()?;
                let (chunks, bytes) = rest.split_first_chunk::<4>()?;
                Some(Head::Chunked {
                    generation: u32::from_be_bytes(*generation),
                    chunks: u32::from_be_bytes(*chunks),
                    bytes: u64::from_be_bytes(<[u8; 8]>::try_from(bytes).ok()?),
                })
            };
            parts().ok_or_else(|| DecodeError::new("the head of a chunked value is cut short"))
        }
        Some((kind, _)) => Err(DecodeError::new(format!("a value has kind {kind}"))),
        None => Err(DecodeError::new("a value has no head")),
    }
}

pub(super) fn encode_stored(stored: Stored) -> Vec<u8> {
    let mut out = vec![FORMAT];
    out.extend_from_slice(&stored.epoch.0.to_be_bytes());
    out.extend_from_slice(&stored.changelog_offset.to_be_bytes());
    out.extend_from_slice(&stored.digest.0.to_be_bytes());
    out
}

pub(super) fn decode_stored(bytes: &[u8]) -> Result<Stored, DecodeError> {
    let parts = || {
        let (format, rest) = bytes.split_first()?;
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let digest = <[u8; 16]>::try_from(rest).ok()?;
        (*format == FORMAT).then_some((*epoch, *offset, digest))
    };
    let (epoch, offset, digest) =
        parts().ok_or_else(|| DecodeError::new("its epoch is not a record of 33 bytes"))?;
    Ok(Stored {
        epoch: Epoch(u64::from_be_bytes(epoch)),
        changelog_offset: u64::from_be_bytes(offset),
        digest: Digest(u128::from_be_bytes(digest)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_records_survive_and_damaged_ones_are_refused() {
        assert_eq!(head(&whole(b"v")), Ok(Head::Whole(b"v")));
        let long = vec![7; 3 * WHOLE_MAX + 1];
        let stored = chunked(&long, 5);
        let found = head(&stored).unwrap();
        assert_eq!(
            found,
            Head::Chunked {
                generation: 5,
                chunks: 4,
                bytes: long.len() as u64
            }
        );
        assert!(head(&[]).is_err() && head(&[1, 0]).is_err() && head(&[9]).is_err());
        let stored = Stored {
            epoch: Epoch(3),
            changelog_offset: 9,
            digest: Digest(1 << 100),
        };
        let bytes = encode_stored(stored);
        assert_eq!(decode_stored(&bytes), Ok(stored));
        assert!(decode_stored(&bytes[1..]).is_err());
    }

    #[test]
    fn chunks_of_one_key_are_not_under_the_prefix_of_another() {
        let (a, ab) = (chunks_prefix(b"a"), chunks_prefix(b"ab"));
        let chunk = chunk_key(&ab, 3, 1);
        assert!(!chunk.starts_with(&a));
        assert_eq!(split_chunk_key(&chunk), Some((&b"ab"[..], 3, 1)));
        assert_eq!(split_chunk_key(&chunk[..6]), None);
    }
}
