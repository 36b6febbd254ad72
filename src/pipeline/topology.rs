//! Which tasks a plan has: sub-topologies, and what each reads.

use std::fmt;

use crate::config::Plan;
use crate::config::plan::Input;

/// Stages and sources that hang together, and so share tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubTopology {
    /// Indices of the sources that are co-partitioned: task *n* reads partition *n* of each.
    pub sources: Vec<usize>,
    /// Indices of the sources that every task reads whole.
    pub broadcast: Vec<usize>,
    /// Indices of its stages, in the plan's order.
    pub stages: Vec<usize>,
    /// Indices of the sinks it writes, perhaps with others.
    pub sinks: Vec<usize>,
}

/// One task: a sub-topology on one set of co-partitioned input partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// Index of the sub-topology.
    pub sub_topology: usize,
    /// The partition.
    pub partition: u32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.sub_topology, self.partition)
    }
}

/// Splits a plan into sub-topologies, in the order of their first source.
pub fn sub_topologies(plan: &Plan) -> Vec<SubTopology> {
    // Nodes are sources, then stages. A broadcast source joins nothing: it is read by all.
    let sources = plan.sources.len();
    let mut group: Vec<usize> = (0..sources + plan.stages.len()).collect();
    let node = |input: Input| match input {
        Input::Source(source) => source,
        Input::Stage { stage, .. } => sources + stage,
    };
    let is_broadcast =
        |input: Input| matches!(input, Input::Source(source) if plan.sources[source].broadcast);
    for (stage, stage_plan) in plan.stages.iter().enumerate() {
        for &input in stage_plan
            .inputs
            .iter()
            .filter(|input| !is_broadcast(**input))
        {
            join(&mut group, sources + stage, node(input));
        }
    }
    let mut found: Vec<(usize, SubTopology)> = Vec::new();
    for source in (0..sources).filter(|&source| !plan.sources[source].broadcast) {
        let root = root(&group, source);
        if let Some((_, topology)) = found.iter_mut().find(|(other, _)| *other == root) {
            topology.sources.push(source);
            continue;
        }
        let stages: Vec<usize> = (0..plan.stages.len())
            .filter(|stage| self::root(&group, sources + stage) == root)
            .collect();
        let member = |input: &Input| match *input {
            Input::Source(other) => !plan.sources[other].broadcast && other == source,
            Input::Stage { stage, .. } => stages.contains(&stage),
        };
        let sinks = (0..plan.sinks.len())
            .filter(|&sink| plan.sinks[sink].inputs.iter().any(member))
            .collect();
        let broadcast = (0..sources)
            .filter(|&other| plan.sources[other].broadcast)
            .filter(|&other| {
                stages
                    .iter()
                    .any(|&stage| plan.stages[stage].inputs.contains(&Input::Source(other)))
            })
            .collect();
        found.push((
            root,
            SubTopology {
                sources: vec![source],
                broadcast,
                stages,
                sinks,
            },
        ));
    }
    found.into_iter().map(|(_, topology)| topology).collect()
}

fn root(group: &[usize], mut node: usize) -> usize {
    while group[node] != node {
        node = group[node];
    }
    node
}

fn join(group: &mut [usize], a: usize, b: usize) {
    let (a, b) = (root(group, a), root(group, b));
    group[a.max(b)] = a.min(b);
}
