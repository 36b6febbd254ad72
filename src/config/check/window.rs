//! `tumbling_window`: key, aggregates, and the type of what comes out.

use std::sync::Arc;

use super::fields;
use super::keys;
use super::stages::{Context, Stream, leftover, main_port};
use super::topics::Topics;
use crate::config::aggregate::Call;
use crate::config::error::Report;
use crate::config::ops::{Aggregates, WindowOptions};
use crate::config::plan::{Aggregate, AggregateFunction, OpPlan, window_fields};
use crate::config::source::{At, Located};
use crate::config::suggest::{nearest, one_of};
use crate::config::{Code, value};
use crate::events::{FIELDS_MAX, Schema, Type};

/// The functions there are.
const FUNCTIONS: [&str; 7] = ["count", "sum", "min", "max", "first", "last", "vwap"];

pub(super) fn check(
    options: &WindowOptions,
    state: Option<usize>,
    topics: &Topics,
    context: &Context<'_>,
    report: &mut Report,
) -> (Option<OpPlan>, Vec<(Arc<str>, Stream)>) {
    let WindowOptions {
        key,
        size,
        lateness,
        late,
        aggregates,
        event,
        ..
    } = options;
    let timed = context.need_event_time("a window", report);
    let input = context.input;
    let key = input.schema.as_ref().and_then(|schema| {
        let given = match key {
            Some(names) => Some(keys::names(schema, &fields::key(schema, names, report)?)),
            None => None,
        };
        keys::check(topics, context, given, report)
    });
    let slots: Option<Vec<usize>> = input
        .schema
        .as_ref()
        .zip(key.as_ref())
        .and_then(|(schema, key)| key.iter().map(|name| schema.slot(name)).collect());
    // Before the events are known: what is wrong with a call alone is told in any case.
    let calls = aggregates
        .as_ref()
        .and_then(|aggregates| calls(aggregates, report));
    let name = event.as_ref().map_or(context.name, |event| &event.value);
    let output = input
        .schema
        .as_ref()
        .zip(slots.as_ref())
        .zip(calls)
        .and_then(|((schema, slots), calls)| {
            output(name, schema, slots, &calls, context.at, report)
        });
    let (schema, functions) = match output {
        Some((schema, functions)) => (Some(Arc::new(schema)), Some(functions)),
        None => (None, None),
    };
    let mut ports = main_port(Stream {
        schema,
        key_broken: key.is_none(),
        key,
        topics: input.topics.clone(),
    });
    let late = leftover(late, input, &mut ports);
    let plan = (|| {
        Some(OpPlan::TumblingWindow {
            key: slots?,
            size: (*size)?,
            lateness: *lateness,
            late,
            aggregates: functions.filter(|_| timed)?,
            state: state?,
        })
    })();
    (plan, ports)
}

fn output(
    name: &str,
    input: &Schema,
    key: &[usize],
    calls: &[NamedCall],
    at: &At,
    report: &mut Report,
) -> Option<(Schema, Vec<Aggregate>)> {
    let mut fields = window_fields(input, key);
    let time = Some(fields.len() - 1);
    let mut whole = true;
    let mut functions = Vec::new();
    for (name, call) in calls {
        let called = call.as_ref();
        let Some(function) = called.and_then(|call| function(call, input, report)) else {
            whole = false;
            continue;
        };
        if fields.iter().any(|field| *field.name == *name.value) {
            let message = format!(
                "the output already has a field `{}`",
                value::short(&name.value)
            );
            report.add(Code::Fields, &name.at, message);
            whole = false;
            continue;
        }
        functions.push(Aggregate {
            output: fields.len(),
            function,
        });
        fields.push(function.field(&name.value, input));
    }
    if fields.len() > FIELDS_MAX {
        let message = format!(
            "the output has {} fields; the limit is {FIELDS_MAX}",
            fields.len()
        );
        report.add(Code::Fields, at, message);
        whole = false;
    }
    let schema = Schema {
        name: name.into(),
        fields,
        time,
    };
    whole.then_some((schema, functions))
}

/// A field of the output and the call that gives it, unless that is broken, which has been told.
type NamedCall = (Located<String>, Option<Call>);

/// The calls that are written, each with a function that there is and as many fields as it takes.
pub(super) fn calls(aggregates: &Aggregates, report: &mut Report) -> Option<Vec<NamedCall>> {
    let calls = match aggregates {
        Aggregates::Shorthand(call) => return expand(call, report),
        Aggregates::Table(calls) => calls.iter(),
    };
    let known = calls.map(|(name, call)| {
        let call = call.clone().filter(|call| is_known(call, report));
        (name.clone(), call)
    });
    Some(known.collect())
}

