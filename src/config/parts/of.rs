//! From a plan to its parts: what decides about results, in the words of the file.

use xxhash_rust::xxh3::xxh3_64;

use super::{AGGREGATE, FROM, GIVES, HOLDS, Kind, OP, Part, Parts, Settings, TOPIC, holds};
use crate::config::plan::{OpPlan, Plan, SinkPlan, SourcePlan, StagePlan, TopicPlan, Unplaced};
use crate::config::words::{event, field_type, function, inputs, names, op_name, route_value};
use crate::config::{show_duration, show_size};
use crate::events::Schema;

/// What a stage does: its settings as named in the file, beside what it reads and gives, and those of
/// its aggregates.
pub(crate) fn does(plan: &Plan, stage: &StagePlan) -> [Vec<(String, String)>; 2] {
    let settings = match of_stage(plan, stage).settings {
        Settings::Named(settings) => settings,
        Settings::Hashed(_) => Vec::new(),
    };
    let aside = [FROM, OP, GIVES, HOLDS];
    let does = settings
        .into_iter()
        .filter(|(name, _)| !aside.contains(&name.as_str()));
    let (aggregates, does): (Vec<_>, Vec<_>) =
        does.partition(|(name, _)| name.starts_with(AGGREGATE));
    let named = |(name, value): (String, String)| (name[AGGREGATE.len()..].to_owned(), value);
    [does, aggregates.into_iter().map(named).collect()]
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
        parts.push(of_dead_letters(plan));
        Self(parts)
    }
}

fn topic(plan: &Plan, topic: &TopicPlan) -> String {
    format!("{} on {}", topic.topic, plan.brokers[topic.broker].name)
}

/// A setting for each field, and one for the field of event time.
fn with_event(mut part: Part, schema: &Schema) -> Part {
    part = part.with("event", &*schema.name);
    for field in schema.fields.iter() {
        part = part.with(&format!("field {}", field.name), field_type(field));
    }
    match schema.time {
        Some(slot) => part.with("time", &*schema.fields[slot].name),
        None => part,
    }
}

fn of_source(plan: &Plan, source: &SourcePlan) -> Part {
    let mut part = Part::new(Kind::Source, &source.name).with(TOPIC, topic(plan, &source.topic));
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

pub(super) fn of_sink(plan: &Plan, sink: &SinkPlan) -> Part {
    Part::new(Kind::Sink, &sink.name)
        .with(FROM, inputs(plan, &sink.inputs))
        .with(TOPIC, topic(plan, &sink.topic))
        .with("key", names(&sink.schema, &sink.key))
        .with(GIVES, fingerprint(&sink.schema))
}

pub(super) fn of_dead_letters(plan: &Plan) -> Part {
    Part::new(Kind::DeadLetters, "").with(TOPIC, topic(plan, &plan.dead_letter))
}

/// Stands for a schema that follows from others.
fn fingerprint(schema: &Schema) -> String {
    let text = format!("{} {:?}", event(schema), schema.time);
    format!("{:08x}", xxh3_64(text.as_bytes()) >> 32)
}

fn of_stage(plan: &Plan, stage: &StagePlan) -> Part {
    let mut part = Part::new(Kind::Stage, &stage.name).with(FROM, inputs(plan, &stage.inputs));
    let Some(input) = stage.inputs.first() else {
        return part;
    };
    let schema = plan.schema_of(*input);
    let with_state = |mut part: Part, index: usize| {
        let state = &plan.states[index];
        part.state = Some(state.name.to_string());
        part = part.with("state", &*state.name);
        match state.ttl {
            Some(ttl) => part.with("ttl", show_duration(ttl)),
            None => part,
        }
    };
    let unplaced = |unplaced: &Unplaced| match unplaced {
        Unplaced::DeadLetter => "dead_letter".to_owned(),
        Unplaced::Port(port) => format!("port {}", stage.ports[*port].0),
        Unplaced::Drop { .. } => "drop".to_owned(),
    };
    part = part.with(OP, op_name(&stage.op));
    part = match &stage.op {
        OpPlan::KeyBy { key } => part.with("key", names(schema, key)),
        OpPlan::Dedupe {
            id,
            window,
            count_max,
            state,
        } => {
            part = part
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
                .with("key", names(schema, key))
                .with("size", show_duration(*size))
                .with("lateness", show_duration(*lateness))
                .with("late", unplaced(late));
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
                .with("field", &*schema.fields[*field].name)
                .with("otherwise", unplaced(otherwise));
            let ty = schema.fields[*field].ty;
            for (value, port) in cases {
                let name = format!("case {}", route_value(value, ty));
                part = part.with(&name, &*stage.ports[*port].0);
            }
            part
        }
        OpPlan::Merge => {
            part.state = Some(format!("{}.held", stage.name));
            part
        }
    };
    let gives: Vec<String> = stage
        .ports
        .iter()
        .map(|(port, schema)| format!("{port}:{}", fingerprint(schema)))
        .collect();
    part = part.with(GIVES, gives.join(","));
    match holds::fingerprint(plan, stage) {
        Some(holds) => part.with(HOLDS, holds),
        None => part,
    }
}
