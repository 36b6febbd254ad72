//! Opening a task: store, changelog, operators, inputs (the steps of recovery, in their order).

use std::sync::Arc;

use async_trait::async_trait;
use tidemill_broker::{
    Broker, Consumer, ConsumerOptions, Generation, Group, Offset, Start, Topic, TopicPartition,
};
use tidemill_state::{Epoch, State, StateOptions, StateStore};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::warn;

use super::bounds::Bounds;
use super::committer::{Cut, ToCommitter};
use super::dead_letter::DeadLetters;
use super::error::Doing;
use super::graph::least;
use super::input::InputPartition;
use super::ordered::{Followed, Ordered, Place};
use super::orders::Listener;
use super::recovery::{redo, resume, retrying};
use super::task::{OpenEpoch, Task, TaskSettings};
use super::times::{self, Times};
use super::topics::{Topics, describe};
use super::topology::SubTopology;
use super::{Attempt, Error, Marker, Progress, Result, TaskId, build, version};
use crate::config::Plan;
use crate::config::plan::{BrokerUrl, StartAt};
use crate::events::{JsonDecoder, Limits};
use crate::operators::Decode;

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

/// However little memory a task is given: so much may wait to be written behind, more than most epochs
/// hold.
const DIRTY_BYTES_MIN: usize = 64 << 10;

/// The bounds of a task's state. Who is given little memory has little waiting to be written behind.
pub(crate) fn state_options(plan: &Plan) -> StateOptions {
    let options = StateOptions::default();
    let dirty_bytes_max = options
        .dirty_bytes_max
        .min(plan.memory)
        .max(DIRTY_BYTES_MIN);
    StateOptions {
        dirty_bytes_max,
        ..options
    }
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
    let store = store.map_err(|source| Error::State { task: id, source })?;
    let task = open_over(store.clone(), shared, id, generation, committer, listener).await;
    if task.is_err() {
        // The task may be opened again at once, and its store is to be free by then.
        let _ = store.close().await;
    }
    task
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

    forget_if_overtaken(&*shared.outputs, &changelog, id, &*store).await?;
    let options = match &shared.bounds.state {
        Some(options) => options.clone(),
        None => state_options(plan),
    };
    let (mut state, recovered) = State::open(store, options).await.map_err(failed)?;
    // Before the changelog: once they are stable no commit of an earlier owner is left open, so the
    // changelog then holds the marker that goes with them.
    let group_offsets = group_offsets(shared, topology, id).await?;
    let go_on = || listener.go_on();
    let marker = redo(&*shared.outputs, &changelog, id, &state, &recovered, &go_on).await?;
    let is_new_version = match &marker {
        Some(marker) => check_version(shared, id, marker)?,
        None => false,
    };
    if !agree(&group_offsets, marker.as_ref())
        && self::group_offsets(shared, topology, id).await? != group_offsets
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
        let was = marker.config_hash;
        for name in version::unfit(plan, &*shared.outputs, &changelog, was).await? {
            refuse_unless_empty(&state, &name, id).await?;
        }
    }
    let table_bytes = plan.memory / specs.len().max(1);
    // One entry for each input, always in memory: however little the stages may keep there.
    let mut times = Times::new(tables[0], usize::MAX);
    state.load_all(&mut times).await.map_err(failed)?;
    let mut graph = build::graph(
        plan,
        topology,
        &tables[1..],
        table_bytes,
        shared.bounds.due_at_once,
    );
    build::restore(&mut graph, &state, id, is_new_version, &go_on).await?;

    let mut dead = DeadLetters::new(
        TopicPartition::new(
            plan.dead_letter.topic.clone(),
            id.partition % shared.topics.dead_letter_partitions.max(1),
        ),
        format!("{} {} {:016x}", plan.name, plan.version, plan.config_hash),
        shared.outputs.capabilities().record_bytes_max,
    );
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
    let mut sinks = build::sinks(plan, topology, &shared.topics, id);
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
        brokers: shared.brokers.clone(),
        home: plan.home(),
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
        open: if is_new_version || is_placed {
            // The log says from now on that this version was accepted, or where an input was found to
            // begin, whether or not anything comes.
            OpenEpoch::due()
        } else {
            OpenEpoch::default()
        },
        in_flight: None,
        // What an unclean end left, what came back older than it was, and what was rebuilt, is compared
        // with the log's digest.
        verify: !recovered.clean
            || recovered.epoch.is_none()
            || recovered.epoch < recovered.note_newest,
        pass: None,
        next_pass: Instant::now(),
    })
}

