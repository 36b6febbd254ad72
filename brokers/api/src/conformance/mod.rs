//! The clauses of the contract, as functions that every backend runs.
//!
//! A backend's test file says how a broker is opened;
//! [`conformance!`](crate::conformance!) writes one test for each clause:
//!
//! ```text
//! use tidemill_broker::conformance::Subject;
//!
//! tidemill_broker::conformance! {
//!     memory: Subject::cleaned(
//!         |given| async { MemoryBroker::with_clock(given.clock) },
//!         |broker| async move { broker.clean() },
//!     )
//!     .without([Need::Durability])
//! }
//! ```
//!
//! Nothing is skipped in silence. What a broker lacks, by its [capabilities](crate::Capabilities) or
//! because the suite cannot have it done, stands in its test file as a [`Need`]; a test of its own
//! holds that list to the truth. The clauses that need it check that it is refused with
//! [`Error::Unsupported`](crate::Error::Unsupported), or what holds without it, and say what they left
//! out (`--show-output`).

mod clauses;
mod kit;
mod need;
mod subject;

pub mod cancel;
pub mod durability;
pub mod generations;
pub mod groups;
pub mod members;
pub mod produce;
pub mod reading;
pub mod retention;
pub mod topics;
pub mod transaction_offsets;
pub mod transactions;

pub use clauses::{CLAUSES, Clause, clause};
pub use need::Need;
pub use subject::{Given, Subject};
