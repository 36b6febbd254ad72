//! The operators of a task, wired: batches go in at sources and come out at sinks.
//!
//! What comes out is a function of the order of the input records alone, however they were cut into
//! batches. A batch goes through one stage after the other, but each stage sees it as if its records
//! came one by one: every row carries the record that led to it and the watermark after it, and the
//! moves of event time by records of which a stage gets no row are told by
//! [`Context::next_move`](crate::operators::Context::next_move). Where several streams meet, in a
//! stage ([`fan_in`]) or in a sink, they go by record, then by the order in which the file names
//! them. At one record, a stage takes its rows first, and only then event time moves past it.
//!
//! Where a record makes more due than is done at once ([`Graph::cut`]), the batch is to end with it;
//! what is left in the stages then goes through in pieces ([`backlog`]) before the next record comes.

mod backlog;
mod event_time;
mod fan_in;

use std::fmt;
use std::sync::Arc;

use tidemill_broker::Timestamp;
use tidemill_state::{State, planted};

pub(crate) use self::event_time::{EventTime, least};
use self::fan_in::{Limit, in_order};
use crate::events::Rows;
use crate::operators::{Ahead, Context, Dead, Move, Operator};

/// Where the rows of a port or source go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Into a stage. `way` tells its rows from the same ones on another of its inputs; 0 where no other
    /// has them.
    Node { node: usize, input: usize, way: u64 },
    /// Into a sink, over one of its edges.
    Sink { sink: usize, edge: usize },
}

impl Target {
    /// The same where so many nodes come before all.
    pub(crate) fn behind(self, nodes: usize) -> Self {
        match self {
            Self::Node { node, input, way } => Self::Node {
                node: node + nodes,
                input,
                way,
            },
            Self::Sink { .. } => self,
        }
    }
}

/// A stage at work.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: Arc<str>,
    /// Name of its state, where it has any.
    pub(crate) state: Option<Arc<str>>,
    pub(crate) operator: Box<dyn Operator>,
    /// Targets of each port.
    pub(crate) ports: Vec<Vec<Target>>,
    /// Watermark of each input.
    pub(crate) inputs: Vec<EventTime>,
    /// How far event time has come here at most: an input that is idle no more, or an idle one,
    /// takes none of it back.
    pub(crate) reached: Timestamp,
}

impl Node {
    pub(crate) fn new(
        (name, state): (Arc<str>, Option<Arc<str>>),
        operator: Box<dyn Operator>,
        ports: Vec<Vec<Target>>,
        inputs: usize,
    ) -> Self {
        Self {
            name,
            state,
            operator,
            ports,
            inputs: vec![EventTime::At(Timestamp::MIN); inputs],
            reached: Timestamp::MIN,
        }
    }

    /// The least of its inputs.
    pub(crate) fn time(&self) -> EventTime {
        least(self.inputs.iter().copied())
    }

    /// How far event time has come behind it: what it has left to do holds others back.
    fn time_behind(&self) -> EventTime {
        let held_at = self.operator.held_at().map(EventTime::At);
        least(held_at.into_iter().chain([self.time()]))
    }

    /// Takes what waits, once its inputs have come to the event times `after` it, and then moves event
    /// time on.
    async fn run(
        &mut self,
        after: Vec<(usize, EventTime)>,
        waiting: Vec<(usize, Arc<Rows>)>,
        context: &mut Context,
        state: &mut State,
    ) -> tidemill_state::Result<()> {
        for (input, time) in after {
            self.inputs[input] = time;
        }
        let time = self.time().reached();
        self.reached = self.reached.max(time);
        let most = context.most();
        for (input, rows) in waiting {
            let heads = rows.heads().iter();
            let watermark = heads
                .map(|head| head.watermark)
                .fold(self.reached.0, i64::max);
            let ahead = Ahead::Rows {
                input,
                rows: &rows,
                watermark: Timestamp(watermark),
                most,
            };
            load(self, ahead, state).await?;
            self.operator.process(input, rows, context);
        }
        let ahead = Ahead::Time {
            watermark: self.reached,
            most,
        };
        load(self, ahead, state).await?;
        self.operator.advance(time, context);
        Ok(())
    }
}

