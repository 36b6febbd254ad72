//! Scanners of single values for the predicted layout.
//!
//! Each answers `None` at whatever it does not handle, wrong or merely unusual: the strict reader
//! then decides. What they accept, they read as the strict reader would. All of them read whole
//! words, so the bytes behind a payload must be there; see [`PAD`].

use crate::events::text::special;
use crate::events::time::parse_time;
use crate::market::decimal::POWERS;

/// Bytes that must lie behind a payload.
pub(super) const PAD: usize = 32;

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let chunk = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*chunk))
}

/// The digits a word begins with, 0 to 8.
#[inline(always)]
fn digits(word: u64) -> usize {
    let value = word ^ (LOW * b'0' as u64);
    // 10 and more reach the top bit. A carry only spoils bytes above the first that is no digit.
    let other = (value.wrapping_add(LOW * 0x76) | value) & HIGH;
    other.trailing_zeros() as usize / 8
}

/// The number that the first `count` digits of a word spell; `count` is 1 to 8.
#[inline(always)]
fn value(word: u64, count: usize) -> u64 {
    // Digits that are not there become zeros in front.
    let digits = (word ^ (LOW * b'0' as u64)) << (64 - 8 * count);
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    low.wrapping_add(high) >> 32
}

/// Where the text that starts at `at` ends: at its quote.
#[inline(always)]
pub(super) fn text(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    let mut beyond_ascii = 0;
    loop {
        let word = word(bytes, at)?;
        let marks = special(word);
        if marks == 0 {
            beyond_ascii |= word & HIGH;
            at += 8;
            continue;
        }
        let inside = marks.trailing_zeros() / 8;
        beyond_ascii |= word & HIGH & ((1 << (8 * inside)) - 1);
        at += inside as usize;
        if (word >> (8 * inside)) as u8 != b'"' {
            return None;
        }
        if beyond_ascii != 0 {
            std::str::from_utf8(&bytes[start..at]).ok()?;
        }
        return Some(at);
    }
}

/// Reads up to 18 digits; answers them, their count and what follows.
#[inline(always)]
fn run(bytes: &[u8], mut at: usize) -> Option<(u64, usize, usize)> {
    let first = word(bytes, at)?;
    let mut count = digits(first);
    if count == 0 {
        return None;
    }
    let mut sum = value(first, count);
    at += count;
    let mut last = count;
    while last == 8 {
        let next = word(bytes, at)?;
        last = digits(next);
        if last == 0 {
            break;
        }
        count += last;
        if count > 18 {
            return None;
        }
        sum = sum * POWERS[last] as u64 + value(next, last);
        at += last;
    }
    Some((sum, count, at))
}

/// Skips digits; answers their count.
#[inline(always)]
fn skip_run(bytes: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let count = digits(word(bytes, at)?);
        at += count;
        if count < 8 {
            return Some(at - start);
        }
    }
}

/// A number without exponent, as an integer of `scale` decimals, and what follows it.
#[inline(always)]
pub(super) fn number(bytes: &[u8], at: usize, scale: usize) -> Option<(i64, usize)> {
    let negative = *bytes.get(at)? == b'-';
    let start = at + usize::from(negative);
    let (whole, count, mut at) = run(bytes, start)?;
    if count > 1 && bytes[start] == b'0' {
        return None;
    }
    let mut size = whole.checked_mul(*POWERS.get(scale)? as u64)?;
    if *bytes.get(at)? == b'.' {
        let (fraction, count, end) = run(bytes, at + 1)?;
        at = end;
        let fraction = if count <= scale {
            fraction * POWERS[scale - count] as u64
        } else {
            let finer = POWERS[count - scale] as u64;
            if fraction % finer != 0 {
                return None;
            }
            fraction / finer
        };
        size = size.checked_add(fraction)?;
    }
    let size = i64::try_from(size).ok()?;
    Some((if negative { -size } else { size }, at))
}

/// What follows a number without exponent.
#[inline(always)]
pub(super) fn skip_number(bytes: &[u8], at: usize) -> Option<usize> {
    let start = at + usize::from(*bytes.get(at)? == b'-');
    let count = skip_run(bytes, start)?;
    if count == 0 || (count > 1 && bytes[start] == b'0') {
        return None;
    }
    let at = start + count;
    if *bytes.get(at)? != b'.' {
        return Some(at);
    }
    let count = skip_run(bytes, at + 1)?;
    (count > 0).then_some(at + 1 + count)
}

