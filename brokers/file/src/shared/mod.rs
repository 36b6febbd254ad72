//! What all handles of one open directory share.

mod publish;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

use tidemill_broker::{Error, Result, Timestamp, TransactionalId};
use tokio::sync::{Notify, watch};

use crate::bell::Bell;
use crate::disk::{Disk, DiskDir, DiskFile, Guard};
use crate::follow::Following;
use crate::format::manifest::Manifest;
use crate::group::Groups;
use crate::layout::Layout;
use crate::live::{Live, LogFile};
use crate::maintain::Cleaned;
use crate::mark::Mark;
use crate::options::{FileOptions, Fsync};

/// What only one thread at a time may do: append.
#[derive(Debug)]
pub(crate) struct Appender {
    /// The log file appended to; none before the first append after everything was split.
    pub(crate) log: Option<LogFile>,
    /// What the next log file is called, and where it begins.
    pub(crate) next_log: u64,
    pub(crate) next_start: u64,
    /// How long that file may be before the disk is asked for its room.
    pub(crate) look_at: u64,
    /// When it was last looked whether anything is to leave by its age, and whether there was.
    pub(crate) looked: Timestamp,
    pub(crate) outdated: bool,
    /// When this process last appended. What comes later is not older, also where the clock was set back:
    /// after a leap ahead records stay longer than they must until the directory is opened again, and where it
    /// showed the past for a while, none leaves sooner.
    pub(crate) latest: Timestamp,
    /// The present owner of each transactional id. They live as long as the writer does: no owner
    /// outlives its process.
    pub(crate) owners: BTreeMap<TransactionalId, u64>,
}

/// What only the writer has.
#[derive(Debug)]
pub(crate) struct Writing {
    /// Taken after [`groups`](Shared::groups) and before [`live`](Shared::live).
    pub(crate) appender: Mutex<Appender>,
    /// The manifest on disk. Whoever replaces it holds this.
    pub(crate) manifest: Mutex<Manifest>,
    durable_file: Arc<dyn DiskFile>,
    /// Where log files have their names.
    logs_dir: Box<dyn DiskDir>,
    /// Held while syncing, which goes on beside appends.
    syncing: Mutex<Synced>,
    pub(crate) syncer: Bell,
    pub(crate) splitter: Bell,
    /// How often the splitter was asked to clean, and how often it has.
    pub(crate) cleaned: watch::Sender<Cleaned>,
    guard: Mutex<Option<Box<dyn Guard>>>,
}

/// What the syncing thread remembers.
#[derive(Debug, Default)]
struct Synced {
    /// The newest log file whose name is durable.
    named: Option<u64>,
}

/// One open directory.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) layout: Layout,
    pub(crate) options: FileOptions,
    pub(crate) uuid: [u8; 16],
    /// What blocks' checksums are mixed with.
    pub(crate) salt: u32,
    live: RwLock<Live>,
    pub(crate) groups: Mutex<Groups>,
    /// How much of the whole log is durable.
    pub(crate) durable: Mark,
    /// Wakes whoever waits for records, news of its group, or a log file to be split.
    pub(crate) changed: Notify,
    /// What the clock showed when somebody last appended or asked to clean. Threads go by it: a clock may
    /// show its time on the caller's runtime only.
    noted: AtomicI64,
    poisoned: OnceLock<String>,
    closed: AtomicBool,
    /// Only in a handle that only reads.
    pub(crate) following: Option<Mutex<Following>>,
    /// None in a handle that only reads.
    pub(crate) writing: Option<Writing>,
}

/// Locks; no holder panics half-way, so what a panic left is whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writing {
    pub(crate) fn new(
        appender: Appender,
        manifest: Manifest,
        durable_file: Arc<dyn DiskFile>,
        logs_dir: Box<dyn DiskDir>,
        guard: Box<dyn Guard>,
    ) -> Self {
        Self {
            appender: Mutex::new(appender),
            manifest: Mutex::new(manifest),
            durable_file,
            logs_dir,
            syncing: Mutex::default(),
            syncer: Bell::default(),
            splitter: Bell::default(),
            cleaned: watch::Sender::new(Cleaned::default()),
            guard: Mutex::new(Some(guard)),
        }
    }
}

