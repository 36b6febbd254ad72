//! What a plan is made of, in few words: it goes with a pipeline's markers, so that what has changed in
//! a file can be told name by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::plan::{Late, OpPlan, Otherwise, Plan, SinkPlan, SourcePlan, StagePlan, TopicPlan};
use super::value::short;
use super::words::{function, input_name, input_schema, names, route_value};
use super::{show_duration, show_size};
use crate::events::Schema;

// Written to topics: never renumber.
const FORMAT: u8 = 1;

/// Most bytes of an encoding whose parts name their settings; of larger plans only a hash of each part
/// is kept, as they go with every commit.
const BYTES_MAX: usize = 4 << 10;

/// Most parts that are named where a plan differs.
const NAMED_MAX: usize = 12;

/// The setting of what comes out of a part: it follows from others, so it is named only if no other
/// differs.
const GIVES: &str = "gives";

/// What the settings of aggregates begin with.
const AGGREGATE: &str = "aggregate.";

/// What a plan is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parts(Vec<Part>);

/// A named part of a plan: the pipeline as a whole, a source, stage or sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    kind: Kind,
    name: String,
    settings: Settings,
    /// The state that it keeps, by its name in the store.
    state: Option<String>,
}

// Written to topics: new ones at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Kind {
    Pipeline,
    Source,
    Stage,
    Sink,
    DeadLetters,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Settings {
    /// In order, names as in the file.
    Named(Vec<(String, String)>),
    /// Too long to be kept.
    Hashed(u64),
}

/// How a plan differs from the one that wrote the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// What differs, a part each: `stage "minute": size 1m -> 5m`.
    pub parts: Vec<String>,
    /// State that goes on with what it holds.
    pub kept: Vec<String>,
    /// State of which what it holds means something else now: the run refuses to go on with it, unless
    /// it holds nothing.
    pub unfit: Vec<String>,
    /// State that nothing uses any more.
    pub unused: Vec<String>,
    /// State that begins empty.
    pub empty: Vec<String>,
}

impl Parts {
    /// What `plan` is made of, as far as it decides about results.
    pub(crate) fn of(plan: &Plan) -> Self {
        // Its name is that of its changelog: what is compared has the same.
        let whole = Part::new(Kind::Pipeline, "").with("version", plan.version.to_string());
        let mut parts = vec![whole];
        parts.extend(plan.sources.iter().map(|source| of_source(plan, source)));
        parts.extend(plan.stages.iter().map(|stage| of_stage(plan, stage)));
        parts.extend(plan.sinks.iter().map(|sink| of_sink(plan, sink)));
        let dead = topic(plan, &plan.dead_letter);
        parts.push(Part::new(Kind::DeadLetters, "").with("topic", dead));
        Self(parts)
    }

    /// As bytes: a format byte, then the parts in postcard.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Writing plain data to memory cannot fail.
        let encoded = |parts: &[Part]| postcard::to_extend(parts, vec![FORMAT]).unwrap_or_default();
        let whole = encoded(&self.0);
        if whole.len() <= BYTES_MAX {
            return whole;
        }
        let hashed: Vec<Part> = self.0.iter().map(Part::hashed).collect();
        encoded(&hashed)
    }

    /// From bytes; `None` if they are not ours, or of a newer version: what they say is for people
    /// alone, and nothing depends on it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (format, rest) = bytes.split_first()?;
        let parts = (*format == FORMAT).then(|| postcard::from_bytes(rest))?;
        parts.ok().map(Self)
    }

    /// How `now` differs.
    pub(crate) fn changes(&self, now: &Self) -> Changes {
        let by_name = |parts: &Self| -> BTreeMap<(Kind, String), Part> {
            let parts = parts.0.iter();
            parts
                .map(|part| ((part.kind, part.name.clone()), part.clone()))
                .collect()
        };
        let (old, new) = (by_name(self), by_name(now));
        let mut parts = Vec::new();
        let mut follows = Vec::new();
        for (id, part) in &new {
            let Some(before) = old.get(id) else {
                parts.push(format!("{} is new", part.title()));
                continue;
            };
            match before.compare(part) {
                Some(Difference::Of(what)) => parts.push(format!("{}: {what}", part.title())),
                Some(Difference::Follows) => {
                    follows.push(format!("{}: what comes out of it", part.title()));
                }
                None => {}
            }
        }
        for (id, part) in &old {
            if !new.contains_key(id) {
                parts.push(format!("{} is gone", part.title()));
            }
        }
        if parts.is_empty() {
            parts = follows;
        }
        if parts.is_empty() {
            parts.push("something that was not noted down".to_owned());
        }
        if parts.len() > NAMED_MAX {
            let more = parts.len() - NAMED_MAX;
            parts.truncate(NAMED_MAX);
            parts.push(format!("and {more} more"));
        }
        let states = |parts: &Self| -> Vec<String> {
            parts
                .0
                .iter()
                .filter_map(|part| part.state.clone())
                .collect()
        };
        let (old, new) = (states(self), states(now));
        let split = |of: &[String], by: &[String]| -> (Vec<String>, Vec<String>) {
            of.iter().cloned().partition(|name| by.contains(name))
        };
        let (both, unused) = split(&old, &new);
        let unfit = self.unfit(now);
        let (unfit, kept) = both.into_iter().partition(|name| unfit.contains(name));
        let (_, empty) = split(&new, &old);
        Changes {
            parts,
            kept,
            unfit,
            unused,
            empty,
        }
    }
}

