//! Pipeline files: as written, then as checked.

pub mod plan;

pub use plan::Plan;
