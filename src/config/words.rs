//! The parts of a plan in words, as they are written in a file.

use super::plan::{AggregateFunction, Input, OpPlan, Plan, RouteValue};
use crate::events::{Field, Schema, Type, write_time};

/// The fields in these slots.
pub(crate) fn names(schema: &Schema, slots: &[usize]) -> String {
    let fields = schema.at(slots).into_iter();
    let names: Vec<&str> = fields.map(|field| &*field.name).collect();
    names.join(", ")
}

/// As a shell takes it for one word: as it is, or in quotes.
pub fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-:=".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// The type of a field.
pub(crate) fn field_type(field: &Field) -> String {
    let optional = if field.required { "" } else { "?" };
    format!("{}{optional}", field.ty)
}

/// A type of events with its fields.
pub(crate) fn event(schema: &Schema) -> String {
    let fields: Vec<String> = schema
        .fields
        .iter()
        .map(|field| format!("{} {}", field.name, field_type(field)))
        .collect();
    format!("{} {{ {} }}", schema.name, fields.join(", "))
}

/// An input, as `from` names it.
pub(crate) fn input_name(plan: &Plan, input: &Input) -> String {
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

/// Inputs of a stage or sink, together.
pub(crate) fn inputs(plan: &Plan, inputs: &[Input]) -> String {
    let names: Vec<String> = inputs.iter().map(|input| input_name(plan, input)).collect();
    names.join(" and ")
}

/// The name of an operator.
pub(crate) fn op_name(op: &OpPlan) -> &'static str {
    match op {
        OpPlan::KeyBy { .. } => "key_by",
        OpPlan::Dedupe { .. } => "dedupe",
        OpPlan::TumblingWindow { .. } => "tumbling_window",
        OpPlan::Route { .. } => "route",
        OpPlan::Merge => "merge",
    }
}

/// A value of a route, for a field of this type.
pub(crate) fn route_value(value: &RouteValue, ty: Type) -> String {
    match (value, ty) {
        (RouteValue::Text(text), _) => format!("{text:?}"),
        (RouteValue::Number(number), Type::Bool) => (*number != 0).to_string(),
        (RouteValue::Number(number), Type::Time) => time(*number),
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

/// An instant; the bare number where no calendar reaches.
fn time(micros: i64) -> String {
    let mut text = Vec::new();
    match write_time(micros, &mut text) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => micros.to_string(),
    }
}

/// A function of an aggregate over events of this type.
pub(crate) fn function(schema: &Schema, function: AggregateFunction) -> String {
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
