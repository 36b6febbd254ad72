//! Leave to finish work on partitions that are being taken away.

use std::fmt;

use tokio::time::Instant;

/// Holds revoked partitions until dropped.
///
/// Whoever holds it may still commit for them; once it is dropped, or its deadline has passed, the
/// partitions belong to somebody else and such commits are fenced.
pub struct Permit {
    deadline: Instant,
    release: Option<Box<dyn FnOnce() + Send>>,
}

impl Permit {
    /// A permit that calls `release` when it drops.
    pub fn new(deadline: Instant, release: impl FnOnce() + Send + 'static) -> Self {
        Self {
            deadline,
            release: Some(Box::new(release)),
        }
    }

    /// When the partitions go even if the permit is still held, on tokio's clock.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release();
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
