//! What a line becomes: updates of the market, each with the bytes of its event.

use std::sync::Arc;

use tidemill_broker::Timestamp;

use super::error::BadLine;
use crate::events::write_time_json;
use crate::market::decimal::write_decimal;

/// One record to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Its event time. A bad line has the time of the line before it, and where there is none that
    /// of the file's [head](super::reader::Source::head).
    pub(super) time: Timestamp,
    /// The pair: the record's key.
    pub(super) pair: Arc<str>,
    /// The line it came from, from 1.
    pub(super) line: u64,
    /// Why it goes to the side topic, if it does.
    pub(super) suspect: Option<Reason>,
    /// The event as JSON; of a bad line its bytes.
    pub(super) payload: Vec<u8>,
}

/// Why an item goes to the side topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    /// The source marks it as suspicious.
    Suspicious,
    /// Nothing was traded at it.
    ZeroSize,
    /// Its price is zero.
    ZeroPrice,
    /// A quote without a bid or without an ask.
    OneSided,
    /// The line is not what its layout says.
    Bad(BadLine),
}

impl Reason {
    /// As in the record's `reason` header.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Suspicious => "suspicious".into(),
            Self::ZeroSize => "zero-size".into(),
            Self::ZeroPrice => "zero-price".into(),
            Self::OneSided => "one-sided-quote".into(),
            Self::Bad(bad) => format!("bad-line: {bad}"),
        }
    }
}

/// Decimals of what is imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scales {
    pub(super) price: u8,
    pub(super) quantity: u8,
}

/// A MarketDataUpdate, before it is written. Numbers are integers at their [`Scales`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Update<'a> {
    pub(super) time: Timestamp,
    /// The present price: of a trade its price, of a quote the mid.
    pub(super) price: i64,
    pub(super) quantity: Option<i64>,
    pub(super) side: Option<&'a str>,
    pub(super) bid: Option<i64>,
    pub(super) bid_quantity: Option<i64>,
    pub(super) ask: Option<i64>,
    pub(super) ask_quantity: Option<i64>,
    pub(super) venue: Option<&'a str>,
    pub(super) trade_id: Option<&'a str>,
    pub(super) sequence: Option<u64>,
}

impl Update<'_> {
    /// The event as JSON, its fields always in this order.
    pub(super) fn json(&self, pair: &str, scales: Scales) -> Vec<u8> {
        let mut out = Vec::with_capacity(192);
        out.extend_from_slice(br#"{"eventType":"MarketDataUpdate","timestamp":"#);
        write_time_json(self.time.0, &mut out);
        out.extend_from_slice(br#","version":1,"pair":"#);
        write_text(pair, &mut out);
        let mut number = |name: &str, value: Option<i64>, scale| {
            if let Some(value) = value {
                out.extend_from_slice(name.as_bytes());
                write_decimal(value, scale, &mut out);
            }
        };
        number(r#","currentPrice":"#, Some(self.price), scales.price);
        number(r#","quantity":"#, self.quantity, scales.quantity);
        number(r#","bid":"#, self.bid, scales.price);
        number(r#","bidQuantity":"#, self.bid_quantity, scales.quantity);
        number(r#","ask":"#, self.ask, scales.price);
        number(r#","askQuantity":"#, self.ask_quantity, scales.quantity);
        for (name, text) in [
            (r#","side":"#, self.side),
            (r#","venue":"#, self.venue),
            (r#","tradeId":"#, self.trade_id),
        ] {
            if let Some(text) = text {
                out.extend_from_slice(name.as_bytes());
                write_text(text, &mut out);
            }
        }
        if let Some(sequence) = self.sequence {
            out.extend_from_slice(format!(r#","sequence":{sequence}"#).as_bytes());
        }
        out.push(b'}');
        out
    }
}

/// Appends a text as JSON.
fn write_text(text: &str, out: &mut Vec<u8>) {
    let plain = text
        .bytes()
        .all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    if plain {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
    }
}

/// The middle of a quote, rounded half to even at the scale of its prices.
pub(super) fn mid(bid: i64, ask: i64) -> i64 {
    let sum = i128::from(bid) + i128::from(ask);
    let down = sum.div_euclid(2);
    let mid = if sum.rem_euclid(2) == 1 && down.rem_euclid(2) == 1 {
        down + 1
    } else {
        down
    };
    // The middle of two `i64` is one.
    mid as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALES: Scales = Scales {
        price: 8,
        quantity: 8,
    };

    #[test]
    fn an_update_is_written_field_by_field_in_a_fixed_order() {
        let update = Update {
            time: Timestamp(1_381_132_830_270_000),
            price: 18_152_000_000,
            quantity: Some(28_300_000_000),
            side: Some("buy"),
            venue: Some("P\"1"),
            trade_id: Some("9"),
            sequence: Some(1),
            ..Update::default()
        };
        assert_eq!(
            String::from_utf8(update.json("IBM", SCALES)).unwrap(),
            r#"{"eventType":"MarketDataUpdate","timestamp":"2013-10-07T08:00:30.270000Z","version":1,"pair":"IBM","currentPrice":181.52,"quantity":283,"side":"buy","venue":"P\"1","tradeId":"9","sequence":1}"#
        );
    }

    #[test]
    fn the_mid_of_an_odd_sum_is_even() {
        for (bid, ask, expected) in [
            (1, 2, 2),
            (2, 3, 2),
            (3, 4, 4),
            (4, 4, 4),
            (i64::MAX, i64::MAX, i64::MAX),
        ] {
            assert_eq!(mid(bid, ask), expected);
        }
    }
}
