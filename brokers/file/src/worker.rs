//! What runs beside the calls: syncing and splitting, each on a thread of its own, or as tasks of the
//! caller's runtime where the disk never makes anybody wait.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::thread;

use tidemill_broker::Result;
use tokio::sync::watch;

use crate::bell::{Bell, Ring};
use crate::layout::failed;
use crate::options::Fsync;
use crate::shared::{Shared, lock};

/// The background work of one open directory.
#[derive(Debug)]
pub(crate) struct Workers {
    shared: Option<Arc<Shared>>,
    running: Mutex<Vec<Running>>,
}

#[derive(Debug)]
enum Running {
    Thread {
        handle: thread::JoinHandle<()>,
        // Closes when the thread ends.
        over: watch::Receiver<()>,
    },
    Task(tokio::task::JoinHandle<()>),
}

/// Which bell a worker listens to.
type Listen = fn(&Shared) -> Option<&Bell>;

/// What a worker does when it is rung.
type Work = fn(&Shared) -> Result<()>;

impl Workers {
    pub(crate) fn none() -> Self {
        Self {
            shared: None,
            running: Mutex::default(),
        }
    }

    pub(crate) fn start(shared: &Arc<Shared>) -> Result<Self> {
        let work: [(&'static str, Listen, Work); 2] = [
            (
                "tidemill-sync",
                |shared| Some(&shared.writing.as_ref()?.syncer),
                Shared::sync_now,
            ),
            (
                "tidemill-split",
                |shared| Some(&shared.writing.as_ref()?.splitter),
                Shared::maintain,
            ),
        ];
        let mut running = Vec::new();
        for (name, bell, work) in work {
            let shared = Arc::clone(shared);
            running.push(if shared.options.disk.is_slow() {
                let (alive, over) = watch::channel(());
                let root = shared.layout.root.clone();
                let handle = thread::Builder::new()
                    .name(name.into())
                    .spawn(move || {
                        if let Some(bell) = bell(&shared) {
                            run(&shared, bell, work);
                        }
                        drop(shared);
                        drop(alive);
                    })
                    .map_err(failed("start a thread for", &root))?;
                Running::Thread { handle, over }
            } else {
                Running::Task(tokio::spawn(async move {
                    if let Some(bell) = bell(&shared) {
                        run_in_task(&shared, bell, work).await;
                    }
                }))
            });
        }
        if let Some(writing) = &shared.writing {
            // What the last process did not get to.
            writing.splitter.ring(Ring::Work);
        }
        Ok(Self {
            shared: Some(Arc::clone(shared)),
            running: Mutex::new(running),
        })
    }

    /// Tells the workers to leave.
    pub(crate) fn stop(&self) {
        if let Some(writing) = self
            .shared
            .as_ref()
            .and_then(|shared| shared.writing.as_ref())
        {
            writing.syncer.ring(Ring::Stop);
            writing.splitter.ring(Ring::Stop);
        }
    }

    /// Waits until they have left.
    pub(crate) async fn join(&self) {
        let running = std::mem::take(&mut *lock(&self.running));
        for worker in running {
            match worker {
                Running::Thread { handle, mut over } => {
                    // An error says that the thread is at its end, which is what is waited for.
                    while over.changed().await.is_ok() {}
                    if handle.join().is_err() {
                        tracing::error!("a thread of the log panicked");
                    }
                }
                Running::Task(handle) => {
                    if handle.await.is_err() {
                        tracing::error!("a task of the log panicked");
                    }
                }
            }
        }
    }

    /// Waits for threads without a runtime, as when the last handle drops. They are at most one
    /// sync away from leaving.
    pub(crate) fn abandon(&self) {
        for worker in std::mem::take(&mut *lock(&self.running)) {
            match worker {
                Running::Thread { handle, .. } => {
                    if handle.join().is_err() {
                        tracing::error!("a thread of the log panicked");
                    }
                }
                Running::Task(handle) => handle.abort(),
            }
        }
    }
}

/// How long the work may wait that is not urgent.
fn patience(shared: &Shared, bell: &Bell) -> Option<std::time::Duration> {
    let syncer = &shared.writing.as_ref()?.syncer;
    match shared.options.fsync {
        Fsync::Every(period) if std::ptr::eq(bell, syncer) => Some(period),
        _ => None,
    }
}

fn run(shared: &Shared, bell: &Bell, work: Work) {
    let patience = patience(shared, bell);
    loop {
        match (bell.wait(), patience) {
            (Ring::Stop, _) => return,
            (Ring::Work, Some(patience)) => bell.linger(patience),
            _ => {}
        }
        let done = catch_unwind(AssertUnwindSafe(|| work(shared)));
        match done {
            Ok(Ok(())) => {}
            // A failure has poisoned the log: whoever comes is told.
            Ok(Err(_)) => return,
            Err(panic) => {
                // Who waits for what this thread does would wait for ever.
                shared.stop("a thread of the log panicked: a mistake in tidemill".to_owned());
                resume_unwind(panic);
            }
        }
    }
}

async fn run_in_task(shared: &Shared, bell: &Bell, work: Work) {
    let patience = patience(shared, bell);
    loop {
        match (bell.wait_in_task().await, patience) {
            (Ring::Stop, _) => return,
            (Ring::Work, Some(patience)) => bell.linger_in_task(patience).await,
            _ => {}
        }
        if work(shared).is_err() {
            return;
        }
    }
}
