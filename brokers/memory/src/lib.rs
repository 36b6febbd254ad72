//! A broker in this process: for tests, simulation and backtests, and wherever nothing need outlive
//! the process.
//!
//! [`MemoryBroker`] keeps the whole contract of [`tidemill_broker`]: groups with generations,
//! transactions with fencing, retention, compaction. As another [`Persona`] it is no kinder than the
//! broker it stands for. [`Faults`] breaks it, on request or by chance from a seed.
//!
//! ```
//! use tidemill_broker::{Broker, BrokerExt, NewRecord, Start, Topic, TopicPartition, TopicSpec};
//! use tidemill_broker_memory::MemoryBroker;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> tidemill_broker::Result<()> {
//! let broker = MemoryBroker::default();
//! let ticks = Topic::new("ticks")?;
//! broker.create_topic(&TopicSpec::new(ticks.clone(), std::num::NonZeroU32::MIN)).await?;
//! broker.send(NewRecord::new(ticks.clone(), "101.25").key("BTC-USD")).await?;
//!
//! let batches = broker.read_to_end(&TopicPartition::new(ticks, 0), Start::Earliest).await?;
//! assert_eq!(batches[0].get(0).value, Some(&b"101.25"[..]));
//! # Ok(())
//! # }
//! ```

mod broker;
#[cfg(test)]
mod chance;
mod consumer;
mod faults;
mod group;
mod log;
mod options;
mod shared;
mod transactor;
mod write;

pub use broker::MemoryBroker;
pub use faults::{Fate, Fault, FaultPlan, Faults};
pub use options::{MemoryOptions, Persona};
