//! A task: one sub-topology on one set of co-partitioned input partitions.
//!
//! One logical thread: it owns its state, its offsets and its order. It takes batches, runs its
//! operators inline, fills its open epoch, and hands closed epochs to the committer.

mod close;
mod output;
mod pass;
mod wait;

use std::collections::BTreeSet;
use std::sync::Arc;

use tidemill_broker::{
    Batch, Broker, Consumer, Delivery, Generation, RecordSet, Timestamp, TopicPartition,
};
use tidemill_state::{Epoch, State, crash_point, planted};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::debug;

use self::pass::Pass;
use self::wait::{Event, settled};
use super::committer::{Cut, ToCommitter};
use super::control::{Step, Steps};
use super::dead_letter::DeadLetters;
use super::epoch::Settled;
use super::error::Doing;
use super::graph::{EventTime, Graph, Output, least};
use super::input::InputPartition;
use super::ordered::{Next, Ordered};
use super::recovery::retrying;
use super::sink::SinkWriter;
use super::times::Times;
use super::{Error, Marker, Progress, Result, TaskId};
use crate::config::plan::{CommitPolicy, Guarantee};
use crate::events::{Poison, Rows};

/// What the intake tells a task.
#[derive(Debug)]
pub(crate) enum Command {
    /// The same partitions under another generation.
    Restamp(Option<Generation>),
    /// Commit what is open, settle it, and end.
    Stop,
    /// The partitions are gone: drop what is open, and end.
    Abandon,
}

/// What a task takes, in order.
#[derive(Debug)]
pub(crate) enum Input {
    Batch(Batch),
    End(TopicPartition, tidemill_broker::Offset),
}

/// How a task ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskEnd {
    /// Everything it took is committed.
    Committed,
    /// The same, and every input has ended.
    Finished,
    /// What was not committed was dropped: its assignment broke. It begins anew where it still has
    /// its partitions.
    Dropped,
}

/// What a task needs beside its own parts.
#[derive(Debug)]
pub(crate) struct TaskSettings {
    pub(crate) id: TaskId,
    pub(crate) guarantee: Guarantee,
    pub(crate) cut: Cut,
    pub(crate) commit: CommitPolicy,
    pub(crate) group: Option<tidemill_broker::Group>,
    pub(crate) changelog: TopicPartition,
    pub(crate) control: TopicPartition,
}

/// In lockstep, after how many records of an epoch it is asked whether it is full of bytes: at places
/// that do not depend on how batches were cut.
const LOCKSTEP_RECORDS: u64 = 256;

/// Records for a partition, and the broker it is on.
type Written = (usize, RecordSet);

/// A task at work.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) settings: TaskSettings,
    pub(crate) drain: watch::Receiver<bool>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) brokers: Vec<Arc<dyn Broker>>,
    /// The broker of the transactions.
    pub(crate) home: usize,
    pub(crate) dead_letter_broker: usize,
    /// Other brokers than that of the transactions that were written to and not yet synced.
    pub(crate) unsynced: BTreeSet<usize>,
    pub(crate) graph: Graph,
    pub(crate) inputs: Vec<InputPartition>,
    pub(crate) sinks: Vec<SinkWriter>,
    pub(crate) dead: DeadLetters,
    pub(crate) state: State,
    pub(crate) times: Times,
    /// As last committed; the next epoch's marker is made of it.
    pub(crate) marker: Marker,
    pub(crate) generation: Option<Generation>,
    pub(crate) committer: mpsc::Sender<ToCommitter>,
    /// Of inputs that are read whole, unless all are read in order.
    pub(crate) broadcast: Option<Box<dyn Consumer>>,
    /// Whether it is asked before the others: they take turns, or a long way to catch up with the one
    /// would leave the other behind, and event time with it.
    pub(crate) broadcast_is_next: bool,
    /// All inputs, where records or a control record decide what is taken next: then nothing is
    /// taken that the intake or `broadcast` has.
    pub(crate) ordered: Option<Ordered>,
    /// Of a batch: what is taken once the epoch has room, and nothing is left to do of what came before.
    pub(crate) rest: Option<(usize, Batch)>,
    /// Once every input has ended: up to where what is open has been fired.
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) open: OpenEpoch,
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) pass: Option<Pass>,
    pub(crate) next_pass: Instant,
}

/// What the open epoch holds beside the state's changes.
#[derive(Debug, Default)]
pub(crate) struct OpenEpoch {
    since: Option<Instant>,
    taken: u64,
    // What was done of a backlog.
    worked: u64,
    steps: Steps,
}

impl OpenEpoch {
    /// An epoch that closes even if nothing is taken.
    pub(crate) fn due() -> Self {
        Self {
            since: Some(Instant::now()),
            ..Self::default()
        }
    }
}

