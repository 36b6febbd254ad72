//! Keys and partitions: state kept by key must see all events of a key.

use std::sync::Arc;

use super::stages::Context;
use super::topics::{ResolvedTopic, Topics};
use crate::config::Code;
use crate::config::error::Report;
use crate::events::Schema;

/// The names of a key's fields.
pub(super) fn names(schema: &Schema, slots: &[usize]) -> Vec<Arc<str>> {
    slots
        .iter()
        .map(|slot| schema.fields[*slot].name.clone())
        .collect()
}

/// Checks that keyed state by `key`, or else by its input's key, sees all events of a key. Returns
/// the key.
///
/// It does where the key holds all fields that the topic is partitioned by: events that are equal in the
/// one are equal in the other. Several topics must also be partitioned alike.
pub(super) fn check(
    topics: &Topics,
    context: &Context<'_>,
    key: Option<Vec<Arc<str>>>,
    report: &mut Report,
) -> Option<Vec<Arc<str>>> {
    // Without a type something upstream is broken, and its key is not known.
    context.input.schema.as_ref()?;
    let Some(key) = key.or_else(|| context.input.key.clone()) else {
        if context.input.key_broken {
            return None;
        }
        report
            .add(
                Code::Unkeyed,
                context.at,
                "needs events with a key, and its input has none",
            )
            .help("declare the topic's `key`, or put a `key_by` stage before it");
        return None;
    };
    let mut first: Option<(usize, std::num::NonZeroU32)> = None;
    let mut partitioned: Option<(usize, Vec<Arc<str>>)> = None;
    let read = context
        .input
        .topics
        .iter()
        .map(|index| &topics.list[*index]);
    let shared = read.filter(|topic| !topic.broadcast);
    let tasks = shared.filter_map(ResolvedTopic::partitions).max();
    for index in &context.input.topics {
        let topic = &topics.list[*index];
        let partitions = match topic.broadcast {
            false => topic.partitions(),
            // Each task takes what would lie in its partition.
            true => tasks,
        };
        let Some(partitions) = partitions else {
            continue;
        };
        let declared = topic
            .schema
            .as_ref()
            .map(|schema| names(schema, &topic.key));
        let holds = |declared: &Vec<Arc<str>>| {
            !declared.is_empty() && declared.iter().all(|field| key.contains(field))
        };
        let declared_right = declared.clone().filter(holds);
        if partitions.get() > 1 && declared_right.is_none() {
            let found = match declared.filter(|declared| !declared.is_empty()) {
                Some(declared) => format!("is partitioned by {}", show(&declared)),
                None => "declares no key".to_owned(),
            };
            let apart = match topic.broadcast {
                false => format!("with {partitions} partitions"),
                true => format!("that {partitions} tasks share"),
            };
            report
                .add(
                    Code::KeyChanged,
                    context.at,
                    format!(
                        "keeps state by {}, but the topic `{}` {apart} {found}",
                        show(&key),
                        topic.name
                    ),
                )
                .related(&topic.at, "the topic")
                .help(
                    "events of a changed key have to go through a repartition topic, which comes \
                     with key changes in a later version; until then use one partition, or \
                     declare the topic's `key` if its records have this one",
                );
        }
        match (&partitioned, declared_right) {
            (None, Some(declared)) if partitions.get() > 1 => {
                partitioned = Some((*index, declared));
            }
            (Some((other, by)), Some(declared)) if partitions.get() > 1 && *by != declared => {
                let other = &topics.list[*other];
                report
                    .add(
                        Code::NotCoPartitioned,
                        context.at,
                        format!(
                            "`{}` is partitioned by {} and `{}` by {}: a key would not meet itself",
                            other.name,
                            show(by),
                            topic.name,
                            show(&declared)
                        ),
                    )
                    .related(&topic.at, "the topic");
            }
            _ => {}
        }
        if topic.broadcast {
            continue;
        }
        match first {
            None => first = Some((*index, partitions)),
            Some((other, count)) if count != partitions => {
                let other = &topics.list[other];
                report
                    .add(
                        Code::NotCoPartitioned,
                        context.at,
                        format!(
                            "`{}` has {count} partitions and `{}` has {partitions}: a key would \
                             not meet itself",
                            other.name, topic.name
                        ),
                    )
                    .related(&topic.at, "the topic");
            }
            Some(_) => {}
        }
    }
    Some(key)
}

/// A key in prose.
pub(super) fn show(key: &[Arc<str>]) -> String {
    let quoted: Vec<String> = key.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(" and ")
}
