//! A pipeline file as written: every section read into its own shape, names not yet resolved.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use super::Code;
use super::error::Report;
use super::ops::{self, StageSection};
use super::plan::{CommitPolicy, Guarantee, OnGap, StartAt};
use super::reader::{self, Reader};
use super::source::{At, Located};
use super::suggest::one_of;
use super::topics::{TopicRef, TopicSection};
use super::tree::{Entry, Node, Value};
use super::value::show_size;

/// Sections of one kind, by name. A section whose inside could not be read is kept as `None`, so
/// that names referring to it are not called unknown.
pub(crate) type Sections<T> = BTreeMap<String, Section<T>>;

/// A section.
#[derive(Debug)]
pub(crate) struct Section<T> {
    pub(crate) at: At,
    pub(crate) body: Option<T>,
}

/// All files of a pipeline, put together.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) pipeline: Option<Section<PipelineSection>>,
    pub(crate) brokers: Sections<BrokerSection>,
    pub(crate) topics: Sections<TopicSection>,
    pub(crate) events: Sections<EventSection>,
    pub(crate) states: Sections<StateSection>,
    pub(crate) stages: Sections<StageSection>,
    pub(crate) sinks: Sections<SinkSection>,
}

/// `[pipeline]`.
#[derive(Debug)]
pub(crate) struct PipelineSection {
    pub(crate) name: Option<Located<String>>,
    pub(crate) version: u32,
    pub(crate) guarantee: Option<Located<Guarantee>>,
    pub(crate) commit: CommitPolicy,
    pub(crate) state_dir: Option<Located<String>>,
    pub(crate) threads: usize,
    pub(crate) memory: usize,
    pub(crate) group: Option<Located<String>>,
    pub(crate) dead_letter: Option<TopicRef>,
    pub(crate) home: Option<Located<String>>,
}

/// `[brokers.NAME]`.
#[derive(Debug)]
pub(crate) struct BrokerSection {
    pub(crate) url: Option<Located<String>>,
}

/// `[events.NAME]`.
#[derive(Debug)]
pub(crate) struct EventSection {
    pub(crate) fields: Option<Vec<(Located<String>, Located<String>)>>,
    pub(crate) fields_at: Option<At>,
    pub(crate) time: Option<Located<String>>,
    pub(crate) scale: Option<Located<u64>>,
}

/// `[state.NAME]`.
#[derive(Debug)]
pub(crate) struct StateSection {
    pub(crate) ttl: Option<Located<Duration>>,
}

/// `[sinks.NAME]`.
#[derive(Debug)]
pub(crate) struct SinkSection {
    pub(crate) from: Option<Located<Vec<Located<String>>>>,
    pub(crate) topic: Option<TopicRef>,
    pub(crate) key: Option<Located<Vec<Located<String>>>>,
}

/// The sections there are.
pub(crate) const SECTIONS: [&str; 7] = [
    "pipeline", "brokers", "topics", "events", "state", "stages", "sinks",
];

/// The format this version reads.
const FORMAT: u64 = 1;

impl File {
    /// Adds what one file holds.
    pub(crate) fn add(&mut self, tree: Node, report: &mut Report) {
        let Value::Table(entries) = tree.value else {
            return;
        };
        for entry in entries {
            match entry.key.as_str() {
                "pipeline" => self.add_pipeline(entry, report),
                "brokers" => add_sections(&mut self.brokers, entry, report, broker),
                "topics" => add_sections(&mut self.topics, entry, report, TopicSection::read),
                "events" => add_sections(&mut self.events, entry, report, event),
                "state" => add_sections(&mut self.states, entry, report, state),
                "stages" => add_sections(&mut self.stages, entry, report, ops::stage),
                "sinks" => add_sections(&mut self.sinks, entry, report, sink),
                other => {
                    let suggestion = super::suggest::nearest(other, SECTIONS);
                    let problem = report.add(Code::UnknownKey, &entry.key_at, "unknown section");
                    match suggestion {
                        Some(_) => problem.did_you_mean(suggestion),
                        None => problem.help(format!("sections are {}", one_of(SECTIONS))),
                    };
                }
            }
        }
    }

