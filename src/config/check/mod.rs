//! From the file as written to the plan as checked. Goes on after each problem, so that all are
//! told at once; what depends on something broken stays silent.

mod brokers;
mod dirs;
mod events;
mod fields;
mod graph;
mod hash;
mod head;
mod keys;
mod needed;
mod route;
mod sinks;
mod stages;
mod topics;
mod unread;
mod window;

pub use brokers::broker_url;
pub(crate) use dirs::entangled;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use tidemill_broker::Topic;

use self::brokers::Brokers;
use self::events::Events;
use self::graph::{Graph, Link, Target};
use self::head::Head;
use self::sinks::Sinks;
use self::stages::Stages;
use self::topics::{Topics, Use, Uses};
use super::error::Report;
use super::file::{File, PipelineSection};
use super::plan::{Disorder, Guarantee, Input, Plan, SourcePlan, TopicPlan};
use super::source::At;
use super::topics::TopicRef;
use super::{Code, guarantee};
use crate::events::Schema;

/// Checks a file. `None` if anything is wrong. `nowhere` is the place of what is missing altogether.
pub(crate) fn check(file: &File, nowhere: &At, report: &mut Report) -> Option<Plan> {
    let mut brokers = Brokers::check(file, report);
    let mut events = Events::check(file, report);
    let graph = Graph::check(file, report);
    let read = read_topics(&graph);
    let used = used_topics(file, &read);
    let topics = Topics::check(file, &mut brokers, &mut events, report);
    let sources: BTreeMap<usize, usize> = read
        .keys()
        .enumerate()
        .map(|(source, topic)| (*topic, source))
        .collect();
    let pipeline = Head::check(file, nowhere, report);
    let mut uses = Uses::of(pipeline.name.clone());
    check_reading(&topics, &read, &mut uses, report);
    check_brokers(file, &topics, &read, report);
    dirs::check(file, &pipeline, &brokers, report);
    let stages = Stages::check(file, &graph, &topics, &sources, report);
    let sinks = Sinks::check(
        file,
        &graph,
        &stages,
        &mut brokers,
        &mut events,
        &mut uses,
        report,
    );
    if file.sinks.is_empty() {
        let at = file
            .pipeline
            .as_ref()
            .map_or(nowhere, |section| &section.at);
        report
            .add(Code::NothingWritten, at, "the pipeline has no sink")
            .help("add `[sinks.NAME]` with `from` and `topic`");
    }
    check_broadcast(file, &topics, &read, report);
    let named = head::home(&pipeline, &mut brokers, report);
    let outputs = named.or_else(|| sinks.first_that_keeps(&brokers));
    let dead_letter = head::dead_letter(
        &pipeline,
        &topics,
        outputs,
        &sources,
        &mut brokers,
        &mut events,
        &mut uses,
        report,
    );
    let all_sinks = sinks.plans.len() == file.sinks.len();
    let is_home_by_order = named.is_none() && sinks.are_on_several(&brokers);
    let draft = draft(
        &pipeline,
        source_plans(file, &topics, &read),
        &brokers,
        &stages,
        sinks,
        dead_letter,
        outputs,
    );
    // Also of a file with other mistakes, if they leave no doubt of where everything comes from and goes.
    let home_is_certain = match pipeline.body.is_some_and(|body| body.home.is_some()) {
        true => named.is_some(),
        false => outputs.is_some() || graph.is_whole(),
    };
    let is_certain = all_sinks && brokers.whole && home_is_certain;
    let guarantee = match (&draft, pipeline.body) {
        (Some(plan), Some(body)) if is_certain => guaranteed(plan, body, report),
        _ => None,
    };
    if report.failed() {
        // Of a broken file most warnings would be echoes: what is misspelt is also unused.
        return None;
    }
    unread::warn(file, &graph, &stages, report);
    topics.warn_unused(&used, report);
    warn_without_effect(file, &topics, &read, report);
    stages.warn_unused(report);
    brokers.warn_unused(report);
    events.warn_unused(file, report);
    let mut plan = draft?;
    if is_home_by_order {
        head::warn_of_order(&pipeline, &plan, report);
    }
    plan.guarantee = guarantee?;
    needed::fill(&mut plan);
    plan.config_hash = hash::hash(&plan);
    Some(plan)
}

