//! The built-in event, for those who write it with programs of their own.

use serde_json::json;

use super::super::{Console, Exit, Failure};
use super::wrapped;
use crate::events::{MARKET_DATA_UPDATE, Schema};

/// Decimals unless a file says otherwise.
const SCALE: u8 = 8;

const ABOUT: &str = "The built-in event: a trade, a quote or a bar as `tidemill import` writes it, one JSON object a \
     record. Other fields are skipped. `eventType`, where it is there, must be `MarketDataUpdate`, and \
     `version` 1. Prices and quantities are numbers or strings of digits with at most as many decimals as \
     `scale` of `[events.MarketDataUpdate]` says, 8 without it.";

const EXAMPLE: &str = r#"{"eventType":"MarketDataUpdate","timestamp":"2024-03-11T13:30:00.27Z","version":1,"pair":"IBM","currentPrice":181.52,"quantity":283,"side":"buy","venue":"P","tradeId":"9","sequence":1}"#;

/// What a field of it means.
fn about(field: &str) -> &'static str {
    match field {
        "pair" => "what is traded; the key of its record",
        "currentPrice" => "of a trade its price, of a quote the mid",
        "timestamp" => "the event time: RFC 3339 with an offset, or milliseconds since 1970",
        "version" => "of the event: 1",
        "quantity" => "how much was traded",
        "side" => "of who took: `buy` or `sell`",
        "bid" => "the best bid",
        "ask" => "the best ask",
        "bidQuantity" => "how much is bid there",
        "askQuantity" => "how much is asked there",
        "venue" => "where it was traded",
        "sequence" => "its number in its source",
        _ => "its id at the venue",
    }
}

pub(super) fn explained(json: bool, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let schema = Schema::market_data_update(SCALE);
    let time = schema.time.map(|slot| &*schema.fields[slot].name);
    if json {
        let fields: Vec<_> = schema
            .fields
            .iter()
            .map(|field| {
                json!({
                    "name": &*field.name,
                    "type": field.ty.to_string(),
                    "required": field.required,
                    "about": about(&field.name),
                })
            })
            .collect();
        console.json(&json!({
            "event": MARKET_DATA_UPDATE,
            "about": ABOUT,
            "key": ["pair"],
            "time": time,
            "fields": fields,
            "example": EXAMPLE,
        }))?;
        return Ok(Exit::Ok);
    }
    console.line(format_args!(
        "{MARKET_DATA_UPDATE}: event = \"{MARKET_DATA_UPDATE}\", of a topic\n"
    ))?;
    console.line(wrapped(ABOUT))?;
    console.line("")?;
    let rows = schema.fields.iter().map(|field| {
        let needed = match field.required {
            true => "required",
            false => "optional",
        };
        vec![
            field.name.to_string(),
            field.ty.to_string(),
            needed.to_owned(),
            about(&field.name).to_owned(),
        ]
    });
    console.table(
        &["field", "type", "", "what it is"],
        &rows.collect::<Vec<_>>(),
    )?;
    console.line(format_args!("\n{EXAMPLE}"))?;
    Ok(Exit::Ok)
}