/// `true` or `false`, and what follows.
#[inline(always)]
pub(super) fn truth(bytes: &[u8], at: usize) -> Option<(i64, usize)> {
    let word = word(bytes, at)?;
    if word as u32 == u32::from_le_bytes(*b"true") {
        Some((1, at + 4))
    } else if word << 24 == u64::from_le_bytes(*b"\0\0\0false") {
        Some((0, at + 5))
    } else {
        None
    }
}

/// The minute of the instant read last: neighbours mostly share it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Minute {
    // `2013-10-07T13:30`; zeros, which no instant begins with, at first.
    text: [u64; 2],
    micros: i64,
}

impl Minute {
    /// `2013-10-07T13:30:00.000000Z` with up to 9 digits behind the point, and what follows.
    #[inline(always)]
    pub(super) fn instant(&mut self, bytes: &[u8], at: usize) -> Option<(i64, usize)> {
        let text = [word(bytes, at)?, word(bytes, at + 8)?];
        if text != self.text {
            self.turn(bytes, at)?;
        }
        let tail = word(bytes, at + 16)?;
        let seconds = tail >> 8;
        let second = value(seconds, 2);
        if tail as u8 != b':' || digits(seconds) != 2 || second > 59 {
            return None;
        }
        let micros = self.micros + second as i64 * 1_000_000;
        match (tail >> 24) as u8 {
            b'Z' => Some((micros, at + 20)),
            b'.' => {
                let (fraction, count, end) = run(bytes, at + 20)?;
                let fraction = match count {
                    ..=6 => fraction * POWERS[6 - count] as u64,
                    7..=9 if fraction % POWERS[count - 6] as u64 == 0 => {
                        fraction / POWERS[count - 6] as u64
                    }
                    _ => return None,
                };
                (*bytes.get(end)? == b'Z').then_some((micros + fraction as i64, end + 1))
            }
            _ => None,
        }
    }

    #[cold]
    fn turn(&mut self, bytes: &[u8], at: usize) -> Option<()> {
        let mut text = *b"0000-00-00T00:00:00Z";
        text[..16].copy_from_slice(bytes.get(at..at + 16)?);
        self.micros = parse_time(&text).ok()?;
        self.text = [word(bytes, at)?, word(bytes, at + 8)?];
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::market::decimal::parse_exact;

    fn padded(text: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(text.len() + PAD, b',');
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn a_number_scanned_is_the_number_read(
            text in "-?(0|[1-9][0-9]{0,19}|[0-9]{1,4})(\\.[0-9]{0,12}0{0,10})?", scale in 0u8..=18,
        ) {
            let bytes = padded(&text);
            let strict = parse_exact(text.as_bytes(), scale);
            match number(&bytes, 0, usize::from(scale)) {
                Some((value, end)) if end == text.len() => prop_assert_eq!(strict, Ok(value)),
                // The point ends a number only where no digit follows it: never.
                Some(_) => prop_assert!(false, "stopped early"),
                None => {}
            }
            let json = serde_json::from_str::<serde_json::Number>(&text).is_ok();
            prop_assert_eq!(skip_number(&bytes, 0) == Some(text.len()), json);
        }

        #[test]
        fn an_instant_scanned_is_the_instant_read(
            text in "201[23]-(0[0-9]|1[0-3])-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,6}0{0,4})?Z",
        ) {
            let strict = parse_time(text.as_bytes());
            let bytes = padded(&text);
            let mut minute = Minute::default();
            for _ in 0..2 {
                match minute.instant(&bytes, 0) {
                    Some((micros, end)) => {
                        prop_assert_eq!(end, text.len());
                        prop_assert_eq!(strict, Ok(micros));
                    }
                    None => prop_assert!(strict.is_err()),
                }
            }
        }
    }

    #[test]
    fn truths_are_told_apart() {
        assert_eq!(truth(&padded("true"), 0), Some((1, 4)));
        assert_eq!(truth(&padded("false"), 0), Some((0, 5)));
        assert_eq!(truth(&padded("falsy"), 0), None);
    }
}
