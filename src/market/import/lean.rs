//! QuantConnect LEAN: one file per symbol and day, times in milliseconds since its midnight.
//!
//! | Layout | Columns |
//! | --- | --- |
//! | equity tick trade | ms, price ×10,000, size, exchange, condition, suspicious |
//! | equity tick quote | ms, bid ×10,000, bid size, ask ×10,000, ask size, exchange, condition, suspicious |
//! | crypto tick trade | ms, price, size, suspicious |
//! | crypto tick quote | ms, bid, bid size, ask, ask size, suspicious |
//! | trade bar | ms, open, high, low, close, volume (equity prices ×10,000) |
//! | quote bar | ms, bid open, high, low, close, bid size, ask open, high, low, close, ask size |
//!
//! A side of a quote is absent where its price, or one of its bar's, is zero or empty.

use std::time::Duration;

use tidemill_broker::Timestamp;

use super::bars::{self, Prices, Side};
use super::day::Day;
use super::error::BadLine;
use super::fields::Fields;
use super::item::{Reason, Scales, Update, mid};
use super::layout::{Emit, Kind, Resolution, Security};

/// Decimals of an equity price, which is written as an integer.
const EQUITY_SCALE: u8 = 4;

/// Takes lines of one file.
#[derive(Debug)]
pub(super) struct Parser {
    security: Security,
    bar: Option<Duration>,
    kind: Kind,
    // Decimals to read prices with, so that they come out at the scale asked for.
    price_scale: u8,
    quantity_scale: u8,
    day: Day,
}

impl Parser {
    pub(super) fn new(
        security: Security,
        resolution: Resolution,
        kind: Kind,
        scales: Scales,
        day: Day,
    ) -> Result<Self, &'static str> {
        let price_scale = match security {
            Security::Crypto => scales.price,
            Security::Equity => scales
                .price
                .checked_sub(EQUITY_SCALE)
                .ok_or("its prices have 4 decimals; give --price-scale 4 or more")?,
        };
        Ok(Self {
            security,
            bar: resolution.bar(),
            kind,
            price_scale,
            quantity_scale: scales.quantity,
            day,
        })
    }

    pub(super) fn line(&self, line: &str, out: &mut Emit<'_>) -> Result<u64, BadLine> {
        let mut fields = Fields::new(line);
        let time = self.time(&mut fields)?;
        // Roundings of the time, if there are any, are below a microsecond and not counted.
        fields.rounded = 0;
        match (self.bar, self.kind) {
            (None, Kind::Trade) => self.tick_trade(time, &mut fields, out)?,
            (None, Kind::Quote) => self.tick_quote(time, &mut fields, out)?,
            (Some(bar), Kind::Trade) => {
                let prices = bars::prices(&mut fields, self.price_scale)?;
                let volume = fields.unsigned("volume", self.quantity_scale)?;
                fields.end()?;
                bars::trades(out, time, bar, prices, volume);
            }
            (Some(bar), Kind::Quote) => self.quote_bar(time, bar, &mut fields, out)?,
        }
        Ok(fields.rounded)
    }

    fn time(&self, fields: &mut Fields<'_>) -> Result<Timestamp, BadLine> {
        let field = fields.text("milliseconds since midnight")?;
        // Later files have fractions of a millisecond.
        let micros = fields.number(field, "milliseconds since midnight", 3)?;
        self.day
            .at(micros)
            .ok_or_else(|| field.bad("milliseconds since midnight, within the day"))
    }

    /// The columns that end a tick: exchange, condition, and whether it is suspicious.
    fn tick_end<'a>(&self, fields: &mut Fields<'a>) -> Result<(Option<&'a str>, bool), BadLine> {
        let mut exchange = None;
        if self.security == Security::Equity {
            let field = fields.text("exchange")?;
            exchange = (!field.text.is_empty()).then_some(field.text);
            fields.text("condition")?;
        }
        let suspicious = fields.boolean("suspicious")?;
        fields.end()?;
        Ok((exchange, suspicious))
    }

    fn tick_trade(
        &self,
        time: Timestamp,
        fields: &mut Fields<'_>,
        out: &mut Emit<'_>,
    ) -> Result<(), BadLine> {
        let price = fields.unsigned("price", self.price_scale)?;
        let quantity = fields.unsigned("size", self.quantity_scale)?;
        let (venue, suspicious) = self.tick_end(fields)?;
        let update = Update {
            time,
            price,
            quantity: Some(quantity),
            venue,
            ..Update::default()
        };
        if suspicious {
            out.suspect(Reason::Suspicious, update);
        } else {
            out.trade(update);
        }
        Ok(())
    }

    fn tick_quote(
        &self,
        time: Timestamp,
        fields: &mut Fields<'_>,
        out: &mut Emit<'_>,
    ) -> Result<(), BadLine> {
        let whole = fields.clone().text("bid")?;
        let mut side = |price: &str, size: &str| -> Result<Option<(i64, i64)>, BadLine> {
            if absent(fields, &[price, size])? {
                return Ok(None);
            }
            let price = fields.unsigned(price, self.price_scale)?;
            let size = fields.unsigned(size, self.quantity_scale)?;
            Ok((price != 0).then_some((price, size)))
        };
        let bid = side("bid", "bid size")?;
        let ask = side("ask", "ask size")?;
        let (venue, suspicious) = self.tick_end(fields)?;
        let (Some((bid_price, bid_size)), Some((ask_price, ask_size))) = (bid, ask) else {
            if bid.is_none() && ask.is_none() {
                return Err(whole.bad("a bid or an ask that is not zero"));
            }
            bars::one_sided(out, time, bid, ask, venue);
            return Ok(());
        };
        let update = Update {
            time,
            price: mid(bid_price, ask_price),
            bid: Some(bid_price),
            bid_quantity: Some(bid_size),
            ask: Some(ask_price),
            ask_quantity: Some(ask_size),
            venue,
            ..Update::default()
        };
        if suspicious {
            out.suspect(Reason::Suspicious, update);
        } else if bid_size == 0 || ask_size == 0 {
            out.suspect(Reason::ZeroSize, update);
        } else {
            out.update(update);
        }
        Ok(())
    }

    fn quote_bar(
        &self,
        time: Timestamp,
        bar: Duration,
        fields: &mut Fields<'_>,
        out: &mut Emit<'_>,
    ) -> Result<(), BadLine> {
        let whole = fields.clone().text("bid open")?;
        let bid = self.side(fields)?;
        let ask = self.side(fields)?;
        fields.end()?;
        bars::quotes(out, time, bar, bid, ask, whole)
    }

    fn side(&self, fields: &mut Fields<'_>) -> Result<Side, BadLine> {
        if absent(fields, &["open", "high", "low", "close", "size"])? {
            return Ok(None);
        }
        let prices: Prices = bars::prices(fields, self.price_scale)?;
        let size = fields.unsigned("size", self.quantity_scale)?;
        Ok((!prices.contains(&0)).then_some((prices, size)))
    }
}

/// Takes a side of a quote if it is absent: its first column is empty, and so is, or zero, the rest.
fn absent(fields: &mut Fields<'_>, names: &[&str]) -> Result<bool, BadLine> {
    let first = names.first().copied().unwrap_or_default();
    if !fields.clone().text(first)?.text.is_empty() {
        return Ok(false);
    }
    for name in names {
        let field = fields.text(name)?;
        if !field.text.is_empty() && field.text != "0" {
            return Err(field.bad(format!("nothing, as the {first} is empty")));
        }
    }
    Ok(true)
}
