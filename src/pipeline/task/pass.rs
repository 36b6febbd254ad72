//! Writing committed state behind, beside the task's work.

use std::time::Duration;

use tidemill_state::{Epoch, crash_point};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Task;
use crate::pipeline::recovery::retrying;
use crate::pipeline::{Error, Result};

/// How often committed state is written behind.
const WRITE_BEHIND_EVERY: Duration = Duration::from_secs(1);

/// A pass beside the work. It does not outlive its task: another may then own the store.
#[derive(Debug)]
pub(crate) struct Pass(pub(super) JoinHandle<tidemill_state::Result<tidemill_state::Pass>>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Task {
    pub(super) fn begin_pass(&mut self) {
        self.next_pass = Instant::now() + WRITE_BEHIND_EVERY;
        let write_behind = self.state.write_behind();
        let broker = self.brokers[self.home].clone();
        let verify = std::mem::take(&mut self.verify);
        let pass = async move {
            let durable = |_| async move { retrying(|| broker.sync()).await };
            let pass = write_behind.pass(durable).await?;
            if verify && pass.epoch > Epoch::NONE {
                write_behind.verify().await?;
            }
            Ok(pass)
        };
        self.pass = Some(Pass(tokio::spawn(crash_point::inherit(pass))));
    }

    pub(super) fn end_pass(
        &mut self,
        done: std::result::Result<
            tidemill_state::Result<tidemill_state::Pass>,
            tokio::task::JoinError,
        >,
    ) -> Result<()> {
        self.pass = None;
        match done {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(source)) => Err(Error::State {
                task: self.settings.id,
                source,
            }),
            Err(_) => Err(Error::Gone {
                part: "writing behind",
            }),
        }
    }

    /// Writes behind once more, so that a restart has nothing to redo.
    pub(super) async fn write_behind_now(&mut self) -> Result<()> {
        let broker = self.brokers[self.home].clone();
        let pass = self
            .state
            .write_behind()
            .pass(|_| async move { retrying(|| broker.sync()).await })
            .await;
        pass.map(|_| ()).map_err(|source| Error::State {
            task: self.settings.id,
            source,
        })
    }
}
