//! The file `identity.json`: what this directory is, readable before its engine is opened.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::directory::write_replacing;
use crate::{Error, Identity, Result};

/// The newest format of a store's directory that this version reads. Written to disk.
pub(crate) const FORMAT: u32 = 1;

const NAME: &str = "identity.json";

/// Whose state a directory holds, without opening the store; `None` if it holds none.
///
/// # Errors
///
/// If the format is newer than this version, or the file is damaged.
pub fn read_identity(dir: &Path) -> Result<Option<Identity>> {
    Ok(StoredIdentity::read(dir)?.map(|stored| stored.identity()))
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredIdentity {
    pub(crate) format: u32,
    /// 32 hexadecimal digits.
    pub(crate) id: String,
    pub(crate) pipeline: String,
    pub(crate) task: String,
}

/// All that is read of a file whose format is not known yet.
#[derive(Deserialize)]
struct JustFormat {
    format: u32,
}

impl StoredIdentity {
    pub(crate) fn new(identity: &Identity, id: u128) -> Self {
        Self {
            format: FORMAT,
            id: format!("{id:032x}"),
            pipeline: identity.pipeline.clone(),
            task: identity.task.clone(),
        }
    }

    /// Reads it, if it is there.
    ///
    /// # Errors
    ///
    /// If the format is newer than this version, or the file is damaged.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(NAME);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let damaged = |error: serde_json::Error| Error::Damaged {
            path: path.clone(),
            what: "it is not an identity".to_owned(),
            source: Some(error.into()),
        };
        // The format first: what else a newer version writes is not for this one to judge.
        let found = serde_json::from_slice::<JustFormat>(&text)
            .map_err(damaged)?
            .format;
        if found > FORMAT {
            return Err(Error::NewerFormat {
                path,
                found,
                known: FORMAT,
            });
        }
        let identity: Self = serde_json::from_slice(&text).map_err(damaged)?;
        if u128::from_str_radix(&identity.id, 16).is_err() {
            return Err(Error::damaged(path, "its id is not a hexadecimal number"));
        }
        Ok(Some(identity))
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(NAME);
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::io("encode", &path)(error.into()))?;
        text.push(b'\n');
        write_replacing(&path, &text)
    }

    /// # Errors
    ///
    /// If the store is somebody else's.
    pub(crate) fn check(&self, dir: &Path, expected: &Identity) -> Result<()> {
        let found = self.identity();
        if found != *expected {
            return Err(Error::Foreign {
                path: dir.to_path_buf(),
                found: found.to_string(),
                expected: expected.to_string(),
            });
        }
        Ok(())
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity {
            pipeline: self.pipeline.clone(),
            task: self.task.clone(),
        }
    }

    pub(crate) fn id(&self) -> u128 {
        // Checked when it was read.
        u128::from_str_radix(&self.id, 16).unwrap_or_default()
    }
}
