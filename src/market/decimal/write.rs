//! From scaled integers to text.

use super::POWERS;

const PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut at = 0;
    while at < 100 {
        pairs[2 * at] = b'0' + (at / 10) as u8;
        pairs[2 * at + 1] = b'0' + (at % 10) as u8;
        at += 1;
    }
    pairs
};

/// Writes the digits of `value` at the end of `buffer`; answers where they start.
fn digits(mut value: u64, buffer: &mut [u8; 20]) -> usize {
    let mut at = buffer.len();
    while value >= 100 {
        let pair = (value % 100) as usize * 2;
        value /= 100;
        at -= 2;
        buffer[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    }
    if value >= 10 {
        let pair = value as usize * 2;
        at -= 2;
        buffer[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    } else {
        at -= 1;
        buffer[at] = b'0' + value as u8;
    }
    at
}

/// Appends an integer.
pub fn write_int(value: i64, out: &mut Vec<u8>) {
    let mut buffer = [0; 20];
    if value < 0 {
        out.push(b'-');
    }
    let at = digits(value.unsigned_abs(), &mut buffer);
    out.extend_from_slice(&buffer[at..]);
}

/// Appends `value` at `scale` as a JSON number: without exponent, without zeros at the end of its
/// decimals, without a point if none are left.
///
/// # Panics
///
/// If `scale` is above 18.
pub fn write_decimal(value: i64, scale: u8, out: &mut Vec<u8>) {
    if scale == 0 {
        return write_int(value, out);
    }
    let unit = POWERS[usize::from(scale)] as u64;
    let size = value.unsigned_abs();
    let (whole, fraction) = (size / unit, size % unit);
    // Sign, 20 digits, point, 18 digits: one append instead of four.
    let mut text = [b'0'; 40];
    let mut buffer = [0; 20];
    text[0] = b'-';
    let at = digits(whole, &mut buffer);
    let mut end = 1 + 20 - at;
    text[1..end].copy_from_slice(&buffer[at..]);
    if fraction != 0 {
        text[end] = b'.';
        let mut buffer = [b'0'; 20];
        digits(fraction, &mut buffer);
        let decimals = &buffer[20 - usize::from(scale)..];
        let kept = decimals
            .iter()
            .rposition(|&digit| digit != b'0')
            .map_or(0, |last| last + 1);
        text[end + 1..end + 1 + kept].copy_from_slice(&decimals[..kept]);
        end += 1 + kept;
    }
    out.extend_from_slice(&text[usize::from(value >= 0)..end]);
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
