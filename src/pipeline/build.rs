//! From a plan to a running task: the only place that turns a name into a broker or operator.

use std::sync::Arc;

use tidemill_broker::{Broker, Clock};
use tidemill_broker_file::{FileBroker, FileOptions, Fsync};
use tidemill_broker_memory::MemoryBroker;
use tidemill_state::{Kind, State, Table, TableId, TableSpec};

use super::error::Doing;
use super::graph::{Graph, Node, Target};
use super::sink::SinkWriter;
use super::topics::{self, Topics};
use super::topology::SubTopology;
use super::{Error, Result, TaskId};
use crate::config::Plan;
use crate::config::plan::{BrokerUrl, FsyncPolicy, Input, OpPlan, StagePlan};
use crate::config::words::input_name;
use crate::events::HeldRow;
use crate::events::identity::Identity;
use crate::operators::{
    DEDUPE_CODEC, Dedupe, KeyBy, MERGE_CODEC, Merge, Operator, Route, Share, TUMBLING_WINDOW_CODEC,
    TumblingWindow, TumblingWindowOptions, Window,
};

/// A broker of a pipeline, open.
#[derive(Debug, Clone)]
pub enum OpenBroker {
    /// In this process; also stands behind standard input and output.
    Memory(MemoryBroker),
    /// An embedded log.
    File(FileBroker),
}

impl OpenBroker {
    /// Opens the broker at `url` for writing and reading.
    ///
    /// # Errors
    ///
    /// If it cannot be opened: in use, damaged, of a newer version, or not to be read or written.
    pub async fn open(url: &BrokerUrl, clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(match url {
            BrokerUrl::Memory | BrokerUrl::Stdio => Self::Memory(MemoryBroker::with_clock(clock)),
            BrokerUrl::File { path, fsync, split } => {
                let opened = FileBroker::open(path, file_options(*fsync, *split, clock)).await;
                Self::File(opened.doing(|| format!("cannot open the log in {}", path.display()))?)
            }
        })
    }

    /// Opens the broker at `url` for reading alone, also while a pipeline writes to it.
    ///
    /// # Errors
    ///
    /// If it cannot be opened: no log, damaged, of a newer version, or not to be read.
    pub async fn open_reader(url: &BrokerUrl, clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(match url {
            BrokerUrl::Memory | BrokerUrl::Stdio => Self::Memory(MemoryBroker::with_clock(clock)),
            BrokerUrl::File { path, fsync, split } => {
                let options = file_options(*fsync, *split, clock);
                let opened = FileBroker::open_reader(path, options).await;
                Self::File(opened.doing(|| format!("cannot read the log in {}", path.display()))?)
            }
        })
    }

    /// Opens one of a plan's brokers, by its index there, as a run of it does: for writing what it writes
    /// to, and for reading alone what it only reads, so that others may read it and one may write to it
    /// meanwhile. Topics that are read there and missing are made first, where the plan says their
    /// partitions.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open) and [`open_reader`](Self::open_reader).
    pub async fn open_for_run(plan: &Plan, broker: usize, clock: Arc<dyn Clock>) -> Result<Self> {
        let url = &plan.brokers[broker].url;
        if plan.writes_to(broker) || plan.sources.iter().all(|one| one.topic.broker != broker) {
            return Self::open(url, clock).await;
        }
        if !Self::is_new(url) {
            let open = Self::open_reader(url, clock.clone()).await?;
            if !topics::lacks_sources(plan, broker, &*open.broker()).await? {
                return Ok(open);
            }
        }
        let open = Self::open(url, clock.clone()).await?;
        topics::make_sources(plan, broker, &*open.broker()).await?;
        match open {
            Self::Memory(_) => Ok(open),
            Self::File(_) => {
                open.close().await?;
                Self::open_reader(url, clock).await
            }
        }
    }

