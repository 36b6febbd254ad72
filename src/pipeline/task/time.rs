//! How far event time has come, and what it makes due without a record.

use tidemill_state::crash_point;
use tokio::time::Instant;

use super::Task;
use crate::pipeline::control::Step;
use crate::pipeline::error::Doing;
use crate::pipeline::graph::{EventTime, Output, least};
use crate::pipeline::input::InputPartition;
use crate::pipeline::recovery::retrying;
use crate::pipeline::{Error, Result};

impl Task {
    /// How far event time has come on a source.
    pub(super) fn event_time(&self, source: usize) -> EventTime {
        let partitions = self.inputs.iter().filter(|input| input.source == source);
        least(partitions.map(InputPartition::event_time))
    }

    /// Moves the event time of a source on to where its partitions are.
    pub(super) async fn advance(&mut self, source: usize) -> Result<()> {
        let time = self.event_time(source);
        let mut output = Output::default();
        let task = self.settings.id;
        let failed = |source| Error::State { task, source };
        self.graph
            .advance(source, time, &mut self.state, &mut output)
            .await
            .map_err(failed)?;
        self.put_out(output);
        Ok(())
    }

    /// Whether everything that is committed in every input has been taken, by the logs' own word:
    /// what told an end may have been overtaken.
    pub(super) async fn has_ended(&mut self) -> Result<bool> {
        if !self.inputs.iter().all(|input| input.has_ended) {
            return Ok(false);
        }
        for input in &mut self.inputs {
            let broker = self.brokers[input.broker].clone();
            let at = input.at.clone();
            let ends = retrying(|| broker.watermarks(&at)).await;
            let ends = ends.doing(|| format!("cannot look at {at}"))?;
            input.has_ended = input.next >= ends.last_stable;
        }
        Ok(self.inputs.iter().all(|input| input.has_ended))
    }

    /// The clock says that an input is idle: one at a time, for what that makes due comes before the
    /// next.
    pub(super) async fn note_idle(&mut self) -> Result<()> {
        let now = Instant::now();
        let is_idle = |input: &InputPartition| input.idle_at().is_some_and(|at| at <= now);
        let Some(index) = self.inputs.iter().position(is_idle) else {
            return Ok(());
        };
        // Silent is only who has nothing to say: it may not have been asked meanwhile, or what it
        // gave is still on its way.
        let input = &mut self.inputs[index];
        let ends = self.brokers[input.broker].watermarks(&input.at).await;
        if ends.is_ok_and(|ends| ends.last_stable <= input.next) {
            return self.set_idle(index).await;
        }
        input.last_taken = Instant::now();
        Ok(())
    }

    pub(super) async fn set_idle(&mut self, index: usize) -> Result<()> {
        let input = &mut self.inputs[index];
        input.is_idle = true;
        let source = input.source;
        self.open.since.get_or_insert_with(Instant::now);
        self.open.steps.decided(Step::Idle {
            input: index as u32,
        });
        self.advance(source).await
    }

    /// An input holds back again from where it was. That moves event time nowhere forward, so it makes
    /// nothing due.
    pub(super) async fn set_awake(&mut self, index: usize) -> Result<()> {
        let input = &mut self.inputs[index];
        input.is_idle = false;
        let source = input.source;
        self.open.since.get_or_insert_with(Instant::now);
        self.advance(source).await
    }

    /// The same, as a control record says.
    pub(super) async fn follow_awake(&mut self, index: usize) -> Result<()> {
        self.set_awake(index).await?;
        self.open.steps.decided(Step::Awake {
            input: index as u32,
        });
        Ok(())
    }

    /// Does a piece of what was too much to do at once.
    pub(super) async fn work_off(&mut self) -> Result<()> {
        self.open.since.get_or_insert_with(Instant::now);
        let mut output = Output::default();
        let task = self.settings.id;
        let failed = |source| Error::State { task, source };
        let worked = self.graph.work_off(&mut self.state, &mut output).await;
        self.open.worked += worked.map_err(failed)? as u64;
        for input in &mut self.inputs {
            // It was not asked meanwhile.
            input.last_taken = Instant::now();
        }
        self.put_out(output);
        crash_point!("task.worked_off");
        self.send_early().await
    }
}
