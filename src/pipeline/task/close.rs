//! Closing an epoch, settling it, and ending.

use tidemill_broker::Timestamp;
use tidemill_state::{Stateful, crash_point, planted};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::info;

use super::{InFlight, Task, TaskEnd, Written, settled};
use crate::config::plan::Guarantee;
use crate::events::TIME_MAX;
use crate::pipeline::committer::ToCommitter;
use crate::pipeline::control::Step;
use crate::pipeline::epoch::{ClosedEpoch, EpochOffsets, Settled, Submission};
use crate::pipeline::error::Doing;
use crate::pipeline::input::InputPartition;
use crate::pipeline::ordered::Ordered;
use crate::pipeline::{Error, Result, times};

impl Task {
    /// Closes the open epoch and hands it to the committer.
    pub(super) async fn close(&mut self) -> Result<()> {
        if self.open.since.is_none() {
            return Ok(());
        }
        let task = self.settings.id;
        let failed = |source| Error::State { task, source };
        let followed = self.ordered.as_ref().and_then(Ordered::followed);
        times::save(&mut self.times, &self.inputs, &self.graph, followed)
            .map_err(|error| failed(error.into()))?;
        let epoch = self.marker.epoch.next();
        let mut tables: Vec<&mut dyn Stateful> = vec![&mut self.times];
        tables.extend(
            self.graph
                .nodes
                .iter_mut()
                .flat_map(|node| node.operator.tables()),
        );
        // What the last table has changed stays behind until the epoch after.
        planted!(P15, {
            tables.truncate(tables.len() - (epoch.0 % 2) as usize);
        });
        let delta = self.state.close_epoch(epoch, &mut tables).map_err(failed)?;
        crash_point!("task.closed");

        let sequences = self.sinks.iter().flat_map(|sink| {
            let count = |(partition, count): (usize, &u64)| {
                (sink.name.to_string(), partition as u32, *count)
            };
            sink.sequences
                .iter()
                .enumerate()
                .map(count)
                .collect::<Vec<_>>()
        });
        self.marker.epoch = epoch;
        self.marker.inputs = self.inputs.iter().map(InputPartition::marked).collect();
        self.marker.sequences = sequences.chain(self.dead.sequence()).collect();
        self.marker.digest = delta.digest();

        let has_decision = self.open.steps.has_decision();
        let control = self.open.steps.take(
            epoch,
            &self.settings.control,
            &self.marker.task,
            self.inputs.len(),
        );
        let offsets = self.settings.group.clone().map(|group| EpochOffsets {
            group,
            generation: self.generation.clone(),
            next: self
                .inputs
                .iter()
                .filter(|input| input.in_group)
                .map(|input| (input.at.clone(), input.next))
                .collect(),
        });
        let records = self.take_written();
        // Into the transaction goes what can: the rest is sent before it, or after.
        let (inside, outside): (Vec<Written>, Vec<Written>) = match self.settings.guarantee {
            Guarantee::ExactlyOnce => records.into_iter().partition(|one| {
                planted!(P8, {
                    if one.1.at.topic.as_str().ends_with(".dead-letter") {
                        return false;
                    }
                });
                one.0 == self.home
            }),
            // What could have come out otherwise goes with its control record, as far as it can.
            Guarantee::AtLeastOnce if control.is_some() => records
                .into_iter()
                .partition(|(broker, _)| *broker == self.home),
            Guarantee::AtLeastOnce | Guarantee::AtMostOnce => (Vec::new(), records),
        };
        let (before, after) = match self.settings.guarantee {
            Guarantee::AtMostOnce => (Vec::new(), outside),
            Guarantee::ExactlyOnce | Guarantee::AtLeastOnce => (outside, Vec::new()),
        };
        self.produce(before).await?;
        let read = self.inputs.iter().map(|input| input.broker);
        self.unsynced
            .extend(read.filter(|broker| *broker != self.home));
        self.sync_others().await?;
        let open = std::mem::take(&mut self.open);
        let holds_back = has_decision || !inside.is_empty();
        let (answer, settled) = oneshot::channel();
        let closed = ClosedEpoch {
            task,
            records: inside.into_iter().map(|(_, set)| set).collect(),
            delta,
            control,
            marker: self.marker.clone(),
            changelog: self.settings.changelog.clone(),
            offsets,
            opened: open.since.unwrap_or_else(Instant::now),
        };
        let submission = Box::new(Submission {
            epoch: closed,
            settled: answer,
        });
        let sent = self.committer.send(ToCommitter::Closed(submission)).await;
        sent.map_err(|_| Error::Gone {
            part: "the committer",
        })?;
        planted!(P7, {
            self.state.committed(epoch, 0).map_err(failed)?;
        });
        self.in_flight = Some(InFlight {
            epoch,
            taken: open.taken,
            settled,
            holds_back,
            after,
        });
        Ok(())
    }