impl Parts {
    /// State that both have, by name, of which what is kept means something else now.
    pub(crate) fn unfit(&self, now: &Self) -> Vec<String> {
        let now = now.0.iter();
        let unfit = now.filter_map(|part| {
            let state = part.state.as_ref()?;
            let mut old = self
                .0
                .iter()
                .filter(|old| old.state.as_ref() == Some(state));
            old.any(|old| old.keeps_otherwise(part))
                .then(|| state.clone())
        });
        unfit.collect()
    }
}

/// How a part differs.
enum Difference {
    Of(String),
    /// Only in what follows from other parts.
    Follows,
}

impl Part {
    fn new(kind: Kind, name: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            settings: Settings::Named(Vec::new()),
            state: None,
        }
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        if let Settings::Named(settings) = &mut self.settings {
            settings.push((name.to_owned(), value.into()));
        }
        self
    }

    fn hashed(&self) -> Self {
        let settings = match &self.settings {
            Settings::Named(settings) => {
                let bytes = postcard::to_allocvec(settings).unwrap_or_default();
                Settings::Hashed(xxh3_64(&bytes))
            }
            Settings::Hashed(hash) => Settings::Hashed(*hash),
        };
        Self {
            settings,
            ..self.clone()
        }
    }

    /// Whether what is kept in its state means something else in that of `now`.
    fn keeps_otherwise(&self, now: &Self) -> bool {
        let (Settings::Named(old), Settings::Named(new)) = (&self.settings, &now.settings) else {
            return self.hashed().settings != now.hashed().settings;
        };
        let is_merge = old.iter().any(|(name, op)| name == "op" && op == "merge");
        let decides = |name: &str| match name {
            "op" | "key" | "id" | "size" => true,
            // Whole events are kept.
            GIVES => is_merge,
            name => name.starts_with(AGGREGATE),
        };
        let deciding = |of: &[(String, String)]| -> Vec<(String, String)> {
            of.iter()
                .filter(|(name, _)| decides(name))
                .cloned()
                .collect()
        };
        deciding(old) != deciding(new)
    }

    fn title(&self) -> String {
        match self.kind {
            Kind::Pipeline => "the pipeline".to_owned(),
            Kind::Source => format!("source `{}`", self.name),
            Kind::Stage => format!("stage `{}`", self.name),
            Kind::Sink => format!("sink `{}`", self.name),
            Kind::DeadLetters => "dead letters".to_owned(),
        }
    }

    fn compare(&self, now: &Self) -> Option<Difference> {
        let (Settings::Named(old), Settings::Named(new)) = (&self.settings, &now.settings) else {
            let differs = self.hashed().settings != now.hashed().settings;
            return differs.then(|| Difference::Of("changed".to_owned()));
        };
        let value = |of: &[(String, String)], name: &str| {
            let mut found = of.iter().filter(|(other, _)| other == name);
            found.next().map(|(_, value)| value.clone())
        };
        let mut told = Vec::new();
        let mut follows = false;
        for (name, after) in new {
            match value(old, name) {
                Some(before) if before == *after => {}
                Some(_) if name == GIVES => follows = true,
                Some(before) => {
                    told.push(format!("{name} {} -> {}", short(&before), short(after)));
                }
                None => told.push(format!("{name} {} is new", short(after))),
            }
        }
        for (name, before) in old {
            if value(new, name).is_none() {
                told.push(format!("{name} {} is gone", short(before)));
            }
        }
        match (told.is_empty(), follows) {
            (false, _) => Some(Difference::Of(told.join(", "))),
            (true, true) => Some(Difference::Follows),
            (true, false) => None,
        }
    }
}

