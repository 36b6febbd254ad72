//! Moving a store that cannot be used out of the way.

use std::path::{Path, PathBuf};

use crate::directory::{ENGINE, RESTORING, create_dir, sync_dir};
use crate::{Error, Result, SetAside};

/// Moves what a store's directory holds into `aside-N` within it, with a file `why`. Nothing is deleted. The
/// lock and the savepoints stay, and so does the note if it can be read: it tells whether the log lost something.
///
/// The store must be closed.
///
/// # Errors
///
/// If the file system refuses.
pub fn set_aside(dir: &Path, why: &str) -> Result<SetAside> {
    let mut number = 1_u32;
    let aside: PathBuf = loop {
        let path = dir.join(format!("aside-{number}"));
        if !path.exists() {
            break path;
        }
        number += 1;
    };
    create_dir(&aside)?;
    let reason = aside.join("why");
    std::fs::write(&reason, format!("{why}\n")).map_err(Error::io("write", &reason))?;
    // The engine's files first: what is left is then an empty store, whenever this is interrupted.
    let note_is_damaged = super::NoteFile::open(dir).is_err();
    let names = [ENGINE, "identity.json", RESTORING]
        .into_iter()
        .chain(note_is_damaged.then_some("note"));
    for name in names {
        let from = dir.join(name);
        match std::fs::rename(&from, aside.join(name)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("move aside", &from)(error)),
        }
    }
    sync_dir(&aside)?;
    sync_dir(dir)?;
    tracing::warn!(store = %dir.display(), aside = %aside.display(), why, "set a state store aside; it is rebuilt from the changelog");
    metrics::counter!("tidemill_state_set_aside_total").increment(1);
    Ok(SetAside {
        path: aside,
        why: why.to_owned(),
    })
}