    /// Whether opening the broker at `url` would make a log where there is none: then it has no topic yet.
    pub fn is_new(url: &BrokerUrl) -> bool {
        match url {
            BrokerUrl::Memory | BrokerUrl::Stdio => false,
            // What cannot be looked at is told when it is opened.
            BrokerUrl::File { path, .. } => match std::fs::read_dir(path) {
                Ok(mut entries) => entries.next().is_none(),
                Err(error) => error.kind() == std::io::ErrorKind::NotFound,
            },
        }
    }

    /// As any broker.
    pub fn broker(&self) -> Arc<dyn Broker> {
        match self {
            Self::Memory(broker) => Arc::new(broker.clone()),
            Self::File(broker) => Arc::new(broker.clone()),
        }
    }

    /// Closes it: what is committed is durable when this returns.
    ///
    /// # Errors
    ///
    /// If the disk refuses.
    pub async fn close(self) -> Result<()> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::File(broker) => broker.close().await.doing(|| "cannot close the log".into()),
        }
    }
}

fn file_options(fsync: FsyncPolicy, split: u64, clock: Arc<dyn Clock>) -> FileOptions {
    FileOptions {
        clock,
        fsync: match fsync {
            FsyncPolicy::Commit => Fsync::Commit,
            FsyncPolicy::Every(interval) => Fsync::Every(interval),
            FsyncPolicy::Never => Fsync::Never,
        },
        split_bytes: split,
        ..FileOptions::default()
    }
}

/// Name of the table that keeps how far event time has come on each input.
pub(crate) const TIME_TABLE: &str = "tidemill.time";

/// The tables of a sub-topology's stages, in the order in which [`graph`] wants their numbers.
pub(crate) fn table_specs(plan: &Plan, topology: &SubTopology) -> Vec<TableSpec> {
    let mut specs = vec![TableSpec {
        name: TIME_TABLE.into(),
        kind: Kind::Value,
        codec: 1,
        ttl_ms: None,
    }];
    for &stage in &topology.stages {
        let stage = &plan.stages[stage];
        if let Some((name, codec)) = table_of(plan, stage) {
            specs.push(TableSpec {
                name,
                kind: Kind::Value,
                codec,
                ttl_ms: None,
            });
        }
    }
    specs
}

/// The table of a stage that has one: its name and its codec.
pub(crate) fn table_of(plan: &Plan, stage: &StagePlan) -> Option<(String, u32)> {
    match &stage.op {
        OpPlan::TumblingWindow { state, .. } => {
            Some((plan.states[*state].name.to_string(), TUMBLING_WINDOW_CODEC))
        }
        OpPlan::Dedupe { state, .. } => Some((plan.states[*state].name.to_string(), DEDUPE_CODEC)),
        OpPlan::Merge => Some((format!("{}.held", stage.name), MERGE_CODEC)),
        OpPlan::KeyBy { .. } | OpPlan::Route { .. } => None,
    }
}

