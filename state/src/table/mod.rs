//! Typed state in memory: what operators read and write, without waiting.
//!
//! A table answers for the keys it holds, and, while it is *complete*, for all others too: they are absent.
//! Otherwise a key must be loaded before it is used ([`State::load`](crate::State::load)), the misses of a batch together. Entries
//! changed in the open epoch stay; unchanged ones leave when the table outgrows its bound, least recently used
//! first. When the epoch closes, each changed element is encoded once and goes into the delta.

mod deque;
mod expiry;
mod map;
mod slots;
mod value;

use bytes::Bytes;

pub use deque::DequeTable;
pub use map::{ExpiredElement, MapTable};
pub use value::{Expired, Table};

use crate::{Changes, Kind, Result, TableId};

/// One stored element of a user key: what follows the user key in its stored key, and its value.
pub type Element<'a> = (&'a [u8], &'a Bytes);

/// What [`State`](crate::State) needs of a table, whatever it holds.
///
/// Implemented by the tables of this crate; an operator hands its own over as `&mut dyn Stateful`.
pub trait Stateful: Send {
    /// The table's number.
    fn id(&self) -> TableId;

    /// What it holds under a key.
    fn kind(&self) -> Kind;

    /// Hands the changes of the open epoch over and starts the next; then trims to the byte bound.
    fn close(&mut self, changes: &mut Changes);

    /// Drops everything in memory. What was committed is read again from the state.
    fn forget(&mut self);

    /// Takes in what is stored of a user key, unless the key is in memory already.
    ///
    /// # Errors
    ///
    /// If a value does not decode, or the elements cannot be of one key.
    fn load(&mut self, user: &[u8], elements: &[Element<'_>]) -> Result<()>;

    /// Takes note of a stored user key, in memory or not. Tables with a time to live remember when it is due.
    fn observe(&mut self, user: &[u8], elements: &[Element<'_>]) -> Result<()>;

    /// Whether the key is in memory, or known to be absent.
    fn knows(&self, user: &[u8]) -> bool;

    /// Evicts unchanged entries down to the byte bound. For between two batches: what was loaded for a batch must
    /// stay until it is processed.
    fn trim(&mut self);

    /// Says that everything stored is in memory, so that other keys are known to be absent.
    fn set_complete(&mut self);

    /// Whether everything stored is in memory.
    fn is_complete(&self) -> bool;

    /// Bytes held in memory, roughly.
    fn bytes(&self) -> usize;

    /// The bound on [`bytes`](Self::bytes) of what is unchanged in the open epoch.
    fn bytes_max(&self) -> usize;

    /// Whether every stored key must be [observed](Self::observe) before use.
    fn observes_all(&self) -> bool {
        false
    }
}
