//! The contract every Tidemill broker keeps.
//!
//! A broker keeps *topics*: partitioned, append-only logs of [records](RecordRef). Payloads are
//! bytes; nothing here knows a driver, a store or a market. Three ideas carry the contract:
//!
//! * **A transaction is a value.** [`Transactor::commit`] takes a whole [`Transaction`] and answers
//!   [`Outcome`]: committed, not committed, or unknown. Nobody ever holds an open transaction.
//! * **An assignment has a [`Generation`]**, which every commit of offsets carries; a stale one is
//!   [fenced](Class::Fenced). Revocation is a [`Delivery`] with a [`Permit`].
//! * **Offsets are "next to read"**, rise, and may have gaps. A topic has an opaque
//!   [identity](TopicIdentity) where the backend knows one, so that a recreated topic is not taken
//!   for the old one.
//!
//! The clauses are functions in `conformance` (feature `conformance`); each backend runs them all.

#[cfg(feature = "conformance")]
pub mod conformance;

mod ack;
mod batch;
mod broker;
mod capabilities;
mod clock;
mod consumer;
mod error;
mod headers;
mod layer;
mod name;
mod permit;
mod position;
mod record;
mod topic;
mod transaction;

#[cfg(feature = "coordinator")]
pub mod coordinator;
pub mod partition;

pub use ack::Acks;
pub use batch::{Batch, BatchBuilder, RecordRef};
pub use broker::{Broker, BrokerExt};
pub use capabilities::{Capabilities, Durability};
pub use clock::{Clock, ManualClock, SystemClock, TokioClock};
pub use consumer::{Consumer, ConsumerOptions, Delivery, Start, Subscription};
pub use error::{Class, Error, Result, Source};
pub use headers::{HeaderIter, Headers};
pub use layer::Layer;
pub use name::{Group, InvalidName, Topic, TransactionalId};
pub use permit::Permit;
pub use position::{Generation, Offset, RecordPosition, Timestamp, TopicPartition, Watermarks};
pub use record::{NewRecord, RecordSet};
pub use topic::{Cleanup, Retention, TopicDescription, TopicIdentity, TopicSpec};
pub use transaction::{Appended, GroupOffsets, Outcome, Rejection, Transaction, Transactor};