    fn add_pipeline(&mut self, entry: Entry, report: &mut Report) {
        let at = entry.node.at.clone();
        if let Some(first) = &self.pipeline {
            report
                .add(
                    Code::Duplicate,
                    &at,
                    "a pipeline has one section `[pipeline]`",
                )
                .related(&first.at, "first written here");
            return;
        }
        let body = Reader::new(entry.node, report).map(pipeline);
        self.pipeline = Some(Section { at, body });
    }
}

fn add_sections<T>(
    sections: &mut Sections<T>,
    entry: Entry,
    report: &mut Report,
    read: fn(Reader<'_>) -> T,
) {
    let entries = match entry.node.value {
        Value::Table(entries) => entries,
        other => {
            reader::wrong_type(&entry.node.at, "a table of named sections", &other, report);
            return;
        }
    };
    for entry in entries {
        if !reader::section_name(&entry, report) {
            continue;
        }
        let at = entry.node.at.clone();
        if let Some(first) = sections.get(&entry.key) {
            let message = format!("`{}` is declared twice", at.path);
            report
                .add(Code::Duplicate, &at, message)
                .related(&first.at, "first declared here");
            continue;
        }
        let body = Reader::new(entry.node, report).map(read);
        sections.insert(entry.key, Section { at, body });
    }
}

fn pipeline(mut table: Reader<'_>) -> PipelineSection {
    // One file cannot be read by the rules of another format, so this comes first.
    if let Some(node) = table.need("format") {
        let format = reader::number(node, 1..=u64::MAX, table.report);
        if let Some(format) = format.filter(|format| format.value != FORMAT) {
            let message = format!("format {} is newer than this version reads", format.value);
            table
                .report
                .add(Code::Format, &format.at, message)
                .help(format!("this version reads format {FORMAT}"));
        }
    }
    let name = table.need_text("name");
    let version = table.number("version", 1..=u64::from(u32::MAX));
    let guarantee = table.text("guarantee").and_then(|text| {
        let choices = [
            Guarantee::AtMostOnce,
            Guarantee::AtLeastOnce,
            Guarantee::ExactlyOnce,
        ]
        .map(|guarantee| (guarantee.as_str(), guarantee));
        let value = reader::word(&text, &choices, table.report)?;
        Some(Located::new(value, text.at))
    });
    let commit = table.take("commit").map(|node| commit(node, table.report));
    let section = PipelineSection {
        name,
        version: version.map_or(1, |version| version.value as u32),
        guarantee,
        commit: commit.unwrap_or(COMMIT_DEFAULT),
        state_dir: table.text("state_dir"),
        threads: table
            .number("threads", 1..=THREADS_MAX)
            .map_or(1, |threads| threads.value as usize),
        memory: table.size("memory").map_or(MEMORY_DEFAULT, |memory| {
            usize::try_from(memory.value).unwrap_or(usize::MAX)
        }),
        group: table.text("group"),
        dead_letter: table
            .take("dead_letter")
            .and_then(|node| TopicRef::read_dead_letter(node, table.report)),
        home: table.text("home"),
    };
    table.finish();
    section
}

/// Most threads that may be asked for: beyond any machine this is for.
const THREADS_MAX: u64 = 1_024;

/// A number of threads on the command line, within the range of the file's `threads`.
pub(crate) fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse().ok().and_then(NonZeroUsize::new);
    let within = number.filter(|threads| threads.get() as u64 <= THREADS_MAX);
    within.ok_or_else(|| reader::not_in_range(&(1..=THREADS_MAX)))
}

/// Memory for the state of each task unless the file says otherwise.
const MEMORY_DEFAULT: usize = 128 * 1024 * 1024;

/// When an epoch closes unless the file says otherwise: often enough that a result is a tenth of a
/// second old, large enough that a commit's cost is spread over thousands of records.
const COMMIT_DEFAULT: CommitPolicy = CommitPolicy {
    interval: Duration::from_millis(100),
    records: 100_000,
    bytes: 16 * 1024 * 1024,
};

/// What a broker takes in one transaction, and a task keeps in memory meanwhile, has bounds: an epoch is over
/// this by a batch at most.
const COMMIT_BYTES_MAX: usize = 512 * 1024 * 1024;