/// Builds the operators of a sub-topology over its tables and wires them.
///
/// `tables` are the numbers of [`table_specs`] without the first. The sources of the graph are the
/// sub-topology's co-partitioned sources, then its broadcast ones, of which only what is its share goes on
/// where the task is of `partition` among `partitions`. A stage does no more than `due_at_once` at once of
/// what event time makes due, and keeps nothing that needs a larger record than `record_bytes_max` in the
/// changelog.
pub(crate) fn graph(
    plan: &Plan,
    topology: &SubTopology,
    (partition, partitions): (u32, u32),
    tables: &[TableId],
    table_bytes: usize,
    due_at_once: usize,
    record_bytes_max: usize,
) -> Graph {
    let mut tables = tables.iter().copied();
    let mut nodes = Vec::with_capacity(topology.stages.len());
    // Before all stages; a task that is alone has all there is.
    let shares = match partitions {
        1 => 0,
        _ => topology.broadcast.len(),
    };
    let targets = |from| {
        let behind = targets(plan, topology, from).into_iter();
        behind.map(|target| target.behind(shares)).collect()
    };
    for &source in &topology.broadcast[..shares] {
        nodes.push(Node::new(
            // No stage has a name with a space.
            (
                format!("share of {}", plan.sources[source].name).into(),
                None,
            ),
            Box::new(Share::new(partition, partitions)),
            vec![targets(Input::Source(source))],
            1,
        ));
    }
    for &stage in &topology.stages {
        let stage_plan = &plan.stages[stage];
        let state = table_of(plan, stage_plan).map(|(name, _)| name.into());
        let table = state.as_ref().and_then(|_| tables.next());
        nodes.push(Node::new(
            (stage_plan.name.clone(), state),
            operator(plan, stage_plan, table, table_bytes, record_bytes_max),
            (0..stage_plan.ports.len())
                .map(|port| targets(Input::Stage { stage, port }))
                .collect(),
            stage_plan.inputs.len(),
        ));
    }
    let shared = topology.sources.iter();
    let shared = shared.map(|&source| targets(Input::Source(source)));
    let whole = topology.broadcast.iter().enumerate();
    let whole = whole.map(|(place, &source)| match shares {
        0 => targets(Input::Source(source)),
        _ => vec![Target::Node {
            node: place,
            input: 0,
            way: 0,
        }],
    });
    let sources = shared.chain(whole).collect();
    Graph::new(nodes, sources, due_at_once)
}

/// Everything that reads `from`, within a sub-topology.
pub(super) fn targets(plan: &Plan, topology: &SubTopology, from: Input) -> Vec<Target> {
    let mut targets = Vec::new();
    for (node, &stage) in topology.stages.iter().enumerate() {
        let inputs = plan.stages[stage].inputs.iter().enumerate();
        targets.extend(
            inputs
                .filter(|(_, input)| **input == from)
                .map(|(input, _)| Target::Node {
                    node,
                    input,
                    way: way(plan, &plan.stages[stage], input),
                }),
        );
    }
    for (sink, &index) in topology.sinks.iter().enumerate() {
        let inputs = plan.sinks[index].inputs.iter().enumerate();
        targets.extend(
            inputs
                .filter(|(_, input)| **input == from)
                .map(|(edge, _)| Target::Sink { sink, edge }),
        );
    }
    targets
}

/// What tells the rows of an input of a stage from those of the inputs before it: 0 where none of them
/// has the same records.
fn way(plan: &Plan, stage: &StagePlan, input: usize) -> u64 {
    let mine = plan.sources_of(stage.inputs[input]);
    let before = stage.inputs[..input].iter();
    let mut before = before.flat_map(|input| plan.sources_of(*input));
    if !before.any(|source| mine.contains(&source)) {
        return 0;
    }
    let name = input_name(plan, &stage.inputs[input]);
    Identity::of("way").text(&stage.name).text(&name).finish() as u64
}

fn operator(
    plan: &Plan,
    stage: &StagePlan,
    table: Option<TableId>,
    table_bytes: usize,
    record_bytes_max: usize,
) -> Box<dyn Operator> {
    if let (Some(options), Some(table)) = (window_options(plan, stage), table) {
        let windows = Table::<Window>::new(table, table_bytes);
        return Box::new(TumblingWindow::new(options, windows));
    }
    match (&stage.op, table) {
        (OpPlan::KeyBy { key }, _) => Box::new(KeyBy::new(key.clone())),
        (
            OpPlan::Route {
                field,
                cases,
                otherwise,
            },
            _,
        ) => Box::new(Route::new(*field, cases.clone(), otherwise.clone())),
        (
            OpPlan::Dedupe {
                id,
                window,
                count_max,
                state,
            },
            Some(table),
        ) => {
            // It has all ids in memory itself: the table keeps what an epoch changes until it closes.
            let seen = Table::<i64>::new(table, 0);
            let window = plan.states[*state].keeps(*window);
            Box::new(Dedupe::new(id.clone(), window, *count_max, seen))
        }
        (OpPlan::Merge, Some(table)) => {
            let held = Table::<HeldRow>::new(table, table_bytes);
            let merge = Merge::new(stage.ports[0].1.clone(), held);
            Box::new(merge.in_records_of(record_bytes_max))
        }
        // `table_specs` gives a table to each operator that has one.
        (OpPlan::TumblingWindow { .. }, _) | (OpPlan::Dedupe { .. } | OpPlan::Merge, None) => {
            unreachable!("stage `{}` has no table", stage.name)
        }
    }
}

