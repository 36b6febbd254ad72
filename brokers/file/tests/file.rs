//! The file broker from outside.

#[path = "file/support.rs"]
mod support;

#[path = "file/basics.rs"]
mod basics;
#[path = "file/conformance.rs"]
mod conformance;
#[path = "file/crash.rs"]
mod crash;
#[path = "file/damage.rs"]
mod damage;
#[path = "file/failures.rs"]
mod failures;
#[path = "file/lives.rs"]
mod lives;
#[path = "file/meddling.rs"]
mod meddling;
#[path = "file/threads.rs"]
mod threads;
#[path = "file/unlisted.rs"]
mod unlisted;
