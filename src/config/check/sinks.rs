//! Sinks: what they are given, and whether their topic takes it.

use super::brokers::Brokers;
use super::events::Events;
use super::fields;
use super::graph::Graph;
use super::only_broadcast;
use super::stages::Stages;
use super::topics::{Use, Uses};
use crate::config::Code;
use crate::config::error::Report;
use crate::config::file::File;
use crate::config::plan::SinkPlan;
use crate::config::source::{At, Located, Place};
use crate::config::topics::TopicRef;
use crate::events::Schema;

/// All sinks, sorted by name.
#[derive(Debug)]
pub(super) struct Sinks {
    pub(super) plans: Vec<SinkPlan>,
    /// Where each of them stands.
    places: Vec<Place>,
}

impl Sinks {
    /// The brokers of those that keep topics, in the order of the file.
    fn brokers_in_order(&self, brokers: &Brokers) -> Vec<usize> {
        let of_sinks = self.plans.iter().map(|sink| sink.topic.broker);
        let mut all: Vec<_> = self.places.iter().zip(of_sinks).collect();
        all.retain(|(_, broker)| !brokers.is_stdio(*broker));
        all.sort_unstable();
        all.into_iter().map(|(_, broker)| broker).collect()
    }

    /// The broker of the first sink in the order of the file that keeps topics.
    pub(super) fn first_that_keeps(&self, brokers: &Brokers) -> Option<usize> {
        self.brokers_in_order(brokers).first().copied()
    }

    /// Whether those that keep topics lie on more than one broker.
    pub(super) fn are_on_several(&self, brokers: &Brokers) -> bool {
        let all = self.brokers_in_order(brokers);
        all.iter().any(|broker| *broker != all[0])
    }

    #[allow(clippy::too_many_arguments)] // each is a different thing that sinks depend on
    pub(super) fn check(
        file: &File,
        graph: &Graph,
        stages: &Stages<'_>,
        brokers: &mut Brokers,
        events: &mut Events,
        uses: &mut Uses,
        report: &mut Report,
    ) -> Self {
        let mut plans = Vec::new();
        let mut places = Vec::new();
        for ((name, section), links) in file.sinks.iter().zip(&graph.sinks) {
            let Some(body) = &section.body else {
                continue;
            };
            let (inputs, stream) = stages.inputs(links, report);
            // One by one: no task would be there for an input that only broadcast topics feed.
            for link in links.iter().filter(|_| !stages.all_broadcast()) {
                if only_broadcast(stages.topics, &stages.topics_of(link)) {
                    report
                        .add(
                            Code::Broadcast,
                            &link.at,
                            "comes of broadcast topics alone: no task has it for its own",
                        )
                        .help("leave `broadcast` out where the topic is only passed on");
                }
            }
            let Some(target) = &body.topic else {
                continue;
            };
            let at = match target {
                TopicRef::Name(name) => name.at.clone(),
                TopicRef::Inline(section) => section.at.clone(),
            };
            let Some(topic) = stages.topics.target(target, brokers, events, report) else {
                continue;
            };
            let mut free = true;
            if let Some(plan) = &topic.plan {
                free = uses.note(plan, topic.is_stdio, Use::Written, &at, report);
            }
            let key = stream.schema.as_ref().and_then(|schema| {
                if let Some(declared) = topic.schema.as_ref().filter(|_| free) {
                    fits(schema, declared, &at, report);
                }
                key(body.key.as_ref(), &topic, schema, report)
            });
            // Also of what is broken, which has been told: where it goes is known.
            if let Some(plan) = topic.plan {
                places.push(section.at.place);
                plans.push(SinkPlan {
                    name: name.as_str().into(),
                    inputs,
                    topic: plan,
                    schema: stream.schema.unwrap_or_else(Schema::none),
                    key: key.unwrap_or_default(),
                });
            }
        }
        Self { plans, places }
    }
}

/// The slots of the sink's key: its own, else that of its topic.
fn key(
    own: Option<&Located<Vec<Located<String>>>>,
    topic: &super::topics::ResolvedTopic,
    schema: &Schema,
    report: &mut Report,
) -> Option<Vec<usize>> {
    if let Some(names) = own {
        return fields::key(schema, names, report);
    }
    // The topic's key is slots of its own event, which `fits` holds to be in ours too.
    let Some(declared) = &topic.schema else {
        return Some(Vec::new());
    };
    let names = topic.key.iter().map(|slot| &declared.fields[*slot].name);
    names.map(|name| schema.slot(name)).collect()
}

/// Tells where events of one type are not what a topic declares. Further fields do no harm.
fn fits(given: &Schema, declared: &Schema, at: &At, report: &mut Report) {
    for field in &declared.fields {
        let found = given.slot(&field.name).map(|slot| &given.fields[slot]);
        let name = &field.name;
        let message = match found {
            None if !field.required => continue,
            None => format!(
                "`{}` needs `{name}`, and `{}` has no such field",
                declared.name, given.name
            ),
            Some(found) if found.ty != field.ty => format!(
                "`{}` needs `{name}` as {}; `{}` has it as {}",
                declared.name, field.ty, given.name, found.ty
            ),
            Some(found) if field.required && !found.required => format!(
                "`{}` needs `{name}` in every event; in `{}` it may be absent",
                declared.name, given.name
            ),
            Some(_) => continue,
        };
        report.add(Code::SchemaMismatch, at, message);
    }
}
