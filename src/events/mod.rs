//! Events: declared types, rows, and how they are read and written.

mod decode;
mod encode;
mod held;
pub mod identity;
mod poison;
mod rows;
mod schema;
mod text;
mod time;

pub use decode::{JsonDecoder, Limits, VERSION_MAX};
pub use encode::JsonEncoder;
pub use held::HeldRow;
pub use identity::Identity;
pub use poison::{Poison, class};
pub use rows::{RowHead, Rows, Text};
pub use schema::{FIELDS_MAX, Field, MARKET_DATA_UPDATE, SCALE_MAX, SYSTEM_EVENTS, Schema, Type};
pub use time::{TIME_MAX, TIME_MIN, TimeError, in_range, parse_time, write_time, write_time_json};
