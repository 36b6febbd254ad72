//! Bars as comma-separated values of any origin: timestamp, open, high, low, close, volume.
//!
//! Where the first line names the columns, they may come in any order and among others; every line has as
//! many. A time is a date and time of the file's zone (`2024-01-31 09:30:00`, `2024-01-31`, `20240131`,
//! `202401310930`, `20240131093000`), which is UTC unless `--zone` says another, one that names its offset
//! (`2024-01-31T09:30:00Z`), or a number since 1970 (seconds, milliseconds, microseconds or nanoseconds,
//! told apart by size).

use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
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
    zone: TimeZone,
    columns: Columns,
}

/// Where the columns are that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Columns {
    order: [usize; COLUMNS],
    /// How many a line has.
    count: usize,
}

impl Default for Columns {
    /// As in a file that does not name them.
    fn default() -> Self {
        Self {
            order: [0, 1, 2, 3, 4, 5],
            count: COLUMNS,
        }
    }
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
    pub(super) fn new(bar: Duration, zone: TimeZone) -> Self {
        Self {
            bar,
            zone,
            columns: Columns::default(),
        }
    }

    /// Takes the first line, if it names the columns.
    pub(super) fn take_names(&mut self, line: &str) -> bool {
        let named = names(line);
        if let Some(columns) = named {
            self.columns = columns;
        }
        named.is_some()
    }

    pub(super) fn line(&self, line: &str, out: &mut Emit<'_>) -> Result<u64, BadLine> {
        // Numbers are read in the order of a bar, whatever that of the columns.
        let mut fields = Fields::picked(line, self.columns.count, &self.columns.order)?;
        let at = fields.text("timestamp")?;
        let start = instant(at.text, &self.zone)
            .ok_or_else(|| at.bad("timestamp as a number since 1970 or a date"))?;
        if start.plus(self.bar).0 > MICROS_MAX {
            return Err(at.bad("timestamp of a bar that ends before the year 10000"));
        }
        let prices = bars::prices(&mut fields, out.scales.price)?;
        let volume = fields.unsigned("volume", out.scales.quantity)?;
        bars::trades(out, start, self.bar, prices, volume);
        Ok(fields.rounded)
    }
}

/// Where the columns are, if the line names them all.
pub(super) fn names(line: &str) -> Option<Columns> {
    let mut fields = Fields::new(line);
    let mut all = Vec::new();
    while let Some(field) = fields.try_text() {
        all.push(field.text.to_ascii_lowercase());
    }
    let mut order = [0; COLUMNS];
    for (slot, names) in order.iter_mut().zip(NAMES) {
        *slot = all.iter().position(|name| names.contains(&name.as_str()))?;
    }
    Some(Columns {
        order,
        count: all.len(),
    })
}

/// The text of a line's time; `None` if it has none.
pub(super) fn time_of<'l>(line: &'l str, columns: &Columns) -> Option<&'l str> {
    let mut fields = Fields::new(line);
    for _ in 0..columns.order[0] {
        fields.try_text()?;
    }
    Some(fields.try_text()?.text)
}

/// Reads an instant in any of the forms above.
pub(super) fn instant(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    let micros = if let Some(time) = local(text) {
        let zoned = time.to_zoned(zone.clone()).ok()?;
        zoned.timestamp().as_microsecond()
    } else if is_number(text) {
        number(text)?
    } else {
        text.parse::<jiff::Timestamp>().ok()?.as_microsecond()
    };
    (0..=MICROS_MAX)
        .contains(&micros)
        .then_some(Timestamp(micros))
}

/// Reads a time that depends on the zone it is of.
pub(super) fn local(text: &str) -> Option<DateTime> {
    if let Some(time) = compact(text) {
        return Some(time);
    }
    // A time that names its offset is none, though it reads as one.
    if is_number(text) || text.parse::<jiff::Timestamp>().is_ok() {
        return None;
    }
    let date = || Some(text.parse::<Date>().ok()?.at(0, 0, 0, 0));
    text.parse::<DateTime>().ok().or_else(date)
}

fn is_number(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// Reads a date, perhaps with a time, without anything between: `20240131`, `202401310930`,
/// `20240131093000`. As numbers since 1970 these would be days of its first years, of 1976, and of no year
/// that anybody has seen.
fn compact(text: &str) -> Option<DateTime> {
    if !matches!(text.len(), 8 | 12 | 14) || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let year: i16 = text[..4].parse().ok()?;
    let part = |at: usize| text.get(at..at + 2).map_or(Ok(0), str::parse::<i8>).ok();
    // Milliseconds of the years up to 2001 have 12 digits too.
    if text.len() == 12 && !(1900..2100).contains(&year) {
        return None;
    }
    DateTime::new(year, part(4)?, part(6)?, part(8)?, part(10)?, part(12)?, 0).ok()
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
