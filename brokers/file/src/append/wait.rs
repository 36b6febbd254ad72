//! The waits around an append: before it for room, after it for the disk.

use tidemill_broker::Result;
use tidemill_crash_point::planted;

use super::unknown;
use crate::bell::Ring;
use crate::maintain::Effort;
use crate::options::Fsync;
use crate::shared::Shared;

impl Shared {
    /// Waits while too many log files are not split yet, or one that has to be before anything else.
    pub(crate) async fn room(&self) -> Result<()> {
        loop {
            let changed = self.changed.notified();
            self.alive()?;
            let behind = {
                let live = self.live();
                live.logs.len() > self.options.unsplit_max
                    || live.logs.values().any(|log| log.cramped)
            };
            if !behind {
                return Ok(());
            }
            if let Some(writing) = &self.writing {
                if writing.cleaned.borrow().check().is_err() {
                    // By now there may be room, or something old enough to leave: what comes of looking
                    // again counts, not what came of it then.
                    self.clean(Effort::Due).await?;
                    continue;
                }
                self.now();
                writing.splitter.ring(Ring::Work);
            }
            changed.await;
        }
    }

    /// As [`settle`](Self::settle), for a change that is appended and, if it fails, may be lost with the power.
    pub(crate) async fn settle_change(&self, end: u64) -> Result<()> {
        self.settle(end).await.map_err(|error| unknown(&error))
    }

    /// Waits for the disk if the policy says so before each acknowledgement.
    pub(crate) async fn settle(&self, end: u64) -> Result<()> {
        planted!(early_acknowledgement, {
            return Ok(());
        });
        match self.options.fsync {
            // What a handle that only reads has is durable.
            Fsync::Commit if self.writing.is_some() => {
                // Also who appended nothing may wait for what nobody has asked to be synced.
                if self.durable.get() < end
                    && let Some(writing) = &self.writing
                {
                    writing.syncer.ring(Ring::Urgent);
                }
                self.durable_to(end).await
            }
            Fsync::Commit | Fsync::Every(_) | Fsync::Never => Ok(()),
        }
    }
}
