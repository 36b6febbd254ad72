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

impl SubTopology {
    /// Whether its tasks read a topic, each its partition of it or the whole.
    pub(super) fn reads(&self, plan: &Plan, topic: &str) -> bool {
        let mut sources = self.sources.iter().chain(&self.broadcast);
        sources.any(|&source| plan.sources[source].topic.topic.as_str() == topic)
    }

    /// Whether each of its tasks reads its own partition of a topic.
    pub(super) fn divides(&self, plan: &Plan, topic: &str) -> bool {
        let mut sources = self.sources.iter();
        sources.any(|&source| plan.sources[source].topic.topic.as_str() == topic)
    }

    /// Whether a sink that reads `input` is written by its tasks.
    fn feeds(&self, input: Input) -> bool {
        match input {
            Input::Source(source) => self.sources.contains(&source),
            Input::Stage { stage, .. } => self.stages.contains(&stage),
        }
    }
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

/// Splits a plan into sub-topologies, in the order of the first topics that they read.
///
/// What a task has left is found by its place in this order. So it goes by what a task reads, and by no
/// name that a later version of the file may give to a section.
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
                sinks: Vec::new(),
            },
        ));
    }
    let mut found: Vec<SubTopology> = found.into_iter().map(|(_, topology)| topology).collect();
    // Only now is every source of each known.
    for topology in &mut found {
        topology.sinks = (0..plan.sinks.len())
            .filter(|&sink| {
                let inputs = &plan.sinks[sink].inputs;
                inputs.iter().any(|&input| topology.feeds(input))
            })
            .collect();
    }
    let first_topic = |topology: &SubTopology| {
        let topics = topology.sources.iter();
        topics
            .map(|&source| &plan.sources[source].topic.topic)
            .min()
    };
    found.sort_by(|a, b| first_topic(a).cmp(&first_topic(b)));
    found
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Pipeline;

    fn plan(rest: &str) -> Plan {
        let file = format!(
            r#"
            [pipeline]
            format = 1
            name = "sorts"
            [brokers.main]
            url = "mem://"
            [events.Move]
            fields = {{ account = "text", at = "time" }}
            time = "at"
            [topics.a]
            event = "Move"
            [topics.b]
            event = "Move"
            {rest}
            "#
        );
        let parsed = Pipeline::parse("sorts.toml", &file, &|_| None);
        parsed.unwrap_or_else(|problems| panic!("{problems}")).plan
    }

    /// Which sinks each sub-topology writes, by name.
    fn sinks(plan: &Plan) -> Vec<Vec<&str>> {
        let name = |sink: &usize| &*plan.sinks[*sink].name;
        let topologies = sub_topologies(plan);
        topologies
            .iter()
            .map(|topology| topology.sinks.iter().map(name).collect())
            .collect()
    }

    /// Sinks were looked for once the first source of a sub-topology was found, so what read another
    /// of its sources itself got nothing, without a word.
    #[test]
    fn a_sink_of_any_source_belongs_to_the_sub_topology_of_that_source() {
        let plan = plan(
            r#"
            [stages.all]
            from = ["a", "b"]
            op = "merge"
            [sinks.all]
            from = "all"
            topic = { topic = "all" }
            [sinks.raw]
            from = "b"
            topic = { topic = "raw" }
            "#,
        );
        assert_eq!(sinks(&plan), [["all", "raw"]]);
    }

    #[test]
    fn a_sink_of_two_sub_topologies_is_written_by_both() {
        let plan = plan(
            r#"
            [sinks.both]
            from = ["a", "b"]
            topic = { topic = "both" }
            [sinks.one]
            from = "b"
            topic = { topic = "one" }
            "#,
        );
        assert_eq!(sinks(&plan), [vec!["both"], vec!["both", "one"]]);
    }
}