/// What came out of the graph.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Rows for a sink: those of one edge in order of their records.
    pub(crate) rows: Vec<SinkRows>,
    /// Rows set aside, with who did, in the order of the stages, then of the sinks.
    pub(crate) dead: Vec<(Setter, Dead)>,
    /// Rows dropped because the file says so.
    pub(crate) dropped: u64,
    /// Bytes that stages remember from now on, roughly.
    pub(crate) kept: usize,
}

/// Who sets a row aside, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Setter {
    Stage(Arc<str>),
    Sink(Arc<str>),
}

impl fmt::Display for Setter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage(name) => write!(f, "op:{name}"),
            Self::Sink(name) => write!(f, "sink:{name}"),
        }
    }
}

/// Rows on their way into a sink.
#[derive(Debug)]
pub(crate) struct SinkRows {
    pub(crate) sink: usize,
    pub(crate) edge: usize,
    pub(crate) rows: Arc<Rows>,
}

/// All stages of a task, each after those it reads from.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    pub(crate) sources: Vec<Source>,
    // What waits to go into each node.
    pending: Vec<Vec<(usize, Arc<Rows>)>>,
    // How much each node does at once of what event time makes due.
    most: usize,
    // Of each node: its inputs that read another.
    reads: Vec<Vec<(usize, usize)>>,
}

/// A source of the task: where it goes, at once and in the end.
#[derive(Debug)]
pub(crate) struct Source {
    targets: Vec<Target>,
    time: EventTime,
    reached: Arc<[Reached]>,
    // Whether any stage learns of its event time by other than its very rows.
    tells_moves: bool,
    // Whether any stage holds its rows, so that they count by their weight.
    is_held: bool,
}

/// A node whose rows or event time come from some source.
#[derive(Debug)]
struct Reached {
    node: usize,
    // Its inputs that do, each with what it reads.
    inputs: Vec<(usize, Origin)>,
}

/// What an input reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Source,
    Node(usize),
}

impl Graph {
    /// A graph of `nodes`, each after those it reads from, and of the targets of each source. Of
    /// what event time makes due, each node does no more than `most` at once.
    pub(crate) fn new(nodes: Vec<Node>, sources: Vec<Vec<Target>>, most: usize) -> Self {
        let pending = nodes.iter().map(|_| Vec::new()).collect();
        let source = |targets: Vec<Target>| {
            let reached = reached(&nodes, &targets);
            let by_rows = |one: &Reached| {
                nodes[one.node].inputs.len() == 1 && one.inputs[0].1 == Origin::Source
            };
            Source {
                tells_moves: !reached.iter().all(by_rows),
                is_held: reached
                    .iter()
                    .any(|one| nodes[one.node].operator.holds_rows()),
                reached: reached.into(),
                time: EventTime::At(Timestamp::MIN),
                targets,
            }
        };
        Self {
            sources: sources.into_iter().map(source).collect(),
            reads: backlog::reads(&nodes),
            nodes,
            pending,
            most: most.max(1),
        }
    }

    /// Sends a batch of a source through all stages, after which its event time is `time`.
    pub(crate) async fn push(
        &mut self,
        source: usize,
        rows: Arc<Rows>,
        time: EventTime,
        state: &mut State,
        output: &mut Output,
    ) -> tidemill_state::Result<()> {
        let moves = if self.sources[source].tells_moves {
            moves(&rows)
        } else {
            Arc::default()
        };
        if !rows.is_empty() {
            let targets = &self.sources[source].targets;
            send(targets, rows, &mut self.pending, output);
        }
        self.flow(source, time, moves, self.most, state, output)
            .await
    }

