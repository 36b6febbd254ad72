//! Topics: their brokers, their events, their keys, and that each has one use.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use tidemill_broker::Topic;

use super::brokers::Brokers;
use super::events::Events;
use super::fields;
use crate::config::error::Report;
use crate::config::file::File;
use crate::config::plan::TopicPlan;
use crate::config::source::{At, Located};
use crate::config::suggest::{nearest, one_of};
use crate::config::topics::{TopicRef, TopicSection};
use crate::config::{Code, value};
use crate::events::Schema;

/// A topic with its names resolved.
#[derive(Debug, Clone)]
pub(super) struct ResolvedTopic {
    pub(super) name: String,
    pub(super) at: At,
    /// `None` where broker or name are broken.
    pub(super) plan: Option<TopicPlan>,
    pub(super) schema: Option<Arc<Schema>>,
    /// An event was named, right or wrong.
    pub(super) event_given: bool,
    /// The slots of the key, where it and the event are declared and right.
    pub(super) key: Vec<usize>,
    /// A key is declared, and it or the event is broken.
    pub(super) key_broken: bool,
    pub(super) is_stdio: bool,
    /// Every task reads all of it.
    pub(super) broadcast: bool,
}

impl ResolvedTopic {
    /// How many partitions are known to be there.
    pub(super) fn partitions(&self) -> Option<NonZeroU32> {
        self.plan.as_ref().and_then(|plan| plan.partitions)
    }
}

/// The topics of a file, sorted by their names there.
#[derive(Debug)]
pub(super) struct Topics {
    pub(super) list: Vec<ResolvedTopic>,
}

impl Topics {
    pub(super) fn check(
        file: &File,
        brokers: &mut Brokers,
        events: &mut Events,
        report: &mut Report,
    ) -> Self {
        let mut list: Vec<ResolvedTopic> = Vec::new();
        let mut declared: BTreeMap<(usize, Topic), At> = BTreeMap::new();
        for (name, section) in &file.topics {
            let Some(body) = &section.body else {
                list.push(ResolvedTopic {
                    name: name.clone(),
                    at: section.at.clone(),
                    plan: None,
                    schema: None,
                    event_given: true,
                    key: Vec::new(),
                    key_broken: true,
                    is_stdio: false,
                    broadcast: false,
                });
                continue;
            };
            let topic = resolve(name, body, Some(name), brokers, events, report);
            if let Some(plan) = &topic.plan {
                let key = (plan.broker, plan.topic.clone());
                if let Some(first) = declared.get(&key) {
                    report
                        .add(
                            Code::TopicDeclaredTwice,
                            &section.at,
                            format!("the topic `{}` is declared twice", plan.topic),
                        )
                        .related(first, "first declared here");
                } else {
                    declared.insert(key, section.at.clone());
                }
            }
            list.push(topic);
        }
        Self { list }
    }

    /// Warns of topics that are not used.
    pub(super) fn warn_unused(&self, used: &[bool], report: &mut Report) {
        for (topic, used) in self.list.iter().zip(used) {
            if !used {
                let message = "nothing reads or writes this topic";
                report.add(Code::UnusedTopic, &topic.at, message);
            }
        }
    }

    /// The topic that a sink or the dead letters name.
    pub(super) fn target(
        &self,
        target: &TopicRef,
        brokers: &mut Brokers,
        events: &mut Events,
        report: &mut Report,
    ) -> Option<ResolvedTopic> {
        match target {
            TopicRef::Inline(section) => Some(resolve("", section, None, brokers, events, report)),
            TopicRef::Name(name) => self.by_name(name, report).cloned(),
        }
    }

    fn by_name(&self, name: &Located<String>, report: &mut Report) -> Option<&ResolvedTopic> {
        let found = self.list.iter().find(|topic| topic.name == name.value);
        if found.is_none() {
            let shown = value::short(&name.value);
            let problem = report.add(
                Code::UnknownTopic,
                &name.at,
                format!("unknown topic `{shown}`"),
            );
            let names = || self.list.iter().map(|topic| topic.name.as_str());
            match nearest(&name.value, names()) {
                Some(near) => problem.did_you_mean(Some(near)),
                None if self.list.is_empty() => {
                    problem.help(format!("declare it in `[topics.{shown}]`"))
                }
                None => problem.help(format!(
                    "declared are {}; or declare it in `[topics.{shown}]`",
                    one_of(names())
                )),
            };
        }
        found
    }
}

