//! Binance's public files.
//!
//! | Layout | Columns |
//! | --- | --- |
//! | trades | id, price, qty, quote qty, time, buyer is maker, best match (not of futures) |
//! | aggTrades | id, price, qty, first id, last id, time, buyer is maker, best match (not of futures) |
//! | klines | open time, O, H, L, C, volume, close time, quote volume, trades, taker base, taker quote, ignore |
//!
//! Spot times are microseconds from 2025 on and milliseconds before: which, is told by their size. A
//! line of column names may come first.

use std::time::Duration;

use tidemill_broker::Timestamp;

use super::bars;
use super::error::BadLine;
use super::fields::Fields;
use super::item::Update;
use super::layout::Emit;

/// From here on a number counts microseconds: as milliseconds it would be the year 5138, as
/// microseconds it is 1973.
const MICROS_FROM: u64 = 100_000_000_000_000;

/// The last instant whose year has four digits, in microseconds.
pub(super) const MICROS_MAX: i64 = 253_402_300_799_999_999;

fn time(fields: &mut Fields<'_>, name: &str) -> Result<Timestamp, BadLine> {
    let field = fields.clone().text(name)?;
    let number = fields.integer(name)?;
    let micros = if number >= MICROS_FROM {
        number
    } else {
        number * 1_000
    };
    match i64::try_from(micros) {
        Ok(micros) if micros <= MICROS_MAX => Ok(Timestamp(micros)),
        _ => Err(field.bad(format!("{name} in milliseconds or microseconds since 1970"))),
    }
}

/// The side of whoever took the other's offer: the buyer, unless the buyer made it.
fn side(fields: &mut Fields<'_>) -> Result<&'static str, BadLine> {
    let buyer_is_maker = fields.boolean("buyer is maker")?;
    Ok(if buyer_is_maker { "sell" } else { "buy" })
}

fn id<'a>(fields: &mut Fields<'a>) -> Result<&'a str, BadLine> {
    let text = fields.clone().text("id")?.text;
    fields.integer("id")?;
    Ok(text)
}

fn best_match(fields: &mut Fields<'_>) -> Result<(), BadLine> {
    if fields.clone().try_text().is_some() {
        fields.boolean("best match")?;
    }
    fields.end()
}

pub(super) fn trade(line: &str, out: &mut Emit<'_>) -> Result<u64, BadLine> {
    let mut fields = Fields::new(line);
    let id = id(&mut fields)?;
    let price = fields.unsigned("price", out.scales.price)?;
    let quantity = fields.unsigned("quantity", out.scales.quantity)?;
    fields.text("quote quantity")?;
    let time = time(&mut fields, "time")?;
    let side = side(&mut fields)?;
    best_match(&mut fields)?;
    out.trade(Update {
        time,
        price,
        quantity: Some(quantity),
        side: Some(side),
        trade_id: Some(id),
        ..Update::default()
    });
    Ok(fields.rounded)
}

pub(super) fn agg_trade(line: &str, out: &mut Emit<'_>) -> Result<u64, BadLine> {
    let mut fields = Fields::new(line);
    let id = id(&mut fields)?;
    let price = fields.unsigned("price", out.scales.price)?;
    let quantity = fields.unsigned("quantity", out.scales.quantity)?;
    fields.integer("first id")?;
    fields.integer("last id")?;
    let time = time(&mut fields, "time")?;
    let side = side(&mut fields)?;
    best_match(&mut fields)?;
    out.trade(Update {
        time,
        price,
        quantity: Some(quantity),
        side: Some(side),
        trade_id: Some(id),
        ..Update::default()
    });
    Ok(fields.rounded)
}

pub(super) fn kline(line: &str, out: &mut Emit<'_>) -> Result<u64, BadLine> {
    let mut fields = Fields::new(line);
    let open_time = time(&mut fields, "open time")?;
    let prices = bars::prices(&mut fields, out.scales.price)?;
    let volume = fields.unsigned("volume", out.scales.quantity)?;
    let close = fields.clone().text("close time")?;
    let close_time = time(&mut fields, "close time")?;
    for name in [
        "quote volume",
        "trades",
        "taker buy base volume",
        "taker buy quote volume",
    ] {
        fields.text(name)?;
    }
    // The close time is the last instant of the bar, in the unit of the file.
    let unit = if close.text.len() >= 16 { 1 } else { 1_000 };
    let length = close_time.0 - open_time.0 + unit;
    let length = match u64::try_from(length) {
        Ok(length) if length > 1 => Duration::from_micros(length),
        _ => return Err(close.bad("close time after the open time")),
    };
    bars::trades(out, open_time, length, prices, volume);
    Ok(fields.rounded)
}
