//! Opening a task: store, changelog, operators, inputs (the steps of recovery, in their order).

mod fit;
mod inputs;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use tidemill_broker::{Broker, Generation, Group, Topic, TopicPartition};
use tidemill_state::{Epoch, Headway, Note, StateStore};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::warn;

use self::fit::{check_version, refuse_unfit};
use self::inputs::{agree, group_offsets, open_broadcast, open_input, open_ordered};
use super::bounds::Bounds;
use super::committer::{Cut, ToCommitter};
use super::dead_letter::DeadLetters;
use super::directives::Listener;
use super::graph::least;
use super::input::InputPartition;
use super::memory::{state_options, table_bytes};
use super::redo::recover;
use super::task::{OpenEpoch, Task, TaskSettings};
use super::times::{self, Times};
use super::topics::Topics;
use super::topology::SubTopology;
use super::{Attempt, Error, Marker, Progress, Result, Taken, TaskId, build};
use crate::config::Plan;
use crate::config::plan::StartAt;

pub(crate) use self::inputs::next_offsets;

/// Where tasks keep their stores.
#[async_trait]
pub trait Stores: std::fmt::Debug + Send + Sync + 'static {
    /// Opens the store of a task of a pipeline.
    ///
    /// # Errors
    ///
    /// If it is in use, of another task, or of a newer version. A damaged one is set aside.
    async fn open(&self, pipeline: &str, task: &str)
    -> tidemill_state::Result<Arc<dyn StateStore>>;

    /// Moves the store of a task out of the way, with all it holds; the next one begins empty.
    ///
    /// # Errors
    ///
    /// If it cannot be moved.
    async fn set_aside(&self, task: &str, why: &str) -> tidemill_state::Result<()>;
}

/// What all tasks of a process share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plan: Arc<Plan>,
    pub(crate) topologies: Vec<SubTopology>,
    pub(crate) topics: Topics,
    pub(crate) brokers: Vec<Arc<dyn Broker>>,
    pub(crate) outputs: Arc<dyn Broker>,
    pub(crate) stores: Arc<dyn Stores>,
    /// The group of the sources that are read as its member.
    pub(crate) group: Option<Group>,
    pub(crate) cut: Cut,
    /// Drawn once for this run: each reads another standard input.
    pub(crate) run: u64,
    /// Whether to fire what is open, commit and end once every input has ended.
    pub(crate) drain: watch::Receiver<bool>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) accept_new_version: bool,
    /// Control records that say what is taken in which order: their topic, and its broker.
    pub(crate) follow: Option<(Arc<dyn Broker>, Topic)>,
    pub(crate) bounds: Bounds,
}

impl Shared {
    /// Whether a source's offsets are committed for the group: it shares its broker with the
    /// outputs.
    pub(crate) fn is_shared(&self, source: usize) -> bool {
        let source = &self.plan.sources[source];
        !source.broadcast && source.topic.broker == self.plan.home()
    }

    fn at(&self, source: usize, partition: u32) -> TopicPartition {
        TopicPartition::new(self.plan.sources[source].topic.topic.clone(), partition)
    }
}

/// Opens a task and brings it to where its last marker says; gives up with [`Error::Dropped`] once it
/// is to end.
pub(crate) async fn open_task(
    shared: &Shared,
    id: TaskId,
    generation: Option<Generation>,
    committer: mpsc::Sender<ToCommitter>,
    listener: &Listener,
) -> Result<Task> {
    let (pipeline, name) = (shared.plan.name.as_str(), id.to_string());
    let store = shared.stores.open(pipeline, &name).await;
    let failed = |source| Error::State { task: id, source };
    let store = store.map_err(failed)?;
    let before = store.note().await.map_err(failed)?;
    let task = open_over(store.clone(), shared, id, generation, committer, listener).await;
    if task.is_err() {
        shared.progress.not_redone(id);
        leave_as_it_was(&*store, before).await;
        // The task may be opened again at once, and its store is to be free by then.
        let _ = store.close().await;
    }
    task
}

/// A store that was closed well and to which nothing was written since is so still, though its task was
/// refused. One that cannot be written says so when it is opened again.
async fn leave_as_it_was(store: &dyn StateStore, before: Note) {
    if let Ok(now) = store.note().await
        && !before.open
        && now.newest == before.newest
    {
        let _ = store.set_note(Note { open: false, ..now }).await;
    }
}

