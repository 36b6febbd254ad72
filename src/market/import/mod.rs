//! Recorded markets in: files of many layouts become
//! [`MarketDataUpdate`](crate::events) records of a topic.
//!
//! * All files are read and checked before the first record is written; then they are merged by
//!   event time, ties by the order of the files and of their lines. Time that goes backwards within
//!   a file is kept as it is and counted.
//! * Numbers go from text to scaled integers; what has more decimals than the scale is rounded half
//!   to even and counted.
//! * What a strategy should not see goes to a side topic with its `reason` and `origin`: ticks that
//!   the source marks suspicious, zero sizes and prices, quotes that lack a side, and bad lines where
//!   these do not stop the import.
//! * A trade becomes one update, a bar becomes four (see the module `bars`), a quote becomes one
//!   whose `currentPrice` is the mid, rounded half to even. Trades and quotes do not mix in one
//!   import, as both have a `currentPrice`. `sequence` is the line's number in its file.
//! * Each chunk of records is committed together with how far the import has come, in a compacted
//!   log of imports. Killed at any instant and run again, an import goes on where it stopped; run
//!   once more, it does nothing.

mod bars;
mod binance;
mod container;
mod day;
mod detect;
mod error;
mod fields;
mod item;
mod json;
mod layout;
mod lean;
mod lines;
mod log;
mod merge;
mod ohlcv;
mod options;
mod reader;
mod run;
mod writer;

#[cfg(test)]
mod tests;

pub use error::{Error, Result};
pub use json::Mapping;
pub use layout::{Kind, Layout, Resolution, Security};
pub(crate) use lines::BYTE_ORDER_MARK;
pub use options::{OnBadLine, OnImported, Options};
pub use run::{Checked, Counts, Phase, Progress, Report, check, run, write};
