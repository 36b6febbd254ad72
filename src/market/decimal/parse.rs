//! From text to scaled integers, digit by digit.

/// Largest exponent that is read, either way.
///
/// A price of `1e400` is damage or an attack; 30 covers every unit a market has used.
pub const EXPONENT_MAX: u32 = 30;

/// Why a text was not taken as a decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// It is not a number as JSON writes numbers.
    #[error("not a number: unexpected byte or end at byte {at}")]
    Syntax {
        /// The first byte that does not fit, from the start of the text.
        at: usize,
    },
    /// It has a decimal other than 0 beyond the scale.
    #[error("more than {scale} decimals: declare a larger scale or round before sending")]
    Decimals {
        /// The scale asked for.
        scale: u8,
    },
    /// It is too large for 64 bits at the scale.
    #[error("too large for 64 bits at {scale} decimals")]
    Overflow {
        /// The scale asked for.
        scale: u8,
    },
    /// Its exponent lies beyond [`EXPONENT_MAX`].
    #[error("exponent beyond 1e±{EXPONENT_MAX}")]
    Exponent,
    /// It spells infinity or "not a number".
    #[error("not a finite number")]
    NotFinite,
}

/// Reads a number in JSON's grammar as an integer of `scale` decimals, exactly.
///
/// # Errors
///
/// See [`ParseError`]. Zeros beyond the scale are no error.
pub fn parse_exact(text: &[u8], scale: u8) -> Result<i64, ParseError> {
    match parse_rounded(text, scale)? {
        (value, false) => Ok(value),
        (_, true) => Err(ParseError::Decimals { scale }),
    }
}

/// As [`parse_exact`], rounding half to even what lies beyond the scale; the flag says whether
/// anything was rounded away.
///
/// # Errors
///
/// See [`ParseError`]; never [`ParseError::Decimals`].
pub fn parse_rounded(text: &[u8], scale: u8) -> Result<(i64, bool), ParseError> {
    let parts = Parts::split(text)?;
    // Of all digits, as if the point stood behind the last that is kept.
    let total = (parts.whole.len() + parts.fraction.len()) as i64;
    let keep = parts.whole.len() as i64 + i64::from(parts.exponent) + i64::from(scale);
    let overflow = ParseError::Overflow { scale };

    let mut value: u64 = 0;
    let mut half = 0;
    let mut beyond = false;
    for (at, byte) in (0i64..).zip(parts.whole.iter().chain(parts.fraction)) {
        let digit = byte - b'0';
        if at < keep {
            value = value
                .checked_mul(10)
                .and_then(|value| value.checked_add(u64::from(digit)))
                .ok_or(overflow)?;
        } else if at == keep {
            half = digit;
        } else {
            beyond |= digit != 0;
        }
    }
    if value != 0 {
        for _ in total..keep {
            value = value.checked_mul(10).ok_or(overflow)?;
        }
    }
    let up = half > 5 || (half == 5 && (beyond || value % 2 == 1));
    value = value.checked_add(u64::from(up)).ok_or(overflow)?;
    let signed = if parts.negative {
        0i64.checked_sub_unsigned(value)
    } else {
        i64::try_from(value).ok()
    };
    Ok((signed.ok_or(overflow)?, beyond || half != 0))
}

/// A number's text, taken apart and checked.
struct Parts<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i32,
}

impl<'a> Parts<'a> {
    fn split(text: &'a [u8]) -> Result<Self, ParseError> {
        let negative = text.first() == Some(&b'-');
        let start = usize::from(negative);
        let whole = digits(text, start);
        if whole.is_empty() {
            return Err(not_a_number(text, start));
        }
        if whole.len() > 1 && whole[0] == b'0' {
            return Err(ParseError::Syntax { at: start + 1 });
        }
        let mut at = start + whole.len();
        let mut fraction = &text[..0];
        if text.get(at) == Some(&b'.') {
            fraction = digits(text, at + 1);
            at += 1 + fraction.len();
            if fraction.is_empty() {
                return Err(ParseError::Syntax { at });
            }
        }
        let mut exponent = 0;
        let mut far = false;
        if matches!(text.get(at), Some(b'e' | b'E')) {
            let below = text.get(at + 1) == Some(&b'-');
            at += 1 + usize::from(matches!(text.get(at + 1), Some(b'-' | b'+')));
            let written = digits(text, at);
            if written.is_empty() {
                return Err(ParseError::Syntax { at });
            }
            at += written.len();
            for digit in written {
                exponent = (exponent * 10 + i32::from(digit - b'0')).min(1_000);
            }
            far = exponent > EXPONENT_MAX as i32;
            exponent = if below { -exponent } else { exponent };
        }
        if at < text.len() {
            return Err(ParseError::Syntax { at });
        }
        if far {
            return Err(ParseError::Exponent);
        }
        Ok(Self {
            negative,
            whole,
            fraction,
            exponent,
        })
    }
}

fn digits(text: &[u8], from: usize) -> &[u8] {
    let text = text.get(from..).unwrap_or_default();
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    &text[..end.unwrap_or(text.len())]
}

fn not_a_number(text: &[u8], at: usize) -> ParseError {
    let word = &text[at..];
    let spells = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    if spells("nan") || spells("inf") || spells("infinity") {
        ParseError::NotFinite
    } else {
        ParseError::Syntax { at }
    }
}
