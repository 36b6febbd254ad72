//! The operators of a task, wired: batches go in at sources and come out at sinks.

use std::sync::Arc;

use tidemill_broker::Timestamp;
use tidemill_state::State;

use crate::events::Rows;
use crate::operators::{Context, Dead, Operator};

/// Where the rows of a port or source go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Into a stage.
    Node { node: usize, input: usize },
    /// Into a sink, over one of its edges.
    Sink { sink: usize, edge: usize },
}

/// A stage at work.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: Arc<str>,
    pub(crate) operator: Box<dyn Operator>,
    /// Targets of each port.
    pub(crate) ports: Vec<Vec<Target>>,
    /// Watermark of each input.
    pub(crate) inputs: Vec<EventTime>,
}

/// How far event time has come on one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventTime {
    /// No earlier event time is expected.
    At(Timestamp),
    /// Nothing has come for a while: it holds nobody back.
    Idle,
}

/// The least of several; idle if all are.
pub(crate) fn least(times: impl Iterator<Item = EventTime>) -> EventTime {
    times.fold(EventTime::Idle, |least, time| match (least, time) {
        (EventTime::At(a), EventTime::At(b)) => EventTime::At(a.min(b)),
        (EventTime::Idle, other) | (other, EventTime::Idle) => other,
    })
}

/// What came out of the graph.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Rows for a sink, in the order of the stages that made them.
    pub(crate) rows: Vec<SinkRows>,
    /// Rows set aside, with the stage that did.
    pub(crate) dead: Vec<(Arc<str>, Dead)>,
    /// Rows dropped because the file says so.
    pub(crate) dropped: u64,
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
    /// Targets of each source of the task.
    pub(crate) sources: Vec<Vec<Target>>,
    // What waits to go into each node.
    pending: Vec<Vec<(usize, Arc<Rows>)>>,
}

impl Graph {
    pub(crate) fn new(nodes: Vec<Node>, sources: Vec<Vec<Target>>) -> Self {
        let pending = nodes.iter().map(|_| Vec::new()).collect();
        Self {
            nodes,
            sources,
            pending,
        }
    }

    /// Sends a batch of a source through all stages.
    pub(crate) async fn push(
        &mut self,
        source: usize,
        rows: Arc<Rows>,
        state: &mut State,
        output: &mut Output,
    ) -> tidemill_state::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        send(&self.sources[source], rows, &mut self.pending, output);
        for index in 0..self.nodes.len() {
            self.run_pending(index, state, output).await?;
        }
        Ok(())
    }

    /// Moves the event time of a source on, through all stages.
    pub(crate) async fn advance(
        &mut self,
        source: usize,
        time: EventTime,
        state: &mut State,
        output: &mut Output,
    ) -> tidemill_state::Result<()> {
        set(&self.sources[source], time, &mut self.nodes);
        for index in 0..self.nodes.len() {
            // Rows made by an earlier stage's advance come before its watermark.
            self.run_pending(index, state, output).await?;
            let node = &mut self.nodes[index];
            let time = least(node.inputs.iter().copied());
            if let EventTime::At(watermark) = time {
                load(node, None, watermark, state).await?;
                let mut context = Context::default();
                node.operator.advance(watermark, &mut context);
                self.deliver(index, context, output);
            }
            let targets: Vec<Target> = self.nodes[index].ports.iter().flatten().copied().collect();
            set(&targets, time, &mut self.nodes);
        }
        Ok(())
    }

    /// Runs what waits to go into a node through it.
    async fn run_pending(
        &mut self,
        index: usize,
        state: &mut State,
        output: &mut Output,
    ) -> tidemill_state::Result<()> {
        for (input, rows) in std::mem::take(&mut self.pending[index]) {
            let node = &mut self.nodes[index];
            let limit = others(&node.inputs, input);
            let Some(head) = rows.heads().last() else {
                continue;
            };
            let watermark = Timestamp(head.watermark.min(limit.0));
            load(node, Some((input, &rows)), watermark, state).await?;
            let mut context = Context::limited(limit);
            node.operator.process(input, rows, &mut context);
            self.deliver(index, context, output);
        }
        Ok(())
    }

    /// The watermark at which nothing that any stage holds is left open.
    pub(crate) fn horizon(&self) -> Option<Timestamp> {
        self.nodes
            .iter()
            .filter_map(|node| node.operator.horizon())
            .max()
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
                .map(|dead| (name.clone(), dead)),
        );
        output.dropped += context.take_dropped();
    }
}

/// How far the other inputs of a node let it go.
fn others(inputs: &[EventTime], input: usize) -> Timestamp {
    let others = inputs
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != input);
    match least(others.map(|(_, time)| *time)) {
        EventTime::At(time) => time,
        EventTime::Idle => Timestamp::MAX,
    }
}

fn set(targets: &[Target], time: EventTime, nodes: &mut [Node]) {
    for target in targets {
        if let Target::Node { node, input } = *target {
            nodes[node].inputs[input] = time;
        }
    }
}

fn send(
    targets: &[Target],
    rows: Arc<Rows>,
    pending: &mut [Vec<(usize, Arc<Rows>)>],
    output: &mut Output,
) {
    for target in targets {
        match *target {
            Target::Node { node, input } => pending[node].push((input, rows.clone())),
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
async fn load(
    node: &mut Node,
    rows: Option<(usize, &Rows)>,
    watermark: Timestamp,
    state: &mut State,
) -> tidemill_state::Result<()> {
    if node
        .operator
        .tables()
        .iter()
        .all(|table| table.is_complete())
    {
        return Ok(());
    }
    let mut wanted = Vec::new();
    node.operator.missing(rows, watermark, &mut wanted);
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
