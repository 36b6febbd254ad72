//! Moving a store that cannot be used out of the way.

use std::path::{Path, PathBuf};

use crate::directory::{ENGINE, RESTORING, create_dir, sync_dir};
use crate::{Error, Note, Result, SetAside};

/// Deletes what a restore has made of a savepoint and did not finish. The store before it was set aside, and
/// the savepoint is whole, so nothing is lost. Interrupted, it goes on when it is called again.
///
/// The store must be closed.
///
/// # Errors
///
/// If the file system refuses.
pub fn delete_restored(dir: &Path) -> Result<()> {
    let gone = |path: &Path, removed: std::io::Result<()>| match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("delete", path)(error))
        }
        _ => Ok(()),
    };
    let engine = dir.join(ENGINE);
    gone(&engine, std::fs::remove_dir_all(&engine))?;
    // Last what says that the rest is not whole.
    for name in ["identity.json", RESTORING] {
        let path = dir.join(name);
        gone(&path, std::fs::remove_file(&path))?;
    }
    sync_dir(dir)
}

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
    if let Err(error) = std::fs::write(&reason, format!("{why}\n")) {
        // Nothing was moved: the next try is to find the same number free. What cannot be removed is
        // told by the error all the same.
        let _ = std::fs::remove_dir_all(&aside);
        return Err(Error::io("write", &reason)(error));
    }
    let move_aside = |name: &str| {
        let from = dir.join(name);
        match std::fs::rename(&from, aside.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("move aside", &from)(error))
            }
            _ => Ok(()),
        }
    };
    // The engine's files first: what is left is then an empty store, whenever this is interrupted. The note
    // says so before the rest goes.
    let note = super::NoteFile::open(dir);
    move_aside(ENGINE)?;
    sync_dir(&aside)?;
    sync_dir(dir)?;
    match note {
        Ok(mut note) if note.get().has_stored => {
            note.set(Note {
                has_stored: false,
                ..note.get()
            })?;
        }
        Ok(_) => {}
        Err(_) => move_aside("note")?,
    }
    move_aside("identity.json")?;
    move_aside(RESTORING)?;
    sync_dir(&aside)?;
    sync_dir(dir)?;
    tracing::warn!(store = %dir.display(), aside = %aside.display(), why, "set a state store aside; it is rebuilt from the changelog");
    metrics::counter!("tidemill_state_set_aside_total").increment(1);
    Ok(SetAside {
        path: aside,
        why: why.to_owned(),
    })
}
