//! The thread on which the engine lives.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use crate::error::Poison;
use crate::sled_store::engine::{self, Engine};
use crate::{Error, Result};

/// Calls that wait for the engine. A task and a pass make one at a time each; the rest is for the command line.
const WAITING_MAX: usize = 16;

type Job = Box<dyn FnOnce(&mut Engine) + Send>;

/// The first failure, once there was one: nothing goes on after it.
#[derive(Debug, Clone, Default)]
pub(super) struct FirstFailure(Arc<OnceLock<Poison>>);

impl FirstFailure {
    /// Refuses if anything has failed.
    pub(super) fn check(&self) -> Result<()> {
        let poison = self.0.get().cloned();
        poison.map_or(Ok(()), |poison| Err(poison.into()))
    }

    /// Takes note of a failure.
    pub(super) fn set(&self, error: &Error) {
        // The first is the one to tell.
        let _ = self.0.set(error.poisons());
    }
}

/// The engine's thread, and the way to it.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Told when the engine is gone and its directory free.
    ended: tokio::sync::watch::Receiver<bool>,
    failure: FirstFailure,
    path: PathBuf,
}

impl Worker {
    /// Starts the thread and opens the engine on it.
    pub(super) async fn spawn<T: Send + 'static>(
        path: PathBuf,
        open: impl FnOnce() -> Result<(Engine, T)> + Send + 'static,
    ) -> Result<(Self, T)> {
        let (jobs, mut todo) = mpsc::channel::<Job>(WAITING_MAX);
        let (tell_opened, opened) = oneshot::channel();
        let (tell_ended, ended) = tokio::sync::watch::channel(false);
        let in_thread = path.clone();
        let thread = std::thread::Builder::new()
            .name("tidemill-state".to_owned())
            .spawn(move || {
                let opening = catch_unwind(AssertUnwindSafe(open))
                    .unwrap_or_else(|panic| Err(panicked(&in_thread, &*panic)));
                match opening {
                    Ok((mut engine, told)) => {
                        if tell_opened.send(Ok(told)).is_ok() {
                            while let Some(job) = todo.blocking_recv() {
                                job(&mut engine);
                            }
                        }
                        // The engine's own threads may panic over damage while it ends; it is given up anyway.
                        let _ = catch_unwind(AssertUnwindSafe(|| drop(engine)));
                    }
                    Err(error) => {
                        // Nobody waits for it any more.
                        let _ = tell_opened.send(Err(error));
                    }
                }
                tell_ended.send_replace(true);
            })
            .map_err(Error::io("start a thread for", &path))?;
        let worker = Self {
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
            ended,
            failure: FirstFailure::default(),
            path,
        };
        let told = opened.await.map_err(|_| Error::Closed)??;
        Ok((worker, told))
    }

    /// Runs `job` on the thread, after all jobs before it. A failure poisons the store.
    ///
    /// # Cancel safety
    ///
    /// A job that is dropped before it is queued does not run; later it runs, and nobody hears of it.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Engine) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let jobs = self
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let jobs = jobs.ok_or(Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        let (failure, path) = (self.failure.clone(), self.path.clone());
        let job: Job = Box::new(move |engine| {
            // Asked here and not before queueing: a job queued behind the one that fails must not run either.
            let result = failure.check().and_then(|()| {
                catch_unwind(AssertUnwindSafe(|| job(engine)))
                    .unwrap_or_else(|panic| Err(panicked(&path, &*panic)))
                    .inspect_err(|error| failure.set(error))
            });
            // Nobody may wait for it any more.
            let _ = reply.send(result);
        });
        jobs.send(job).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// What a failure beside the thread is to be told to.
    pub(super) fn failure(&self) -> FirstFailure {
        self.failure.clone()
    }

    /// Ends the thread after the jobs before, and waits for it.
    pub(super) async fn close(&self) -> Result<()> {
        let jobs = self
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(jobs);
        let mut ended = self.ended.clone();
        // An error means that the thread is gone without telling: just as well.
        let _ = ended.wait_for(|ended| *ended).await;
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // Its panics were told to who asked.
            let _ = thread.join();
        }
    }
}

fn panicked(path: &std::path::Path, panic: &(dyn Any + Send)) -> Error {
    let what = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    // What it cannot do without, it takes for granted: also that the disk has room.
    match engine::system_error(&what) {
        Some(source) => Error::io("use", path)(source),
        None => Error::damaged(path, format!("the engine panicked: {what}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was taken for damage, so the store was set aside and built anew on the disk that was full.
    #[test]
    fn a_panic_over_an_error_of_the_system_is_that_error() {
        let text = r#"called `Result::unwrap()` on an `Err` value: Io(Os { code: 28, kind: StorageFull, message: "No space left on device" })"#;
        let told = panicked("s".as_ref(), &text).poisons();
        let later = Error::from(told).to_string();
        assert_eq!(
            later,
            "the state store stopped after an earlier failure: cannot use s: No space left on device (os error 28)"
        );
        let other = panicked("s".as_ref(), &"index out of bounds");
        assert_eq!(
            other.to_string(),
            "s is damaged: the engine panicked: index out of bounds"
        );
    }
}
