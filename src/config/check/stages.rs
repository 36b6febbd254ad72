//! Stages: their inputs put together, their operators and outputs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::fields;
use super::graph::{Graph, Link, Target};
use super::keys;
use super::topics::Topics;
use super::{route, window};
use crate::config::error::Report;
use crate::config::file::{File, Section};
use crate::config::ops::{Leftover, Op, StageSection};
use crate::config::plan::{Input, OpPlan, StagePlan, StatePlan, Unplaced};
use crate::config::source::{At, Located};
use crate::config::suggest::{nearest, one_of};
use crate::config::{Code, value};
use crate::events::Schema;

/// What flows from a topic or a port.
#[derive(Debug, Clone, Default)]
pub(super) struct Stream {
    /// `None` downstream of something broken, which has been told.
    pub(super) schema: Option<Arc<Schema>>,
    /// The fields that make its key.
    pub(super) key: Option<Vec<Arc<str>>>,
    /// Its key is broken, which has been told.
    pub(super) key_broken: bool,
    /// The topics it comes from, as indices of [`Topics::list`].
    pub(super) topics: BTreeSet<usize>,
}

/// A stage that was checked.
#[derive(Debug, Clone, Default)]
pub(super) struct CheckedStage {
    /// Its ports; the main one has an empty name.
    pub(super) ports: Vec<(Arc<str>, Stream)>,
    /// What its ports are is not known: do not call one unknown.
    broken: bool,
    /// Its index in the plan, if it has a plan.
    pub(super) plan: Option<usize>,
}

/// All stages.
#[derive(Debug)]
pub(super) struct Stages<'f> {
    file: &'f File,
    pub(super) topics: &'f Topics,
    /// Index in the plan of each topic that is read.
    sources: &'f BTreeMap<usize, usize>,
    /// By index of the file's sections.
    pub(super) checked: Vec<CheckedStage>,
    pub(super) plans: Vec<StagePlan>,
    pub(super) states: Vec<StatePlan>,
    // Which stage has a state.
    owners: BTreeMap<String, At>,
}

impl<'f> Stages<'f> {
    pub(super) fn check(
        file: &'f File,
        graph: &Graph,
        topics: &'f Topics,
        sources: &'f BTreeMap<usize, usize>,
        report: &mut Report,
    ) -> Self {
        let mut stages = Self {
            file,
            topics,
            sources,
            checked: vec![CheckedStage::default(); file.stages.len()],
            plans: Vec::new(),
            states: Vec::new(),
            owners: BTreeMap::new(),
        };
        let sections: Vec<_> = file.stages.iter().collect();
        for index in &graph.order {
            let (name, section) = sections[*index];
            let mut checked = CheckedStage {
                broken: true,
                ..CheckedStage::default()
            };
            let links = &graph.stages[*index];
            if !graph.cyclic.contains(index) {
                stages.stage(name, section, links, &mut checked, report);
            }
            stages.checked[*index] = checked;
        }
        stages
    }

    /// Warns of states that no stage uses.
    pub(super) fn warn_unused(&self, report: &mut Report) {
        for (name, section) in &self.file.states {
            if !self.owners.contains_key(name) {
                report.add(Code::UnusedState, &section.at, "no stage uses this state");
            }
        }
    }

    /// Whether all topics that are read are broadcast.
    pub(super) fn all_broadcast(&self) -> bool {
        let mut read = self.sources.keys();
        read.all(|index| self.topics.list[*index].broadcast)
    }

    fn stage(
        &mut self,
        name: &str,
        section: &Section<StageSection>,
        links: &[Link],
        checked: &mut CheckedStage,
        report: &mut Report,
    ) {
        let (inputs, stream) = self.inputs(links, report);
        let Some(body) = &section.body else {
            return;
        };
        if let Some(aggregates) = &body.loose {
            window::calls(aggregates, report);
        }
        let Some(op) = &body.op else {
            return;
        };
        let context = Context {
            name,
            at: &section.at,
            links,
            input: &stream,
        };
        let (plan, ports) = self.operator(op, &context, report);
        checked.broken = false;
        let schemas: Option<Vec<_>> = ports
            .iter()
            .map(|(name, stream)| Some((name.clone(), stream.schema.clone()?)))
            .collect();
        checked.ports = ports;
        // Inputs that are missing here have been told, so the plan is never used.
        if let (Some(op), Some(ports)) = (plan, schemas) {
            checked.plan = Some(self.plans.len());
            self.plans.push(StagePlan {
                name: name.into(),
                inputs,
                op,
                ports,
            });
        }
    }

