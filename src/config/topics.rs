//! Topics as written: a section of their own, or in place where a sink or the dead letters name one.

use std::num::NonZeroU32;
use std::time::Duration;

use tidemill_broker::{Cleanup, Retention};

use super::Code;
use super::error::Report;
use super::file::{self, ON_GAP};
use super::plan::{OnGap, StartAt};
use super::reader::{self, Reader};
use super::source::{At, Located};
use super::tree::{Node, Value};
use super::value::show_size;
use crate::events::Limits;

/// `[topics.NAME]`, or the same in place.
#[derive(Debug, Clone)]
pub(crate) struct TopicSection {
    pub(crate) at: At,
    pub(crate) broker: Option<Located<String>>,
    pub(crate) topic: Option<Located<String>>,
    /// A topic was given, but not one that can be used: do not fall back on a default.
    pub(crate) topic_broken: bool,
    pub(crate) partitions: Option<Located<NonZeroU32>>,
    pub(crate) cleanup: Cleanup,
    pub(crate) event: Option<Located<String>>,
    pub(crate) event_broken: bool,
    pub(crate) key: Option<Located<Vec<Located<String>>>>,
    pub(crate) key_broken: bool,
    pub(crate) reading: Reading,
}

/// How a topic is read.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) start: StartAt,
    pub(crate) on_gap: OnGap,
    pub(crate) out_of_order: Duration,
    pub(crate) ahead_max: Option<Located<Duration>>,
    pub(crate) idle: Option<Duration>,
    pub(crate) broadcast: Option<At>,
    pub(crate) record_max: usize,
    /// The options given, which mean nothing for topics that are not read.
    pub(crate) given: Vec<At>,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            start: StartAt::Earliest,
            on_gap: OnGap::Halt,
            out_of_order: Duration::ZERO,
            ahead_max: None,
            idle: None,
            broadcast: None,
            record_max: Limits::default().record,
            given: Vec::new(),
        }
    }
}

impl TopicSection {
    /// Reads a section.
    pub(crate) fn read(mut table: Reader<'_>) -> Self {
        let mut topic = Self::typed(&mut table);
        topic.reading = Reading::read(&mut table);
        table.finish();
        topic
    }

    /// A topic whose events may be declared.
    fn typed(table: &mut Reader<'_>) -> Self {
        let mut topic = Self::target(table);
        topic.event = table.text("event");
        topic.event_broken = topic.event.is_none() && table.was_given("event");
        topic.key = table.names("key");
        topic.key_broken = topic.key.is_none() && table.was_given("key");
        topic
    }

    /// What every mention of a topic may say.
    fn target(table: &mut Reader<'_>) -> Self {
        let topic = table.text("topic");
        Self {
            at: table.at.clone(),
            broker: table.text("broker"),
            topic_broken: topic.is_none() && table.was_given("topic"),
            topic,
            partitions: file::partitions(table),
            cleanup: cleanup(table),
            event: None,
            event_broken: false,
            key: None,
            key_broken: false,
            reading: Reading::default(),
        }
    }
}

impl Reading {
    fn read(table: &mut Reader<'_>) -> Self {
        let defaults = Self::default();
        let start = table
            .take("start")
            .and_then(|node| file::start(node, table.report));
        let on_gap = table
            .text("on_gap")
            .and_then(|text| reader::word(&text, &ON_GAP, table.report));
        let out_of_order = table.duration("out_of_order", Duration::ZERO);
        let ahead_max = table.duration("ahead_max", Duration::ZERO);
        let idle = table.duration("idle", Duration::from_millis(1));
        let broadcast = table.boolean("broadcast");
        let record_max = record_max(table);
        let keys = [
            "start",
            "on_gap",
            "out_of_order",
            "ahead_max",
            "idle",
            "broadcast",
            "record_max",
        ];
        Self {
            start: start.unwrap_or(defaults.start),
            on_gap: on_gap.unwrap_or(defaults.on_gap),
            out_of_order: out_of_order.map_or(defaults.out_of_order, |value| value.value),
            ahead_max,
            idle: idle.map(|value| value.value),
            broadcast: broadcast.filter(|value| value.value).map(|value| value.at),
            record_max: record_max.unwrap_or(defaults.record_max),
            given: keys
                .into_iter()
                .filter_map(|key| table.given_at(key))
                .collect(),
        }
    }
}

/// The largest payload that is decoded, as written.
fn record_max(table: &mut Reader<'_>) -> Option<usize> {
    let size = table.size("record_max")?;
    let value = usize::try_from(size.value).unwrap_or(usize::MAX);
    if value > Limits::RECORD_MAX {
        let most = show_size(Limits::RECORD_MAX as u64);
        table
            .report
            .add(
                Code::OutOfRange,
                &size.at,
                format!("must be at most {most}"),
            )
            .help("larger records go to the dead letters");
        return None;
    }
    Some(value)
}

/// How long a tombstone stays readable unless the file says otherwise: Kafka's default.
const TOMBSTONES_DEFAULT: Duration = Duration::from_secs(24 * 3_600);

fn cleanup(table: &mut Reader<'_>) -> Cleanup {
    let compact = table
        .text("cleanup")
        .and_then(|text| {
            let choices = [("delete", false), ("compact", true)];
            reader::word(&text, &choices, table.report)
        })
        .unwrap_or(false);
    let retention = table.take("retention").and_then(|node| {
        let mut inner = Reader::new(node, table.report)?;
        let retention = Retention {
            age: inner
                .duration("age", Duration::from_secs(1))
                .map(|age| age.value),
            bytes: inner.size("bytes").map(|bytes| bytes.value),
        };
        inner.finish();
        Some(retention)
    });
    let tombstones = table.duration("tombstones", Duration::ZERO);
    let other = if compact { "retention" } else { "tombstones" };
    if let Some(at) = table.given_at(other) {
        let (kind, instead) = if compact {
            ("compact", "tombstones")
        } else {
            ("delete", "retention")
        };
        table
            .report
            .add(
                Code::Exclusive,
                &at,
                format!("means nothing with `cleanup = \"{kind}\"`"),
            )
            .help(format!("with `{kind}`, `{instead}` says what is kept"));
    }
    if compact {
        Cleanup::Compact {
            tombstones: tombstones.map_or(TOMBSTONES_DEFAULT, |value| value.value),
        }
    } else {
        Cleanup::Delete(retention.unwrap_or_default())
    }
}

/// How a sink or the dead letters name their topic.
#[derive(Debug, Clone)]
pub(crate) enum TopicRef {
    /// A section `[topics.NAME]`.
    Name(Located<String>),
    /// In place.
    Inline(Box<TopicSection>),
}

impl TopicRef {
    /// The topic of a sink.
    pub(crate) fn read_sink(node: Node, report: &mut Report) -> Option<Self> {
        Self::read(node, report, TopicSection::typed)
    }

    /// The topic of the dead letters.
    pub(crate) fn read_dead_letter(node: Node, report: &mut Report) -> Option<Self> {
        Self::read(node, report, TopicSection::target)
    }

    fn read(
        node: Node,
        report: &mut Report,
        read: fn(&mut Reader<'_>) -> TopicSection,
    ) -> Option<Self> {
        match node.value {
            Value::Text(_) => reader::text(node, report).map(Self::Name),
            Value::Table(_) => {
                let mut table = Reader::new(node, report)?;
                let topic = read(&mut table);
                table.finish();
                Some(Self::Inline(Box::new(topic)))
            }
            other => {
                let expected = "the name of a topic or a table";
                reader::wrong_type(&node.at, expected, &other, report);
                None
            }
        }
    }
}