fn topic(plan: &Plan, topic: &TopicPlan) -> String {
    format!("{} on {}", topic.topic, plan.brokers[topic.broker].name)
}

/// A setting for each field, and one for the field of event time.
fn with_event(mut part: Part, schema: &Schema) -> Part {
    part = part.with("event", &*schema.name);
    for field in schema.fields.iter() {
        let optional = if field.required { "" } else { "?" };
        part = part.with(
            &format!("field {}", field.name),
            format!("{}{optional}", field.ty),
        );
    }
    match schema.time {
        Some(slot) => part.with("time", &*schema.fields[slot].name),
        None => part,
    }
}

fn of_source(plan: &Plan, source: &SourcePlan) -> Part {
    let mut part = Part::new(Kind::Source, &source.name).with("topic", topic(plan, &source.topic));
    part = with_event(part, &source.schema)
        .with("key", names(&source.schema, &source.key))
        .with("out_of_order", show_duration(source.out_of_order.behind))
        .with("broadcast", source.broadcast.to_string())
        .with("record_max", show_size(source.record_max as u64));
    if let Some(ahead_max) = source.out_of_order.ahead_max {
        part = part.with("ahead_max", show_duration(ahead_max));
    }
    match source.idle {
        Some(idle) => part.with("idle", show_duration(idle)),
        None => part,
    }
}

fn of_sink(plan: &Plan, sink: &SinkPlan) -> Part {
    Part::new(Kind::Sink, &sink.name)
        .with("from", from(plan, &sink.inputs))
        .with("topic", topic(plan, &sink.topic))
        .with("key", names(&sink.schema, &sink.key))
        .with(GIVES, fingerprint(&sink.schema))
}

fn from(plan: &Plan, inputs: &[super::plan::Input]) -> String {
    let names: Vec<String> = inputs.iter().map(|input| input_name(plan, input)).collect();
    names.join(" and ")
}

/// Stands for a schema that follows from others.
fn fingerprint(schema: &Schema) -> String {
    let text = format!("{} {:?}", super::words::event(schema), schema.time);
    format!("{:08x}", xxh3_64(text.as_bytes()) >> 32)
}