    /// The topics that a link leads back to, as indices of [`Topics::list`].
    pub(super) fn topics_of(&self, link: &Link) -> BTreeSet<usize> {
        match &link.target {
            Target::Unknown => BTreeSet::new(),
            Target::Topic(index) => BTreeSet::from([*index]),
            Target::Stage { stage, port } => {
                let wanted = port.as_deref().unwrap_or("");
                let mut ports = self.checked[*stage].ports.iter();
                let found = ports.find(|(name, _)| &**name == wanted);
                found.map_or_else(BTreeSet::new, |(_, stream)| stream.topics.clone())
            }
        }
    }

    /// What several links give together. Tells where they disagree.
    pub(super) fn inputs(&self, links: &[Link], report: &mut Report) -> (Vec<Input>, Stream) {
        let mut inputs = Vec::with_capacity(links.len());
        let mut whole: Option<(Stream, &At)> = None;
        for link in links {
            let (input, stream) = self.follow(link, report);
            inputs.extend(input);
            let Some((whole, first)) = &mut whole else {
                whole = Some((stream, &link.at));
                continue;
            };
            whole.topics.extend(&stream.topics);
            if whole.key != stream.key {
                whole.key = None;
            }
            whole.key_broken |= stream.key_broken;
            match (&whole.schema, &stream.schema) {
                (Some(a), Some(b)) if !fields::same(a, b) => {
                    report
                        .add(
                            Code::SchemaMismatch,
                            &link.at,
                            format!("inputs differ: {}", fields::difference(a, b)),
                        )
                        .related(first, "the first input");
                    whole.schema = None;
                }
                (Some(_), None) => whole.schema = None,
                _ => {}
            }
        }
        (inputs, whole.map(|(whole, _)| whole).unwrap_or_default())
    }

    fn follow(&self, link: &Link, report: &mut Report) -> (Option<Input>, Stream) {
        match &link.target {
            Target::Unknown => (None, Stream::default()),
            Target::Topic(index) => {
                let topic = &self.topics.list[*index];
                let key = topic.schema.as_ref().filter(|_| !topic.key.is_empty());
                let stream = Stream {
                    schema: topic.schema.clone(),
                    key: key.map(|schema| keys::names(schema, &topic.key)),
                    key_broken: topic.key_broken,
                    topics: BTreeSet::from([*index]),
                };
                (self.sources.get(index).copied().map(Input::Source), stream)
            }
            Target::Stage { stage, port } => {
                let checked = &self.checked[*stage];
                if checked.broken {
                    return (None, Stream::default());
                }
                let wanted = port.as_deref().unwrap_or("");
                let found = checked.ports.iter().position(|(name, _)| &**name == wanted);
                let Some(port) = found else {
                    self.no_such_port(*stage, port.as_deref(), &link.at, report);
                    return (None, Stream::default());
                };
                let input = checked.plan.map(|stage| Input::Stage { stage, port });
                (input, checked.ports[port].1.clone())
            }
        }
    }

    fn no_such_port(&self, stage: usize, port: Option<&str>, at: &At, report: &mut Report) {
        let name = self
            .file
            .stages
            .keys()
            .nth(stage)
            .map_or("", String::as_str);
        let ports = || {
            let ports = self.checked[stage].ports.iter();
            ports
                .map(|(port, _)| &**port)
                .filter(|port| !port.is_empty())
        };
        let full: Vec<String> = ports().map(|port| format!("{name}.{port}")).collect();
        let message = match port {
            Some(port) => format!("the stage `{name}` has no port `{}`", value::short(port)),
            None => format!("the stage `{name}` has no main output"),
        };
        let problem = report.add(Code::UnknownInput, at, message);
        let near = port.and_then(|port| nearest(port, ports()));
        match near {
            Some(near) => problem.did_you_mean(Some(&format!("{name}.{near}"))),
            None if full.is_empty() => problem.help(format!("write `{name}`")),
            None => problem.help(format!(
                "its ports are {}",
                one_of(full.iter().map(String::as_str))
            )),
        };
    }

