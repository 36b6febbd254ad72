//! A store's directory, around what its engine keeps there.
//!
//! | Name | What |
//! | --- | --- |
//! | `lock` | held by the owner, and says who that is |
//! | `identity.json` | format, number, and whose state it is |
//! | `note` | what may be in the store, durable before it is ([`note`]) |
//! | `sled/` | the engine's files |
//! | `restoring` | there while a savepoint is restored: what lies beside it is not whole |
//! | `savepoints/` | dumps of the whole state, as `savepoint.rs` writes them |
//! | `aside-N/` | a store that could not be opened, as it was found |

mod aside;
mod files;
mod identity;
mod lock;
mod note;

pub use aside::{delete_restored, set_aside};
pub(crate) use files::{create_dir, sync_dir, write_replacing};
pub(crate) use identity::StoredIdentity;
pub use identity::read_identity;
pub(crate) use lock::Lock;
pub use note::read_note;
pub(crate) use note::{NoteFile, crc32c};

/// There while a savepoint is restored.
pub(crate) const RESTORING: &str = "restoring";

/// The engine's folder.
pub(crate) const ENGINE: &str = "sled";
