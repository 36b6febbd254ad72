//! Events: declared types, rows, and how they are read and written.

mod rows;
mod schema;

pub use rows::{RowHead, Rows, Text};
pub use schema::{FIELDS_MAX, Field, SCALE_MAX, Schema, Type};