/// Empties a store that has followed the changelog only up to where tombstones have been removed
/// since: it may hold keys that are gone.
pub(crate) async fn forget_if_overtaken(
    outputs: &dyn Broker,
    changelog: &TopicPartition,
    task: TaskId,
    store: &dyn StateStore,
) -> Result<()> {
    let failed = |source| Error::State { task, source };
    let Some(stored) = store.stored().await.map_err(failed)? else {
        return Ok(());
    };
    let ends = retrying(|| outputs.watermarks(changelog)).await;
    let ends = ends.doing(|| format!("cannot look at {changelog}"))?;
    if stored.changelog_offset < ends.tombstones_gone.0 {
        warn!(%task, offset = stored.changelog_offset, gone = %ends.tombstones_gone, "the store is older than the changelog's tombstones: rebuilding it");
        store.clear().await.map_err(failed)?;
    }
    Ok(())
}

/// Refuses state that a new version of the file cannot go on with.
async fn refuse_unless_empty(state: &State, name: &str, id: TaskId) -> Result<()> {
    let failed = |source| Error::State { task: id, source };
    for (table, spec) in state.tables() {
        if spec.name != name {
            continue;
        }
        let page = state.scan(table.prefix(), None, 1).await.map_err(failed)?;
        if !page.is_empty() {
            return Err(Error::Contradiction {
                task: id,
                what: format!(
                    "its state `{name}` holds what means something else to the new version of the file; a stage or state of another name begins empty, and `tidemill offsets reset --drop-state` makes the pipeline start anew"
                ),
            });
        }
    }
    Ok(())
}

/// Whether another version of the file wrote the marker, and was accepted.
fn check_version(shared: &Shared, id: TaskId, marker: &Marker) -> Result<bool> {
    let plan = &*shared.plan;
    if marker.partitions != shared.topics.tasks[id.sub_topology] {
        return Err(Error::Contradiction {
            task: id,
            what: format!(
                "its inputs have {} partitions, and had {} when its state was written: keys have moved; `tidemill offsets reset` makes it start anew",
                shared.topics.tasks[id.sub_topology], marker.partitions
            ),
        });
    }
    let same = marker.config_hash == plan.config_hash && marker.version == plan.version;
    if !same && !shared.accept_new_version {
        return Err(Error::Changed {
            was: marker.config_hash,
            now: plan.config_hash,
        });
    }
    Ok(!same)
}

/// What the group has committed for the co-partitioned inputs of a task; nothing where its offsets
/// are not the group's.
async fn group_offsets(
    shared: &Shared,
    topology: &SubTopology,
    id: TaskId,
) -> Result<Vec<(TopicPartition, Option<Offset>)>> {
    let mut offsets = Vec::with_capacity(topology.sources.len());
    for &source in &topology.sources {
        let broker = &*shared.brokers[shared.plan.sources[source].topic.broker];
        let asked = [shared.at(source, id.partition)];
        let offset = match &shared.group {
            Some(group) if shared.is_shared(source) => {
                let found = retrying(|| broker.committed(group, &asked)).await;
                let found =
                    found.doing(|| format!("cannot look up the offsets of group `{group}`"));
                found?.pop().flatten()
            }
            _ => None,
        };
        let [at] = asked;
        offsets.push((at, offset));
    }
    Ok(offsets)
}

/// Whether the group's offsets are those of the marker, where there are any.
fn agree(group: &[(TopicPartition, Option<Offset>)], marker: Option<&Marker>) -> bool {
    group.iter().all(|(at, offset)| {
        let inputs = marker.iter().flat_map(|marker| &marker.inputs);
        let known = inputs
            .filter(|input| input.topic == at.topic.as_str() && input.partition == at.partition)
            .map(|input| input.next())
            .next();
        offset.is_none() || *offset == known
    })
}

