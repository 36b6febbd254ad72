//! How a background worker, a thread or a task, is told that there is work.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::shared::lock;

/// Why a worker woke up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ring {
    /// There is work that may wait.
    Work,
    /// Somebody waits for it.
    Urgent,
    /// Leave.
    Stop,
}

/// Tells a worker of the most urgent reason since it last looked.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<Option<Ring>>,
    thread: Condvar,
    task: Notify,
}

impl Bell {
    pub(crate) fn ring(&self, ring: Ring) {
        let mut rung = lock(&self.rung);
        if *rung >= Some(ring) {
            return;
        }
        *rung = Some(ring);
        drop(rung);
        self.thread.notify_all();
        self.task.notify_one();
    }

    /// Takes the reason, but for the order to leave, which stays.
    fn take(&self) -> Option<Ring> {
        let mut rung = lock(&self.rung);
        match *rung {
            Some(Ring::Stop) => Some(Ring::Stop),
            _ => rung.take(),
        }
    }

    /// Waits on a thread.
    pub(crate) fn wait(&self) -> Ring {
        loop {
            if let Some(ring) = self.take() {
                return ring;
            }
            let rung = lock(&self.rung);
            if rung.is_none() {
                drop(self.thread.wait(rung));
            }
        }
    }

    /// Lets a thread wait until it is urgent or `period` is over.
    pub(crate) fn linger(&self, period: Duration) {
        let rung = lock(&self.rung);
        drop(
            self.thread
                .wait_timeout_while(rung, period, |rung| *rung < Some(Ring::Urgent))
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Waits in a task. Cancel safe.
    pub(crate) async fn wait_in_task(&self) -> Ring {
        loop {
            if let Some(ring) = self.take() {
                return ring;
            }
            self.task.notified().await;
        }
    }

    /// Lets a task wait until it is urgent or `period` is over.
    pub(crate) async fn linger_in_task(&self, period: Duration) {
        let urgent = async {
            while *lock(&self.rung) < Some(Ring::Urgent) {
                self.task.notified().await;
            }
        };
        // Out of time or urgent: either way it is time to work.
        let _ = tokio::time::timeout(period, urgent).await;
    }
}
