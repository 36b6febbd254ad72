//! The file `note`: what may be in the store, durable before it is.
//!
//! Two slots of 24 bytes, at 0 and at 4,096, written in turn, so that a torn write spares the other: sequence (8
//! bytes), newest epoch (8 bytes), flags (4 bytes: 1 = there is an epoch, 2 = open, 4 = the
//! store has said an epoch), CRC32C of those (4 bytes); all
//! little endian. The slot with the higher sequence counts.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crc_fast::{CrcAlgorithm, checksum};

use crate::directory::{ENGINE, sync_dir};
use crate::{Epoch, Error, Note, Result};

const SLOT: usize = 24;
const SLOT_AT: [u64; 2] = [0, 4_096];
const HAS_EPOCH: u32 = 1;
const OPEN: u32 = 2;
const HAS_STORED: u32 = 4;

/// The note of a store's directory, without opening the store; `None` if none was written yet.
///
/// # Errors
///
/// If it cannot be read or is damaged.
pub fn read_note(dir: &Path) -> Result<Option<Note>> {
    let path = dir.join("note");
    if is_new(dir, &path)? {
        return Ok(None);
    }
    // Also on a disk that cannot be written.
    let file = File::open(&path).map_err(Error::io("open", &path))?;
    newest(&file, &path).map(|(_, note)| Some(note))
}

/// Whether nothing was written into the note yet: it is not there, or whoever made it was stopped before that,
/// and so before there was an engine beside it.
fn is_new(dir: &Path, path: &Path) -> Result<bool> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes.iter().all(|byte| *byte == 0) && !dir.join(ENGINE).exists()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// The open file.
#[derive(Debug)]
pub(crate) struct NoteFile {
    path: PathBuf,
    file: File,
    sequence: u64,
    note: Note,
}

impl NoteFile {
    /// Opens the note of a directory, or creates an empty one.
    ///
    /// # Errors
    ///
    /// If neither slot is whole: then nobody knows what the store may hold.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("note");
        let is_new = is_new(dir, &path)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let mut note = Self {
            path,
            file,
            sequence: 0,
            note: Note::default(),
        };
        if is_new {
            note.set(Note::default())?;
            sync_dir(dir)?;
        }
        (note.sequence, note.note) = newest(&note.file, &note.path)?;
        Ok(note)
    }

    pub(crate) fn get(&self) -> Note {
        self.note
    }

    /// Sets the note. Durable when it returns.
    pub(crate) fn set(&mut self, note: Note) -> Result<()> {
        let sequence = self.sequence + 1;
        let slot = encode(sequence, note);
        let at = SLOT_AT[(sequence % 2) as usize];
        self.file
            .write_all_at(&slot, at)
            .map_err(Error::io("write", &self.path))?;
        self.file
            .sync_all()
            .map_err(Error::io("sync", &self.path))?;
        (self.sequence, self.note) = (sequence, note);
        Ok(())
    }
}

/// The note that was written last, with its number.
fn newest(file: &File, path: &Path) -> Result<(u64, Note)> {
    let mut best: Option<(u64, Note)> = None;
    for at in SLOT_AT {
        let mut slot = [0; SLOT];
        match file.read_exact_at(&mut slot, at) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => continue,
            Err(error) => return Err(Error::io("read", path)(error)),
        }
        if let Some(read) = decode(&slot)
            && best.is_none_or(|(sequence, _)| sequence < read.0)
        {
            best = Some(read);
        }
    }
    best.ok_or_else(|| Error::damaged(path, "neither of its slots has a valid checksum"))
}

fn encode(sequence: u64, note: Note) -> [u8; SLOT] {
    let flags = [
        (note.newest.is_some(), HAS_EPOCH),
        (note.open, OPEN),
        (note.has_stored, HAS_STORED),
    ];
    let flags = flags.iter().filter(|(is_set, _)| *is_set);
    let flags: u32 = flags.map(|(_, flag)| flag).sum();
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(&sequence.to_le_bytes());
    slot[8..16].copy_from_slice(&note.newest.unwrap_or_default().0.to_le_bytes());
    slot[16..20].copy_from_slice(&flags.to_le_bytes());
    let crc = crc32c(&slot[..20]);
    slot[20..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8; SLOT]) -> Option<(u64, Note)> {
    let (body, crc) = slot.split_last_chunk::<4>()?;
    let (sequence, rest) = body.split_first_chunk::<8>()?;
    let (epoch, rest) = rest.split_first_chunk::<8>()?;
    let flags = u32::from_le_bytes(*rest.first_chunk::<4>()?);
    let sequence = u64::from_le_bytes(*sequence);
    // A hole reads as zeros; sequences begin at 1.
    if crc32c(body) != u32::from_le_bytes(*crc)
        || sequence == 0
        || flags > (HAS_EPOCH | OPEN | HAS_STORED)
    {
        return None;
    }
    let newest = (flags & HAS_EPOCH != 0).then(|| Epoch(u64::from_le_bytes(*epoch)));
    Some((
        sequence,
        Note {
            newest,
            open: flags & OPEN != 0,
            has_stored: flags & HAS_STORED != 0,
        },
    ))
}

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    // The value of a 32-bit algorithm, in the low half.
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(epoch: u64) -> Note {
        Note {
            newest: Some(Epoch(epoch)),
            open: true,
            has_stored: epoch.is_multiple_of(2),
        }
    }

    #[test]
    fn the_last_note_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = NoteFile::open(dir.path()).unwrap();
        assert_eq!(file.get(), Note::default());
        for epoch in 1..5 {
            file.set(note(epoch)).unwrap();
            assert_eq!(NoteFile::open(dir.path()).unwrap().get(), note(epoch));
        }
    }

    #[test]
    fn a_torn_slot_leaves_the_note_before_and_two_leave_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = NoteFile::open(dir.path()).unwrap();
        file.set(note(1)).unwrap();
        file.set(note(2)).unwrap();
        let torn = SLOT_AT[(file.sequence % 2) as usize];
        file.file.write_all_at(&[0xaa; 9], torn).unwrap();
        assert_eq!(NoteFile::open(dir.path()).unwrap().get(), note(1));
        file.file.write_all_at(&[0xaa; 9], SLOT_AT[0]).unwrap();
        file.file.write_all_at(&[0xaa; 9], SLOT_AT[1]).unwrap();
        assert!(NoteFile::open(dir.path()).unwrap_err().is_integrity());
    }

    /// A process killed right after it had made the note once had the next one set its store aside.
    #[test]
    fn a_note_that_nothing_was_written_into_is_as_none_until_there_is_an_engine() {
        for blank in [vec![], vec![0; 5_000]] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("note");
            std::fs::write(&path, &blank).unwrap();
            assert_eq!(read_note(dir.path()).unwrap(), None);
            assert_eq!(NoteFile::open(dir.path()).unwrap().get(), Note::default());
            assert_eq!(read_note(dir.path()).unwrap(), Some(Note::default()));
            std::fs::write(&path, &blank).unwrap();
            std::fs::create_dir(dir.path().join(ENGINE)).unwrap();
            assert!(read_note(dir.path()).unwrap_err().is_integrity());
            assert!(NoteFile::open(dir.path()).unwrap_err().is_integrity());
        }
    }

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
