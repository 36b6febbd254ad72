//! How a bar becomes updates.
//!
//! A bar is imported as four updates, so that windows of any multiple of its length have the right
//! open, high, low, close and volume: open at its start, high a quarter later, low at half, close at
//! three quarters. The whole volume is the quantity of the close, that of the others is 0. Whatever
//! is weighted by quantity is therefore weighted by the closes, and a count of updates counts each
//! bar four times. Which of high and low came first is not in a bar; high first is a convention.

use std::time::Duration;

use tidemill_broker::Timestamp;

use super::error::BadLine;
use super::fields::{Fields, Text};
use super::item::{Reason, Update, mid};
use super::layout::Emit;

/// Open, high, low, close.
pub(super) type Prices = [i64; 4];

/// Reads open, high, low and close and holds them to each other.
pub(super) fn prices(fields: &mut Fields<'_>, scale: u8) -> Result<Prices, BadLine> {
    let mut texts = fields.clone();
    let mut prices = [0; 4];
    for (price, name) in prices.iter_mut().zip(["open", "high", "low", "close"]) {
        *price = fields.unsigned(name, scale)?;
    }
    let [open, high, low, close] = prices;
    let texts = [(); 4].map(|()| texts.try_text());
    let bad = |index: usize, expected: &str| match &texts[index] {
        Some(text) => text.bad(expected),
        None => BadLine::new(1, expected, b""),
    };
    if high < low {
        return Err(bad(1, "high that is not below low"));
    }
    for (index, value) in [(0, open), (3, close)] {
        if value > high || value < low {
            return Err(bad(index, "open and close between low and high"));
        }
    }
    Ok(prices)
}

/// Where the four updates of a bar lie in time.
fn quarters(start: Timestamp, length: Duration) -> [Timestamp; 4] {
    let quarter = length / 4;
    [0, 1, 2, 3].map(|index| start.plus(quarter * index))
}

/// Emits a trade bar.
pub(super) fn trades(
    out: &mut Emit<'_>,
    start: Timestamp,
    length: Duration,
    prices: Prices,
    volume: i64,
) {
    let [_, _, low, close] = prices;
    // None is below the low.
    if volume == 0 || low == 0 {
        let reason = if volume == 0 {
            Reason::ZeroSize
        } else {
            Reason::ZeroPrice
        };
        let update = Update {
            time: start,
            price: if volume == 0 { close } else { low },
            quantity: Some(volume),
            ..Update::default()
        };
        return out.suspect(reason, update);
    }
    for (index, time) in quarters(start, length).into_iter().enumerate() {
        out.update(Update {
            time,
            price: prices[index],
            quantity: Some(if index == 3 { volume } else { 0 }),
            ..Update::default()
        });
    }
}

/// One side of a quote bar: its prices, absent if the side was, and the size at its end.
pub(super) type Side = Option<(Prices, i64)>;

/// Emits a quote bar. Its sizes are those of the close.
pub(super) fn quotes(
    out: &mut Emit<'_>,
    start: Timestamp,
    length: Duration,
    bid: Side,
    ask: Side,
    line: Text<'_>,
) -> Result<(), BadLine> {
    match (bid, ask) {
        (Some((bids, bid_size)), Some((asks, ask_size))) => {
            for (index, time) in quarters(start, length).into_iter().enumerate() {
                let last = index == 3;
                out.update(Update {
                    time,
                    price: mid(bids[index], asks[index]),
                    bid: Some(bids[index]),
                    bid_quantity: last.then_some(bid_size),
                    ask: Some(asks[index]),
                    ask_quantity: last.then_some(ask_size),
                    ..Update::default()
                });
            }
            Ok(())
        }
        (None, None) => Err(line.bad("a bid or an ask")),
        (bid, ask) => {
            let last = |side: Side| side.map(|(prices, size)| (prices[3], size));
            one_sided(out, start, last(bid), last(ask), None);
            Ok(())
        }
    }
}

/// Sets aside a quote that lacks a side: its price is that of the side it has.
pub(super) fn one_sided(
    out: &mut Emit<'_>,
    time: Timestamp,
    bid: Option<(i64, i64)>,
    ask: Option<(i64, i64)>,
    venue: Option<&str>,
) {
    let price = bid.or(ask).map_or(0, |(price, _)| price);
    out.suspect(
        Reason::OneSided,
        Update {
            time,
            price,
            bid: bid.map(|(price, _)| price),
            bid_quantity: bid.map(|(_, size)| size),
            ask: ask.map(|(price, _)| price),
            ask_quantity: ask.map(|(_, size)| size),
            venue,
            ..Update::default()
        },
    );
}
