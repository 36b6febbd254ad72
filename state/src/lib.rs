//! What a Tidemill task remembers: typed state in memory, a cache of the log on disk.
//!
//! Three layers, each of which knows only the one below:
//!
//! * [`Table`], [`MapTable`] and [`DequeTable`] are owned by operators, hold typed values and never wait.
//! * [`State`] is one task's state. It takes what an epoch changed out of the tables as a [`Delta`], keeps what is
//!   committed and not yet in the store, and answers for what a table does not hold. [`WriteBehind`] brings the
//!   store up to date beside the work.
//! * [`StateStore`] is bytes by key on one engine: [`SledStore`] on disk, [`MemoryStore`] for tests and simulation.
//!
//! The log is the truth and the store a cache of it: every store can be lost and rebuilt from the changelog. This
//! crate knows nothing of brokers; its caller brings deltas to the log and back.

mod delta;
mod digest;
mod directory;
mod epoch;
mod error;
mod fsck;
mod gauge;
mod headway;
mod key;
mod memory;
mod off_thread;
mod overlay;
mod registry;
mod savepoint;
mod sled_store;
mod state;
mod store;
mod table;
mod value;
mod write_behind;

pub use delta::{Change, Changes, Delta};
pub use digest::{Digest, Share};
pub use directory::{delete_restored, read_identity, read_note, set_aside};
pub use epoch::Epoch;
pub use error::{Error, Result, Source, chain};
pub use fsck::{Fsck, TableContent, fsck};
pub use headway::{Doing, Headway, UNWATCHED, Watch};
pub use key::{KEY_MAX, KeyError, Kind, TableId};
pub use memory::{Call, Fault, MemoryDisk, MemoryStore, Survivors};
pub use registry::TableSpec;
pub use savepoint::{SAVEPOINTS_MAX, Savepoint, check_savepoint, restore, savepoints};
pub use sled_store::{SledOptions, SledStore};
pub use state::{Recovered, State, StateOptions};
pub use store::{Identity, Note, OpenedStore, Page, SetAside, StateStore, Stored};
pub use table::{DequeTable, Element, Expired, ExpiredElement, MapTable, Stateful, Table};
pub use tidemill_crash_point::{self as crash_point, crash_point, planted};
pub use value::{DecodeError, Postcard, StateValue};
pub use write_behind::{Pass, WriteBehind};