impl Shared {
    pub(crate) fn new(
        layout: Layout,
        options: FileOptions,
        uuid: [u8; 16],
        live: Live,
        durable: u64,
        writing: Option<Writing>,
    ) -> Self {
        Self {
            layout,
            options,
            salt: crate::format::crc32c(&uuid),
            uuid,
            live: RwLock::new(live),
            groups: Mutex::default(),
            durable: Mark::new(durable),
            changed: Notify::new(),
            noted: AtomicI64::new(i64::MIN),
            poisoned: OnceLock::new(),
            closed: AtomicBool::new(false),
            following: None,
            writing,
        }
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.options.disk
    }

    pub(crate) fn live(&self) -> RwLockReadGuard<'_, Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn live_mut(&self) -> RwLockWriteGuard<'_, Live> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the writer has.
    ///
    /// # Errors
    ///
    /// In a handle that only reads, after a failure, and once closed.
    pub(crate) fn writing(&self, what: &'static str) -> Result<&Writing> {
        self.alive()?;
        self.writing.as_ref().ok_or(Error::Unsupported {
            broker: "file (opened to read)",
            what,
        })
    }

    /// The manifest on disk, in the writer's process.
    pub(crate) fn manifest(&self) -> Option<&Mutex<Manifest>> {
        self.writing.as_ref().map(|writing| &writing.manifest)
    }

    pub(crate) fn alive(&self) -> Result<()> {
        if let Some(what) = self.poisoned.get() {
            return Err(Error::Poisoned { what: what.clone() });
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Poisoned {
                what: "it was closed".into(),
            });
        }
        Ok(())
    }

    /// Refuses everything from now on: what the disk holds is no longer known.
    pub(crate) fn poison(&self, error: &Error) {
        let mut what = error.to_string();
        if let Some(source) = std::error::Error::source(error) {
            what = format!("{what}: {source}");
        }
        self.stop(what);
    }

    /// The same, for what is no error of a call.
    pub(crate) fn stop(&self, what: String) {
        if self.poisoned.set(what.clone()).is_ok() {
            tracing::error!(directory = %self.layout.root.display(), %what, "the log stopped");
            metrics::counter!("tidemill_file_poisoned_total").increment(1);
        }
        self.wake();
    }

    fn wake(&self) {
        self.changed.notify_waiters();
        self.durable.wake();
        if let Some(writing) = &self.writing {
            writing.cleaned.send_modify(|_| {});
        }
    }

    /// Refuses everything from now on.
    pub(crate) fn shut(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake();
    }

    /// Gives the directory to whoever wants it.
    pub(crate) fn unlock(&self) {
        if let Some(writing) = &self.writing {
            drop(lock(&writing.guard).take());
        }
    }

    /// Reads the clock, and notes what it shows for those that must not. A clock that leapt ahead and was
    /// set right is right again: nothing leaves as old by what it showed meanwhile.
    pub(crate) fn now(&self) -> Timestamp {
        let now = self.options.clock.now();
        self.noted.store(now.0, Ordering::Relaxed);
        now
    }

    /// The time of day that was noted last.
    pub(crate) fn noted(&self) -> Timestamp {
        Timestamp(self.noted.load(Ordering::Relaxed))
    }

    /// How much of the whole log readers may see: all that is committed, or where a commit is to be durable
    /// before it is acknowledged, what is. What another process reads is durable in any case.
    pub(crate) fn readable(&self) -> u64 {
        match self.options.fsync {
            Fsync::Commit if self.writing.is_some() => self.durable.get(),
            _ => u64::MAX,
        }
    }

    /// The end of what is committed, as a place in the whole log.
    pub(crate) fn end(&self) -> u64 {
        let end = self.live().end();
        end.unwrap_or_else(|| self.durable.get())
    }
}

/// Whether the disk is full: the one failure of a write after which the directory may go on.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Whether something failed as the disk is full.
pub(crate) fn ran_out_of_room(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if is_full(source))
}
