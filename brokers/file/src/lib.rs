//! An append-only log on disk: Tidemill's embedded broker, and the format of its recordings.
//!
//! Everything committed goes first into one *commit log*: a transaction over any number of partitions
//! is one append. At 64 MiB a log file is *split* in the background into the *segments* of its
//! partitions, which are read, expired and compacted each by themselves. `FORMAT.md`, beside this
//! crate's manifest, describes every byte.
//!
//! ```no_run
//! # async fn example() -> tidemill_broker::Result<()> {
//! use tidemill_broker::{BrokerExt, Broker, NewRecord, TopicSpec};
//! use tidemill_broker_file::{FileBroker, FileOptions};
//!
//! let broker = FileBroker::open("data/log", FileOptions::default()).await?;
//! broker.create_topic(&TopicSpec::new("ticks".parse()?, 4.try_into().unwrap())).await?;
//! broker.send(NewRecord::new("ticks".parse()?, "1.5")).await?;
//! broker.close().await
//! # }
//! ```

mod append;
mod bell;
mod broker;
mod catalog;
mod compact;
mod consumer;
mod cursor;
mod disk;
mod follow;
mod format;
mod group;
mod layout;
mod live;
mod maintain;
mod mark;
mod open;
mod options;
mod recover;
mod retain;
mod scan;
mod segment;
mod shared;
mod split;
mod transactor;
mod unlisted;
mod verify;
mod window;
mod worker;

pub use broker::FileBroker;
pub use disk::{Disk, DiskDir, DiskFile, Guard, Locked, Mode, RealDisk};
#[cfg(feature = "simulate")]
pub use disk::{Fault, SimDisk};
pub use options::{FileOptions, Fsync};
pub use scan::Torn;
pub use verify::{Finding, Report, verify};
