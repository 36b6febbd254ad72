//! The intake: takes assignments and records from the consumer and keeps a task for each set of
//! co-partitioned partitions that is ours.
//!
//! A task that is slow stops its own partitions and nobody else's; one that restores, halts or loses
//! its partitions likewise.

mod ending;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tidemill_broker::{
    Consumer, Delivery, Error as BrokerError, Generation, Offset, Permit, TopicPartition,
};
use tidemill_state::{crash_point, planted};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, info};

use super::committer::ToCommitter;
use super::directives::{Directives, End};
use super::error::Doing;
use super::open::{Shared, next_offsets, open_task};
use super::reading::{self, Reading};
use super::task::{Input, TaskEnd};
use super::{Error, Result, TaskId};

/// A task as the intake sees it.
#[derive(Debug)]
struct Handle {
    inbox: mpsc::Sender<Input>,
    directives: Directives,
    partitions: Vec<TopicPartition>,
    /// What came while the inbox was full.
    stalled: Vec<Input>,
    /// Which start of the task this is: an answer from an earlier one is stale.
    run: u64,
    /// Whether it was told to end: it takes nothing more.
    is_leaving: bool,
}

type Room = BoxFuture<'static, (TaskId, u64, Option<mpsc::OwnedPermit<Input>>)>;

/// What a task that runs beside us says.
#[derive(Debug)]
enum FromTask {
    Ready {
        id: TaskId,
        run: u64,
        next_offsets: Vec<(TopicPartition, Offset)>,
    },
}

pub(crate) struct Intake {
    shared: Arc<Shared>,
    consumer: Box<dyn Consumer>,
    committer: mpsc::Sender<ToCommitter>,
    generation: Option<Generation>,
    assigned: BTreeSet<TopicPartition>,
    tasks: BTreeMap<TaskId, Handle>,
    // Tasks that reached the end or halted: not started again.
    done: BTreeSet<TaskId>,
    // Tasks whose store was rebuilt already: not a second time.
    rebuilt: BTreeSet<TaskId>,
    task_of: HashMap<TopicPartition, TaskId>,
    running: JoinSet<(TaskId, u64, Result<TaskEnd>)>,
    room: FuturesUnordered<Room>,
    from_tasks: mpsc::Receiver<FromTask>,
    to_intake: mpsc::Sender<FromTask>,
    runs: u64,
    // Revoked partitions whose tasks still settle.
    leaving: Vec<(BTreeSet<TaskId>, Permit)>,
    first_error: Option<Error>,
}

impl Intake {
    pub(crate) fn new(
        shared: Arc<Shared>,
        consumer: Box<dyn Consumer>,
        committer: mpsc::Sender<ToCommitter>,
    ) -> Self {
        let (to_intake, from_tasks) = mpsc::channel(64);
        let mut task_of = HashMap::new();
        for (sub_topology, topology) in shared.topologies.iter().enumerate() {
            for &source in &topology.sources {
                let topic = &shared.plan.sources[source].topic.topic;
                for partition in 0..shared.topics.sources[source].partitions {
                    let at = TopicPartition::new(topic.clone(), partition);
                    task_of.insert(
                        at,
                        TaskId {
                            sub_topology,
                            partition,
                        },
                    );
                }
            }
        }
        Self {
            shared,
            consumer,
            committer,
            generation: None,
            assigned: BTreeSet::new(),
            tasks: BTreeMap::new(),
            done: BTreeSet::new(),
            rebuilt: BTreeSet::new(),
            task_of,
            running: JoinSet::new(),
            room: FuturesUnordered::new(),
            from_tasks,
            to_intake,
            runs: 0,
            leaving: Vec::new(),
            first_error: None,
        }
    }

