//! Gauges that all states of a process share.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// What one state has of a gauge: the gauge is the sum of what all have, and loses a part that is dropped.
pub(crate) struct Part {
    gauge: fn() -> metrics::Gauge,
    value: Mutex<usize>,
}

impl Part {
    /// Nothing, so far.
    pub(crate) fn new(gauge: fn() -> metrics::Gauge) -> Self {
        Self {
            gauge,
            value: Mutex::new(0),
        }
    }

    /// Has so much from here on.
    pub(crate) fn set(&self, value: usize) {
        let mut held = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        if *held != value {
            (self.gauge)().increment(value as f64 - *held as f64);
            *held = value;
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").finish_non_exhaustive()
    }
}
