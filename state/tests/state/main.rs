//! State as a whole: tables over state over a store, through crashes.

mod crash;
mod model;
mod sled;