/// The plan, but for what depends on all of it.
fn draft(
    pipeline: &Head<'_>,
    sources: Option<Vec<SourcePlan>>,
    brokers: &Brokers,
    stages: &Stages<'_>,
    sinks: Sinks,
    dead_letter: Option<TopicPlan>,
    outputs: Option<usize>,
) -> Option<Plan> {
    let body = pipeline.body?;
    let dead_letter = dead_letter?;
    Some(Plan {
        name: pipeline.name.clone()?,
        version: body.version,
        config_hash: 0,
        guarantee: Guarantee::ExactlyOnce,
        commit: body.commit,
        state_dir: body.state_dir.as_ref().map(|dir| PathBuf::from(&dir.value)),
        threads: NonZeroUsize::new(body.threads).unwrap_or(NonZeroUsize::MIN),
        memory: body.memory,
        group: pipeline.group.clone()?,
        brokers: brokers.plans.clone(),
        sources: sources?,
        stages: stages.plans.clone(),
        sinks: sinks.plans,
        states: stages.states.clone(),
        home: outputs.unwrap_or(dead_letter.broker),
        dead_letter,
    })
}

/// The strongest guarantee that is asked for or, where none is, that can be kept.
fn guaranteed(plan: &Plan, body: &PipelineSection, report: &mut Report) -> Option<Guarantee> {
    let causes = guarantee::causes(plan);
    let possible = guarantee::weakest(&causes);
    let Some(asked) = &body.guarantee else {
        return Some(possible);
    };
    if asked.value <= possible {
        return Some(asked.value);
    }
    let weak: Vec<String> = causes
        .iter()
        .filter(|cause| cause.allows < asked.value)
        .map(|cause| {
            format!(
                "{} allows {}: {}",
                cause.element,
                cause.allows.as_str(),
                cause.because
            )
        })
        .collect();
    report
        .add(
            Code::Guarantee,
            &asked.at,
            format!(
                "cannot be {}, because {}",
                asked.value.as_str(),
                weak.join("; ")
            ),
        )
        .help(format!(
            "ask for `{}`, or change what is named",
            possible.as_str()
        ));
    None
}

/// Topics that are read, each with the first place that does.
fn read_topics(graph: &Graph) -> BTreeMap<usize, At> {
    let mut read = BTreeMap::new();
    for link in graph.stages.iter().chain(&graph.sinks).flatten() {
        if let Link {
            target: Target::Topic(topic),
            at,
        } = link
        {
            read.entry(*topic).or_insert_with(|| at.clone());
        }
    }
    read
}

fn used_topics(file: &File, read: &BTreeMap<usize, At>) -> Vec<bool> {
    let sinks = file
        .sinks
        .values()
        .filter_map(|section| section.body.as_ref());
    let mut targets: BTreeSet<&str> = sinks
        .filter_map(|sink| match &sink.topic {
            Some(TopicRef::Name(name)) => Some(name.value.as_str()),
            _ => None,
        })
        .collect();
    let pipeline = file
        .pipeline
        .as_ref()
        .and_then(|section| section.body.as_ref());
    if let Some(TopicRef::Name(name)) = pipeline.and_then(|body| body.dead_letter.as_ref()) {
        targets.insert(&name.value);
    }
    let names = file.topics.keys().enumerate();
    names
        .map(|(index, name)| read.contains_key(&index) || targets.contains(name.as_str()))
        .collect()
}

fn check_reading(
    topics: &Topics,
    read: &BTreeMap<usize, At>,
    uses: &mut Uses,
    report: &mut Report,
) {
    let mut brokers: BTreeMap<&Topic, (usize, &At)> = BTreeMap::new();
    for index in read.keys() {
        let topic = &topics.list[*index];
        if let Some(plan) = &topic.plan {
            // A task knows its inputs by topic and partition, and so do the ids of what it writes.
            let (first, at) = *brokers
                .entry(&plan.topic)
                .or_insert((plan.broker, &topic.at));
            if first != plan.broker {
                let message = format!("a topic `{}` is read from two brokers", plan.topic);
                report
                    .add(Code::TopicConflict, &topic.at, message)
                    .related(at, "the other")
                    .help("records of the two could not be told apart: give one of the topics another name on its broker");
            }
        }
        if !topic.event_given {
            report
                .add(
                    Code::MissingKey,
                    &topic.at.child("event"),
                    "is required of a topic that is read",
                )
                .help("name a section `[events.NAME]`, or `MarketDataUpdate`");
        }
        if let Some(plan) = &topic.plan {
            uses.note(plan, topic.is_stdio, Use::Read, &topic.at, report);
        }
    }
}

