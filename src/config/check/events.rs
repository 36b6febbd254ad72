//! Event types: those declared, and the built-in one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::error::Report;
use crate::config::file::{EventSection, File, Section};
use crate::config::source::Located;
use crate::config::suggest::{nearest, one_of};
use crate::config::{Code, value};
use crate::events::{FIELDS_MAX, Field, MARKET_DATA_UPDATE, SCALE_MAX, Schema, Type};

/// The event types a file can name.
#[derive(Debug)]
pub(super) struct Events {
    // `None` for those that are broken: they have been told.
    schemas: BTreeMap<String, Option<Arc<Schema>>>,
    used: BTreeSet<String>,
}

/// Decimals of the built-in event unless the file says otherwise.
const SCALE_DEFAULT: u8 = 8;

impl Events {
    pub(super) fn check(file: &File, report: &mut Report) -> Self {
        let mut schemas = BTreeMap::new();
        schemas.insert(
            MARKET_DATA_UPDATE.to_owned(),
            Some(Arc::new(Schema::market_data_update(SCALE_DEFAULT))),
        );
        for (name, section) in &file.events {
            let schema = schema(name, section, report).map(Arc::new);
            schemas.insert(name.clone(), schema);
        }
        Self {
            schemas,
            used: BTreeSet::new(),
        }
    }

    /// The type that is named.
    pub(super) fn find(
        &mut self,
        name: &Located<String>,
        report: &mut Report,
    ) -> Option<Arc<Schema>> {
        if let Some(schema) = self.schemas.get(&name.value) {
            self.used.insert(name.value.clone());
            return schema.clone();
        }
        let shown = value::short(&name.value);
        let problem = report.add(
            Code::UnknownEvent,
            &name.at,
            format!("unknown event `{shown}`"),
        );
        let names = || self.schemas.keys().map(String::as_str);
        match nearest(&name.value, names()) {
            Some(near) => problem.did_you_mean(Some(near)),
            None => problem.help(format!("known are {}", one_of(names()))),
        };
        None
    }

    /// Warns of declared types that no topic has.
    pub(super) fn warn_unused(&self, file: &File, report: &mut Report) {
        for (name, section) in &file.events {
            if !self.used.contains(name) {
                report.add(Code::UnusedEvent, &section.at, "no topic has this event");
            }
        }
    }
}

fn schema(name: &str, section: &Section<EventSection>, report: &mut Report) -> Option<Schema> {
    let body = section.body.as_ref()?;
    if name == MARKET_DATA_UPDATE {
        let fixed = body.time.as_ref().map(|time| &time.at);
        if let Some(at) = body.fields_at.as_ref().or(fixed) {
            report
                .add(
                    Code::Exclusive,
                    at,
                    "the fields of the built-in event are fixed",
                )
                .help("only `scale` can be set; declare another event for other fields");
            return None;
        }
        let scale = body.scale.as_ref().map(|scale| scale.value as u8);
        return Some(Schema::market_data_update(scale.unwrap_or(SCALE_DEFAULT)));
    }
    if let Some(scale) = &body.scale {
        let message = format!("only the built-in `{MARKET_DATA_UPDATE}` takes a scale");
        report
            .add(Code::Exclusive, &scale.at, message)
            .help("write the scale with each field: `price = \"decimal(4)\"`");
        return None;
    }
    let Some(fields_at) = &body.fields_at else {
        report.add(Code::MissingKey, &section.at.child("fields"), "is required");
        return None;
    };
    let written = body.fields.as_ref()?;
    if written.is_empty() {
        report.add(Code::Empty, fields_at, "must not be empty");
        return None;
    }
    if written.len() > FIELDS_MAX {
        let message = format!("has {} fields; the limit is {FIELDS_MAX}", written.len());
        report.add(Code::Fields, fields_at, message);
        return None;
    }
    let mut fields = Vec::with_capacity(written.len());
    let mut whole = true;
    for (name, ty) in written {
        whole &= field_name(name, report);
        match parse_type(&ty.value) {
            Ok((ty, required)) => fields.push(Field {
                name: name.value.as_str().into(),
                ty,
                required,
            }),
            Err(message) => {
                let near = nearest(&ty.value, ["text", "int", "bool", "time"]);
                let problem = report.add(Code::BadFieldType, &ty.at, message);
                problem.did_you_mean(near);
                whole = false;
            }
        }
    }
    if !whole {
        return None;
    }
    let mut schema = Schema {
        name: name.into(),
        fields,
        time: None,
    };
    if let Some(time) = &body.time {
        schema.time = Some(event_time(&schema, time, report)?);
    }
    Some(schema)
}

fn event_time(schema: &Schema, time: &Located<String>, report: &mut Report) -> Option<usize> {
    let slot = super::fields::find(schema, time, report)?;
    let field = &schema.fields[slot];
    if field.ty != Type::Time || !field.required {
        let found = if field.ty == Type::Time {
            "optional".to_owned()
        } else {
            format!("of type {}", field.ty)
        };
        let message = format!(
            "event time must be a required field of type time; `{}` is {found}",
            field.name
        );
        report.add(Code::EventTime, &time.at, message);
        return None;
    }
    Some(slot)
}

/// Longest name of a field, in bytes.
const FIELD_NAME_BYTES_MAX: usize = 128;

// Names come from other people's JSON; what aggregates are written with cannot be part of them.
fn field_name(name: &Located<String>, report: &mut Report) -> bool {
    let refused = |c: char| c.is_control() || c.is_whitespace() || "(),\"\\".contains(c);
    let valid = !name.value.is_empty()
        && name.value.len() <= FIELD_NAME_BYTES_MAX
        && !name.value.contains(refused);
    if !valid {
        let message = "a field's name has 1 to 128 bytes, without blanks, quotes, `(`, `)` and `,`";
        report.add(Code::BadName, &name.at, message);
    }
    valid
}

/// Reads a type such as `decimal(8)?`: the type, and whether the field is required.
fn parse_type(written: &str) -> Result<(Type, bool), String> {
    let trimmed = written.trim();
    let (name, required) = match trimmed.strip_suffix('?') {
        Some(name) => (name.trim_end(), false),
        None => (trimmed, true),
    };
    let ty = match name {
        "text" => Type::Text,
        "int" => Type::Int,
        "bool" => Type::Bool,
        "time" => Type::Time,
        _ => {
            let shown = value::short(written);
            let scale = name
                .strip_prefix("decimal(")
                .and_then(|rest| rest.strip_suffix(')'))
                .ok_or_else(|| match name {
                    "decimal" => "a decimal needs its scale, as in `decimal(8)`".to_owned(),
                    _ => format!("unknown type `{shown}`: use text, int, decimal(N), bool or time"),
                })?;
            let digits = scale.trim();
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let scale = digits
                .parse()
                .ok()
                .filter(|scale| plain && *scale <= SCALE_MAX);
            Type::Decimal(scale.ok_or_else(|| {
                format!(
                    "a decimal has 0 to {SCALE_MAX} decimals, not `{}`",
                    value::short(digits)
                )
            })?)
        }
    };
    Ok((ty, required))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_with_their_scale_and_whether_they_are_required() {
        assert_eq!(parse_type("text"), Ok((Type::Text, true)));
        assert_eq!(parse_type("decimal(18)?"), Ok((Type::Decimal(18), false)));
        for bad in [
            "",
            "?",
            "decimal",
            "decimal(19)",
            "decimal(+1)",
            "decimal(",
            "String",
            "int??",
        ] {
            assert!(parse_type(bad).is_err(), "{bad:?}");
        }
    }
}