/// An epoch that is closed and not settled.
#[derive(Debug)]
pub(crate) struct InFlight {
    epoch: Epoch,
    // Input records in it.
    taken: u64,
    settled: oneshot::Receiver<Settled>,
    // Whether what comes later must not be seen before it: outputs are part of it, or what the clock
    // decided.
    holds_back: bool,
    // Outputs that are sent after the commit, with at_most_once.
    after: Vec<Written>,
}

impl Task {
    /// Runs until told to stop, until every input has ended, or until something breaks.
    pub(crate) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Input>,
        mut commands: mpsc::Receiver<Command>,
    ) -> Result<TaskEnd> {
        let end = match self.work(&mut inbox, &mut commands).await {
            Err(Error::Dropped) => Ok(TaskEnd::Dropped),
            end => end,
        };
        // A committer that is gone waits for nobody.
        let _ = self
            .committer
            .send(ToCommitter::End(self.settings.id))
            .await;
        // The inbox goes first, so that the intake does not wait on a task that takes no more.
        drop(inbox);
        let behind = self.end_behind(&end).await;
        let closed = self.state.close().await;
        let end = end?;
        behind?;
        closed.map_err(|source| Error::State {
            task: self.settings.id,
            source,
        })?;
        Ok(end)
    }

    async fn work(
        &mut self,
        inbox: &mut mpsc::Receiver<Input>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<TaskEnd> {
        loop {
            if self.is_full() && self.in_flight.is_none() {
                self.close().await?;
            }
            if self.is_ending().await? {
                if !self.fire_open().await? {
                    self.stop().await?;
                    return Ok(TaskEnd::Finished);
                }
                continue;
            }
            match self.wait(inbox, commands).await {
                Event::Settled(settled) => {
                    if let Some(end) = self.settle(settled).await? {
                        return Ok(end);
                    }
                }
                Event::Command(Some(Command::Restamp(generation))) => self.generation = generation,
                Event::Command(Some(Command::Stop)) => return self.stop().await,
                Event::Command(Some(Command::Abandon) | None) => return Ok(TaskEnd::Dropped),
                Event::Next(next) => self.take_next(next?).await?,
                Event::Input(Some(_)) if self.ordered.is_some() => {}
                Event::Input(Some(Input::Batch(batch))) => self.take(&batch).await?,
                Event::Input(Some(Input::End(at, offset))) => self.note_end(&at, offset),
                Event::Input(None) => return self.stop().await,
                Event::Broadcast(delivery) => self.take_broadcast(delivery).await?,
                Event::Backlog => self.work_off().await?,
                Event::Rest => {
                    if let Some((index, batch)) = self.rest.take() {
                        self.take_from(index, &batch).await?;
                    }
                }
                Event::Drain => {}
                Event::Close => self.close().await?,
                Event::Idle => self.note_idle().await?,
                Event::PassDue => self.begin_pass(),
                Event::PassDone(done) => self.end_pass(done)?,
            }
        }
    }

    /// Whether the open epoch may take no more before the one in flight is settled.
    fn is_full(&self) -> bool {
        if self.open.taken + self.open.worked >= self.settings.commit.records {
            return true;
        }
        // In lockstep only where batches of any size are cut; a backlog is cut alike always.
        if self.settings.cut == Cut::Lockstep
            && !self.open.taken.is_multiple_of(LOCKSTEP_RECORDS)
            && !self.graph.has_backlog()
        {
            return false;
        }
        let bytes = self.sinks.iter().map(SinkWriter::bytes).sum::<usize>() + self.dead.bytes();
        bytes >= self.settings.commit.bytes
    }

    /// Whether the open epoch may take more.
    fn has_room(&self) -> bool {
        let is_state_full = planted!(P13, { false } else { self.is_state_full() });
        !self.is_full() && !is_state_full
    }

    /// Whether more state is waiting to be written behind than may.
    fn is_state_full(&self) -> bool {
        self.state.is_full()
    }

    /// Takes a batch of a co-partitioned input, cut where an epoch must end.
    async fn take(&mut self, batch: &Batch) -> Result<()> {
        let Some(index) = self.inputs.iter().position(|input| input.at == *batch.at()) else {
            debug!(task = %self.settings.id, at = %batch.at(), "records of a foreign partition");
            return Ok(());
        };
        self.take_from(index, batch).await
    }

    /// Takes what it may of a batch: the rest waits where the epoch is full, or more fell due than is
    /// done at once.
    async fn take_from(&mut self, index: usize, batch: &Batch) -> Result<()> {
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
            let is_left = self.wake(index, batch).await?;
            if !is_left {
                from += self.process(index, &part(batch, from, to)).await?.max(1);
            }
            if from < batch.len() && (self.is_full() || self.graph.has_backlog()) {
                self.rest = Some((index, part(batch, from, batch.len())));
                return Ok(());
            }
        }
        Ok(())
    }

    /// An input of which records come holds back again from where it was, before its rows go anywhere:
    /// what else comes of the batch must not find that it is late. Whether that leaves anything to do
    /// first.
    async fn wake(&mut self, index: usize, batch: &Batch) -> Result<bool> {
        let input = &self.inputs[index];
        if batch.next() <= input.next || !input.is_idle {
            return Ok(false);
        }
        self.set_awake(index).await?;
        let is_left = self.graph.has_backlog();
        if is_left {
            // What is left may be committed without the records, which need not come first then.
            self.open.steps.decided(Step::Awake {
                input: index as u32,
            });
        }
        Ok(is_left)
    }

    async fn set_awake(&mut self, index: usize) -> Result<()> {
        let input = &mut self.inputs[index];
        input.is_idle = false;
        let source = input.source;
        self.open.since.get_or_insert_with(Instant::now);
        self.advance(source).await
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
        let mut output = Output::default();
        let task = self.settings.id;
        let failed = |source| Error::State { task, source };
        let time = self.event_time(source);
        self.graph
            .push(source, Arc::new(rows), time, &mut self.state, &mut output)
            .await
            .map_err(failed)?;
        let incarnation = self.inputs[index].decode.incarnation();
        self.set_aside(&output.dead, (batch, incarnation), &poisoned);
        self.write_out(output);
        crash_point!("task.processed");
        self.send_early().await?;
        Ok(batch.len())
    }

    /// Decodes a batch, and takes note of how far event time has come with it.
    fn decode(&mut self, index: usize, batch: &Batch) -> (Rows, Vec<(usize, Poison)>) {
        let mut poisoned = Vec::new();
        let input = &mut self.inputs[index];
        let source = input.source;
        let mut rows = input.decode.decode(batch, &mut |record, poison| {
            poisoned.push((record, poison));
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

    /// Does a piece of what was too much to do at once.
    async fn work_off(&mut self) -> Result<()> {
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

    /// How far event time has come on a source.
    fn event_time(&self, source: usize) -> EventTime {
        let partitions = self.inputs.iter().filter(|input| input.source == source);
        least(partitions.map(InputPartition::event_time))
    }

    /// Moves the event time of a source on to where its partitions are.
    async fn advance(&mut self, source: usize) -> Result<()> {
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
    async fn has_ended(&mut self) -> Result<bool> {
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

    fn note_end(&mut self, at: &TopicPartition, offset: tidemill_broker::Offset) {
        if let Some(input) = self.inputs.iter_mut().find(|input| input.at == *at) {
            input.has_ended = offset >= input.next;
        }
    }

    async fn take_broadcast(&mut self, delivery: tidemill_broker::Result<Delivery>) -> Result<()> {
        match delivery {
            Ok(Delivery::Records(batch)) => self.take(&batch).await,
            Ok(Delivery::End { partition, offset }) => {
                self.note_end(&partition, offset);
                Ok(())
            }
            Ok(Delivery::Assigned { .. } | Delivery::Revoked { .. }) => Ok(()),
            Ok(Delivery::Lost { partitions }) => Err(Error::OtherLog {
                at: partitions
                    .first()
                    .cloned()
                    .unwrap_or_else(|| self.settings.changelog.clone()),
                what: "it was deleted".into(),
            }),
            Err(error) if error.is_transient() => {
                tokio::time::sleep(super::epoch::pause_before_retry(0)).await;
                Ok(())
            }
            Err(error) => Err(error).doing(|| "cannot read a broadcast input".into()),
        }
    }

    /// The clock says that an input is idle: one at a time, for what that makes due comes before the
    /// next.
    async fn note_idle(&mut self) -> Result<()> {
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

    async fn set_idle(&mut self, index: usize) -> Result<()> {
        let input = &mut self.inputs[index];
        input.is_idle = true;
        let source = input.source;
        self.open.since.get_or_insert_with(Instant::now);
        self.open.steps.decided(Step::Idle {
            input: index as u32,
        });
        self.advance(source).await
    }

    /// Takes what comes next where the order is given.
    async fn take_next(&mut self, next: Next) -> Result<()> {
        match next {
            Next::Batch(index, batch) => self.take_from(index, &batch).await,
            Next::End(at, offset) => {
                self.note_end(&at, offset);
                Ok(())
            }
            // The end of every input counts from now on.
            Next::Followed => Ok(()),
            Next::Idle(index) => self.set_idle(index).await,
            Next::Awake(index) => {
                self.set_awake(index).await?;
                self.open.steps.decided(Step::Awake {
                    input: index as u32,
                });
                Ok(())
            }
            Next::Ended(watermark) => self.end_at(watermark).await,
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