    /// Runs until told to stop, until every task has ended, or until something that concerns all
    /// breaks. Then every task has settled what it could.
    ///
    /// # Errors
    ///
    /// The first error of the consumer or of a task.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<()> {
        let end = self.work(&mut stop).await;
        self.stop_all().await;
        if self.is_all_done() {
            self.shared.progress.reached_end();
        }
        drop(self.committer);
        // Leaving the group last keeps the partitions ours until all is settled.
        drop(self.consumer);
        end?;
        self.first_error.map_or(Ok(()), Err)
    }

    async fn work(&mut self, stop: &mut watch::Receiver<bool>) -> Result<()> {
        loop {
            let all_done = self.running.is_empty() && self.is_all_done();
            if all_done || *stop.borrow() {
                return Ok(());
            }
            tokio::select! {
                biased;
                changed = stop.changed() => if changed.is_err() { return Ok(()) },
                // Shut out by another run, it may be: the tasks would learn it with the next epoch they
                // close, and perhaps none ever comes.
                () = self.committer.closed() => return Err(Error::Gone { part: "the committer" }),
                Some(ended) = self.running.join_next() => self.note_ended(ended).await?,
                Some(message) = self.from_tasks.recv() => self.note_ready(message).await?,
                Some((id, run, permit)) = self.room.next() => self.refill(id, run, permit),
                delivery = self.consumer.next() => self.deliver(delivery).await?,
            }
        }
    }

    /// Whether every task that is ours has reached the end, or halted. While nothing is assigned, nobody
    /// can say, unless every task there is has.
    fn is_all_done(&self) -> bool {
        let is_ours = !self.assigned.is_empty() && self.assigned.iter().all(|at| self.is_done(at));
        is_ours || self.task_of.values().all(|id| self.done.contains(id))
    }

    fn is_done(&self, at: &TopicPartition) -> bool {
        self.task_of
            .get(at)
            .is_some_and(|id| self.done.contains(id))
    }

    async fn deliver(&mut self, delivery: tidemill_broker::Result<Delivery>) -> Result<()> {
        match delivery {
            Ok(Delivery::Records(batch)) => {
                let at = batch.at().clone();
                self.hand_over(&at, Input::Batch(batch));
            }
            Ok(Delivery::End { partition, offset }) => {
                self.hand_over(&partition.clone(), Input::End(partition, offset));
            }
            Ok(Delivery::Assigned {
                generation,
                partitions,
            }) => {
                self.assign(generation, partitions).await;
            }
            Ok(Delivery::Revoked { partitions, permit }) => self.revoke(&partitions, permit).await,
            Ok(Delivery::Lost { partitions }) => self.lose(&partitions),
            Err(error) => match reading::after(error).await? {
                Reading::GoesOn => {}
                Reading::OutOfRange(at) => {
                    for id in self.tasks_of(std::slice::from_ref(&at)) {
                        self.end(id, End::Stop);
                    }
                }
                Reading::Deleted(topic) => self.lose_topic(topic).await,
            },
        }
        Ok(())
    }

    async fn assign(&mut self, generation: Option<Generation>, partitions: Vec<TopicPartition>) {
        self.stamp(generation, partitions);
        for handle in self.tasks.values() {
            if handle.is_leaving {
                // Ours again before the task has gone: they wait until it is started anew.
                self.consumer.pause(&handle.partitions);
            }
        }
        self.start_missing().await;
    }

    /// Takes note of what is ours: commits are of this generation from now on.
    fn stamp(&mut self, generation: Option<Generation>, partitions: Vec<TopicPartition>) {
        self.assigned = partitions.into_iter().collect();
        metrics::gauge!("tidemill_partitions_assigned").set(self.assigned.len() as f64);
        for handle in self.tasks.values() {
            handle.directives.restamp(generation.clone());
        }
        self.generation = generation;
    }

    /// Starts each task whose partitions are all ours and that does not run.
    async fn start_missing(&mut self) {
        let wanted: BTreeSet<TaskId> = self
            .assigned
            .iter()
            .filter_map(|at| self.task_of.get(at))
            .copied()
            .collect();
        let mut missing = Vec::new();
        for id in wanted {
            let partitions = self.partitions_of(id);
            let ours = partitions.iter().all(|at| self.assigned.contains(at));
            let leaving = self.leaving.iter().any(|(tasks, _)| tasks.contains(&id));
            if self.done.contains(&id) {
                // Nobody is there to take anything.
                self.consumer.pause(&partitions);
            }
            if ours && !leaving && !self.tasks.contains_key(&id) && !self.done.contains(&id) {
                // All are announced before any runs: in lockstep the first epoch of one waits for
                // that of every other. A committer that is gone is found out by the tasks.
                let _ = self.committer.send(ToCommitter::Begin(id)).await;
                missing.push((id, partitions));
            }
        }
        for (id, partitions) in missing {
            self.start(id, partitions);
        }
    }

    fn partitions_of(&self, id: TaskId) -> Vec<TopicPartition> {
        let sources = &self.shared.topologies[id.sub_topology].sources;
        let at = |&source: &usize| {
            let topic = self.shared.plan.sources[source].topic.topic.clone();
            TopicPartition::new(topic, id.partition)
        };
        sources.iter().map(at).collect()
    }

    fn start(&mut self, id: TaskId, partitions: Vec<TopicPartition>) {
        // Silent until the task says from where.
        self.consumer.pause(&partitions);
        self.runs += 1;
        let run = self.runs;
        let (inbox, inputs) = mpsc::channel(self.shared.bounds.inbox_batches.max(1));
        let (directives, listener) = Directives::new(self.generation.clone());
        self.tasks.insert(
            id,
            Handle {
                inbox,
                directives,
                partitions,
                stalled: Vec::new(),
                run,
                is_leaving: false,
            },
        );
        let (shared, generation) = (self.shared.clone(), self.generation.clone());
        let (committer, to_intake) = (self.committer.clone(), self.to_intake.clone());
        let to_committer = committer.clone();
        info!(task = %id, "starting a task");
        self.running.spawn(crash_point::inherit(async move {
            let end = async {
                let task =
                    match open_task(&shared, id, generation, committer.clone(), &listener).await {
                        Ok(task) => task,
                        Err(error) => {
                            let _ = committer.send(ToCommitter::End(id)).await;
                            if !matches!(error, Error::Dropped) {
                                return Err(error);
                            }
                            // The news that say so are on their way.
                            tokio::time::sleep(super::epoch::pause_before_retry(0)).await;
                            return Ok(TaskEnd::Dropped);
                        }
                    };
                let next_offsets = next_offsets(&task, &shared.topologies[id.sub_topology]);
                let ready = FromTask::Ready {
                    id,
                    run,
                    next_offsets,
                };
                to_intake
                    .send(ready)
                    .await
                    .map_err(|_| Error::Gone { part: "the intake" })?;
                let (commands, heard) = mpsc::channel(1);
                let forward = async {
                    listener.forward(commands).await;
                    std::future::pending().await
                };
                tokio::select! {
                    biased;
                    end = task.run(inputs, heard) => end,
                    never = forward => never,
                }
            };
            // One that panics is one that halts: nothing of it is shared but what it has handed over.
            let end = AssertUnwindSafe(end).catch_unwind().await;
            let end = match end {
                Ok(end) => end,
                Err(panic) => {
                    let _ = to_committer.send(ToCommitter::End(id)).await;
                    Err(Error::panicked(id, &*panic))
                }
            };
            (id, run, end)
        }));
    }

    async fn note_ready(&mut self, message: FromTask) -> Result<()> {
        let FromTask::Ready {
            id,
            run,
            next_offsets,
        } = message;
        let Some(handle) = self
            .tasks
            .get_mut(&id)
            .filter(|handle| handle.run == run && !handle.is_leaving)
        else {
            return Ok(());
        };
        // What was fetched before the seek is not what the task wants.
        handle.stalled.clear();
        for (at, offset) in &next_offsets {
            match self.consumer.seek(at, *offset).await {
                // It went while the task was opened; a command says so too.
                Err(BrokerError::NotAssigned { .. }) => return Ok(()),
                sought => sought.doing(|| format!("cannot go to offset {offset} of {at}"))?,
            }
        }
        let partitions: Vec<TopicPartition> = next_offsets.into_iter().map(|(at, _)| at).collect();
        self.consumer.resume(&partitions);
        Ok(())
    }

    fn hand_over(&mut self, at: &TopicPartition, input: Input) {
        let Some(id) = self.task_of.get(at).copied() else {
            return;
        };
        let Some(handle) = self.tasks.get_mut(&id) else {
            return;
        };
        if handle.is_leaving {
            return;
        }
        if !handle.stalled.is_empty() {
            handle.stalled.push(input);
            // Its partitions are paused: what was under way comes, and an end of each.
            debug_assert!(handle.stalled.len() <= 1 + 2 * handle.partitions.len());
            return;
        }
        match handle.inbox.try_send(input) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(input)) => {
                handle.stalled.push(input);
                let (sender, run) = (handle.inbox.clone(), handle.run);
                let partitions = handle.partitions.clone();
                self.consumer.pause(&partitions);
                self.room.push(Box::pin(async move {
                    (id, run, sender.reserve_owned().await.ok())
                }));
            }
            // It has ended; that is told elsewhere.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    /// A task has room again.
    fn refill(&mut self, id: TaskId, run: u64, permit: Option<mpsc::OwnedPermit<Input>>) {
        let Some(handle) = self.tasks.get_mut(&id).filter(|handle| handle.run == run) else {
            return;
        };
        let Some(permit) = permit else { return };
        if !handle.stalled.is_empty() {
            permit.send(handle.stalled.remove(0));
        }
        for (index, input) in std::mem::take(&mut handle.stalled).into_iter().enumerate() {
            if let Err(mpsc::error::TrySendError::Full(input)) = handle.inbox.try_send(input) {
                // More came in than there was room for while it was stalled.
                debug!(task = %id, index, "still no room");
                handle.stalled.push(input);
            }
        }
        if handle.stalled.is_empty() {
            let partitions = handle.partitions.clone();
            planted!(P18, {} else {
                self.consumer.resume(&partitions);
            });
        } else {
            let (sender, run) = (handle.inbox.clone(), handle.run);
            self.room.push(Box::pin(async move {
                (id, run, sender.reserve_owned().await.ok())
            }));
        }
    }

    fn tasks_of(&self, partitions: &[TopicPartition]) -> BTreeSet<TaskId> {
        let of = partitions
            .iter()
            .filter_map(|at| self.task_of.get(at))
            .copied();
        of.filter(|id| self.tasks.contains_key(id)).collect()
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        for at in partitions {
            self.assigned.remove(at);
        }
    }
}
