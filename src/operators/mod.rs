//! Stream operators, one file each.
//!
//! | In a file | Here | What it does |
//! | --- | --- | --- |
//! | (each source) | [`Decode`] | records to rows, with their watermark |
//! | `key_by` | [`KeyBy`] | sets the key from fields |
//! | `dedupe` | [`Dedupe`] | drops events whose id was seen before |
//! | `tumbling_window` | [`TumblingWindow`] | aggregates per key over stretches of event time |
//! | `route` | [`Route`] | sends each event to a port by the value of a field |
//! | `merge` | [`Merge`] | several inputs in order of event time |
//! | (each sink) | [`Encode`] | rows to records |
//!
//! A pipeline file and [`OperatorExt`] on any stream of batches run the same implementation.

pub mod aggregate;
mod decode;
mod dedupe;
mod encode;
mod key;
mod key_by;
mod key_list;
mod merge;
mod operator;
#[cfg(test)]
mod properties;
mod route;
mod stream;
mod tumbling_window;
mod window_due;

pub use decode::Decode;
pub use dedupe::{CODEC as DEDUPE_CODEC, Dedupe};
pub use encode::Encode;
pub use key_by::KeyBy;
pub use merge::{CODEC as MERGE_CODEC, Merge};
pub use operator::{Ahead, Context, Dead, Move, Operator};
pub use route::Route;
pub use stream::{BatchExt, Element, Operate, OperatorExt};
pub use tumbling_window::{
    CODEC as TUMBLING_WINDOW_CODEC, TumblingWindow, TumblingWindowOptions, Window,
};
