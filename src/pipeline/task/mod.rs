//! A task: one sub-topology on one set of co-partitioned input partitions.
//!
//! One logical thread: it owns its state, its offsets and its order. It takes batches, runs its
//! operators inline, fills its open epoch, and hands closed epochs to the committer.

mod close;
mod output;
mod pass;
mod take;
mod time;
mod wait;

use std::collections::BTreeSet;
use std::sync::Arc;

use tidemill_broker::{Batch, Broker, Consumer, Generation, RecordSet, Timestamp, TopicPartition};
use tidemill_state::{Epoch, State, planted};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use self::pass::Pass;
use self::wait::{Event, settled};
use super::committer::{Cut, ToCommitter};
use super::control::Steps;
use super::dead_letter::DeadLetters;
use super::epoch::Settled;
use super::graph::Graph;
use super::input::InputPartition;
use super::ordered::Ordered;
use super::sink::SinkWriter;
use super::times::Times;
use super::{Error, Marker, Progress, Result, Taken, TaskId};
use crate::config::plan::{CommitPolicy, Guarantee};

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
#[derive(Debug)]
pub(crate) enum TaskEnd {
    /// Everything it took is committed.
    Committed,
    /// The same, and every input has ended.
    Finished,
    /// Everything it took is committed, and then its store was found damaged.
    Damaged(Error),
    /// What was not committed was dropped: its assignment broke. It begins anew where it still has
    /// its partitions.
    Dropped,
}

impl TaskEnd {
    /// Whether everything it took is committed.
    fn is_whole(&self) -> bool {
        !matches!(self, Self::Dropped)
    }
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
    pub(crate) taken: Taken,
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
    // Bytes that stages remember since it was opened, roughly: they go to the changelog when it closes.
    kept: usize,
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
        let behind = self.end_behind(&end, &mut commands).await;
        let closed = self.state.close().await;
        let end = match behind {
            // Of a store that takes no call any more, the one that broke it says why.
            Err(cause)
                if cause.is_store_damage() && end.as_ref().is_err_and(Error::is_poisoned_store) =>
            {
                Err(cause)
            }
            Err(damage)
                if damage.is_store_damage() && end.as_ref().is_ok_and(TaskEnd::is_whole) =>
            {
                Ok(TaskEnd::Damaged(damage))
            }
            behind => end.and_then(|end| behind.map(|()| end)),
        }?;
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
        bytes + self.open.kept >= self.settings.commit.bytes
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
}
