//! From scaled integers to text.

use super::POWERS;

/// Bytes that [`put_decimal`] may touch: a sign, 20 digits, a point, 18 digits.
pub(crate) const DECIMAL_ROOM: usize = 40;

/// Numbers that have 8 digits or fewer.
const EIGHT: u64 = 100_000_000;

/// The 8 digits of a number below [`EIGHT`], the first in the lowest byte, without `'0'` added.
///
/// Halves, quarters and eighths of the word are divided side by side (Khuong, "How to print
/// integers really fast").
#[inline(always)]
pub(crate) fn eight_digits(value: u64) -> u64 {
    let halves = (value / 10_000) | ((value % 10_000) << 32);
    let hundreds = ((halves * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let pairs = hundreds | ((halves - 100 * hundreds) << 16);
    let tens = ((pairs * 103) >> 10) & 0x000f_000f_000f_000f;
    tens | ((pairs - 10 * tens) << 8)
}

const ZEROS: u64 = 0x3030_3030_3030_3030;

/// Writes the digits of `value` at `at`; answers where they end.
#[inline(always)]
fn put_digits(value: u64, text: &mut [u8; DECIMAL_ROOM], at: usize) -> usize {
    if value < EIGHT {
        let digits = eight_digits(value);
        // The last digit stays, also of 0.
        let zeros = (digits.trailing_zeros() as usize / 8).min(7);
        let digits = (digits | ZEROS) >> (8 * zeros);
        text[at..at + 8].copy_from_slice(&digits.to_le_bytes());
        return at + 8 - zeros;
    }
    let at = put_digits_slow(value / EIGHT, text, at);
    let digits = eight_digits(value % EIGHT) | ZEROS;
    text[at..at + 8].copy_from_slice(&digits.to_le_bytes());
    at + 8
}

#[inline(never)]
fn put_digits_slow(value: u64, text: &mut [u8; DECIMAL_ROOM], at: usize) -> usize {
    put_digits(value, text, at)
}

/// Writes `value` at `scale` to the start of `text`; answers where it ends. See [`write_decimal`].
#[inline(always)]
pub(crate) fn put_decimal(value: i64, scale: u8, text: &mut [u8; DECIMAL_ROOM]) -> usize {
    text[0] = b'-';
    let at = usize::from(value < 0);
    let size = value.unsigned_abs();
    if scale == 0 {
        return put_digits(size, text, at);
    }
    let scale = usize::from(scale);
    let unit = POWERS[scale] as u64;
    let (whole, fraction) = (size / unit, size % unit);
    let at = put_digits(whole, text, at);
    if fraction == 0 {
        return at;
    }
    text[at] = b'.';
    if scale <= 8 {
        let digits = eight_digits(fraction * POWERS[8 - scale] as u64);
        let zeros = digits.leading_zeros() as usize / 8;
        text[at + 1..at + 9].copy_from_slice(&(digits | ZEROS).to_le_bytes());
        return at + 9 - zeros;
    }
    let mut rest = fraction;
    let mut end = at + 1;
    for place in (at + 1..at + 1 + scale).rev() {
        let digit = (rest % 10) as u8;
        rest /= 10;
        text[place] = b'0' + digit;
        if digit != 0 {
            end = end.max(place + 1);
        }
    }
    end
}

/// Appends an integer.
pub fn write_int(value: i64, out: &mut Vec<u8>) {
    write_decimal(value, 0, out);
}

/// Appends `value` at `scale` as a JSON number: without exponent, without zeros at the end of its
/// decimals, without a point if none are left.
///
/// # Panics
///
/// If `scale` is above 18.
pub fn write_decimal(value: i64, scale: u8, out: &mut Vec<u8>) {
    let mut text = [0; DECIMAL_ROOM];
    let end = put_decimal(value, scale, &mut text);
    out.extend_from_slice(&text[..end]);
}

/// As [`write_decimal`], for sums and products; any scale.
pub fn write_decimal_wide(value: i128, scale: u8, out: &mut Vec<u8>) {
    if let (Ok(value), true) = (i64::try_from(value), usize::from(scale) < POWERS.len()) {
        return write_decimal(value, scale, out);
    }
    if value < 0 {
        out.push(b'-');
    }
    let digits = value.unsigned_abs().to_string();
    let decimals = usize::from(scale);
    // At least one digit stands before the point.
    let padded = format!("{digits:0>width$}", width = decimals + 1);
    let (whole, fraction) = padded.split_at(padded.len() - decimals);
    let fraction = fraction.trim_end_matches('0');
    out.extend_from_slice(whole.as_bytes());
    if !fraction.is_empty() {
        out.push(b'.');
        out.extend_from_slice(fraction.as_bytes());
    }
}

/// [`write_decimal`] as a text of its own, for messages and tables.
///
/// # Panics
///
/// If `scale` is above 18.
pub fn to_text(value: i64, scale: u8) -> String {
    let mut out = Vec::new();
    write_decimal(value, scale, &mut out);
    out.into_iter().map(char::from).collect()
}
