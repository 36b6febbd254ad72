//! A pipeline, explained to a person.

use super::super::{Console, Failure, counted};
use super::graph::picture;
use crate::config::guarantee::{self, Cause};
use crate::config::parts::does;
use crate::config::plan::{BrokerUrl, FsyncPolicy, OpPlan, Plan, StagePlan, TopicPlan, Unplaced};
use crate::config::words::{event, inputs, names, op_name};
use crate::config::{show_duration, show_size};
use crate::events::Schema;

pub(super) fn pipeline(
    plan: &Plan,
    causes: &[Cause],
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    console.line(format_args!(
        "pipeline {}, version {}: {}",
        plan.name,
        plan.version,
        plan.guarantee.as_str()
    ))?;
    console.line(format_args!(
        "  an epoch closes after {}, {} records or {} of output, whichever comes first",
        show_duration(plan.commit.interval),
        plan.commit.records,
        show_size(plan.commit.bytes as u64),
    ))?;
    console.line(format_args!(
        "  group {}, {}, {} of state in memory for each task, config {:016x}",
        plan.group,
        counted(plan.threads.get() as u64, "thread"),
        show_size(plan.memory as u64),
        plan.config_hash,
    ))?;
    console.line(format_args!(
        "  at home on {}, which keeps its changelog, markers and control records",
        plan.brokers[plan.home()].name,
    ))?;
    console.line("\nflows")?;
    for line in picture(plan) {
        console.line(line)?;
    }
    console.line("\nreads")?;
    for source in &plan.sources {
        console.line(format_args!(
            "  {} from {}, event {}{}",
            source.name,
            place(plan, &source.topic),
            source.schema.name,
            keyed(&source.schema, &source.key),
        ))?;
        let fields = source.schema.fields.iter().enumerate();
        let read: Vec<&str> = fields
            .filter(|(slot, _)| source.needed & (1 << slot) != 0)
            .map(|(_, field)| &*field.name)
            .collect();
        console.line(format_args!(
            "    fields read: {}; of records of at most {}",
            read.join(", "),
            show_size(source.record_max as u64)
        ))?;
        if let Some(ahead_max) = source.out_of_order.ahead_max {
            console.line(format_args!(
                "    dated at most {} ahead of their record",
                show_duration(ahead_max)
            ))?;
        }
    }
    if !plan.stages.is_empty() {
        console.line("\ndoes")?;
    }
    for stage in &plan.stages {
        console.line(format_args!(
            "  {} from {}: {}",
            stage.name,
            inputs(plan, &stage.inputs),
            op_name(&stage.op),
        ))?;
        for line in lines(plan, stage) {
            console.line(format_args!("    {line}"))?;
        }
        for (port, schema) in &stage.ports {
            let name = match &**port {
                "" => "gives",
                port => &format!("port {port} gives"),
            };
            console.line(format_args!("    {name} {}", event(schema)))?;
        }
    }
    console.line("\nwrites")?;
    for sink in &plan.sinks {
        console.line(format_args!(
            "  {} from {} to {}{}",
            sink.name,
            inputs(plan, &sink.inputs),
            place(plan, &sink.topic),
            keyed(&sink.schema, &sink.key),
        ))?;
    }
    console.line(format_args!(
        "  dead letters to {}",
        place(plan, &plan.dead_letter)
    ))?;
    let possible = guarantee::weakest(causes);
    console.line(format_args!(
        "\nguarantees {}{}",
        plan.guarantee.as_str(),
        if possible > plan.guarantee {
            format!(" ({} is possible)", possible.as_str())
        } else {
            String::new()
        }
    ))?;
    let rows: Vec<Vec<String>> = causes
        .iter()
        .map(|cause| {
            vec![
                cause.element.clone(),
                cause.allows.as_str().to_owned(),
                cause.because.clone(),
            ]
        })
        .collect();
    console.table(&["element", "allows", "because"], &rows)?;
    Ok(())
}

fn place(plan: &Plan, topic: &TopicPlan) -> String {
    let broker = &plan.brokers[topic.broker];
    format!(
        "topic {} on {} ({})",
        topic.topic,
        broker.name,
        url(&broker.url)
    )
}

pub(super) fn url(url: &BrokerUrl) -> String {
    match url {
        BrokerUrl::Memory => "mem://".to_owned(),
        BrokerUrl::Stdio => "stdio:".to_owned(),
        BrokerUrl::File { path, fsync, split } => {
            let fsync = match fsync {
                FsyncPolicy::Commit => "commit".to_owned(),
                FsyncPolicy::Every(every) => show_duration(*every),
                FsyncPolicy::Never => "never".to_owned(),
            };
            let split = match *split {
                BrokerUrl::SPLIT_DEFAULT => String::new(),
                bytes => format!("&split={}", show_size(bytes)),
            };
            format!("file://{}?fsync={fsync}{split}", path.display())
        }
    }
}

fn keyed(schema: &Schema, key: &[usize]) -> String {
    if key.is_empty() {
        String::new()
    } else {
        format!(", key {}", names(schema, key))
    }
}

/// What a stage does beside what it reads and gives, line by line.
fn lines(plan: &Plan, stage: &StagePlan) -> Vec<String> {
    let [settings, aggregates] = does(plan, stage);
    let joined = |pairs: &[(String, String)], between: &str| {
        let each = pairs
            .iter()
            .map(|(name, value)| format!("{name}{between}{value}"));
        each.collect::<Vec<_>>().join(", ")
    };
    let mut lines = vec![joined(&settings, " "), joined(&aggregates, " = ")];
    lines.retain(|line| !line.is_empty());
    let (OpPlan::TumblingWindow { late: leftover, .. }
    | OpPlan::Route {
        otherwise: leftover,
        ..
    }) = &stage.op
    else {
        return lines;
    };
    if let Unplaced::Drop { reason } = leftover {
        // Decides no result, so it is no setting of those that are compared.
        lines.push(format!("drops because: {reason}"));
    }
    lines
}

/// What a stage does, in one line.
pub(super) fn operator(plan: &Plan, stage: &StagePlan) -> String {
    let mut words = vec![op_name(&stage.op).to_owned()];
    words.extend(lines(plan, stage));
    words.join("; ")
}
