//! Making the log durable, and telling readers in other processes how far it is, and of which manifest.

use std::pin::pin;

use tidemill_broker::Result;
use tidemill_crash_point::crash_point;

use super::{Shared, Synced, Writing, is_full, lock};
use crate::disk::write_all;
use crate::format::log_header::Durable;
use crate::format::manifest::Manifest;
use crate::layout::{failed, stage};
use crate::live::LogFile;
use crate::options::Fsync;

impl Shared {
    /// Makes everything committed so far durable, waiting for the disk.
    pub(crate) fn sync_now(&self) -> Result<()> {
        let writing = self.writing("sync")?;
        let mut synced = lock(&writing.syncing);
        let durable = self.durable.get();
        let result = self
            .sync_logs(writing, &mut synced, durable)
            .and_then(|end| {
                if end > durable {
                    self.publish_durable(writing, end)?;
                    crash_point!("sync.published");
                }
                Ok(())
            });
        drop(synced);
        if let Err(error) = &result {
            self.poison(error);
        }
        result
    }

    /// Makes what a former process left in the page cache durable, up to the log's end, and only then
    /// tells anybody that it is.
    pub(crate) fn sync_opened(&self, end: u64) -> Result<()> {
        let writing = self.writing("sync")?;
        let mut synced = lock(&writing.syncing);
        self.sync_logs(writing, &mut synced, 0)?;
        self.publish_durable(writing, end)
    }

    /// Syncs the log files that have more than this many bytes of the whole log; returns their end.
    fn sync_logs(&self, writing: &Writing, synced: &mut Synced, durable: u64) -> Result<u64> {
        if self.live().end().is_none_or(|end| end <= durable) {
            return Ok(durable);
        }
        // Before it is looked what there is: whatever was committed before this point is covered.
        crash_point!("sync.begun");
        let (logs, end) = {
            let live = self.live();
            let newer = live.logs.values().filter(|log| log.end_place() > durable);
            let logs: Vec<LogFile> = newer.cloned().collect();
            let end = logs.last().map_or(durable, LogFile::end_place);
            (logs, end)
        };
        // In order: what is durable is always a beginning of the whole log.
        for log in &logs {
            log.file.sync_data().map_err(failed("sync", &log.path))?;
        }
        crash_point!("sync.file");
        let newest = logs.last().map(|log| log.header.number);
        if synced.named < newest {
            let named = writing.logs_dir.sync();
            named.map_err(failed("sync", &self.layout.logs()))?;
            synced.named = newest;
        }
        Ok(end)
    }

    /// Replaces the manifest on disk, then what readers see.
    pub(crate) fn install(&self, manifest: &mut Manifest, next: Manifest) -> Result<()> {
        let path = self.layout.manifest();
        let staged = stage(self.disk(), &path, &next.encode())?;
        crash_point!("manifest.staged");
        let renamed = staged.rename(self.disk())?;
        // From here on the directory has the new manifest. Whatever fails, also for want of room, nobody may
        // go on by the old one: what that does not list would be written over.
        let installed = renamed.settle().and_then(|()| {
            crash_point!("manifest.replaced");
            *manifest = next;
            self.live_mut().install(manifest, &self.layout);
            self.publish_manifest()
        });
        if let Err(error) = &installed {
            self.poison(error);
        }
        installed
    }

    /// Tells readers in other processes of a new manifest.
    pub(crate) fn publish_manifest(&self) -> Result<()> {
        let writing = self.writing("sync")?;
        let synced = lock(&writing.syncing);
        // What was split lies in synced segments, also where the log itself was never synced. Whoever
        // waits for it to be durable may go on.
        let durable = self.durable.get().max(self.live().first_start);
        let result = self.publish_durable(writing, durable);
        drop(synced);
        result
    }

    /// Says how much is durable. Called while syncing is held.
    fn publish_durable(&self, writing: &Writing, end: u64) -> Result<()> {
        let record = {
            let live = self.live();
            Durable {
                manifest: live.manifest,
                end,
                log: live
                    .logs
                    .values()
                    .rev()
                    .find(|log| log.header.start <= end)
                    .map_or(0, |log| log.header.number),
            }
        };
        // Not synced: after a loss of power an older one is as true.
        let path = self.layout.durable();
        match write_all(&*writing.durable_file, 0, &[&record.encode()]) {
            // And so it is here: readers in other processes learn of it with the next.
            Err(error) if is_full(&error) => {
                tracing::warn!(path = %path.display(), "the disk is full; readers elsewhere are told later");
            }
            written => written.map_err(failed("write", &path))?,
        }
        self.durable.set(end);
        if self.options.fsync == Fsync::Commit {
            // Readers in this process see no more than that.
            self.changed.notify_waiters();
        }
        Ok(())
    }

    /// Waits until the log is durable up to a place.
    pub(crate) async fn durable_to(&self, place: u64) -> Result<()> {
        loop {
            // Listen before looking, so that nothing falls in between.
            let mut moved = pin!(self.durable.moved());
            moved.as_mut().enable();
            if self.durable.get() >= place {
                return Ok(());
            }
            self.alive()?;
            moved.await;
        }
    }
}