/// Tasks own partitions of all that is shared out, and read whole all that is broadcast: either with one
/// consumer, which is of one broker.
fn check_brokers(file: &File, topics: &Topics, read: &BTreeMap<usize, At>, report: &mut Report) {
    for broadcast in [false, true] {
        let mut first: Option<(usize, &At)> = None;
        for index in read.keys() {
            let topic = &topics.list[*index];
            let Some(plan) = topic.plan.as_ref().filter(|_| topic.broadcast == broadcast) else {
                continue;
            };
            let body = file.topics[&topic.name].body.as_ref();
            let named = body.and_then(|body| body.broker.as_ref());
            let at = named.map_or(&topic.at, |broker| &broker.at);
            let (broker, other) = *first.get_or_insert((plan.broker, at));
            if broker == plan.broker {
                continue;
            }
            let (message, help) = match broadcast {
                false => (
                    "the topics that are read lie on more than one broker",
                    "copy the topic to the broker of the others, or, if it is small, declare it `broadcast = true`",
                ),
                true => (
                    "the broadcast topics that are read lie on more than one broker",
                    "copy the topic to the broker of the others",
                ),
            };
            report
                .add(Code::SeveralBrokers, at, message)
                .related(other, "the first of them")
                .help(help);
        }
    }
}

fn warn_without_effect(
    file: &File,
    topics: &Topics,
    read: &BTreeMap<usize, At>,
    report: &mut Report,
) {
    for (index, section) in file.topics.values().enumerate() {
        if read.contains_key(&index) {
            let schema = topics.list[index].schema.as_ref();
            let ahead_max = section
                .body
                .as_ref()
                .and_then(|body| body.reading.ahead_max.as_ref());
            if let (Some(schema), Some(ahead_max)) = (schema, ahead_max)
                && schema.time.is_none()
            {
                let message = format!(
                    "has no effect: the time of event `{}` is that of its record",
                    schema.name
                );
                report.add(Code::NoEffect, &ahead_max.at, message);
            }
            continue;
        }
        for at in section.body.iter().flat_map(|body| &body.reading.given) {
            report.add(
                Code::NoEffect,
                at,
                "has no effect: nothing reads this topic",
            );
        }
    }
}

fn check_broadcast(file: &File, topics: &Topics, read: &BTreeMap<usize, At>, report: &mut Report) {
    let all = read.keys().all(|index| topics.list[*index].broadcast);
    let Some(first) = read.keys().next().filter(|_| all) else {
        return;
    };
    let section = file.topics.values().nth(*first);
    let body = section.and_then(|section| section.body.as_ref());
    if let Some(at) = body.and_then(|body| body.reading.broadcast.as_ref()) {
        report
            .add(
                Code::Broadcast,
                at,
                "every topic is broadcast: there is nothing to share out",
            )
            .help("leave `broadcast` out for at least one topic");
    }
}

fn source_plans(
    file: &File,
    topics: &Topics,
    read: &BTreeMap<usize, At>,
) -> Option<Vec<SourcePlan>> {
    let sections: Vec<_> = file.topics.values().collect();
    let plans = read.keys().map(|index| {
        let topic = &topics.list[*index];
        let reading = &sections[*index].body.as_ref()?.reading;
        Some(SourcePlan {
            name: topic.name.as_str().into(),
            topic: topic.plan.clone()?,
            // Where it is broken, which has been told, the rest is known.
            schema: topic.schema.clone().unwrap_or_else(Schema::none),
            needed: 0,
            key: topic.key.clone(),
            start: reading.start,
            on_gap: reading.on_gap,
            out_of_order: Disorder {
                behind: reading.out_of_order,
                ahead_max: reading.ahead_max.as_ref().map(|ahead| ahead.value),
            },
            idle: reading.idle,
            broadcast: topic.broadcast,
            record_max: reading.record_max,
        })
    });
    plans.collect()
}

/// Slots as bits.
fn bits(slots: &[usize]) -> u64 {
    slots.iter().fold(0, |bits, slot| bits | 1 << slot)
}

/// Whether an input is fed by broadcast topics alone.
fn only_broadcast(topics: &Topics, sources: &BTreeSet<usize>) -> bool {
    !sources.is_empty() && sources.iter().all(|index| topics.list[*index].broadcast)
}

/// The source an input is, if it is one.
fn as_source(input: &Input) -> Option<usize> {
    match input {
        Input::Source(source) => Some(*source),
        Input::Stage { .. } => None,
    }
}
