//! State as a whole: tables over state over a store, through crashes.

mod bounds;
mod crash;
mod damage;
mod faults;
mod model;
mod savepoint;
mod sled;
mod stored;
mod tables;
mod visits;
