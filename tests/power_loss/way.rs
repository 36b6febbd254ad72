//! How jobs are run while they are recorded, and what each way promises.

use std::path::Path;

use crate::image::Promise;
use crate::job::{Job, Outcome, Outputs};

/// How a job is run while it is recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) guarantee: &'static str,
    pub(crate) promise: Promise,
    pub(crate) query: &'static str,
    pub(crate) options: &'static [&'static str],
    /// With one task alone it is certain whose crash points were passed.
    pub(crate) partitions: u32,
    pub(crate) are_long: bool,
    /// Of the log to which some of the outputs go, beside that of the state.
    pub(crate) second: Option<&'static str>,
}

pub(crate) const WAYS: [Way; 6] = [
    Way {
        guarantee: "exactly_once",
        promise: Promise::AtSync,
        query: "?fsync=100ms&split=32KiB",
        options: &[],
        partitions: 1,
        are_long: true,
        second: None,
    },
    Way {
        guarantee: "exactly_once",
        promise: Promise::AtCommit,
        query: "?fsync=commit&split=32KiB",
        options: &["--lockstep"],
        partitions: 2,
        are_long: false,
        second: None,
    },
    Way {
        guarantee: "at_least_once",
        promise: Promise::AtCommit,
        query: "?fsync=commit&split=64KiB",
        options: &[],
        partitions: 1,
        are_long: true,
        second: None,
    },
    Way {
        guarantee: "at_least_once",
        promise: Promise::AtSync,
        query: "?fsync=100ms&split=32KiB",
        options: &["--lockstep"],
        partitions: 2,
        are_long: false,
        second: None,
    },
    Way {
        guarantee: "at_least_once",
        promise: Promise::AtCommit,
        query: "?fsync=commit&split=64KiB",
        options: &[],
        partitions: 1,
        are_long: false,
        second: Some("?fsync=100ms&split=32KiB"),
    },
    Way {
        guarantee: "at_most_once",
        promise: Promise::Untold,
        query: "?fsync=100ms&split=64KiB",
        options: &[],
        partitions: 1,
        are_long: false,
        second: Some("?fsync=100ms&split=32KiB"),
    },
];

impl Way {
    pub(crate) fn job(&self, dir: &Path, query: &str, options: &[&str]) -> Job {
        let mut job = Job::new(dir, self.guarantee, query, options);
        job.partitions = self.partitions;
        match self.second {
            Some(query) => job.with_second_log(query),
            None => job,
        }
    }

    /// What a job has written that its guarantee does not allow.
    pub(crate) fn difference(&self, found: Outcome, expected: &Outcome) -> Option<String> {
        match self.guarantee {
            "at_least_once" => found.without_repeats().difference(expected),
            "at_most_once" => {
                let surplus = found.surplus(expected);
                surplus.or_else(|| found.state_difference(expected))
            }
            _ => found.difference(expected),
        }
    }

    /// What is missing of what a job should have written, where it may be.
    pub(crate) fn lost(&self, found: &Outcome, expected: &Outcome) -> Outputs {
        match self.guarantee {
            "at_most_once" => found.lost(expected),
            // Of the others a difference tells.
            _ => Outputs::default(),
        }
    }
}
