//! `[pipeline]`: its names, and where its dead letters go.

use std::collections::BTreeMap;

use tidemill_broker::{Cleanup, Group, Topic};

use super::brokers::Brokers;
use super::events::Events;
use super::topics::{Topics, Use, Uses};
use crate::config::Code;
use crate::config::error::Report;
use crate::config::file::{File, PipelineSection};
use crate::config::plan::{Plan, TopicPlan};
use crate::config::source::At;
use crate::config::topics::TopicRef;

/// Longest name of a pipeline, in bytes: its own topics are called `NAME.dead-letter` and the like.
const NAME_BYTES_MAX: usize = 200;

/// What `[pipeline]` says of names.
pub(super) struct Head<'f> {
    pub(super) body: Option<&'f PipelineSection>,
    pub(super) name: Option<Topic>,
    pub(super) group: Option<Group>,
    at: At,
}

impl<'f> Head<'f> {
    pub(super) fn check(file: &'f File, nowhere: &At, report: &mut Report) -> Self {
        let Some(section) = &file.pipeline else {
            report
                .add(
                    Code::MissingKey,
                    &nowhere.child("pipeline"),
                    "the section is required",
                )
                .help("begin with `[pipeline]`, `format = 1` and `name = \"...\"`");
            return Self {
                body: None,
                name: None,
                group: None,
                at: nowhere.clone(),
            };
        };
        let body = section.body.as_ref();
        let written = body.and_then(|body| body.name.as_ref());
        let name = written.and_then(|written| match Topic::new(&written.value) {
            Ok(name) if name.as_str().len() <= NAME_BYTES_MAX => Some(name),
            Ok(_) => {
                let message = format!("must be at most {NAME_BYTES_MAX} bytes");
                report.add(Code::BadName, &written.at, message);
                None
            }
            Err(error) => {
                report.add(Code::BadName, &written.at, error.to_string());
                None
            }
        });
        let group = match body.and_then(|body| body.group.as_ref()) {
            Some(written) => match Group::new(&written.value) {
                Ok(group) => Some(group),
                Err(error) => {
                    report.add(Code::BadName, &written.at, error.to_string());
                    None
                }
            },
            None => name
                .as_ref()
                .and_then(|name| Group::new(name.as_str()).ok()),
        };
        Self {
            body,
            name,
            group,
            at: section.at.clone(),
        }
    }
}

/// The broker that the file names as the pipeline's home.
pub(super) fn home(
    pipeline: &Head<'_>,
    brokers: &mut Brokers,
    report: &mut Report,
) -> Option<usize> {
    let named = pipeline.body?.home.as_ref()?;
    let found = brokers.find(Some(named), &named.at, report)?;
    if brokers.is_stdio(found) {
        report
            .add(
                Code::WhichBroker,
                &named.at,
                "standard input and output keep no topics, which a pipeline's home must",
            )
            .help("name a `file://` or `mem://` broker");
        return None;
    }
    Some(found)
}

/// Tells which broker the order of the file has made the home: moving a section would move it.
pub(super) fn warn_of_order(pipeline: &Head<'_>, plan: &Plan, report: &mut Report) {
    let home = &plan.brokers[plan.home()].name;
    let message = format!(
        "sinks lie on several brokers, and the home of the pipeline is `{home}`, as its first sink lies there"
    );
    report
        .add(Code::HomeByOrder, &pipeline.at, message)
        .help(format!("write `home = \"{home}\"`, and it stays there"));
}

#[allow(clippy::too_many_arguments)] // each is a different thing that dead letters depend on
pub(super) fn dead_letter(
    pipeline: &Head<'_>,
    topics: &Topics,
    outputs: Option<usize>,
    sources: &BTreeMap<usize, usize>,
    brokers: &mut Brokers,
    events: &mut Events,
    uses: &mut Uses,
    report: &mut Report,
) -> Option<TopicPlan> {
    if let Some(target) = pipeline.body.and_then(|body| body.dead_letter.as_ref()) {
        let at = match target {
            TopicRef::Name(name) => name.at.clone(),
            TopicRef::Inline(section) => section.at.clone(),
        };
        let topic = topics.target(target, brokers, events, report)?;
        let plan = topic.plan?;
        uses.note(&plan, topic.is_stdio, Use::DeadLetters, &at, report);
        return Some(plan);
    }
    let name = pipeline.name.as_ref()?;
    let keeps = |broker: &usize| !brokers.is_stdio(*broker);
    let of_sources = sources
        .keys()
        .filter_map(|index| topics.list[*index].plan.as_ref());
    let of_sources = of_sources.map(|plan| plan.broker);
    let broker = outputs
        .into_iter()
        .chain(of_sources)
        .chain(0..brokers.plans.len())
        .find(keeps);
    let at = pipeline.at.child("dead_letter");
    let Some(broker) = broker else {
        if !brokers.plans.is_empty() {
            report
                .add(
                    Code::WhichBroker,
                    &at,
                    "dead letters need a broker that keeps topics",
                )
                .help("add `[brokers.local]` with `url = \"mem://\"`, or a `file://` broker");
        }
        return None;
    };
    let plan = TopicPlan {
        broker,
        topic: Topic::new(format!("{name}.dead-letter")).ok()?,
        partitions: None,
        cleanup: Cleanup::default(),
    };
    brokers.mark_used(broker);
    uses.note(&plan, false, Use::DeadLetters, &at, report);
    Some(plan)
}
