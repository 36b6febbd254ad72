//! Names of fields, resolved to slots.

use crate::config::error::Report;
use crate::config::ops::Names;
use crate::config::source::Located;
use crate::config::suggest::{nearest, one_of};
use crate::config::{Code, value};
use crate::events::{Schema, Type};

/// The slot of the field that is named.
pub(super) fn find(schema: &Schema, name: &Located<String>, report: &mut Report) -> Option<usize> {
    let slot = schema.slot(&name.value);
    if slot.is_none() {
        let message = format!(
            "`{}` has no field `{}`",
            schema.name,
            value::short(&name.value)
        );
        let problem = report.add(Code::UnknownField, &name.at, message);
        let names = || schema.fields.iter().map(|field| &*field.name);
        match nearest(&name.value, names()) {
            Some(near) => problem.did_you_mean(Some(near)),
            None => problem.help(format!("its fields are {}", one_of(names()))),
        };
    }
    slot
}

/// The slots of fields that make a key.
pub(super) fn key(schema: &Schema, names: &Names, report: &mut Report) -> Option<Vec<usize>> {
    let mut slots = Vec::with_capacity(names.value.len());
    let mut whole = true;
    for name in &names.value {
        let Some(slot) = find(schema, name, report) else {
            whole = false;
            continue;
        };
        let field = &schema.fields[slot];
        if field.ty != Type::Text || !field.required {
            let found = if field.ty == Type::Text {
                "optional".to_owned()
            } else {
                format!("of type {}", field.ty)
            };
            let message = format!(
                "a key is made of required text fields; `{}` is {found}",
                field.name
            );
            report.add(Code::FieldUse, &name.at, message);
            whole = false;
        }
        slots.push(slot);
    }
    whole.then_some(slots)
}

/// Whether events of one type can stand where those of the other are expected.
pub(super) fn same(a: &Schema, b: &Schema) -> bool {
    a.fields == b.fields && a.time == b.time
}

/// What tells two types apart, in prose.
pub(super) fn difference(a: &Schema, b: &Schema) -> String {
    for field in &a.fields {
        match b.slot(&field.name) {
            None => return format!("`{}` has no field `{}`", b.name, field.name),
            Some(slot) if b.fields[slot].ty != field.ty => {
                let other = b.fields[slot].ty;
                return format!(
                    "`{}` is {} in `{}` and {other} in `{}`",
                    field.name, field.ty, a.name, b.name
                );
            }
            Some(slot) if b.fields[slot].required != field.required => {
                return format!(
                    "`{}` is required in one of `{}` and `{}` only",
                    field.name, a.name, b.name
                );
            }
            Some(_) => {}
        }
    }
    if let Some(extra) = b.fields.iter().find(|field| a.slot(&field.name).is_none()) {
        return format!("`{}` has no field `{}`", a.name, extra.name);
    }
    if a.time != b.time && a.fields == b.fields {
        return format!("`{}` and `{}` differ in their event time", a.name, b.name);
    }
    format!(
        "`{}` and `{}` have their fields in another order",
        a.name, b.name
    )
}