fn commit(node: Node, report: &mut Report) -> CommitPolicy {
    let shortest = Duration::from_millis(1);
    let mut policy = COMMIT_DEFAULT;
    if !matches!(node.value, Value::Table(_)) {
        if let Some(interval) = reader::duration(node, shortest, report) {
            policy.interval = interval.value;
        }
        return policy;
    }
    if let Some(mut table) = Reader::new(node, report) {
        if let Some(interval) = table.duration("interval", shortest) {
            policy.interval = interval.value;
        }
        if let Some(records) = table.number("records", 1..=u64::MAX) {
            policy.records = records.value;
        }
        if let Some(bytes) = table.size("bytes") {
            policy.bytes = usize::try_from(bytes.value).unwrap_or(usize::MAX);
            if policy.bytes > COMMIT_BYTES_MAX {
                let message = format!("must be at most {}", show_size(COMMIT_BYTES_MAX as u64));
                table.report.add(Code::OutOfRange, &bytes.at, message);
            }
        }
        table.finish();
    }
    policy
}

fn broker(mut table: Reader<'_>) -> BrokerSection {
    let section = BrokerSection {
        url: table.need_text("url"),
    };
    table.finish();
    section
}

fn event(mut table: Reader<'_>) -> EventSection {
    let mut section = EventSection {
        fields: None,
        fields_at: None,
        time: table.text("time"),
        scale: table.number("scale", 0..=u64::from(crate::events::SCALE_MAX)),
    };
    if let Some(node) = table.take("fields") {
        section.fields_at = Some(node.at.clone());
        if let Some(mut fields) = Reader::new(node, table.report) {
            let mut read = Vec::new();
            let mut whole = true;
            for entry in fields.rest() {
                match reader::text(entry.node, fields.report) {
                    Some(ty) => read.push((Located::new(entry.key, entry.key_at), ty)),
                    None => whole = false,
                }
            }
            section.fields = whole.then_some(read);
        }
    }
    table.finish();
    section
}

fn state(mut table: Reader<'_>) -> StateSection {
    let section = StateSection {
        ttl: table.duration("ttl", Duration::from_millis(1)),
    };
    table.finish();
    section
}

fn sink(mut table: Reader<'_>) -> SinkSection {
    let from = table.names("from");
    if from.is_none() && !table.was_given("from") {
        table.missing("from");
    }
    let topic = table
        .need("topic")
        .and_then(|node| TopicRef::read_sink(node, table.report));
    let section = SinkSection {
        from,
        topic,
        key: table.names("key"),
    };
    table.finish();
    section
}

/// Where reading begins, as written.
pub(crate) fn start(node: Node, report: &mut Report) -> Option<StartAt> {
    let written = match &node.value {
        Value::Datetime(text) => text.clone(),
        Value::Text(text) if text.value == "earliest" => return Some(StartAt::Earliest),
        Value::Text(text) if text.value == "latest" => return Some(StartAt::Latest),
        Value::Text(text) => text.value.clone(),
        other => {
            let expected = "`earliest`, `latest` or a time";
            reader::wrong_type(&node.at, expected, other, report);
            return None;
        }
    };
    match instant(&written) {
        Some(micros) => Some(StartAt::Time(micros)),
        None => {
            report
                .add(
                    Code::UnknownWord,
                    &node.at,
                    "must be `earliest`, `latest` or a time such as `2013-10-07T13:30:00Z`",
                )
                .did_you_mean(super::suggest::nearest(&written, ["earliest", "latest"]));
            None
        }
    }
}

/// Microseconds since 1970 of an RFC 3339 time.
pub(crate) fn instant(text: &str) -> Option<i64> {
    let time: jiff::Timestamp = text.trim().parse().ok()?;
    Some(time.as_microsecond())
}

/// What to do at a gap, as written.
pub(crate) const ON_GAP: [(&str, OnGap); 2] = [("halt", OnGap::Halt), ("skip", OnGap::Skip)];

/// A number of partitions, as written.
pub(crate) fn partitions(table: &mut Reader<'_>) -> Option<Located<NonZeroU32>> {
    let number = table.number("partitions", 1..=PARTITIONS_MAX)?;
    let value = u32::try_from(number.value).ok().and_then(NonZeroU32::new)?;
    Some(Located::new(value, number.at))
}

/// Most partitions of a topic: what the embedded log takes.
pub(crate) const PARTITIONS_MAX: u64 = 4_096;