/// `ohlcv(price, quantity)` as the aggregates it stands for.
fn expand(call: &Call, report: &mut Report) -> Option<Vec<NamedCall>> {
    if call.function.value != "ohlcv" {
        report
            .add(
                Code::BadAggregate,
                &call.function.at,
                format!("`{}` cannot stand alone", value::short(&call.function.value)),
            )
            .help("write `aggregate = { FIELD = \"...\" }`, or `aggregate = \"ohlcv(PRICE, QUANTITY)\"`");
        return None;
    }
    let [price, quantity] = call.arguments.as_slice() else {
        wrong_arguments(call, "a price and a quantity", report);
        return None;
    };
    let parts = [
        ("open", "first", price),
        ("high", "max", price),
        ("low", "min", price),
        ("close", "last", price),
        ("volume", "sum", quantity),
    ];
    let calls = parts.map(|(name, function, argument)| {
        let call = Call {
            at: call.at.clone(),
            function: Located::new(function.to_owned(), call.function.at.clone()),
            arguments: vec![argument.clone()],
        };
        (Located::new(name.to_owned(), call.at.clone()), Some(call))
    });
    Some(calls.into())
}

fn wrong_arguments(call: &Call, expected: &str, report: &mut Report) {
    let message = format!("`{}` takes {expected}", call.function.value);
    report.add(Code::BadAggregate, &call.function.at, message);
}

/// Whether there is such a function, and it takes so many fields.
fn is_known(call: &Call, report: &mut Report) -> bool {
    let name = call.function.value.as_str();
    if !FUNCTIONS.contains(&name) {
        let shown = value::short(name);
        let problem = report.add(
            Code::BadAggregate,
            &call.function.at,
            format!("unknown function `{shown}`"),
        );
        match nearest(name, FUNCTIONS) {
            Some(near) => problem.did_you_mean(Some(near)),
            None => problem.help(format!("functions are {}", one_of(FUNCTIONS))),
        };
        return false;
    }
    let (count, expected) = match name {
        "count" => (0, "no field"),
        "vwap" => (2, "a price and a quantity"),
        _ => (1, "one field"),
    };
    if call.arguments.len() != count {
        wrong_arguments(call, expected, report);
        return false;
    }
    true
}

/// The function that is called, which [`is_known`].
fn function(call: &Call, input: &Schema, report: &mut Report) -> Option<AggregateFunction> {
    match (call.function.value.as_str(), call.arguments.as_slice()) {
        ("vwap", [price, quantity]) => {
            let price = numeric(input, price, "an average", report);
            let quantity = numeric(input, quantity, "an average", report);
            Some(AggregateFunction::Vwap {
                price: price?,
                quantity: quantity?,
            })
        }
        ("sum", [argument]) => {
            numeric(input, argument, "a sum", report).map(AggregateFunction::Sum)
        }
        (name, [argument]) => {
            let slot = comparable(input, argument, name, report)?;
            Some(match name {
                "min" => AggregateFunction::Min(slot),
                "max" => AggregateFunction::Max(slot),
                "first" => AggregateFunction::First(slot),
                _ => AggregateFunction::Last(slot),
            })
        }
        (_, _) => Some(AggregateFunction::Count),
    }
}

fn numeric(
    input: &Schema,
    argument: &Located<String>,
    what: &str,
    report: &mut Report,
) -> Option<usize> {
    let slot = fields::find(input, argument, report)?;
    let field = &input.fields[slot];
    if !field.ty.is_number() {
        let message = format!(
            "{what} needs a number; `{}` is of type {}",
            field.name, field.ty
        );
        report.add(Code::FieldUse, &argument.at, message);
        return None;
    }
    Some(slot)
}

// Text is a range of a batch's slab and does not outlive it; windows keep numbers only.
fn comparable(
    input: &Schema,
    argument: &Located<String>,
    function: &str,
    report: &mut Report,
) -> Option<usize> {
    let slot = fields::find(input, argument, report)?;
    let field = &input.fields[slot];
    if field.ty == Type::Text {
        let message = format!(
            "`{function}` takes a number, a truth or a time; `{}` is of type text",
            field.name
        );
        report.add(Code::FieldUse, &argument.at, message);
        return None;
    }
    Some(slot)
}
