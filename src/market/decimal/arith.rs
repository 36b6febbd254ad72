//! Rescaling and division, with the rounding named by the caller.

use super::power_wide;

/// What happens to the part that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// To the nearest, a half to the even neighbour.
    HalfEven,
    /// To the nearest, a half away from zero.
    HalfUp,
    /// Towards zero.
    Down,
    /// Away from zero.
    Up,
}

/// Why a calculation has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArithmeticError {
    /// The result, or a step on the way to it, does not fit.
    #[error("the result does not fit")]
    Overflow,
    /// The divisor is zero.
    #[error("division by zero")]
    DivisionByZero,
}

/// Moves a value from scale `from` to scale `to`.
///
/// # Errors
///
/// [`ArithmeticError::Overflow`] if 64 bits cannot hold the result.
pub fn rescale(value: i64, from: u8, to: u8, rounding: Rounding) -> Result<i64, ArithmeticError> {
    let wide = rescale_wide(i128::from(value), from, to, rounding)?;
    i64::try_from(wide).map_err(|_| ArithmeticError::Overflow)
}

/// As [`rescale`], for sums and products.
///
/// # Errors
///
/// [`ArithmeticError::Overflow`] if 128 bits cannot hold the result.
pub fn rescale_wide(
    value: i128,
    from: u8,
    to: u8,
    rounding: Rounding,
) -> Result<i128, ArithmeticError> {
    if to >= from {
        return raise(value, u32::from(to - from));
    }
    match power_wide(u32::from(from - to)) {
        Some(unit) => divide(value, unit, rounding),
        // The value is less than a thousandth of the new unit.
        None if rounding == Rounding::Up => Ok(value.signum()),
        None => Ok(0),
    }
}

/// `num` at scale `num_scale` divided by `den` at scale `den_scale`, at scale `scale`.
///
/// Exact until the one rounding at the end, also where `num` at the new scale would not fit.
///
/// # Errors
///
/// If `den` is zero, or the result does not fit.
pub fn div(
    num: i128,
    num_scale: u8,
    den: i128,
    den_scale: u8,
    scale: u8,
    rounding: Rounding,
) -> Result<i128, ArithmeticError> {
    if den == 0 {
        return Err(ArithmeticError::DivisionByZero);
    }
    let raised = u32::from(scale) + u32::from(den_scale);
    let lowered = u32::from(num_scale);
    if raised < lowered {
        let den = raise(den, lowered - raised)?;
        return divide(num, den, rounding);
    }
    match raise(num, raised - lowered) {
        Ok(num) => divide(num, den, rounding),
        Err(_) => divide_digits(num, raised - lowered, den, rounding),
    }
}

fn raise(value: i128, digits: u32) -> Result<i128, ArithmeticError> {
    if value == 0 {
        return Ok(0);
    }
    power_wide(digits)
        .and_then(|power| value.checked_mul(power))
        .ok_or(ArithmeticError::Overflow)
}

/// `num / den`, rounded.
pub(super) fn divide(num: i128, den: i128, rounding: Rounding) -> Result<i128, ArithmeticError> {
    let quotient = num.checked_div(den).ok_or(ArithmeticError::Overflow)?;
    let rest = num.checked_rem(den).ok_or(ArithmeticError::Overflow)?;
    let away = if (num < 0) == (den < 0) { 1 } else { -1 };
    round(quotient, rest, den, away, rounding)
}

/// `num * 10^digits / den`, rounded, by long division.
pub(super) fn divide_digits(
    num: i128,
    digits: u32,
    den: i128,
    rounding: Rounding,
) -> Result<i128, ArithmeticError> {
    let overflow = ArithmeticError::Overflow;
    let away = if (num < 0) == (den < 0) { 1 } else { -1 };
    let mut quotient = num.checked_div(den).ok_or(overflow)?;
    let mut rest = num.checked_rem(den).ok_or(overflow)?;
    for _ in 0..digits {
        rest = rest.checked_mul(10).ok_or(overflow)?;
        let digit = rest / den;
        rest %= den;
        quotient = quotient
            .checked_mul(10)
            .and_then(|quotient| quotient.checked_add(digit))
            .ok_or(overflow)?;
    }
    round(quotient, rest, den, away, rounding)
}

fn round(
    quotient: i128,
    rest: i128,
    den: i128,
    away: i128,
    rounding: Rounding,
) -> Result<i128, ArithmeticError> {
    let (rest, den) = (rest.unsigned_abs(), den.unsigned_abs());
    // As `2 * rest` against `den`, which could not be doubled.
    let half = rest.cmp(&(den - rest));
    let up = rest != 0
        && match rounding {
            Rounding::Down => false,
            Rounding::Up => true,
            Rounding::HalfUp => half.is_ge(),
            Rounding::HalfEven => half.is_gt() || (half.is_eq() && quotient % 2 != 0),
        };
    let step = if up { away } else { 0 };
    quotient.checked_add(step).ok_or(ArithmeticError::Overflow)
}