fn of_stage(plan: &Plan, stage: &StagePlan) -> Part {
    let mut part = Part::new(Kind::Stage, &stage.name).with("from", from(plan, &stage.inputs));
    let Some(input) = stage.inputs.first() else {
        return part;
    };
    let schema = input_schema(plan, input);
    let with_state = |mut part: Part, index: usize| {
        let state = &plan.states[index];
        part.state = Some(state.name.to_string());
        part = part.with("state", &*state.name);
        match state.ttl {
            Some(ttl) => part.with("ttl", show_duration(ttl)),
            None => part,
        }
    };
    let port_of = |port: usize| format!("port {}", stage.ports[port].0);
    part = match &stage.op {
        OpPlan::KeyBy { key } => part.with("op", "key_by").with("key", names(schema, key)),
        OpPlan::Dedupe {
            id,
            window,
            count_max,
            state,
        } => {
            part = part
                .with("op", "dedupe")
                .with("id", names(schema, id))
                .with("window", show_duration(*window))
                .with("count_max", count_max.to_string());
            with_state(part, *state)
        }
        OpPlan::TumblingWindow {
            key,
            size,
            lateness,
            late,
            aggregates,
            state,
        } => {
            part = part
                .with("op", "tumbling_window")
                .with("key", names(schema, key))
                .with("size", show_duration(*size))
                .with("lateness", show_duration(*lateness))
                .with(
                    "late",
                    match late {
                        Late::DeadLetter => "dead_letter".to_owned(),
                        Late::Port(port) => port_of(*port),
                        Late::Drop { .. } => "drop".to_owned(),
                    },
                );
            let output = &stage.ports[0].1;
            for aggregate in aggregates {
                let name = format!("{AGGREGATE}{}", output.fields[aggregate.output].name);
                part = part.with(&name, function(schema, aggregate.function));
            }
            with_state(part, *state)
        }
        OpPlan::Route {
            field,
            cases,
            otherwise,
        } => {
            part = part
                .with("op", "route")
                .with("field", &*schema.fields[*field].name)
                .with(
                    "otherwise",
                    match otherwise {
                        Otherwise::DeadLetter => "dead_letter".to_owned(),
                        Otherwise::Port(port) => port_of(*port),
                        Otherwise::Drop { .. } => "drop".to_owned(),
                    },
                );
            let ty = schema.fields[*field].ty;
            for (value, port) in cases {
                let name = format!("case {}", route_value(value, ty));
                part = part.with(&name, &*stage.ports[*port].0);
            }
            part
        }
        OpPlan::Merge => {
            part.state = Some(format!("{}.held", stage.name));
            part.with("op", "merge")
        }
    };
    let gives: Vec<String> = stage
        .ports
        .iter()
        .map(|(port, schema)| format!("{port}:{}", fingerprint(schema)))
        .collect();
    part.with(GIVES, gives.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(kind: Kind, name: &str, size: &str) -> Part {
        Part::new(kind, name).with("size", size)
    }

    #[test]
    fn what_is_new_gone_or_set_otherwise_is_told_by_name_with_what_becomes_of_state() {
        let stateful = |name: &str, size: &str| {
            let mut part = part(Kind::Stage, name, size);
            part.state = Some(name.to_owned());
            part
        };
        let was = Parts(vec![stateful("minute", "1m"), stateful("hour", "1h")]);
        let sink = part(Kind::Sink, "bars", "1");
        let now = Parts(vec![stateful("minute", "5m"), stateful("day", "1d"), sink]);
        let changes = was.changes(&now);
        assert_eq!(
            changes.parts,
            [
                "stage `day` is new",
                "stage `minute`: size 1m -> 5m",
                "sink `bars` is new",
                "stage `hour` is gone",
            ]
        );
        assert_eq!(changes.kept, Vec::<String>::new());
        assert_eq!(
            changes.unfit,
            ["minute"],
            "its windows were of another size"
        );
        assert_eq!(changes.unused, ["hour"]);
        assert_eq!(changes.empty, ["day"]);
    }

    #[test]
    fn what_only_follows_is_told_only_where_nothing_else_differs() {
        let of = |size: &str, gives: &str| {
            Parts(vec![
                part(Kind::Source, "ticks", size),
                Part::new(Kind::Stage, "bars").with(GIVES, gives),
            ])
        };
        assert_eq!(
            of("1", "a").changes(&of("2", "b")).parts,
            ["source `ticks`: size 1 -> 2"]
        );
        assert_eq!(
            of("1", "a").changes(&of("1", "b")).parts,
            ["stage `bars`: what comes out of it"]
        );
        assert_eq!(
            of("1", "a").changes(&of("1", "a")).parts,
            ["something that was not noted down"]
        );
    }

    #[test]
    fn a_large_plan_is_kept_as_hashes_and_still_names_the_part_that_differs() {
        let of = |last: &str| {
            let parts =
                (0..200).map(|number| part(Kind::Stage, &format!("s{number}"), &"x".repeat(40)));
            Parts(parts.chain([part(Kind::Stage, "last", last)]).collect())
        };
        let kept = of("1").encode();
        let was = Parts::decode(&kept).unwrap();
        assert!(
            was.0
                .iter()
                .all(|part| matches!(part.settings, Settings::Hashed(_)))
        );
        assert_eq!(was.changes(&of("2")).parts, ["stage `last`: changed"]);
        // Many are counted.
        let changes = was.changes(&Parts(Vec::new()));
        assert_eq!(changes.parts.len(), NAMED_MAX + 1);
        assert_eq!(changes.parts[NAMED_MAX], "and 189 more");
    }

    #[test]
    fn parts_written_by_the_first_version_are_read() {
        let bytes = b"\x01\x01\x02\x01a\x00\x01\x04size\x021m\x01\x01a";
        let mut parts = Parts(vec![part(Kind::Stage, "a", "1m")]);
        parts.0[0].state = Some("a".into());
        assert_eq!(parts.encode(), bytes);
        assert_eq!(Parts::decode(bytes), Some(parts));
        assert_eq!(Parts::decode(b""), None);
        assert_eq!(Parts::decode(b"\x02\x00"), None, "a newer version");
        assert_eq!(Parts::decode(&bytes[..9]), None, "torn");
    }
}