    /// Moves the event time of a source on, through all stages.
    pub(crate) async fn advance(
        &mut self,
        source: usize,
        time: EventTime,
        state: &mut State,
        output: &mut Output,
    ) -> tidemill_state::Result<()> {
        self.flow(source, time, Arc::default(), self.most, state, output)
            .await
    }

    /// Takes note of how far event time had come at a node: it never goes back.
    pub(crate) fn restore_node(&mut self, node: usize, reached: Timestamp) {
        planted!(P14, {
            return;
        });
        let node = &mut self.nodes[node];
        node.reached = node.reached.max(reached);
        node.operator
            .advance(reached, &mut Context::default().at_most(0));
    }

    /// Takes note of how far event time had come on a source, once those of all nodes are known. What
    /// is due then is what was left to do.
    pub(crate) async fn restore_source(
        &mut self,
        source: usize,
        time: EventTime,
        state: &mut State,
    ) -> tidemill_state::Result<()> {
        let most = planted!(P14, { usize::MAX } else { 0 });
        let nothing = &mut Output::default();
        self.flow(source, time, Arc::default(), most, state, nothing)
            .await
    }

    /// The watermark at which nothing that any stage holds is left open.
    pub(crate) fn horizon(&self) -> Option<Timestamp> {
        self.nodes
            .iter()
            .filter_map(|node| node.operator.horizon())
            .max()
    }

    /// How many windows its stages hold that have not fired.
    pub(crate) fn windows_open(&self) -> u64 {
        let nodes = self.nodes.iter();
        nodes.map(|node| node.operator.windows_open()).sum()
    }

    /// Runs what waits through all stages that a source leads to, and event time after it.
    async fn flow(
        &mut self,
        source: usize,
        time: EventTime,
        moves: Arc<[Move]>,
        most: usize,
        state: &mut State,
        output: &mut Output,
    ) -> tidemill_state::Result<()> {
        let before = std::mem::replace(&mut self.sources[source].time, time);
        let reached = self.sources[source].reached.clone();
        // Of each node: what holds it back apart from this source.
        let mut held_at = vec![i64::MAX; self.nodes.len()];
        for one in &*reached {
            let Reached {
                node: index,
                inputs,
            } = one;
            let index = *index;
            let node = &self.nodes[index];
            let others = one.others(node);
            let moving = one.moving(&held_at);
            held_at[index] = least_of(others, &moving);

            let waiting = std::mem::take(&mut self.pending[index]);
            let is_alone = node.inputs.len() == 1;
            let waiting = if is_alone {
                waiting
            } else {
                in_order(waiting, |input| {
                    Limit::new(others, &moving, input, before, &moves)
                })
            };
            // The very rows of a source bring all its moves themselves.
            let by_rows = is_alone && inputs[0].1 == Origin::Source;
            let mut context = if by_rows || moves.is_empty() {
                Context::default()
            } else {
                Context::moved_by(moves.clone(), Timestamp(held_at[index]))
            }
            .at_most(most);
            let after: Vec<(usize, EventTime)> = inputs
                .iter()
                .map(|(input, origin)| match origin {
                    Origin::Source => (*input, time),
                    Origin::Node(node) => (*input, self.nodes[*node].time_behind()),
                })
                .collect();
            let node = &mut self.nodes[index];
            node.run(after, waiting, &mut context, state).await?;
            if let Some(held) = node.operator.held_at() {
                held_at[index] = held_at[index].min(held.0);
            }
            self.deliver(index, context, output);
        }
        Ok(())
    }

    fn deliver(&mut self, index: usize, mut context: Context, output: &mut Output) {
        let node = &self.nodes[index];
        for (port, rows) in context.take_emitted() {
            send(&node.ports[port], rows, &mut self.pending, output);
        }
        let name = &node.name;
        output.dead.extend(
            context
                .take_dead()
                .into_iter()
                .map(|dead| (Setter::Stage(name.clone()), dead)),
        );
        output.dropped += context.take_dropped();
        output.kept += context.take_kept();
    }
}