/// How a stage's windows work; none if it has no windows.
pub(crate) fn window_options(plan: &Plan, stage: &StagePlan) -> Option<TumblingWindowOptions> {
    let OpPlan::TumblingWindow {
        key,
        size,
        lateness,
        late,
        aggregates,
        ..
    } = &stage.op
    else {
        return None;
    };
    Some(TumblingWindowOptions {
        name: stage.name.clone(),
        key: key.clone(),
        size: *size,
        lateness: *lateness,
        late: late.clone(),
        aggregates: aggregates.clone(),
        input: plan.schema_of(stage.inputs[0]).clone(),
        output: stage.ports[0].1.clone(),
    })
}

/// Builds the sinks of a sub-topology for one of its tasks.
pub(crate) fn sinks(
    plan: &Plan,
    topology: &SubTopology,
    topics: &Topics,
    brokers: &[Arc<dyn Broker>],
    task: TaskId,
) -> Vec<SinkWriter> {
    let sink = |&index: &usize| {
        let inputs = plan.sinks[index].inputs.iter();
        let edges: Vec<Arc<str>> = inputs.map(|input| name_of(plan, *input)).collect();
        let broker = &brokers[plan.sinks[index].topic.broker];
        let record_bytes_max = broker.capabilities().record_bytes_max;
        let partitions = topics.sinks[index];
        SinkWriter::new(
            plan,
            index,
            partitions,
            record_bytes_max,
            task.partition,
            &edges,
        )
    };
    topology.sinks.iter().map(sink).collect()
}

fn name_of(plan: &Plan, input: Input) -> Arc<str> {
    match input {
        Input::Source(source) => plan.sources[source].name.clone(),
        Input::Stage { stage, port } => {
            let stage = &plan.stages[stage];
            format!("{}.{}", stage.name, stage.ports[port].0).into()
        }
    }
}

/// Loads all tables of a graph and tells its operators what is in them. Before each page it is asked
/// whether to go on.
///
/// # Errors
///
/// If state cannot be read: it is damaged, or of another version of the file that `is_new_version`
/// takes the place of; what `go_on` says.
pub(crate) async fn restore(
    graph: &mut Graph,
    state: &State,
    task: TaskId,
    is_new_version: bool,
    go_on: &(dyn Fn() -> Result<()> + Sync),
) -> Result<()> {
    let failed = |source| Error::State { task, source };
    for node in &mut graph.nodes {
        let ids: Vec<TableId> = node
            .operator
            .tables()
            .iter()
            .map(|table| table.id())
            .collect();
        for table in node.operator.tables() {
            state.load_all(table).await.map_err(failed)?;
        }
        for (index, id) in ids.into_iter().enumerate() {
            let mut after = None;
            loop {
                go_on()?;
                let page = state.scan(id.prefix(), after, 4096).await.map_err(failed)?;
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
                for (key, value) in &page {
                    let user = TableId::split(key).map_or(&key[..], |(_, user)| user);
                    let restored = node.operator.restore(index, user, value);
                    restored.map_err(|error| Error::Contradiction {
                        task,
                        what: if is_new_version {
                            format!(
                                "stage `{}` cannot go on with what its former version has left: {error}; under another name it begins empty, and `tidemill offsets reset --drop-state` makes the pipeline start anew",
                                node.name
                            )
                        } else {
                            format!("the state of stage `{}` is damaged: {error}", node.name)
                        },
                    })?;
                }
            }
        }
    }
    Ok(())
}
