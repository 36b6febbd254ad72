//! Instants as microseconds since 1970-01-01T00:00:00Z, from and to RFC 3339.

use crate::market::decimal::{DECIMAL_ROOM, POWERS, eight_digits, put_decimal};

/// 0000-01-01T00:00:00Z, the earliest instant that is read.
pub const TIME_MIN: i64 = -62_167_219_200_000_000;

/// 9999-12-31T23:59:59.999999Z, the latest instant that is read.
pub const TIME_MAX: i64 = 253_402_300_799_999_999;

const SECOND: i64 = 1_000_000;
const ZEROS: u64 = 0x3030_3030_3030_3030;
const DAY: i64 = 86_400 * SECOND;

/// Why a text was not taken as an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimeError {
    /// It is not RFC 3339 with an offset.
    #[error("not an RFC 3339 instant: unexpected byte or end at byte {at}")]
    Syntax {
        /// The first byte that does not fit, from the start of the text.
        at: usize,
    },
    /// A month, day, hour, minute, second or offset that does not exist; leap seconds included.
    #[error("no such {what}")]
    NoSuch {
        /// The part.
        what: &'static str,
    },
    /// It lies between two microseconds.
    #[error("finer than a microsecond: send at most 6 digits after the second")]
    Precision,
    /// It lies outside the years 0000 to 9999.
    #[error("outside the years 0000 to 9999")]
    Range,
}

/// Reads an RFC 3339 instant with up to 9 digits after the second; those beyond the sixth must be 0.
///
/// Offsets are taken into account, leap seconds refused.
///
/// # Errors
///
/// See [`TimeError`].
pub fn parse_time(text: &[u8]) -> Result<i64, TimeError> {
    let mut text = Cursor { text, at: 0 };
    let year = text.number(4)?;
    text.expect(b"-")?;
    let month = text.number(2)?;
    text.expect(b"-")?;
    let day = text.number(2)?;
    text.expect(b"Tt")?;
    let hour = text.number(2)?;
    text.expect(b":")?;
    let minute = text.number(2)?;
    text.expect(b":")?;
    let second = text.number(2)?;
    let mut micros = 0;
    let mut finer = false;
    if text.peek() == Some(b'.') {
        text.at += 1;
        let start = text.at;
        while let Some(digit @ b'0'..=b'9') = text.peek() {
            match text.at - start {
                place @ 0..6 => micros += i64::from(digit - b'0') * POWERS[5 - place],
                6..9 => finer |= digit != b'0',
                _ => return Err(TimeError::Syntax { at: text.at }),
            }
            text.at += 1;
        }
        if text.at == start {
            return Err(TimeError::Syntax { at: text.at });
        }
    }
    let offset = match text.next() {
        Some(b'Z' | b'z') => 0,
        Some(sign @ (b'+' | b'-')) => {
            let hours = text.number(2)?;
            text.expect(b":")?;
            let minutes = text.number(2)?;
            check(hours < 24 && minutes < 60, "offset")?;
            (hours * 60 + minutes) * if sign == b'-' { -1 } else { 1 }
        }
        _ => return Err(TimeError::Syntax { at: text.at - 1 }),
    };
    if text.at < text.text.len() {
        return Err(TimeError::Syntax { at: text.at });
    }
    check((1..=12).contains(&month), "month")?;
    check((1..=days_in(year, month)).contains(&day), "day")?;
    check(hour < 24, "hour")?;
    check(minute < 60, "minute")?;
    check(second < 60, "second")?;
    if finer {
        return Err(TimeError::Precision);
    }
    let seconds = (hour * 60 + minute - offset) * 60 + second;
    in_range(days_before(year, month, day) * DAY + seconds * SECOND + micros)
}

/// Passes on an instant that can be read and written.
///
/// # Errors
///
/// [`TimeError::Range`] outside the years 0000 to 9999.
pub fn in_range(micros: i64) -> Result<i64, TimeError> {
    if (TIME_MIN..=TIME_MAX).contains(&micros) {
        Ok(micros)
    } else {
        Err(TimeError::Range)
    }
}

/// Bytes of [`put_time`].
const TIME_LEN: usize = 27;

/// Bytes that [`put_time_json`] may touch.
pub(super) const TIME_ROOM: usize = DECIMAL_ROOM;

