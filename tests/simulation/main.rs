//! The engine under simulation: shipped tasks, committer, write-behind and recovery, on a simulated
//! clock, disk and broker. Everything comes from one number.
//!
//! ```text
//! cargo test --all-features --test simulation      20 s of seeds, and all that ever failed
//! SIM_SECONDS=180 SIM_BASE=$(git rev-parse HEAD)    that long, with seeds drawn from the commit
//! SIM_SEEDS=1000000                                 that many
//! SIM_SEED=42                                       this one, with its log
//! ```
//!
//! Every seed is played in a *setting*, which is part of its name: in `42` the log is in memory and breaks
//! as a remote broker does; in `tight:42` hardly anything may wait; in `files:42` the log is in files on
//! a disk that loses power, and log and stores lose it together; in `wide:42` sources that may be idle lie
//! side by side, or some topics lie on a second broker, which breaks by itself.

mod campaign;
mod check;
mod checker;
mod client;
mod draw;
mod ending;
mod event;
mod host;
mod input;
mod load;
mod lockstep;
mod model;
mod planted;
mod processes;
mod reader;
mod run;
mod scenario;
mod schedule;
mod shape;
mod store;
mod tables;
mod world;
