//! `tidemill explain`: what a pipeline does and promises, what a code means, or what may stand in a
//! file.

mod keys;

use std::path::PathBuf;

use serde_json::json;

use super::load::{load, tell};
use super::{Console, Exit, Failure, World};
use crate::config::guarantee::{self, Cause};
use crate::config::plan::{
    AggregateFunction, BrokerUrl, FsyncPolicy, Input, Late, OpPlan, Otherwise, Plan, RouteValue,
    StagePlan, TopicPlan,
};
use crate::config::reference::Section;
use crate::config::{Code, show_duration, show_size};
use crate::events::{Schema, Type};

/// Explain a pipeline, the code of a problem, or what may stand in a file
///
/// For a pipeline: what is read, what becomes of it, what is written, and what is guaranteed, with
/// one line of cause for each element. Connects to nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidemill explain pipelines/bars.toml
  tidemill explain E0147
  tidemill explain sections                     all that may stand in a file
  tidemill explain dedupe                       what may stand in one section, or with one operator")]
pub(super) struct ExplainArgs {
    /// The files of one pipeline, one code such as E0147, or a section such as `topics`
    #[arg(required = true, value_name = "FILE|CODE|SECTION")]
    what: Vec<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(
    args: &ExplainArgs,
    console: &mut Console<'_>,
    world: &World<'_>,
) -> Result<Exit, Failure> {
    if let [one] = args.what.as_slice()
        && let Some(name) = one.to_str().filter(|name| looks_like_code(name))
    {
        let code = Code::find(name).ok_or_else(|| {
            Failure::usage(format!("there is no code `{name}`"))
                .help("codes are printed with each problem, such as `E0147`")
        })?;
        return code_explained(code, args.json, console);
    }
    if let [one] = args.what.as_slice()
        && let Some(name) = one.to_str()
        && !one.exists()
    {
        if name == "sections" {
            return keys::all_explained(args.json, console);
        }
        if let Some(section) = Section::find(name) {
            return keys::explained(section, args.json, console);
        }
        if !name.contains(['.', '/'])
            && let Some(near) = Section::nearest(name)
        {
            let message = format!("there is no file and no section `{name}`");
            return Err(Failure::usage(message).help(format!("did you mean `{near}`?")));
        }
    }
    let pipeline = load(&args.what, world)?;
    let causes = guarantee::causes(&pipeline.plan);
    if args.json {
        console.json(&as_json(&pipeline.plan, &causes))?;
    } else {
        pipeline_explained(&pipeline.plan, &causes, console)?;
        if !pipeline.warnings.is_empty() {
            console.line("\nwarnings\n")?;
            tell(&pipeline.warnings, world.colour, console.output)?;
        }
    }
    Ok(Exit::Ok)
}

fn looks_like_code(name: &str) -> bool {
    let digits = name.strip_prefix(['E', 'W', 'e', 'w']);
    digits
        .is_some_and(|digits| digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn code_explained(code: Code, json: bool, console: &mut Console<'_>) -> Result<Exit, Failure> {
    if json {
        console.json(&json!({
            "code": code.as_str(),
            "severity": code.severity().as_str(),
            "title": code.title(),
            "explanation": code.explanation(),
        }))?;
    } else {
        console.line(format_args!("{}: {}\n", code.as_str(), code.title()))?;
        console.line(wrapped(code.explanation()))?;
    }
    Ok(Exit::Ok)
}

/// Broken into lines of at most 80 characters.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= 80 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

fn pipeline_explained(
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
        "  group {}, {} thread(s), {} of state in memory for each task, config {:016x}",
        plan.group,
        plan.threads,
        show_size(plan.memory as u64),
        plan.config_hash,
    ))?;
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
    }
    if !plan.stages.is_empty() {
        console.line("\ndoes")?;
    }
    for stage in &plan.stages {
        console.line(format_args!(
            "  {} from {}: {}",
            stage.name,
            inputs(plan, &stage.inputs),
            operator(plan, stage),
        ))?;
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

fn url(url: &BrokerUrl) -> String {
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

fn names(schema: &Schema, slots: &[usize]) -> String {
    let names = slots.iter().map(|slot| &*schema.fields[*slot].name);
    names.collect::<Vec<_>>().join(", ")
}

fn keyed(schema: &Schema, key: &[usize]) -> String {
    if key.is_empty() {
        String::new()
    } else {
        format!(", key {}", names(schema, key))
    }
}

fn event(schema: &Schema) -> String {
    let fields: Vec<String> = schema
        .fields
        .iter()
        .map(|field| {
            let optional = if field.required { "" } else { "?" };
            format!("{} {}{optional}", field.name, field.ty)
        })
        .collect();
    format!("{} {{ {} }}", schema.name, fields.join(", "))
}

fn input_schema<'p>(plan: &'p Plan, input: &Input) -> &'p Schema {
    match input {
        Input::Source(source) => &plan.sources[*source].schema,
        Input::Stage { stage, port } => &plan.stages[*stage].ports[*port].1,
    }
}

fn inputs(plan: &Plan, inputs: &[Input]) -> String {
    let names: Vec<String> = inputs.iter().map(|input| input_name(plan, input)).collect();
    names.join(" and ")
}

fn input_name(plan: &Plan, input: &Input) -> String {
    match input {
        Input::Source(source) => plan.sources[*source].name.to_string(),
        Input::Stage { stage, port } => {
            let stage = &plan.stages[*stage];
            match &*stage.ports[*port].0 {
                "" => stage.name.to_string(),
                port => format!("{}.{port}", stage.name),
            }
        }
    }
}

fn operator(plan: &Plan, stage: &StagePlan) -> String {
    let Some(input) = stage.inputs.first() else {
        return "nothing".to_owned();
    };
    let schema = input_schema(plan, input);
    match &stage.op {
        OpPlan::KeyBy { key } => format!("key_by {}", names(schema, key)),
        OpPlan::Dedupe {
            id,
            window,
            count_max,
            state,
        } => {
            let state = &plan.states[*state];
            let ttl = match state.ttl {
                Some(ttl) if ttl < *window => format!(" (time to live {})", show_duration(ttl)),
                _ => String::new(),
            };
            format!(
                "dedupe by {} within {}, at most {count_max} ids for each key, state {}{ttl}",
                names(schema, id),
                show_duration(*window),
                state.name,
            )
        }
        OpPlan::TumblingWindow {
            key,
            size,
            lateness,
            late,
            aggregates,
            state,
        } => {
            let output = &stage.ports[0].1;
            let aggregates: Vec<String> = aggregates
                .iter()
                .map(|aggregate| {
                    let name = &output.fields[aggregate.output].name;
                    format!("{name} = {}", function(schema, aggregate.function))
                })
                .collect();
            let late = match late {
                Late::DeadLetter => "to the dead letters".to_owned(),
                Late::Port(port) => format!("to the port {}", stage.ports[*port].0),
                Late::Drop { reason } => format!("dropped: {reason}"),
            };
            format!(
                "tumbling_window of {} by {}, lateness {}, later events {late}, state {}\n    {}",
                show_duration(*size),
                names(schema, key),
                show_duration(*lateness),
                plan.states[*state].name,
                aggregates.join(", "),
            )
        }
        OpPlan::Route {
            field,
            cases,
            otherwise,
        } => {
            let ty = schema.fields[*field].ty;
            let cases: Vec<String> = cases
                .iter()
                .map(|(value, port)| {
                    format!("{} to {}", route_value(value, ty), stage.ports[*port].0)
                })
                .collect();
            let otherwise = match otherwise {
                Otherwise::DeadLetter => "to the dead letters".to_owned(),
                Otherwise::Port(port) => format!("to {}", stage.ports[*port].0),
                Otherwise::Drop { reason } => format!("dropped: {reason}"),
            };
            format!(
                "route by {}: {}, the rest {otherwise}",
                schema.fields[*field].name,
                cases.join(", ")
            )
        }
        OpPlan::Merge => "merge in order of event time".to_owned(),
    }
}

fn route_value(value: &RouteValue, ty: Type) -> String {
    match (value, ty) {
        (RouteValue::Text(text), _) => format!("{text:?}"),
        (RouteValue::Number(number), Type::Bool) => (*number != 0).to_string(),
        (RouteValue::Number(number), Type::Time) => super::time::show(*number),
        (RouteValue::Number(number), Type::Decimal(scale)) if scale > 0 => {
            let digits = format!(
                "{:0>width$}",
                number.unsigned_abs(),
                width = usize::from(scale) + 1
            );
            let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
            let sign = if *number < 0 { "-" } else { "" };
            format!("{sign}{whole}.{fraction}")
        }
        (RouteValue::Number(number), _) => number.to_string(),
    }
}

fn function(schema: &Schema, function: AggregateFunction) -> String {
    let name = |slot: usize| &schema.fields[slot].name;
    match function {
        AggregateFunction::Count => "count()".to_owned(),
        AggregateFunction::Sum(slot) => format!("sum({})", name(slot)),
        AggregateFunction::Min(slot) => format!("min({})", name(slot)),
        AggregateFunction::Max(slot) => format!("max({})", name(slot)),
        AggregateFunction::First(slot) => format!("first({})", name(slot)),
        AggregateFunction::Last(slot) => format!("last({})", name(slot)),
        AggregateFunction::Vwap { price, quantity } => {
            format!("vwap({}, {})", name(price), name(quantity))
        }
    }
}

fn as_json(plan: &Plan, causes: &[Cause]) -> serde_json::Value {
    let topic = |topic: &TopicPlan| {
        let broker = &plan.brokers[topic.broker];
        json!({ "broker": &*broker.name, "url": url(&broker.url), "topic": topic.topic.as_str() })
    };
    let schema = |schema: &Schema| {
        let fields: Vec<_> = schema
            .fields
            .iter()
            .map(|field| {
                json!({
                    "name": &*field.name,
                    "type": field.ty.to_string(),
                    "required": field.required,
                })
            })
            .collect();
        json!({ "name": &*schema.name, "fields": fields })
    };
    let from = |inputs: &[Input]| -> Vec<String> {
        inputs.iter().map(|input| input_name(plan, input)).collect()
    };
    json!({
        "name": plan.name.as_str(),
        "version": plan.version,
        "configHash": format!("{:016x}", plan.config_hash),
        "guarantee": plan.guarantee.as_str(),
        "group": plan.group.as_str(),
        "sources": plan.sources.iter().map(|source| json!({
            "name": &*source.name,
            "topic": topic(&source.topic),
            "event": schema(&source.schema),
            "key": source.key.iter().map(|slot| &*source.schema.fields[*slot].name).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "stages": plan.stages.iter().map(|stage| json!({
            "name": &*stage.name,
            "from": from(&stage.inputs),
            "does": operator(plan, stage),
            "ports": stage.ports.iter().map(|(name, port)| json!({
                "name": &**name,
                "event": schema(port),
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "sinks": plan.sinks.iter().map(|sink| json!({
            "name": &*sink.name,
            "from": from(&sink.inputs),
            "topic": topic(&sink.topic),
        })).collect::<Vec<_>>(),
        "deadLetter": topic(&plan.dead_letter),
        "causes": causes.iter().map(|cause| json!({
            "element": cause.element,
            "allows": cause.allows.as_str(),
            "because": cause.because,
        })).collect::<Vec<_>>(),
    })
}
