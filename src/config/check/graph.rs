//! Who reads whom: names in `from` resolved, stages put after what they read.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::error::Report;
use crate::config::file::File;
use crate::config::ops::Names;
use crate::config::source::At;
use crate::config::suggest::nearest;
use crate::config::{Code, value};

/// What one name in `from` means.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) at: At,
    pub(super) target: Target,
}

/// Where a link leads. Indices follow the sorted names of the file's sections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Topic(usize),
    Stage {
        stage: usize,
        port: Option<String>,
    },
    /// Told already.
    Unknown,
}

/// The links of a pipeline.
#[derive(Debug)]
pub(super) struct Graph {
    /// The links of each stage.
    pub(super) stages: Vec<Vec<Link>>,
    /// The links of each sink.
    pub(super) sinks: Vec<Vec<Link>>,
    /// The stages, each after those it reads.
    pub(super) order: Vec<usize>,
    /// Stages that read each other: told already.
    pub(super) cyclic: BTreeSet<usize>,
}

impl Graph {
    /// Whether every name in `from` is known.
    pub(super) fn is_whole(&self) -> bool {
        let mut links = self.stages.iter().chain(&self.sinks).flatten();
        links.all(|link| link.target != Target::Unknown)
    }

    pub(super) fn check(file: &File, report: &mut Report) -> Self {
        let names = Known::new(file);
        for (name, section) in &file.stages {
            if let Some(topic) = file.topics.get(name) {
                let message = format!("a stage and a topic are both called `{name}`");
                report
                    .add(Code::Duplicate, &section.at, message)
                    .related(&topic.at, "the topic")
                    .help("`from` could mean either: rename one");
            }
        }
        let stages: Vec<_> = file
            .stages
            .values()
            .map(|section| {
                let from = section.body.as_ref().and_then(|body| body.from.as_ref());
                names.links(from, report)
            })
            .collect();
        let sinks = file
            .sinks
            .values()
            .map(|section| {
                let from = section.body.as_ref().and_then(|body| body.from.as_ref());
                names.links(from, report)
            })
            .collect();
        let (order, cyclic) = sort(&stages, &names, report);
        Self {
            stages,
            sinks,
            order,
            cyclic,
        }
    }
}

struct Known<'f> {
    topics: BTreeMap<&'f str, usize>,
    stages: BTreeMap<&'f str, usize>,
    stage_names: Vec<&'f str>,
}

impl<'f> Known<'f> {
    fn new(file: &'f File) -> Self {
        let index = |(index, name): (usize, &'f String)| (name.as_str(), index);
        Self {
            topics: file.topics.keys().enumerate().map(index).collect(),
            stages: file.stages.keys().enumerate().map(index).collect(),
            stage_names: file.stages.keys().map(String::as_str).collect(),
        }
    }

    fn links(&self, from: Option<&Names>, report: &mut Report) -> Vec<Link> {
        let Some(from) = from else {
            return Vec::new();
        };
        from.value
            .iter()
            .map(|name| Link {
                at: name.at.clone(),
                target: self.target(&name.value, &name.at, report),
            })
            .collect()
    }

    fn target(&self, name: &str, at: &At, report: &mut Report) -> Target {
        let (stage, port) = match name.split_once('.') {
            Some((stage, port)) => (stage, Some(port.to_owned())),
            None => (name, None),
        };
        if let Some(topic) = self.topics.get(name) {
            return Target::Topic(*topic);
        }
        if let Some(stage) = self.stages.get(stage) {
            return Target::Stage {
                stage: *stage,
                port,
            };
        }
        let shown = value::short(name);
        let known = || self.topics.keys().chain(self.stages.keys()).copied();
        let problem = report.add(
            Code::UnknownInput,
            at,
            format!("`{shown}` is neither a topic nor a stage"),
        );
        match nearest(stage, known()) {
            Some(near) => {
                let port = port.map(|port| format!(".{port}")).unwrap_or_default();
                problem.did_you_mean(Some(&format!("{near}{port}")));
            }
            None => {
                problem.help("declare it as `[topics.NAME]` or `[stages.NAME]`");
            }
        }
        Target::Unknown
    }
}

fn inputs(links: &[Link]) -> impl Iterator<Item = usize> {
    links.iter().filter_map(|link| match link.target {
        Target::Stage { stage, .. } => Some(stage),
        Target::Topic(_) | Target::Unknown => None,
    })
}

/// Stages in order; of those that are free, the first by name, so that the order of the file does
/// not matter.
fn sort(
    stages: &[Vec<Link>],
    names: &Known<'_>,
    report: &mut Report,
) -> (Vec<usize>, BTreeSet<usize>) {
    let mut waiting: Vec<BTreeSet<usize>> =
        stages.iter().map(|links| inputs(links).collect()).collect();
    let mut readers: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); stages.len()];
    for (stage, inputs) in waiting.iter().enumerate() {
        for input in inputs {
            readers[*input].insert(stage);
        }
    }
    let mut left: BTreeSet<usize> = (0..stages.len()).collect();
    let mut free: BTreeSet<usize> = left
        .iter()
        .copied()
        .filter(|stage| waiting[*stage].is_empty())
        .collect();
    let mut order = Vec::with_capacity(stages.len());
    let mut cyclic = BTreeSet::new();
    loop {
        while let Some(stage) = free.pop_first() {
            if !left.remove(&stage) {
                continue;
            }
            order.push(stage);
            for reader in &readers[stage] {
                waiting[*reader].remove(&stage);
                if waiting[*reader].is_empty() {
                    free.insert(*reader);
                }
            }
        }
        let Some(start) = left.first().copied() else {
            return (order, cyclic);
        };
        // Every stage that is left waits for another that is left: walking back must meet itself.
        let cycle = find_cycle(start, &waiting);
        report_cycle(&cycle, stages, names, report);
        free.extend(&cycle);
        cyclic.extend(cycle);
    }
}

fn find_cycle(start: usize, waiting: &[BTreeSet<usize>]) -> Vec<usize> {
    let mut path = vec![start];
    let mut seen = BTreeMap::from([(start, 0)]);
    let mut at = start;
    while let Some(next) = waiting[at].first().copied() {
        if let Some(first) = seen.get(&next) {
            return path.split_off(*first);
        }
        seen.insert(next, path.len());
        path.push(next);
        at = next;
    }
    path
}

fn report_cycle(cycle: &[usize], stages: &[Vec<Link>], names: &Known<'_>, report: &mut Report) {
    let Some(first) = cycle.iter().min().copied() else {
        return;
    };
    // The walk went from reader to input; data flows the other way.
    let turn = cycle.iter().position(|stage| *stage == first).unwrap_or(0);
    let (before, from) = cycle.split_at(turn);
    let flow: Vec<usize> = from.iter().chain(before).copied().collect();
    let mut shown: Vec<&str> = flow
        .iter()
        .rev()
        .map(|stage| names.stage_names[*stage])
        .collect();
    shown.rotate_right(1);
    shown.push(names.stage_names[first]);
    let link = stages[first]
        .iter()
        .find(|link| matches!(link.target, Target::Stage { stage, .. } if cycle.contains(&stage)));
    if let Some(link) = link {
        let message = format!("stages read each other: {}", shown.join(" -> "));
        report.add(Code::Cycle, &link.at, message);
    }
}
