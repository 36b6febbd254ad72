//! The file broker from outside.

#[path = "file/support.rs"]
mod support;

#[path = "file/basics.rs"]
mod basics;
