//! One number for everything that decides results.
//!
//! The canonical form is text, written here field by field: it must not change when a type gains a
//! field that decides nothing, and must not depend on the order of the file. Resources (threads,
//! memory, directories, commit intervals), what only a first start looks at and what is to be done
//! about a gap, which is decided when there is one, are left out.

use std::fmt::Write as _;

use xxhash_rust::xxh3::xxh3_64;

use crate::config::plan::{Input, OpPlan, Plan, TopicPlan, Unplaced};
use crate::events::{Limits, Schema};

/// The hash of a plan.
pub(super) fn hash(plan: &Plan) -> u64 {
    xxh3_64(canonical(plan).as_bytes())
}

fn canonical(plan: &Plan) -> String {
    let mut out = format!("tidemill 1 {:?} {}\n", plan.name.as_str(), plan.version);
    for source in &plan.sources {
        line(
            &mut out,
            format_args!(
                "source {:?} {} {} key {:?} disorder {} idle {:?} broadcast {}",
                source.name,
                topic(plan, &source.topic),
                schema(&source.schema),
                source.key,
                source.out_of_order.behind.as_micros(),
                source.idle.map(|idle| idle.as_micros()),
                source.broadcast,
            ),
        );
        // Only where it was set: the numbers of older files stay what they are.
        if source.record_max != Limits::default().record {
            line(
                &mut out,
                format_args!("record-max {:?} {}", source.name, source.record_max),
            );
        }
    }
    for source in &plan.sources {
        if let Some(ahead_max) = source.out_of_order.ahead_max {
            let micros = ahead_max.as_micros();
            line(
                &mut out,
                format_args!("ahead-max {:?} {micros}", source.name),
            );
        }
    }
    for stage in &plan.stages {
        let ports: Vec<String> = stage
            .ports
            .iter()
            .map(|(name, port)| format!("{name:?} {}", schema(port)))
            .collect();
        line(
            &mut out,
            format_args!(
                "stage {:?} from {} op {} ports {}",
                stage.name,
                inputs(plan, &stage.inputs),
                op(plan, &stage.op),
                ports.join(",")
            ),
        );
    }
    for sink in &plan.sinks {
        line(
            &mut out,
            format_args!(
                "sink {:?} from {} {} {} key {:?}",
                sink.name,
                inputs(plan, &sink.inputs),
                topic(plan, &sink.topic),
                schema(&sink.schema),
                sink.key
            ),
        );
    }
    for state in &plan.states {
        let ttl = state.ttl.map(|ttl| ttl.as_micros());
        line(&mut out, format_args!("state {:?} ttl {ttl:?}", state.name));
    }
    line(
        &mut out,
        format_args!("dead-letter {}", topic(plan, &plan.dead_letter)),
    );
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}

fn topic(plan: &Plan, topic: &TopicPlan) -> String {
    format!("{:?}/{}", plan.brokers[topic.broker].name, topic.topic)
}

fn schema(schema: &Schema) -> String {
    let fields: Vec<String> = schema
        .fields
        .iter()
        .map(|field| {
            let optional = if field.required { "" } else { "?" };
            format!("{:?}:{}{optional}", field.name, field.ty)
        })
        .collect();
    format!("{:?}({})@{:?}", schema.name, fields.join(","), schema.time)
}

fn inputs(plan: &Plan, inputs: &[Input]) -> String {
    let shown = inputs.iter().map(|input| match input {
        Input::Source(source) => format!("{:?}", plan.sources[*source].name),
        Input::Stage { stage, port } => {
            let stage = &plan.stages[*stage];
            format!("{:?}.{:?}", stage.name, stage.ports[*port].0)
        }
    });
    shown.collect::<Vec<_>>().join("+")
}

fn op(plan: &Plan, op: &OpPlan) -> String {
    match op {
        OpPlan::KeyBy { key } => format!("key_by {key:?}"),
        OpPlan::Dedupe {
            id,
            window,
            count_max,
            state,
        } => format!(
            "dedupe {id:?} {} {count_max} {:?}",
            window.as_micros(),
            plan.states[*state].name
        ),
        OpPlan::TumblingWindow {
            key,
            size,
            lateness,
            late,
            aggregates,
            state,
        } => {
            let late = unplaced(late);
            // Function names and slots: part of the format of this hash, changed only with it.
            let aggregates: Vec<String> = aggregates
                .iter()
                .map(|aggregate| format!("{}={:?}", aggregate.output, aggregate.function))
                .collect();
            format!(
                "tumbling_window {key:?} {} {} {late} {} {:?}",
                size.as_micros(),
                lateness.as_micros(),
                aggregates.join(","),
                plan.states[*state].name
            )
        }
        OpPlan::Route {
            field,
            cases,
            otherwise,
        } => {
            let otherwise = unplaced(otherwise);
            format!("route {field} {cases:?} {otherwise}")
        }
        OpPlan::Merge => "merge".to_owned(),
    }
}

fn unplaced(unplaced: &Unplaced) -> String {
    match unplaced {
        Unplaced::DeadLetter => "dead_letter".to_owned(),
        Unplaced::Port(port) => format!("port {port}"),
        Unplaced::Drop { .. } => "drop".to_owned(),
    }
}
