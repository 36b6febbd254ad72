//! State as a person reads it: keys as text, values as JSON.

use tidemill_state::{DecodeError, Postcard, StateValue, TableSpec};

use super::build::{TIME_TABLE, table_of, window_options};
use crate::config::Plan;
use crate::config::plan::OpPlan;
use crate::events::{JsonEncoder, Rows, write_time_json};
use crate::operators::{Dedupe, Merge, TumblingWindow};

/// An element of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The key's fields, joined by `|`.
    pub key: String,
    /// The value: a JSON object.
    pub value: String,
}

/// Reads an element of a table; `None` if nobody here knows how, which is so for all tables but the
/// engine's own without the plan.
///
/// # Errors
///
/// If it is not what the table's operator writes.
pub fn show(
    plan: Option<&Plan>,
    table: &TableSpec,
    key: &[u8],
    value: &[u8],
) -> Result<Option<Shown>, DecodeError> {
    if table.name == TIME_TABLE {
        return time(key, value).map(Some);
    }
    let Some(plan) = plan else { return Ok(None) };
    let stage = plan.stages.iter().find(|stage| {
        table_of(plan, stage)
            .is_some_and(|(name, codec)| name == table.name && codec == table.codec)
    });
    let Some(stage) = stage else { return Ok(None) };
    let schema = |input: usize| super::build::schema_of(plan, stage.inputs[input]);
    match &stage.op {
        OpPlan::TumblingWindow { .. } => {
            let Some(options) = window_options(plan, stage) else {
                return Ok(None);
            };
            let (rows, firings) = TumblingWindow::look(&options, key, value)?;
            Ok(Some(Shown {
                key: key_of(&rows),
                value: format!(r#"{{"firings":{firings},"event":{}}}"#, json(&rows)),
            }))
        }
        OpPlan::Dedupe { id, .. } => {
            let (rows, time) = Dedupe::look(&schema(0), id, key, value)?;
            let mut value = format!(r#"{{"id":{},"time":"#, json(&rows)).into_bytes();
            write_time_json(time, &mut value);
            value.push(b'}');
            Ok(Some(Shown {
                key: key_of(&rows),
                value: text(&value),
            }))
        }
        OpPlan::Merge => {
            let (rows, input) = Merge::look(&stage.ports[0].1, key, value)?;
            Ok(Some(Shown {
                key: key_of(&rows),
                value: format!(r#"{{"input":{input},"event":{}}}"#, json(&rows)),
            }))
        }
        OpPlan::KeyBy { .. } | OpPlan::Route { .. } => Ok(None),
    }
}

fn time(key: &[u8], value: &[u8]) -> Result<Shown, DecodeError> {
    let Postcard((watermark, is_idle)) = Postcard::<(i64, bool)>::decode(value)?;
    let split = key.split_last_chunk::<4>();
    let Some((name, partition)) = split else {
        return Err(DecodeError::new(format!(
            "an input's key has {} bytes",
            key.len()
        )));
    };
    let name = text(name.strip_suffix(&[0]).unwrap_or(name));
    let mut value = br#"{"watermark":"#.to_vec();
    if watermark == i64::MIN {
        value.extend_from_slice(b"null");
    } else {
        write_time_json(watermark, &mut value);
    }
    value.extend_from_slice(format!(r#","idle":{is_idle}}}"#).as_bytes());
    Ok(Shown {
        key: format!("{name}/{}", u32::from_be_bytes(*partition)),
        value: text(&value),
    })
}

fn key_of(rows: &Rows) -> String {
    match rows.is_empty() {
        true => String::new(),
        false => text(rows.key(0).unwrap_or_default()),
    }
}

fn json(rows: &Rows) -> String {
    let mut out = Vec::new();
    if !rows.is_empty() {
        JsonEncoder::new(rows.schema().clone(), None).write(rows, 0, &mut out);
    }
    text(&out)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
