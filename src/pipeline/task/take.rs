//! Taking records: from where they come into the open epoch.

use std::sync::Arc;

use tidemill_broker::{Batch, Delivery, Offset, TopicPartition};
use tidemill_state::crash_point;
use tokio::time::Instant;
use tracing::debug;

use super::{LOCKSTEP_RECORDS, Task};
use crate::events::{Poison, Rows};
use crate::pipeline::committer::Cut;
use crate::pipeline::graph::{EventTime, Output, least};
use crate::pipeline::ordered::Next;
use crate::pipeline::reading::{self, Reading};
use crate::pipeline::{Error, Result};

impl Task {
    /// Takes a batch of a co-partitioned input, cut where an epoch must end.
    pub(super) async fn take(&mut self, batch: &Batch) -> Result<()> {
        let Some(index) = self.inputs.iter().position(|input| input.at == *batch.at()) else {
            debug!(task = %self.settings.id, at = %batch.at(), "records of a foreign partition");
            return Ok(());
        };
        self.take_from(index, batch).await
    }

    /// Takes what it may of a batch: the rest waits where the epoch is full, or more fell due than is
    /// done at once.
    pub(super) async fn take_from(&mut self, index: usize, batch: &Batch) -> Result<()> {
        let mut from = 0;
        while from < batch.len() || (batch.is_empty() && from == 0) {
            let room = match self.settings.cut {
                Cut::Live => batch.len(),
                Cut::Lockstep => {
                    let taken = self.open.taken + self.open.worked;
                    let left = self.settings.commit.records.saturating_sub(taken);
                    let left = left.min(LOCKSTEP_RECORDS - self.open.taken % LOCKSTEP_RECORDS);
                    usize::try_from(left).unwrap_or(usize::MAX).max(1)
                }
            };
            let to = batch.len().min(from + room);
            self.wake(index, batch).await?;
            from += self.process(index, &part(batch, from, to)).await?.max(1);
            if from < batch.len() && (self.is_full() || self.graph.has_backlog()) {
                self.rest = Some((index, part(batch, from, batch.len())));
                return Ok(());
            }
        }
        Ok(())
    }

    /// An input of which records come holds back again from where it was, before its rows go anywhere:
    /// what else comes of the batch must not find that it is late.
    async fn wake(&mut self, index: usize, batch: &Batch) -> Result<()> {
        let input = &self.inputs[index];
        if batch.next() <= input.next || !input.is_idle {
            return Ok(());
        }
        self.set_awake(index).await
    }

    /// Runs a batch through the operators into the open epoch: as many of its records as may come at
    /// once, which it returns.
    async fn process(&mut self, index: usize, batch: &Batch) -> Result<usize> {
        crash_point!("task.taken");
        let input = &self.inputs[index];
        if batch.next() <= input.next {
            // Taken already: a consumer that was moved back delivers it again.
            return Ok(batch.len());
        }
        let source = input.source;
        let before = self.inputs[index].decode.watermark();
        let (mut rows, mut poisoned) = self.decode(index, batch);
        let mut batch = batch;
        let first;
        if let Some(count) = self.graph.cut(source, &rows)
            && count < batch.len()
        {
            first = part(batch, 0, count);
            batch = &first;
            self.inputs[index].decode.restore(before);
            (rows, poisoned) = self.decode(index, batch);
        }
        let input = &mut self.inputs[index];
        input.next = batch.next();
        input.last_taken = Instant::now();
        input.has_ended = false;
        self.open.since.get_or_insert_with(Instant::now);
        self.open.taken += batch.len() as u64;
        self.open.steps.taken(index, batch.next());
        self.progress.took(batch.len() as u64);
        self.taken
            .comes_to(input.source_of_plan, input.at.partition, input.next);
        let mut output = Output::default();
        let task = self.settings.id;
        let failed = |source| Error::State { task, source };
        let time = self.event_time(source);
        self.graph
            .push(source, Arc::new(rows), time, &mut self.state, &mut output)
            .await
            .map_err(failed)?;
        let incarnation = self.inputs[index].decode.incarnation();
        self.write_out(&mut output);
        self.set_aside(&output.dead, (batch, incarnation), &poisoned);
        crash_point!("task.processed");
        self.send_early().await?;
        Ok(batch.len())
    }

    /// Decodes a batch, and takes note of how far event time has come with it.
    fn decode(&mut self, index: usize, batch: &Batch) -> (Rows, Vec<(usize, Poison)>) {
        let mut poisoned = Vec::new();
        let input = &mut self.inputs[index];
        let source = input.source;
        let sets_aside = input.sets_aside;
        let mut rows = input.decode.decode(batch, &mut |record, poison| {
            if sets_aside {
                poisoned.push((record, poison));
            }
        });
        // Other partitions of a source that is read whole hold event time back.
        let others = self
            .inputs
            .iter()
            .enumerate()
            .filter(|(other, input)| *other != index && input.source == source);
        if let EventTime::At(limit) = least(others.map(|(_, input)| input.event_time())) {
            for head in rows.heads_mut() {
                head.watermark = head.watermark.min(limit.0);
            }
        }
        (rows, poisoned)
    }

    pub(super) fn note_end(&mut self, at: &TopicPartition, offset: Offset) {
        if let Some(input) = self.inputs.iter_mut().find(|input| input.at == *at) {
            input.has_ended = offset >= input.next;
        }
    }

    pub(super) async fn take_broadcast(
        &mut self,
        delivery: tidemill_broker::Result<Delivery>,
    ) -> Result<()> {
        match delivery {
            Ok(Delivery::Records(batch)) => self.take(&batch).await,
            Ok(Delivery::End { partition, offset }) => {
                self.note_end(&partition, offset);
                Ok(())
            }
            Ok(Delivery::Assigned { .. } | Delivery::Revoked { .. }) => Ok(()),
            Ok(Delivery::Lost { partitions }) => {
                let lost = partitions.into_iter().next();
                let topic =
                    lost.map_or_else(|| self.settings.changelog.topic.clone(), |at| at.topic);
                Err(Error::LostInput { topic })
            }
            Err(error) => match reading::after(error).await? {
                Reading::GoesOn => Ok(()),
                Reading::OutOfRange(_) => self.begin_anew().await,
                Reading::Deleted(topic) => Err(Error::LostInput { topic }),
            },
        }
    }

    /// Commits what was taken, and has itself opened anew.
    async fn begin_anew(&mut self) -> Result<()> {
        self.stop().await?;
        Err(Error::Dropped)
    }

    /// Takes what comes next where the order is given.
    pub(super) async fn take_next(&mut self, next: Next) -> Result<()> {
        match next {
            Next::Batch(index, batch) => self.take_from(index, &batch).await,
            Next::End(at, offset) => {
                self.note_end(&at, offset);
                Ok(())
            }
            // The end of every input counts from now on.
            Next::Followed => Ok(()),
            Next::Idle(index) => self.set_idle(index).await,
            Next::Awake(index) => self.follow_awake(index).await,
            Next::Ended(watermark) => self.end_at(watermark).await,
            Next::OutOfRange => self.begin_anew().await,
        }
    }
}

/// Records `from..to` of a batch.
fn part(batch: &Batch, from: usize, to: usize) -> Batch {
    let next = if to < batch.len() {
        batch.get(to).offset
    } else {
        batch.next()
    };
    batch.slice(from..to, next)
}