async fn open_over(
    store: Arc<dyn StateStore>,
    shared: &Shared,
    id: TaskId,
    generation: Option<Generation>,
    committer: mpsc::Sender<ToCommitter>,
    listener: &Listener,
) -> Result<Task> {
    let plan = &*shared.plan;
    let topology = &shared.topologies[id.sub_topology];
    let failed = |source| Error::State { task: id, source };
    let name = id.to_string();
    let changelog = TopicPartition::new(shared.topics.changelog.clone(), shared.topics.ordinal(id));
    let control = TopicPartition::new(shared.topics.control.clone(), shared.topics.ordinal(id));

    let options = match &shared.bounds.state {
        Some(options) => options.clone(),
        None => state_options(plan),
    };
    // Before the changelog: once they are stable no commit of an earlier owner is left open, so the
    // changelog then holds the marker that goes with them.
    let group_offsets = group_offsets(shared, topology, id).await?;
    let redone = |headway: Headway| {
        shared.progress.redone(id, headway);
        listener.go_on()
    };
    let outputs = &*shared.outputs;
    let (mut state, marker) = recover(outputs, &changelog, id, store, options, &redone).await?;
    let is_new_version = match &marker {
        Some(marker) => check_version(shared, id, marker, &changelog).await?,
        None => false,
    };
    if !agree(&group_offsets, marker.as_ref())
        && inputs::group_offsets(shared, topology, id).await? != group_offsets
    {
        // Somebody else commits: the partitions went while this task was opened.
        return Err(Error::Dropped);
    }

    let specs = build::table_specs(plan, topology);
    let tables = state.declare(&specs).map_err(failed)?;
    for (_, table) in state.tables() {
        // Told once: when the version that left it is accepted.
        if is_new_version && specs.iter().all(|spec| spec.name != table.name) {
            warn!(task = %id, table = table.name, "this state belongs to no stage of the file any more: it stays as it is, unused; `tidemill offsets reset --drop-state` makes the pipeline start anew");
        }
    }
    if let Some(marker) = marker.as_ref().filter(|_| is_new_version) {
        refuse_unfit(shared, id, &state, marker, &changelog).await?;
    }
    // One entry for each input, always in memory: however little the stages may keep there.
    let mut times = Times::new(tables[0], usize::MAX);
    state.load_all(&mut times).await.map_err(failed)?;
    let mut graph = build::graph(
        plan,
        topology,
        (id.partition, shared.topics.tasks[id.sub_topology]),
        &tables[1..],
        table_bytes(plan, topology),
        shared.bounds.due_at_once,
        shared.outputs.capabilities().record_bytes_max,
    );
    build::restore(&mut graph, &state, id, is_new_version, &|| listener.go_on()).await?;

    let mut dead = DeadLetters::new(
        TopicPartition::new(
            plan.dead_letter.topic.clone(),
            id.partition % shared.topics.dead_letter_partitions.max(1),
        ),
        format!("{} {} {:016x}", plan.name, plan.version, plan.config_hash),
        shared.brokers[plan.dead_letter.broker]
            .capabilities()
            .record_bytes_max,
    )
    .of_task(id.partition);
    if let Some(marker) = &marker {
        dead.restore(marker);
    }
    let mut inputs = Vec::new();
    for (index, &source) in topology.sources.iter().enumerate() {
        inputs.push(
            open_input(
                shared,
                source,
                index,
                id.partition,
                marker.as_ref(),
                group_offsets[index].1,
                &mut dead,
            )
            .await?,
        );
    }
    for (index, &source) in topology.broadcast.iter().enumerate() {
        for partition in 0..shared.topics.sources[source].partitions {
            let index = topology.sources.len() + index;
            inputs.push(
                open_input(
                    shared,
                    source,
                    index,
                    partition,
                    marker.as_ref(),
                    None,
                    &mut dead,
                )
                .await?,
            );
        }
    }
    // Event time goes on where it was, so a restart never opens a window that has fired.
    times::restore(&times, &mut inputs, &mut graph).map_err(|error| failed(error.into()))?;
    for source in 0..graph.sources.len() {
        let partitions = inputs.iter().filter(|input| input.source == source);
        let time = least(partitions.map(InputPartition::event_time));
        graph
            .restore_source(source, time, &mut state)
            .await
            .map_err(failed)?;
    }
    // The end of an input is elsewhere the next time it is looked for.
    let begins_late = |source: &usize| plan.sources[*source].start != StartAt::Earliest;
    let mut sources = topology.sources.iter().chain(&topology.broadcast);
    let is_placed = marker.is_none() && sources.any(begins_late);
    let followed = times::followed(&times).map_err(|error| failed(error.into()))?;
    let ordered = open_ordered(shared, id, &inputs, followed).await?;
    let broadcast = match &ordered {
        Some(_) => None,
        None => open_broadcast(shared, topology, &inputs).await?,
    };
    let mut sinks = build::sinks(plan, topology, &shared.topics, &shared.brokers, id);
    if let Some(marker) = &marker {
        for (sink, partition, count) in &marker.sequences {
            let sink = sinks.iter_mut().find(|one| *one.name == **sink);
            if let Some(sequence) =
                sink.and_then(|sink| sink.sequences.get_mut(*partition as usize))
            {
                *sequence = *count;
            }
        }
    }
    // Nothing else was set aside yet.
    let has_gap = dead.bytes() > 0;
    let taken = Taken::new(shared.progress.clone(), id);
    for input in &inputs {
        taken.comes_to(input.source_of_plan, input.at.partition, input.next);
    }
    Ok(Task {
        settings: TaskSettings {
            id,
            guarantee: plan.guarantee,
            cut: shared.cut,
            commit: plan.commit,
            group: shared.group.clone(),
            changelog,
            control,
        },
        drain: shared.drain.clone(),
        progress: shared.progress.clone(),
        taken,
        brokers: shared.brokers.clone(),
        home: plan.home(),
        unsynced: BTreeSet::new(),
        dead_letter_broker: plan.dead_letter.broker,
        graph,
        inputs,
        sinks,
        dead,
        state,
        times,
        marker: Marker {
            epoch: marker.as_ref().map_or(Epoch::NONE, |marker| marker.epoch),
            attempt: Attempt {
                instance: String::new(),
                run: 0,
                transaction: 0,
            },
            task: name,
            partitions: shared.topics.tasks[id.sub_topology],
            version: plan.version,
            config_hash: plan.config_hash,
            inputs: Vec::new(),
            sequences: Vec::new(),
            digest: tidemill_state::Digest::EMPTY,
        },
        generation,
        committer,
        broadcast,
        broadcast_is_next: false,
        ordered,
        rest: None,
        ended_at: None,
        open: if is_new_version || is_placed || has_gap {
            // The log says from now on that this version was accepted, where an input was found to
            // begin, or what of it is missing, whether or not anything comes.
            OpenEpoch::due()
        } else {
            OpenEpoch::default()
        },
        in_flight: None,
        pass: None,
        next_pass: Instant::now(),
    })
}