    fn operator(
        &mut self,
        op: &Op,
        context: &Context<'_>,
        report: &mut Report,
    ) -> (Option<OpPlan>, Vec<(Arc<str>, Stream)>) {
        match op {
            Op::KeyBy { key } => {
                let schema = context.input.schema.as_deref();
                let slots = schema
                    .zip(key.as_ref())
                    .and_then(|(schema, key)| fields::key(schema, key, report));
                let output = Stream {
                    key: schema
                        .zip(slots.as_ref())
                        .map(|(schema, slots)| keys::names(schema, slots)),
                    key_broken: slots.is_none(),
                    ..context.input.clone()
                };
                (slots.map(|key| OpPlan::KeyBy { key }), main_port(output))
            }
            Op::Dedupe {
                id,
                window,
                count_max,
                state,
            } => {
                keys::check(self.topics, context, None, report);
                let state = self.state(context, state.as_ref(), report);
                if let (Some(ttl), Some(window)) = (self.ttl(state), window)
                    && ttl.value >= *window
                {
                    let window = value::show_duration(*window);
                    let message = format!("has no effect: ids are forgotten after {window} anyway");
                    report.add(Code::NoEffect, &ttl.at, message);
                }
                let id = context
                    .input
                    .schema
                    .as_ref()
                    .zip(id.as_ref())
                    .and_then(|(schema, id)| {
                        let find = |name| fields::find(schema, name, report);
                        let slots: Vec<_> = id.value.iter().map(find).collect();
                        slots.into_iter().collect::<Option<Vec<_>>>()
                    });
                let plan = (|| {
                    Some(OpPlan::Dedupe {
                        id: id?,
                        window: (*window)?,
                        count_max: *count_max,
                        state: state?,
                    })
                })();
                (plan, main_port(context.input.clone()))
            }
            Op::Merge => {
                if context.links.len() == 1 {
                    let at = &context.links[0].at;
                    report.add(Code::OutOfRange, at, "a merge needs at least two inputs");
                }
                context.need_event_time("a merge", report);
                (Some(OpPlan::Merge), main_port(context.input.clone()))
            }
            Op::TumblingWindow(options) => {
                let state = self.state(context, options.state.as_ref(), report);
                if let Some(ttl) = self.ttl(state) {
                    report
                        .add(
                            Code::TimeToLive,
                            &ttl.at,
                            "a window ends by itself and takes no time to live",
                        )
                        .help("`lateness` says how long a window is kept after its end");
                }
                window::check(options, state, self.topics, context, report)
            }
            Op::Route { .. } => route::check(op, context, report),
        }
    }

    /// The index of a stage's state: the one it names, or one of its own.
    fn state(
        &mut self,
        context: &Context<'_>,
        named: Option<&Located<String>>,
        report: &mut Report,
    ) -> Option<usize> {
        let (name, at) = match named {
            Some(named) => (named.value.as_str(), &named.at),
            None => (context.name, context.at),
        };
        let declared = self.file.states.get(name);
        if named.is_some() && declared.is_none() {
            let shown = value::short(name);
            report
                .add(Code::UnknownState, at, format!("unknown state `{shown}`"))
                .help(format!("declare it in `[state.{shown}]`"))
                .did_you_mean(nearest(name, self.file.states.keys().map(String::as_str)));
            return None;
        }
        if let Some(owner) = self.owners.get(name) {
            report
                .add(
                    Code::SharedState,
                    at,
                    format!("the state `{name}` already belongs to another stage"),
                )
                .related(owner, "used here");
            return None;
        }
        self.owners.insert(name.to_owned(), at.clone());
        let body = declared.and_then(|section| section.body.as_ref());
        self.states.push(StatePlan {
            name: name.into(),
            ttl: body.and_then(|body| body.ttl.as_ref().map(|ttl| ttl.value)),
        });
        Some(self.states.len() - 1)
    }

    /// The time to live that the file gives a state.
    fn ttl(&self, state: Option<usize>) -> Option<&'f Located<Duration>> {
        let section = self.file.states.get(&*self.states[state?].name)?;
        section.body.as_ref()?.ttl.as_ref()
    }
}

/// What an operator is checked with.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) name: &'a str,
    pub(super) at: &'a At,
    pub(super) links: &'a [Link],
    pub(super) input: &'a Stream,
}

impl Context<'_> {
    /// Tells if the events have no event time.
    pub(super) fn need_event_time(&self, who: &str, report: &mut Report) -> bool {
        let Some(schema) = &self.input.schema else {
            return true;
        };
        if schema.time.is_some() {
            return true;
        }
        let name = &schema.name;
        report
            .add(
                Code::EventTime,
                self.at,
                format!("{who} needs event time, and `{name}` declares none"),
            )
            .help(format!("add `time = \"FIELD\"` to `[events.{name}]`"));
        false
    }
}

pub(super) fn main_port(stream: Stream) -> Vec<(Arc<str>, Stream)> {
    vec![("".into(), stream)]
}

/// Where what is left over goes; a port for it is added to `ports`.
pub(super) fn leftover(
    leftover: &Leftover,
    stream: &Stream,
    ports: &mut Vec<(Arc<str>, Stream)>,
) -> Unplaced {
    match leftover {
        Leftover::DeadLetter => Unplaced::DeadLetter,
        Leftover::Drop(reason) => Unplaced::Drop {
            reason: reason.as_str().into(),
        },
        Leftover::Port(name) => {
            let found = ports.iter().position(|(port, _)| **port == *name.value);
            Unplaced::Port(found.unwrap_or_else(|| {
                ports.push((name.value.as_str().into(), stream.clone()));
                ports.len() - 1
            }))
        }
    }
}
