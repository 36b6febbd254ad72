//! Stream operators, one file each.
//!
//! | In a file | Here | What it does |
//! | --- | --- | --- |
//! | (each source) | [`Decode`] | records to rows, with their watermark |
//! | (each broadcast source) | `Share` | what of it is the task's own |
//! | `key_by` | [`KeyBy`] | sets the key from fields |
//! | `dedupe` | [`Dedupe`] | drops events whose id was seen before |
//! | `tumbling_window` | [`TumblingWindow`] | aggregates per key over stretches of event time |
//! | `route` | [`Route`] | sends each event to a port by the value of a field |
//! | `merge` | [`Merge`] | several inputs in order of event time |
//! | (each sink) | [`Encode`] | rows to records |
//!
//! A pipeline file, and [`OperatorExt`] and [`operate_all()`] on any streams of batches, run the same
//! implementation. Those that remember take the table to keep it in, or make one with `in_memory`.
//!
//! What a file can name is a closed set: the operators of this table, which the pipeline builds. A program's
//! own [`Operator`] runs on streams.

pub mod aggregate;
mod decode;
mod dedupe;
mod encode;
mod in_memory;
mod key;
mod key_by;
mod key_list;
mod merge;
mod operate_all;
mod operator;
#[cfg(test)]
mod properties;
mod route;
mod share;
mod stream;
mod tumbling_window;
mod window_due;

pub use decode::Decode;
pub use dedupe::{CODEC as DEDUPE_CODEC, Dedupe};
pub use encode::Encode;
pub use key_by::KeyBy;
pub use merge::{CODEC as MERGE_CODEC, Merge};
pub use operate_all::{OperateAll, Output, operate_all};
pub(crate) use operator::weight;
pub use operator::{Ahead, Context, Dead, Move, Operator};
pub use route::Route;
pub(crate) use share::Share;
pub use stream::{BatchExt, Element, Operate, OperatorExt};
pub use tumbling_window::{
    CODEC as TUMBLING_WINDOW_CODEC, TumblingWindow, TumblingWindowOptions, Window,
};
