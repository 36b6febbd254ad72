//! The file broker from outside.

#[path = "file/support.rs"]
mod support;

#[path = "file/age.rs"]
mod age;
#[path = "file/basics.rs"]
mod basics;
#[path = "file/compaction.rs"]
mod compaction;
#[path = "file/conformance.rs"]
mod conformance;
#[path = "file/crash.rs"]
mod crash;
#[path = "file/damage.rs"]
mod damage;
#[path = "file/dump.rs"]
mod dump;
#[path = "file/failures.rs"]
mod failures;
#[path = "file/forged.rs"]
mod forged;
#[path = "file/handles.rs"]
mod handles;
#[path = "file/lives.rs"]
mod lives;
#[path = "file/meddling.rs"]
mod meddling;
#[path = "file/room.rs"]
mod room;
#[path = "file/stored.rs"]
mod stored;
#[path = "file/threads.rs"]
mod threads;
#[path = "file/unlisted.rs"]
mod unlisted;
