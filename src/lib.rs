//! An embedded, broker-agnostic stream processor for trading.

pub mod cli;
pub mod config;
pub mod events;
pub mod market;
pub mod operators;
pub mod pipeline;

pub use tidemill_broker as broker;