/// Appends `2013-10-07T13:30:00.000000Z`, always 27 bytes and without quotes.
///
/// # Errors
///
/// [`TimeError::Range`] outside the years 0000 to 9999; nothing is appended then.
pub fn write_time(micros: i64, out: &mut Vec<u8>) -> Result<(), TimeError> {
    let mut text = [0; TIME_LEN];
    put_time(in_range(micros)?, &mut Date::default(), &mut text);
    out.extend_from_slice(&text);
    Ok(())
}

/// The date written last, as digits: instants of one row mostly share it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Date {
    days: i64,
    digits: u64,
}

impl Default for Date {
    fn default() -> Self {
        Self {
            days: i64::MIN,
            digits: 0,
        }
    }
}

impl Date {
    /// The eight digits of the date `days` after 1970-01-01.
    #[inline]
    fn digits(&mut self, days: i64) -> u64 {
        if self.days != days {
            let (year, month, day) = date_of(days);
            self.days = days;
            self.digits = eight_digits(u64::from(year * 10_000 + month * 100 + day)) | ZEROS;
        }
        self.digits
    }
}

/// Writes an instant in range.
#[inline]
fn put_time(micros: i64, date: &mut Date, text: &mut [u8; TIME_LEN]) {
    let date = date.digits(micros.div_euclid(DAY));
    let rest = micros.rem_euclid(DAY) as u64;
    let (seconds, part) = ((rest / SECOND as u64) as u32, rest % SECOND as u64);
    let time = seconds / 3_600 * 10_000 + seconds / 60 % 60 * 100 + seconds % 60;
    // Eight digits each, the first in the lowest byte: YYYYMMDD, 00HHMMSS, 00UUUUUU.
    let time = eight_digits(u64::from(time)) | ZEROS;
    let part = eight_digits(part) | ZEROS;
    let byte = |byte: u8, at: u32| u64::from(byte) << (8 * at);
    let pair = |digits: u64, at: u32, to: u32| (digits >> (8 * at) & 0xffff) << (8 * to);
    let words = [
        (date & 0xffff_ffff) | byte(b'-', 4) | pair(date, 4, 5) | byte(b'-', 7),
        pair(date, 6, 0) | byte(b'T', 2) | pair(time, 2, 3) | byte(b':', 5) | pair(time, 4, 6),
        byte(b':', 0) | pair(time, 6, 1) | byte(b'.', 3) | pair(part, 2, 4) | pair(part, 4, 6),
    ];
    for (chunk, word) in text.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *chunk = word.to_le_bytes();
    }
    text[24] = (part >> 48) as u8;
    text[25] = (part >> 56) as u8;
    text[26] = b'Z';
}

/// Appends an instant as JSON: a string in RFC 3339, or milliseconds since the epoch where that
/// has no year of four digits.
pub fn write_time_json(micros: i64, out: &mut Vec<u8>) {
    let mut text = [0; TIME_ROOM];
    let end = put_time_json(micros, &mut Date::default(), &mut text);
    out.extend_from_slice(&text[..end]);
}

/// As [`write_time_json`], to the start of `text`; answers where it ends.
pub(super) fn put_time_json(micros: i64, date: &mut Date, text: &mut [u8; TIME_ROOM]) -> usize {
    match (in_range(micros), text[1..].first_chunk_mut()) {
        (Ok(micros), Some(inner)) => {
            put_time(micros, date, inner);
            text[0] = b'"';
            text[1 + TIME_LEN] = b'"';
            TIME_LEN + 2
        }
        _ => put_decimal(micros, 3, text),
    }
}

fn check(holds: bool, what: &'static str) -> Result<(), TimeError> {
    if holds {
        Ok(())
    } else {
        Err(TimeError::NoSuch { what })
    }
}

struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// The next byte; counts past the end, so that `at - 1` is the place looked at.
    fn next(&mut self) -> Option<u8> {
        self.at += 1;
        self.text.get(self.at - 1).copied()
    }

    fn expect(&mut self, any: &[u8]) -> Result<(), TimeError> {
        match self.next() {
            Some(byte) if any.contains(&byte) => Ok(()),
            _ => Err(TimeError::Syntax { at: self.at - 1 }),
        }
    }

    fn number(&mut self, width: usize) -> Result<i64, TimeError> {
        let mut value = 0;
        for _ in 0..width {
            match self.next() {
                Some(digit @ b'0'..=b'9') => value = value * 10 + i64::from(digit - b'0'),
                _ => return Err(TimeError::Syntax { at: self.at - 1 }),
            }
        }
        Ok(value)
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

// Years that begin in March make the leap day the last, and all months follow one formula
// (Hinnant, "chrono-compatible low-level date algorithms").

/// Days from 1970-01-01 to a date.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date `days` after 1970-01-01, of an instant in range: never negative.
fn date_of(days: i64) -> (u32, u32, u32) {
    // One era of 400 years ahead, so that all of it is unsigned.
    let days = (days + 719_468 + 146_097) as u32;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u32::from(month <= 2);
    (year - 400, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(micros: i64) -> String {
        let mut out = Vec::new();
        write_time(micros, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_and_jiff_agrees(micros in TIME_MIN..=TIME_MAX) {
            let text = written(micros);
            prop_assert_eq!(parse_time(text.as_bytes()), Ok(micros));
            // Its civil time, because its instants end 26 hours before the year 9999 does.
            let oracle: jiff::civil::DateTime = text.trim_end_matches('Z').parse().unwrap();
            let since = oracle.duration_since(jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0));
            prop_assert_eq!(since.as_micros(), i128::from(micros));
        }

        #[test]
        fn an_offset_is_taken_into_account(
            micros in 0i64..4_000_000_000_000_000, hours in 0i64..24, minutes in 0i64..60, west: bool,
        ) {
            let offset = (hours * 3_600 + minutes * 60) * if west { -1 } else { 1 };
            let local = written(micros + offset * SECOND);
            let sign = if west { '-' } else { '+' };
            let text = format!("{}{sign}{hours:02}:{minutes:02}", local.trim_end_matches('Z'));
            prop_assert_eq!(parse_time(text.as_bytes()), Ok(micros));
        }

        #[test]
        fn any_calendar_field_is_refused_exactly_where_jiff_refuses(
            month in 0u8..15, day in 0u8..34, hour in 0u8..26, minute in 0u8..62, year in 1u16..9998,
        ) {
            let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:07Z");
            let oracle = text.parse::<jiff::Timestamp>().map(|time| time.as_microsecond()).ok();
            prop_assert_eq!(parse_time(text.as_bytes()).ok(), oracle);
        }
    }

    #[test]
    fn the_form_is_fixed() {
        assert_eq!(
            written(1_381_152_600_000_000),
            "2013-10-07T13:30:00.000000Z"
        );
        assert_eq!(written(TIME_MIN), "0000-01-01T00:00:00.000000Z");
        assert_eq!(written(TIME_MAX), "9999-12-31T23:59:59.999999Z");
        let mut out = Vec::new();
        write_time_json(TIME_MAX + 1, &mut out);
        assert_eq!(out, b"253402300800000");
    }

    #[test]
    fn each_refusal_says_its_reason() {
        let no = |what| Err(TimeError::NoSuch { what });
        for (text, answer) in [
            ("2013-10-07T13:30:00Z", Ok(1_381_152_600_000_000)),
            ("2013-10-07t13:30:00.5z", Ok(1_381_152_600_500_000)),
            ("2013-10-07T13:30:00.123456000Z", Ok(1_381_152_600_123_456)),
            ("2013-10-07T13:30:00.123456001Z", Err(TimeError::Precision)),
            (
                "2013-10-07T13:30:00.1234560000Z",
                Err(TimeError::Syntax { at: 29 }),
            ),
            ("2013-10-07T13:30:00.Z", Err(TimeError::Syntax { at: 20 })),
            ("2013-10-07T13:30:00", Err(TimeError::Syntax { at: 19 })),
            ("2013-10-07 13:30:00Z", Err(TimeError::Syntax { at: 10 })),
            ("2013-10-07T13:30:00Zz", Err(TimeError::Syntax { at: 20 })),
            ("2013-10-07T13:30:00+02", Err(TimeError::Syntax { at: 22 })),
            ("", Err(TimeError::Syntax { at: 0 })),
            ("2013-02-29T00:00:00Z", no("day")),
            ("2012-02-29T00:00:00Z", Ok(1_330_473_600_000_000)),
            ("2013-13-01T00:00:00Z", no("month")),
            ("2016-12-31T23:59:60Z", no("second")),
            ("2016-12-31T23:59:00+24:00", no("offset")),
            ("0000-01-01T00:00:00+00:01", Err(TimeError::Range)),
        ] {
            assert_eq!(parse_time(text.as_bytes()), answer, "{text}");
        }
    }
}