fn resolve(
    name: &str,
    section: &TopicSection,
    default: Option<&str>,
    brokers: &mut Brokers,
    events: &mut Events,
    report: &mut Report,
) -> ResolvedTopic {
    let broker = brokers.find(section.broker.as_ref(), &section.at, report);
    let is_stdio = broker.is_some_and(|broker| brokers.is_stdio(broker));
    let topic = match (&section.topic, default) {
        (Some(topic), _) => checked(&topic.value, &topic.at, report),
        (None, _) if section.topic_broken => None,
        (None, Some(name)) => checked(name, &section.at, report),
        (None, None) if is_stdio => Topic::new("stdout").ok(),
        (None, None) => {
            report.add(Code::MissingKey, &section.at.child("topic"), "is required");
            None
        }
    };
    let schema = section
        .event
        .as_ref()
        .and_then(|event| events.find(event, report));
    let key = match (&section.key, &schema) {
        (Some(names), Some(schema)) => fields::key(schema, names, report),
        (Some(names), None) => {
            if section.event.is_none() && !section.event_broken {
                report
                    .add(
                        Code::MissingKey,
                        &section.at.child("event"),
                        "is required with `key`",
                    )
                    .related(&names.at, "the key's fields are those of the event");
            }
            None
        }
        (None, _) if section.key_broken => None,
        (None, _) => Some(Vec::new()),
    };
    let partitions = section.partitions.as_ref();
    if let Some(asked) = partitions.filter(|asked| is_stdio && asked.value.get() > 1) {
        let message = "standard input and output have one partition";
        report.add(Code::Stdio, &asked.at, message);
    }
    let partitions = match is_stdio {
        true => Some(NonZeroU32::MIN),
        false => partitions.map(|partitions| partitions.value),
    };
    ResolvedTopic {
        name: name.to_owned(),
        at: section.at.clone(),
        plan: broker.zip(topic).map(|(broker, topic)| TopicPlan {
            broker,
            topic,
            partitions,
            cleanup: section.cleanup,
        }),
        schema,
        event_given: section.event.is_some() || section.event_broken,
        key_broken: key.is_none(),
        key: key.unwrap_or_default(),
        is_stdio,
        broadcast: section.reading.broadcast.is_some(),
    }
}

fn checked(name: &str, at: &At, report: &mut Report) -> Option<Topic> {
    match Topic::new(name) {
        Ok(topic) => Some(topic),
        Err(error) => {
            report.add(Code::BadName, at, error.to_string());
            None
        }
    }
}

/// What a topic is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Written,
    DeadLetters,
}

/// Topics that a pipeline keeps for itself, after its name and a dot.
const OWN_TOPICS: [&str; 2] = ["changelog", "control"];

/// Keeps account of what each topic is used for.
#[derive(Debug)]
pub(super) struct Uses {
    pipeline: Option<Topic>,
    uses: BTreeMap<(usize, Topic), (Use, At)>,
}

impl Uses {
    /// Of a pipeline, nothing yet.
    pub(super) fn of(pipeline: Option<Topic>) -> Self {
        Self {
            pipeline,
            uses: BTreeMap::new(),
        }
    }

    /// Notes a use; false if it conflicts with another, which is told.
    pub(super) fn note(
        &mut self,
        plan: &TopicPlan,
        is_stdio: bool,
        what: Use,
        at: &At,
        report: &mut Report,
    ) -> bool {
        if is_stdio && !stdio(plan, what, at, report) {
            return false;
        }
        if self.is_own(&plan.topic) {
            let message = format!("`{}` is the pipeline's own", plan.topic);
            report
                .add(Code::TopicConflict, at, message)
                .help("name another topic, or give the pipeline another `name`");
            return false;
        }
        let of_others =
            OWN_TOPICS.map(|own| plan.topic.as_str().strip_suffix(own)?.strip_suffix('.'));
        if what != Use::Read
            && let Some(other) = of_others.into_iter().flatten().next()
        {
            let message = format!(
                "`{}` is where a pipeline `{other}` keeps what it goes on from",
                plan.topic
            );
            report
                .add(Code::TopicConflict, at, message)
                .help("name another topic: nobody else may write there");
            return false;
        }
        let key = (plan.broker, plan.topic.clone());
        let Some((before, first)) = self.uses.get(&key) else {
            self.uses.insert(key, (what, at.clone()));
            return true;
        };
        let topic = &plan.topic;
        let (code, message) = match (before, what) {
            (Use::DeadLetters, _) | (_, Use::DeadLetters) => (
                Code::DeadLetterConflict,
                format!("dead letters need a topic of their own; `{topic}` is in use"),
            ),
            (Use::Written, Use::Written) => (
                Code::TopicConflict,
                format!("the topic `{topic}` is written by two sinks"),
            ),
            _ => (
                Code::TopicConflict,
                format!("the topic `{topic}` is both read and written"),
            ),
        };
        report
            .add(code, at, message)
            .related(first, "already used here");
        false
    }

    fn is_own(&self, topic: &Topic) -> bool {
        let name = self.pipeline.as_ref().map(Topic::as_str);
        let rest = name.and_then(|name| topic.as_str().strip_prefix(name)?.strip_prefix('.'));
        rest.is_some_and(|rest| OWN_TOPICS.contains(&rest))
    }
}

fn stdio(plan: &TopicPlan, what: Use, at: &At, report: &mut Report) -> bool {
    let topic = plan.topic.as_str();
    let message = match what {
        Use::Read if topic != "stdin" => "standard input is the topic `stdin`",
        Use::Written if topic != "stdout" => "standard output is the topic `stdout`",
        Use::DeadLetters => "standard input and output keep no dead letters",
        Use::Read | Use::Written => return true,
    };
    report.add(Code::Stdio, at, message).help(match what {
        Use::Read => {
            "call the topic `stdin`: [topics.stdin], or `topic = \"stdin\"` in its section"
        }
        Use::Written => "call the topic `stdout`, or leave its name out",
        Use::DeadLetters => "name a topic on a broker that keeps records, such as `file://data`",
    });
    false
}
