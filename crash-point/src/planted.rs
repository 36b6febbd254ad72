//! Bugs planted on purpose, so that tests prove that they would find them.
//!
//! With the feature `planted-bugs` a test plants one for its thread; in every other build the code of all of them is
//! absent.

/// Runs a block, or the one after `else`, depending on whether the named bug is planted on this thread.
#[cfg(feature = "planted-bugs")]
#[macro_export]
macro_rules! planted {
    ($name:ident, $bug:block) => {
        if $crate::planted::is(stringify!($name)) $bug
    };
    ($name:ident, $bug:block else $sound:block) => {
        if $crate::planted::is(stringify!($name)) $bug else $sound
    };
}

/// The block after `else`, or nothing: no bug is planted in this build.
#[cfg(not(feature = "planted-bugs"))]
#[macro_export]
macro_rules! planted {
    ($name:ident, $bug:block) => {};
    ($name:ident, $bug:block else $sound:block) => {
        $sound
    };
}

#[cfg(feature = "planted-bugs")]
mod armed {
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<&'static str> = const { Cell::new("") };
    }

    /// Plants a bug on this thread instead of the one before; the empty name plants none.
    pub fn plant(name: &'static str) {
        PLANTED.set(name);
    }

    /// Whether this bug is planted on this thread.
    pub fn is(name: &str) -> bool {
        PLANTED.get() == name
    }
}

#[cfg(feature = "planted-bugs")]
pub use armed::{is, plant};