async fn open_input(
    shared: &Shared,
    source: usize,
    index: usize,
    partition: u32,
    marker: Option<&Marker>,
    group_offset: Option<Offset>,
    dead: &mut DeadLetters,
) -> Result<InputPartition> {
    let source_plan = &shared.plan.sources[source];
    let broker = &*shared.brokers[source_plan.topic.broker];
    let at = shared.at(source, partition);
    let identity = shared.topics.sources[source].identity;
    // Since the run began it may have become another, of other partitions than were found.
    let gone = match describe(broker, &at.topic).await? {
        Some(now) if now.identity == identity => None,
        Some(_) => Some("it was deleted and created again"),
        None => Some("it was deleted"),
    };
    if let Some(what) = gone {
        let what = what.to_owned();
        return Err(Error::OtherLog { at, what });
    }
    let in_group = shared.is_shared(source) && shared.group.is_some();
    let known = marker.and_then(|marker| {
        marker
            .inputs
            .iter()
            .find(|input| input.is(&source_plan.name, &at))
    });
    // What another process read from its standard input says nothing about ours.
    let is_stdin = shared.plan.brokers[source_plan.topic.broker].url == BrokerUrl::Stdio;
    let (known, start, incarnation) = if is_stdin {
        (None, StartAt::Earliest, shared.run)
    } else {
        let incarnation = known.map_or(0, |known| known.incarnation);
        (known, source_plan.start, incarnation)
    };
    let found = resume(
        broker,
        &at,
        identity,
        known,
        group_offset,
        start,
        source_plan.on_gap,
    )
    .await?;
    if let Some(asked) = found.gap {
        warn!(%at, %asked, low = %found.next, "retention removed records before they were read");
        dead.gap(&at, asked.0, found.next.0);
    }
    let limits = Limits {
        record: source_plan.record_max,
        ..Limits::default()
    };
    let decoder = JsonDecoder::new(source_plan.schema.clone(), source_plan.needed, limits);
    let decoder = if source_plan.schema.is_system_event() {
        decoder.system_event()
    } else {
        decoder
    };
    Ok(InputPartition {
        source: index,
        name: source_plan.name.to_string(),
        at,
        broker: source_plan.topic.broker,
        in_group,
        identity,
        next: found.next,
        decode: Decode::new(decoder, source_plan.out_of_order)
            .keyed_by(source_plan.key.clone())
            .of_incarnation(incarnation),
        idle_after: source_plan.idle,
        last_taken: Instant::now(),
        is_idle: false,
        has_ended: false,
    })
}

/// Reads all inputs in order, where the order is not left to when their records arrive: control
/// records are followed, or there are several inputs and the outputs are to be equal in every run.
async fn open_ordered(
    shared: &Shared,
    id: TaskId,
    inputs: &[InputPartition],
    followed: Option<Place>,
) -> Result<Option<Ordered>> {
    let is_choice = inputs.len() > 1 && shared.cut == Cut::Lockstep;
    let followed = match &shared.follow {
        Some((broker, topic)) => {
            let at = TopicPartition::new(topic.clone(), shared.topics.ordinal(id));
            Some(Followed::open(&**broker, at, id, followed).await?)
        }
        None if !is_choice => return Ok(None),
        None => None,
    };
    let input = |input: &InputPartition| {
        let broker = shared.brokers[input.broker].clone();
        (broker, input.at.clone(), input.next)
    };
    let inputs = inputs.iter().map(input).collect();
    Ordered::open(inputs, followed).await.map(Some)
}

async fn open_broadcast(
    shared: &Shared,
    topology: &SubTopology,
    inputs: &[InputPartition],
) -> Result<Option<Box<dyn Consumer>>> {
    let Some(&source) = topology.broadcast.first() else {
        return Ok(None);
    };
    let broker = &shared.brokers[shared.plan.sources[source].topic.broker];
    let whole = inputs
        .iter()
        .filter(|input| input.source >= topology.sources.len());
    let partitions: Vec<(TopicPartition, Start)> = whole
        .map(|input| (input.at.clone(), Start::Offset(input.next)))
        .collect();
    let options = ConsumerOptions::partitions(partitions);
    let consumer = retrying(|| broker.consumer(options.clone())).await;
    consumer
        .map(Some)
        .doing(|| "cannot read a broadcast input".into())
}

/// Where the co-partitioned inputs of a task go on.
///
/// Nowhere if the task reads them itself.
pub(crate) fn positions(task: &Task, topology: &SubTopology) -> Vec<(TopicPartition, Offset)> {
    if task.ordered.is_some() {
        return Vec::new();
    }
    let own = task
        .inputs
        .iter()
        .filter(|input| input.source < topology.sources.len());
    own.map(|input| (input.at.clone(), input.next)).collect()
}
