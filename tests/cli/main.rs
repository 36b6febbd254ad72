//! The command from outside: bad input, lost data and full disks, and how a run is told to end. Each
//! test drives the real binary in a directory of its own and ends with outputs that are exactly those
//! of an undisturbed run.

mod advice;
mod checking;
mod damage;
mod dead_letters;
mod disk;
mod examples;
mod extremes;
mod feeds;
mod imports;
mod inputs;
mod killed;
mod machines;
mod outputs;
mod owners;
mod poison;
mod reading;
mod signals;
#[path = "../skip/mod.rs"]
mod skip;
mod state;
mod stdio;
mod support;
mod usage;
