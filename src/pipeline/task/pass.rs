//! Writing committed state behind, beside the task's work, and comparing what was written with the log.

use std::convert::Infallible;
use std::time::Duration;

use tidemill_state::{UNWATCHED, crash_point};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use super::{Command, Task, TaskEnd};
use crate::pipeline::recovery::retrying;
use crate::pipeline::{Error, Result};

/// How often committed state is written behind.
const WRITE_BEHIND_EVERY: Duration = Duration::from_secs(1);

/// A pass beside the work, and the comparison of the store with its digest where that is due. It does
/// not outlive its task: another may then own the store.
#[derive(Debug)]
pub(crate) struct Pass {
    job: JoinHandle<tidemill_state::Result<()>>,
    // Dropped to give the comparison up.
    verifies: Option<oneshot::Sender<Infallible>>,
}

/// How a pass came to its end.
pub(super) type PassDone = std::result::Result<tidemill_state::Result<()>, JoinError>;

impl Drop for Pass {
    fn drop(&mut self) {
        self.job.abort();
    }
}

impl Pass {
    /// Waits until it is done.
    pub(super) async fn done(&mut self) -> PassDone {
        (&mut self.job).await
    }
}

impl Task {
    pub(super) fn begin_pass(&mut self) {
        self.next_pass = Instant::now() + WRITE_BEHIND_EVERY;
        let write_behind = self.state.write_behind();
        let broker = self.brokers[self.home].clone();
        let is_due = !self.state.is_verified();
        let (verifies, given_up) = oneshot::channel();
        let pass = async move {
            let durable = |_| async move { retrying(|| broker.sync()).await };
            write_behind.pass(durable).await?;
            if is_due {
                tokio::select! {
                    biased;
                    _ = given_up => {}
                    verified = write_behind.verify(UNWATCHED) => {
                        verified?;
                    }
                }
            }
            Ok(())
        };
        self.pass = Some(Pass {
            job: tokio::spawn(crash_point::inherit(pass)),
            verifies: Some(verifies),
        });
    }

    pub(super) fn end_pass(&mut self, done: PassDone) -> Result<()> {
        self.pass = None;
        let task = self.settings.id;
        match done {
            Ok(done) => done.map_err(|source| Error::State { task, source }),
            Err(died) => Err(Error::died(task, died)),
        }
    }

    /// Writes behind once more, so that a restart has nothing to redo, unless the task failed.
    ///
    /// At the end of every input the store is also compared with its digest, if that is due: a run that
    /// goes over what there is may never come to it otherwise. One that is told to go has no time for
    /// it; what was not compared stays due, as the store itself knows.
    pub(super) async fn end_behind(
        &mut self,
        end: &Result<TaskEnd>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<()> {
        let compares = matches!(end, Ok(TaskEnd::Finished));
        // What is given up is redone from the changelog, but the store is not ours to close before the
        // pass has ended.
        self.finish_pass(compares, commands).await?;
        if end.is_ok() {
            self.begin_pass();
            self.finish_pass(compares, commands).await?;
        }
        Ok(())
    }

    /// Waits for the pass; for what it compares only until the task is told to go after all.
    async fn finish_pass(
        &mut self,
        compares: bool,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<()> {
        let Some(pass) = &mut self.pass else {
            return Ok(());
        };
        if !compares {
            pass.verifies = None;
        }
        let done = loop {
            tokio::select! {
                biased;
                done = pass.done() => break done,
                command = commands.recv(), if pass.verifies.is_some() => {
                    if !matches!(command, Some(Command::Restamp(_))) {
                        pass.verifies = None;
                    }
                }
            }
        };
        self.end_pass(done)
    }
}