impl Reached {
    /// What inputs that the source does not move hold the node back at.
    fn others(&self, node: &Node) -> i64 {
        let others = node.inputs.iter().enumerate();
        let others = others.filter(|(input, _)| self.inputs.iter().all(|(one, _)| one != input));
        least(others.map(|(_, time)| *time)).limit()
    }

    /// The inputs that it does move, each with what holds it back apart from the source.
    fn moving(&self, held_at: &[i64]) -> Vec<(usize, i64)> {
        let of = |origin: Origin| match origin {
            Origin::Source => i64::MAX,
            Origin::Node(node) => held_at[node],
        };
        let inputs = self.inputs.iter();
        inputs
            .map(|(input, origin)| (*input, of(*origin)))
            .collect()
    }
}

/// What holds a node back, by inputs that a source does not move and by those that it does.
fn least_of(others: i64, moving: &[(usize, i64)]) -> i64 {
    moving.iter().map(|(_, at)| *at).fold(others, i64::min)
}

/// What a source leads to, in the order of the nodes.
fn reached(nodes: &[Node], targets: &[Target]) -> Vec<Reached> {
    let mut origins: Vec<Vec<(usize, Origin)>> = nodes.iter().map(|_| Vec::new()).collect();
    let mut lead = |targets: &mut dyn Iterator<Item = &Target>, origin| {
        for target in targets {
            if let Target::Node { node, input, .. } = *target {
                origins[node].push((input, origin));
            }
        }
    };
    lead(&mut targets.iter(), Origin::Source);
    let mut reached = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let inputs = std::mem::take(&mut origins[index]);
        if inputs.is_empty() {
            continue;
        }
        for target in node.ports.iter().flatten() {
            if let Target::Node { node, input, .. } = *target {
                origins[node].push((input, Origin::Node(index)));
            }
        }
        reached.push(Reached {
            node: index,
            inputs,
        });
    }
    reached
}

/// The records of a batch that move event time.
fn moves(rows: &Rows) -> Arc<[Move]> {
    let mut last = i64::MIN;
    let heads = rows.heads().iter();
    let moving = heads.filter(|head| head.watermark > std::mem::replace(&mut last, head.watermark));
    let moved = moving.map(|head| Move {
        record: head.record,
        watermark: head.watermark,
    });
    moved.collect()
}

fn send(
    targets: &[Target],
    rows: Arc<Rows>,
    pending: &mut [Vec<(usize, Arc<Rows>)>],
    output: &mut Output,
) {
    for target in targets {
        match *target {
            Target::Node { node, input, way } => {
                let rows = match way {
                    0 => rows.clone(),
                    way => Arc::new(rows.by_way(way)),
                };
                pending[node].push((input, rows));
            }
            Target::Sink { sink, edge } => {
                output.rows.push(SinkRows {
                    sink,
                    edge,
                    rows: rows.clone(),
                });
            }
        }
    }
}

/// Loads what an operator is about to use, the misses of a batch together.
async fn load(node: &mut Node, ahead: Ahead<'_>, state: &mut State) -> tidemill_state::Result<()> {
    if node
        .operator
        .tables()
        .iter()
        .all(|table| table.is_complete())
    {
        return Ok(());
    }
    let mut wanted = Vec::new();
    node.operator.missing(ahead, &mut wanted);
    if wanted.is_empty() {
        return Ok(());
    }
    for (index, table) in node.operator.tables().into_iter().enumerate() {
        let mut keys: Vec<_> = wanted
            .iter()
            .filter(|(of, key)| *of == index && !table.knows(key))
            .map(|(_, key)| key.clone())
            .collect();
        keys.sort_unstable();
        keys.dedup();
        state.load(table, &keys).await?;
    }
    Ok(())
}
