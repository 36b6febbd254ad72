//! How far something has come, and who waits for it to get there.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, futures::Notified};

/// A place that moves. Those who wait are told in the order in which they came, so that on one thread
/// the same calls give the same order; tokio's `watch` leaves that to chance.
#[derive(Debug)]
pub(crate) struct Mark {
    place: AtomicU64,
    moved: Notify,
}

impl Mark {
    pub(crate) fn new(place: u64) -> Self {
        Self {
            place: AtomicU64::new(place),
            moved: Notify::new(),
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.place.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, place: u64) {
        self.place.store(place, Ordering::Release);
        self.wake();
    }

    /// Lets everybody who waits look again.
    pub(crate) fn wake(&self) {
        self.moved.notify_waiters();
    }

    /// The next time it moves. Listens only once it is enabled or polled.
    pub(crate) fn moved(&self) -> Notified<'_> {
        self.moved.notified()
    }
}
