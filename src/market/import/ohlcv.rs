//! Bars as comma-separated values of any origin: timestamp, open, high, low, close, volume.
//!
//! Where the first line names the columns, they may come in any order and among others. A time is a
//! number since 1970 (seconds, milliseconds, microseconds or nanoseconds, told apart by size) or a
//! date and time of UTC (`2024-01-31 09:30:00`, `2024-01-31T09:30:00Z`, `2024-01-31`).

use std::time::Duration;

use jiff::civil::{Date, DateTime};
use tidemill_broker::Timestamp;

use super::bars;
use super::binance::MICROS_MAX;
use super::error::BadLine;
use super::fields::Fields;
use super::layout::Emit;

/// Takes lines of one file.
#[derive(Debug)]
pub(super) struct Parser {
    bar: Duration,
    // Where the six columns are, once a line of names has said so.
    order: [usize; COLUMNS],
}

/// Columns that are read.
const COLUMNS: usize = 6;

const NAMES: [&[&str]; COLUMNS] = [
    &[
        "timestamp",
        "time",
        "date",
        "datetime",
        "unix",
        "open_time",
        "open time",
    ],
    &["open"],
    &["high"],
    &["low"],
    &["close"],
    &["volume"],
];

impl Parser {
    pub(super) fn new(bar: Duration) -> Self {
        Self {
            bar,
            order: [0, 1, 2, 3, 4, 5],
        }
    }

    pub(super) fn line(&mut self, line: &str, out: &mut Emit<'_>) -> Result<u64, BadLine> {
        if out.line == 1
            && let Some(order) = names(line)
        {
            self.order = order;
            return Ok(0);
        }
        let mut fields = Fields::new(line);
        let ordered;
        // Numbers are read in the order of a bar, whatever that of the columns.
        if self.order != [0, 1, 2, 3, 4, 5] {
            ordered = self.reorder(line)?;
            fields = Fields::new(&ordered);
        }
        let at = fields.text("timestamp")?;
        let start =
            instant(at.text).ok_or_else(|| at.bad("timestamp as a number since 1970 or a date"))?;
        if start.plus(self.bar).0 > MICROS_MAX {
            return Err(at.bad("timestamp of a bar that ends before the year 10000"));
        }
        let prices = bars::prices(&mut fields, out.scales.price)?;
        let volume = fields.unsigned("volume", out.scales.quantity)?;
        bars::trades(out, start, self.bar, prices, volume);
        Ok(fields.rounded)
    }

    fn reorder(&self, line: &str) -> Result<String, BadLine> {
        let mut fields = Fields::new(line);
        let mut all = Vec::new();
        while let Some(field) = fields.try_text() {
            all.push(field.text);
        }
        let mut ordered = String::with_capacity(line.len());
        for (index, column) in self.order.iter().enumerate() {
            let text = all.get(*column).ok_or_else(|| {
                BadLine::new(
                    line.len() + 1,
                    format!("{} in column {}", NAMES[index][0], column + 1),
                    b"the line's end",
                )
            })?;
            if index > 0 {
                ordered.push(',');
            }
            ordered.push_str(text);
        }
        Ok(ordered)
    }
}

/// Where the columns are, if the line names them all.
pub(super) fn names(line: &str) -> Option<[usize; COLUMNS]> {
    let mut fields = Fields::new(line);
    let mut all = Vec::new();
    while let Some(field) = fields.try_text() {
        all.push(field.text.to_ascii_lowercase());
    }
    let mut order = [0; COLUMNS];
    for (slot, names) in order.iter_mut().zip(NAMES) {
        *slot = all.iter().position(|name| names.contains(&name.as_str()))?;
    }
    Some(order)
}

/// The time of a line, for telling bars' length from two lines; `None` if it has none.
pub(super) fn time_of(line: &str, order: &[usize; COLUMNS]) -> Option<Timestamp> {
    let mut fields = Fields::new(line);
    for _ in 0..order[0] {
        fields.try_text()?;
    }
    instant(fields.try_text()?.text)
}

/// Reads an instant in any of the forms above.
pub(super) fn instant(text: &str) -> Option<Timestamp> {
    let micros = if text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        number(text)?
    } else if let Ok(time) = text.parse::<jiff::Timestamp>() {
        time.as_microsecond()
    } else if let Ok(time) = text.parse::<DateTime>() {
        utc(time)?
    } else {
        utc(text.parse::<Date>().ok()?.at(0, 0, 0, 0))?
    };
    (0..=MICROS_MAX)
        .contains(&micros)
        .then_some(Timestamp(micros))
}

fn utc(time: DateTime) -> Option<i64> {
    let zoned = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(zoned.timestamp().as_microsecond())
}

fn number(text: &str) -> Option<i64> {
    let (whole, _) = text.split_once('.').unwrap_or((text, ""));
    let whole = whole.parse::<u64>().ok()?;
    // 10^11 seconds are the year 5138, 10^11 milliseconds are 1973; and so on.
    let scale = if whole < 100_000_000_000 {
        6
    } else if whole < 100_000_000_000_000 {
        3
    } else if whole < 100_000_000_000_000_000 {
        0
    } else {
        return i64::try_from(whole / 1_000).ok();
    };
    let (micros, _) = crate::market::decimal::parse_rounded(text.as_bytes(), scale).ok()?;
    Some(micros)
}
