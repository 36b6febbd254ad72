//! State as a person reads it: keys as text, values as JSON.

use tidemill_state::{DecodeError, Postcard, StateValue, TableSpec};

use super::build::{TIME_TABLE, table_of, window_options};
use super::times::{self, Of};
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
    let schema = |input: usize| plan.schema_of(stage.inputs[input]).clone();
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
    let key = if let Some(what) = times::followed_of(key) {
        return Ok(Shown {
            key: format!("control records followed, {}", text(what)),
            value: watermark.to_string(),
        });
    } else if let Some(of) = Of::key_of(key) {
        match of {
            Of::Stage(name) => format!("stage {}", text(name)),
            Of::State(name) => format!("state {}", text(name)),
            Of::Closed(name) => format!("state {}, windows closed", text(name)),
        }
    } else {
        let split = key.split_last_chunk::<4>();
        let Some((name, partition)) = split else {
            return Err(DecodeError::new(format!(
                "an input's key has {} bytes",
                key.len()
            )));
        };
        let name = text(name.strip_suffix(&[0]).unwrap_or(name));
        format!("{name}/{}", u32::from_be_bytes(*partition))
    };
    let mut value = br#"{"watermark":"#.to_vec();
    if watermark == i64::MIN {
        value.extend_from_slice(b"null");
    } else {
        write_time_json(watermark, &mut value);
    }
    value.extend_from_slice(format!(r#","idle":{is_idle}}}"#).as_bytes());
    Ok(Shown {
        key,
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::config::plan::{Input, StagePlan, StatePlan};
    use crate::operators::{DEDUPE_CODEC, MERGE_CODEC};
    use crate::pipeline::tests::bars_plan;

    fn spec(name: &str, codec: u32) -> TableSpec {
        TableSpec {
            name: name.into(),
            kind: tidemill_state::Kind::Value,
            codec,
            ttl_ms: None,
        }
    }

    /// The plan of the bars with one more stage.
    fn with(op: OpPlan) -> Plan {
        let mut plan = bars_plan();
        plan.states.push(StatePlan {
            name: "seen".into(),
            ttl: None,
        });
        plan.stages.push(StagePlan {
            name: "more".into(),
            inputs: vec![Input::Source(0)],
            op,
            ports: vec![("".into(), plan.sources[0].schema.clone())],
        });
        plan
    }

    #[test]
    fn an_id_is_shown_with_its_fields_and_when_it_was_seen() {
        let plan = with(OpPlan::Dedupe {
            id: vec![0, 2],
            window: Duration::from_secs(1),
            count_max: 1,
            state: 1,
        });
        // Key of the record, then a text field, then an absent one.
        let key = b"\0\0\0\x03BTC\x01\0\0\0\x02P1\0";
        let value = 1_500_000_i64.to_le_bytes();
        let shown = show(Some(&plan), &spec("seen", DEDUPE_CODEC), key, &value);
        let shown = shown.unwrap().unwrap();
        assert_eq!(shown.key, "BTC");
        assert_eq!(
            shown.value,
            r#"{"id":{"pair":"P1"},"time":"1970-01-01T00:00:01.500000Z"}"#
        );
        let cut = show(Some(&plan), &spec("seen", DEDUPE_CODEC), &key[..9], &value);
        assert!(cut.is_err());
        let other = show(Some(&plan), &spec("seen", DEDUPE_CODEC + 1), key, &value);
        assert_eq!(other, Ok(None), "another encoding is not guessed at");
    }

    #[test]
    fn a_held_event_is_shown_as_it_is_with_its_input() {
        let plan = with(OpPlan::Merge);
        let mut rows = Rows::new(Arc::clone(&plan.sources[0].schema));
        let pair = rows.add_text(b"P1");
        let head = crate::events::RowHead {
            present: 0b11,
            time: 7,
            watermark: 7,
            key: Some(pair),
            record: 0,
        };
        let mut slots = vec![0; rows.schema().width()];
        slots[..2].copy_from_slice(&[pair.to_slot(), 250_000_000]);
        rows.push_made(1, head, &slots);
        let mut value = Vec::new();
        crate::events::HeldRow::hold(&rows, 0).encode(&mut value);
        let mut key = vec![0x80, 0, 0, 0, 0, 0, 0, 7, 0, 1];
        key.extend_from_slice(&[0; 12]);
        let shown = show(Some(&plan), &spec("more.held", MERGE_CODEC), &key, &value);
        let shown = shown.unwrap().unwrap();
        assert_eq!(shown.key, "P1");
        assert_eq!(
            shown.value,
            r#"{"input":1,"event":{"pair":"P1","currentPrice":2.5}}"#
        );
    }
}