    /// Takes note of what became of the epoch in flight. An end if the task cannot go on.
    pub(super) async fn settle(&mut self, settled: Settled) -> Result<Option<TaskEnd>> {
        let Some(in_flight) = self.in_flight.take() else {
            return Ok(None);
        };
        match settled {
            Settled::Committed { changelog_next } => {
                let task = self.settings.id;
                planted!(P7, {} else {
                    self.state
                        .committed(in_flight.epoch, changelog_next)
                        .map_err(|source| Error::State { task, source })?;
                });
                self.progress.committed(in_flight.taken);
                crash_point!("task.committed");
                self.produce(in_flight.after).await?;
                Ok(None)
            }
            Settled::Dropped => Ok(Some(TaskEnd::Dropped)),
            Settled::Refused(error) => {
                Err(error).doing(|| format!("an epoch of task {} was refused", self.settings.id))
            }
        }
    }

    /// Waits until nothing is in flight.
    pub(super) async fn settle_in_flight(&mut self) -> Result<()> {
        if self.in_flight.is_some() {
            let settled = settled(&mut self.in_flight).await;
            if let Some(TaskEnd::Dropped) = self.settle(settled).await? {
                return Err(Error::Dropped);
            }
        }
        Ok(())
    }

    /// Commits what is open and ends.
    pub(super) async fn stop(&mut self) -> Result<TaskEnd> {
        self.settle_in_flight().await?;
        self.close().await?;
        self.settle_in_flight().await?;
        Ok(TaskEnd::Committed)
    }

    /// Whether every input has ended where the run is to end with them, nothing is left to do of what
    /// came, and there is room for what is open.
    pub(super) async fn is_ending(&mut self) -> Result<bool> {
        let is_following = self.ordered.as_ref().is_some_and(Ordered::is_following);
        if self.rest.is_some() || self.graph.has_backlog() || !self.has_room() {
            return Ok(false);
        }
        if self.ended_at.is_some() {
            return Ok(true);
        }
        Ok(*self.drain.borrow_and_update() && !is_following && self.has_ended().await?)
    }

    /// Every input has ended: fires what is open. Whether anything was, as what fires may open more.
    pub(super) async fn fire_open(&mut self) -> Result<bool> {
        let horizon = self.graph.horizon();
        let Some(horizon) = horizon.filter(|horizon| self.ended_at < Some(*horizon)) else {
            info!(task = %self.settings.id, "reached the end of every input");
            return Ok(false);
        };
        self.ended_at = Some(horizon);
        // A merge has events of the last instant until after it.
        let told = Timestamp(horizon.0.min(TIME_MAX));
        self.progress.closes(self.graph.windows_open(), told);
        self.end_at(horizon).await?;
        Ok(true)
    }

    /// Fires what is open up to a last watermark.
    pub(super) async fn end_at(&mut self, horizon: Timestamp) -> Result<()> {
        for input in &mut self.inputs {
            // Known to be at its end, which is more than silent.
            input.is_idle = false;
        }
        for source in 0..self.graph.sources.len() {
            // First it holds back again from where it was, so that no source is ahead of another.
            self.advance(source).await?;
        }
        for input in &mut self.inputs {
            let watermark = input.decode.watermark().max(horizon);
            input.decode.restore(watermark);
        }
        self.open.since.get_or_insert_with(Instant::now);
        self.open.steps.decided(Step::Ended {
            watermark: horizon.0,
        });
        for source in 0..self.graph.sources.len() {
            self.advance(source).await?;
        }
        Ok(())
    }
}
