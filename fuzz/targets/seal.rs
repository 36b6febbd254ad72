//! Puts right checksums over wrong bytes, so that what is behind the checksums is reached too.
//!
//! Written from `FORMAT.md`, not from the code that it tries.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crc_fast::{CrcAlgorithm, Digest};

fn crc(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*four))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let eight = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*eight))
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

/// Seals every file of a log directory; `before` are its files as they were written.
pub(crate) fn seal(files: &mut BTreeMap<PathBuf, Vec<u8>>, before: &BTreeMap<PathBuf, Vec<u8>>) {
    let named = |path: &PathBuf, name: &str| path.file_name().is_some_and(|found| found == name);
    let uuid: Option<[u8; 16]> = files
        .iter()
        .find(|(path, _)| named(path, "FORMAT"))
        .and_then(|(_, bytes)| bytes.get(20..36)?.try_into().ok());
    let Some(uuid) = uuid else {
        return;
    };
    // The manifest holds the checksums of segments: old ones in it are replaced.
    let mut changed = Vec::new();
    for (path, bytes) in files.iter_mut() {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("segment") => {
                seal_blocks(bytes, crc(&uuid));
                if let Some(before) = before.get(path) {
                    changed.push((crc(before), crc(bytes)));
                }
            }
            Some("index") => seal_rest(bytes, 8),
            Some("log") => {
                let header = bytes.get(12..64).map(crc);
                if let Some(header) = header {
                    put(bytes, 8, header);
                    seal_frames(bytes, uuid);
                }
            }
            _ if named(path, "FORMAT") => seal_front(bytes, 36),
            _ if named(path, "DURABLE") => seal_front(bytes, 24),
            _ => {}
        }
    }
    for (path, bytes) in files.iter_mut() {
        if named(path, "MANIFEST") {
            for (old, new) in &changed {
                let old = old.to_le_bytes();
                let at = bytes.windows(4).position(|window| window == old);
                put(bytes, at.unwrap_or(usize::MAX - 4), *new);
            }
            seal_rest(bytes, 8);
        }
    }
}

/// A checksum at `at` over everything before it.
fn seal_front(bytes: &mut [u8], at: usize) {
    if let Some(sum) = bytes.get(..at).map(crc) {
        put(bytes, at, sum);
    }
}

/// A checksum at `at` over everything after it.
fn seal_rest(bytes: &mut [u8], at: usize) {
    if let Some(sum) = bytes.get(at + 4..).map(crc) {
        put(bytes, at, sum);
    }
}

/// Seals blocks, one right after the other; answers their checksums.
fn seal_blocks(mut bytes: &mut [u8], salt: u32) -> Vec<u8> {
    let mut sums = Vec::new();
    loop {
        let len = match u32_at(bytes, 8) {
            Some(len) if bytes.starts_with(b"TmBk") => len as usize,
            _ => return sums,
        };
        if len < 72 || len > bytes.len() {
            return sums;
        }
        let mut sum = Digest::new(CrcAlgorithm::Crc32Iscsi);
        sum.update(&bytes[72..len]);
        sum.update(&bytes[8..72]);
        let sum = sum.finalize() as u32 ^ salt;
        put(bytes, 4, sum);
        sums.extend_from_slice(&sum.to_le_bytes());
        bytes = &mut bytes[len..];
    }
}

/// Seals the frames of a log file, as far as their lengths lead.
fn seal_frames(log: &mut [u8], uuid: [u8; 16]) {
    let mut salted = uuid.to_vec();
    salted.extend_from_slice(&log[32..40]);
    let log_salt = crc(&salted);
    let mut rest = &mut log[64..];
    loop {
        let (Some(head), Some(body)) = (u32_at(rest, 8), u64_at(rest, 16)) else {
            return;
        };
        let body_at = 40usize.saturating_add(head as usize);
        let end = body_at.saturating_add(usize::try_from(body).unwrap_or(usize::MAX));
        if !rest.starts_with(b"TmFr") || end > rest.len() {
            return;
        }
        let sums = seal_blocks(&mut rest[body_at..end], crc(&uuid));
        if u32_at(rest, 12) == Some(1) && head >= 8 {
            put(rest, 40, (sums.len() / 4) as u32);
            put(rest, 44, crc(&sums));
        }
        let sum = crc(&rest[8..body_at]) ^ log_salt;
        put(rest, 4, sum);
        rest = &mut rest[end..];
    }
}
