//! Market values: exact decimals and what is built from them.

pub mod decimal;
pub mod generate;
pub mod import;
