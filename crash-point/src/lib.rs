//! Named places at which tests watch the program, or kill it.
//!
//! A crash point is the name of an instant that a protocol must survive. In shipped builds it is nothing. With
//! the feature `crash-points` it counts its hits, calls the watcher of its thread, and with
//! `TIDEMILL_CRASH_AT=NAME:NTH` in the environment the NTH hit of NAME ends the process by SIGKILL, exactly as
//! `kill -9` would at that instant. With `TIDEMILL_CRASH_LOG=FILE` each hit appends its name to that file, a line
//! each, so that hits outlive the process and lie in order with whatever else it writes. With
//! `TIDEMILL_WAIT_AT=NAME:NTH` the thread that comes there connects to the socket `TIDEMILL_WAIT_FOR` and goes on
//! once that is closed: what is done to the process meanwhile is done at that instant.
//!
//! Names are literals in the source, `PART.INSTANT`: whoever wants the list of all reads it from there, so that a
//! new one cannot be forgotten. This crate knows none of them, and nobody: log and state both pass them, and
//! neither may know of the other.
//!
//! A simulator runs several processes on one thread: each in a *scope* of its own, which what it spawns
//! [inherits](inherit). A scope that is stopped is never polled again, from the very instant on.

pub mod planted;

#[cfg(feature = "crash-points")]
mod armed;
#[cfg(feature = "crash-points")]
mod scope;

#[cfg(feature = "crash-points")]
pub use armed::{Watch, hit, hits, watch};
#[cfg(feature = "crash-points")]
pub use scope::{Scoped, current, freeze, in_scope, inherit, reset, stop, thaw};

/// Marks a named instant; see the [crate].
#[cfg(feature = "crash-points")]
#[macro_export]
macro_rules! crash_point {
    ($name:expr) => {
        $crate::hit($name)
    };
}

/// Marks a named instant; see the [crate]. Nothing in this build.
#[cfg(not(feature = "crash-points"))]
#[macro_export]
macro_rules! crash_point {
    ($name:expr) => {{
        let _: &'static str = $name;
    }};
}

/// Makes a future that is about to be spawned part of the scope it is spawned from. Nothing in this build.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn inherit<F: Future>(future: F) -> F {
    future
}
