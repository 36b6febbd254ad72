//! Tidemill: an embedded, broker-agnostic stream processor for trading.
//!
//! A *pipeline file* says what is read, what becomes of it and what is written. [`config`] checks it,
//! [`pipeline`] runs it over any [`broker`]: in this process ([`memory`]), on a log in a directory
//! ([`file`](mod@file)). What was committed is never lost and never doubled, whenever the process is killed.
//!
//! ```
//! use std::{num::NonZeroU32, sync::Arc};
//! use tidemill::broker::{Broker, BrokerExt, NewRecord, Start, Topic, TopicPartition, TopicSpec};
//! use tidemill::memory::MemoryBroker;
//! use tidemill::pipeline::{MemoryStores, Pipeline, RunOptions};
//!
//! const FILE: &str = r#"
//!     [pipeline]
//!     format = 1
//!     name = "volumes"
//!
//!     [brokers.main]
//!     url = "mem://"
//!
//!     [events.Trade]
//!     fields = { symbol = "text", size = "int", at = "time" }
//!     time = "at"
//!
//!     [topics.trades]
//!     broker = "main"
//!     event = "Trade"
//!     key = "symbol"
//!     start = "earliest"
//!
//!     [stages.per-minute]
//!     from = "trades"
//!     op = "tumbling_window"
//!     size = "1m"
//!     event = "Volume"
//!     aggregate = { volume = "sum(size)" }
//!
//!     [sinks.volumes]
//!     from = "per-minute"
//!     topic = { broker = "main", topic = "volumes" }
//! "#;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = MemoryBroker::default();
//! let trades = Topic::new("trades")?;
//! broker.create_topic(&TopicSpec::new(trades.clone(), NonZeroU32::MIN)).await?;
//! for trade in [
//!     r#"{"symbol":"ACME","size":100,"at":"2024-03-11T14:30:01Z"}"#,
//!     r#"{"symbol":"ACME","size":300,"at":"2024-03-11T14:30:40Z"}"#,
//! ] {
//!     broker.send(NewRecord::new(trades.clone(), trade).key("ACME")).await?;
//! }
//!
//! let plan = tidemill::config::Pipeline::parse("volumes.toml", FILE, &|_| None)?.plan;
//! let stores = Arc::new(MemoryStores::default());
//! let pipeline = Pipeline::new(plan, &[("main", Arc::new(broker.clone()))], stores)?;
//! pipeline.run_to_end(RunOptions::new("0", 1)).await?;
//!
//! let volumes = TopicPartition::new(Topic::new("volumes")?, 0);
//! let batches = broker.read_to_end(&volumes, Start::Earliest).await?;
//! let volume = std::str::from_utf8(batches[0].get(0).value.unwrap_or_default())?;
//! assert!(volume.contains(r#""symbol":"ACME""#) && volume.contains(r#""volume":400"#));
//! # Ok(())
//! # }
//! ```
//!
//! | Module | What is in it |
//! | --- | --- |
//! | [`broker`] | the contract: topics, records, transactions as values, consumer groups |
//! | [`memory`], [`file`](mod@file) | the brokers that keep it: in this process, with faults on request; on disk |
//! | [`config`] | pipeline files: as written, then as checked, all problems at once |
//! | [`pipeline`] | from a checked plan to a running program; the commit protocol |
//! | [`operators`] | what one step does, on any stream or from a file |
//! | [`events`] | declared types, typed rows, JSON in and out |
//! | [`state`] | what a pipeline remembers: tables in memory, a store on disk behind them |
//! | [`market`] | exact decimals, recorded markets in |
//! | `cli` | the command `tidemill`, driven by arguments; feature `cli`, which is on unless turned off |

#![cfg_attr(
    not(feature = "cli"),
    allow(
        dead_code,
        unused_imports,
        reason = "some of what is shared within the crate is shared with the command alone"
    )
)]

#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
pub mod events;
pub mod market;
pub mod operators;
pub mod pipeline;

pub use tidemill_broker as broker;
pub use tidemill_broker_file as file;
pub use tidemill_broker_memory as memory;
pub use tidemill_state as state;

/// The snippets of the README, so that they compile and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
