//! `route`: values and the ports they go to.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fields;
use super::stages::{Context, Stream, leftover};
use crate::config::error::Report;
use crate::config::file::instant;
use crate::config::ops::Op;
use crate::config::plan::{OpPlan, RouteValue};
use crate::config::reader::{parse_integer, wrong_type};
use crate::config::source::At;
use crate::config::tree::{Node, Value};
use crate::config::{Code, value};
use crate::events::{Field, Type};

pub(super) fn check(
    op: &Op,
    context: &Context<'_>,
    report: &mut Report,
) -> (Option<OpPlan>, Vec<(Arc<str>, Stream)>) {
    let Op::Route {
        field,
        cases,
        otherwise,
    } = op
    else {
        return (None, Vec::new());
    };
    let slot = field
        .as_ref()
        .zip(context.input.schema.as_ref())
        .and_then(|(field, schema)| Some((fields::find(schema, field, report)?, schema)));
    let mut ports: Vec<(Arc<str>, Stream)> = Vec::new();
    let mut values = Vec::new();
    let mut seen: BTreeMap<String, At> = BTreeMap::new();
    let mut whole = cases.is_some();
    for case in cases.iter().flatten() {
        ports.push((case.port.value.as_str().into(), context.input.clone()));
        let Some((slot, schema)) = slot else {
            continue;
        };
        for node in &case.values {
            let Some(value) = read(&schema.fields[slot], node, report) else {
                whole = false;
                continue;
            };
            let shown = format!("{value:?}");
            if let Some(first) = seen.get(&shown) {
                report
                    .add(
                        Code::RepeatedCase,
                        &node.at,
                        "this value already goes to a port",
                    )
                    .related(first, "first named here");
                continue;
            }
            seen.insert(shown, node.at.clone());
            values.push((value, ports.len() - 1));
        }
    }
    let otherwise = leftover(otherwise, context.input, &mut ports);
    let plan = slot.filter(|_| whole).map(|(field, _)| OpPlan::Route {
        field,
        cases: values,
        otherwise,
    });
    (plan, ports)
}

/// A value in the field's type and scale.
fn read(field: &Field, node: &Node, report: &mut Report) -> Option<RouteValue> {
    let mut refuse = |message: String| {
        report.add(Code::FieldUse, &node.at, message);
        None
    };
    let number = match (field.ty, &node.value) {
        (Type::Text, Value::Text(text)) => {
            return Some(RouteValue::Text(text.value.as_str().into()));
        }
        (Type::Bool, Value::Boolean(value)) => i64::from(*value),
        (Type::Int, Value::Integer(digits)) => {
            match parse_integer(digits).and_then(|number| i64::try_from(number).ok()) {
                Some(number) => number,
                None => return refuse(format!("`{}` is too large", value::short(digits))),
            }
        }
        (Type::Decimal(scale), Value::Integer(digits) | Value::Float(digits)) => {
            match value::decimal(digits, scale) {
                Ok(number) => number,
                Err(message) => return refuse(message),
            }
        }
        (Type::Decimal(scale), Value::Text(text)) => match value::decimal(&text.value, scale) {
            Ok(number) => number,
            Err(message) => return refuse(message),
        },
        (Type::Time, Value::Text(text)) if instant(&text.value).is_some() => {
            instant(&text.value).unwrap_or_default()
        }
        (Type::Time, Value::Datetime(text)) if instant(text).is_some() => {
            instant(text).unwrap_or_default()
        }
        (ty @ (Type::Time | Type::Text | Type::Bool | Type::Int | Type::Decimal(_)), value) => {
            if matches!(value, Value::Array(_) | Value::Table(_)) {
                wrong_type(&node.at, "a value to compare with", value, report);
                return None;
            }
            let message = format!(
                "`{}` is of type {ty}; it cannot be compared with {}",
                field.name,
                value.kind()
            );
            return refuse(message);
        }
    };
    Some(RouteValue::Number(number))
}
