//! Decimals as scaled integers: the value `m` at scale `s` stands for `m / 10^s`.
//!
//! Money, prices and quantities are never held as `f64`: they are read from their text, kept as an
//! `i64` at the scale of their field, multiplied and summed in `i128`, and written back digit by
//! digit. Whatever cannot be held exactly is an error or rounds by a rule that the caller names.

mod arith;
mod parse;
mod write;

pub use arith::{ArithmeticError, Rounding, div, rescale, rescale_wide};
pub use parse::{EXPONENT_MAX, ParseError, parse_exact, parse_rounded};
pub(crate) use write::{DECIMAL_ROOM, eight_digits, put_decimal};
pub use write::{to_text, write_decimal, write_decimal_wide, write_int};

/// Powers of ten that an `i64` holds.
pub(crate) const POWERS: [i64; 19] = {
    let mut powers = [1; 19];
    let mut at = 1;
    while at < 19 {
        powers[at] = powers[at - 1] * 10;
        at += 1;
    }
    powers
};

/// Ten to the `exponent`; `None` where an `i128` cannot hold it.
pub(crate) fn power_wide(exponent: u32) -> Option<i128> {
    10i128.checked_pow(exponent)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use proptest::prelude::*;
    use rust_decimal::{Decimal, RoundingStrategy};

    use super::*;

    fn strategy(rounding: Rounding) -> RoundingStrategy {
        match rounding {
            Rounding::HalfEven => RoundingStrategy::MidpointNearestEven,
            Rounding::HalfUp => RoundingStrategy::MidpointAwayFromZero,
            Rounding::Down => RoundingStrategy::ToZero,
            Rounding::Up => RoundingStrategy::AwayFromZero,
        }
    }

    fn roundings() -> impl Strategy<Value = Rounding> {
        prop_oneof![
            Just(Rounding::HalfEven),
            Just(Rounding::HalfUp),
            Just(Rounding::Down),
            Just(Rounding::Up)
        ]
    }

    fn at_scale(value: Decimal, scale: u8) -> i128 {
        let mut value = value;
        value.rescale(u32::from(scale));
        value.mantissa()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn reading_agrees_with_rust_decimal(
            mantissa in -1_000_000_000_000i64..1_000_000_000_000, digits in 0u32..14, scale in 0u8..7,
        ) {
            let oracle = Decimal::new(mantissa, digits);
            let text = oracle.to_string();
            let rounded = oracle.round_dp(u32::from(scale));
            let expected = at_scale(rounded, scale) as i64;
            prop_assert_eq!(
                parse_rounded(text.as_bytes(), scale),
                Ok((expected, rounded != oracle))
            );
            let exact = if rounded == oracle { Ok(expected) } else { Err(ParseError::Decimals { scale }) };
            prop_assert_eq!(parse_exact(text.as_bytes(), scale), exact);
        }

        #[test]
        fn an_exponent_moves_the_point(
            mantissa in -100_000i64..100_000, digits in 0u32..6, exponent in -6i32..6,
        ) {
            let text = format!("{}e{exponent}", Decimal::new(mantissa, digits));
            let oracle = Decimal::from_scientific(&text).unwrap();
            let expected = i64::try_from(at_scale(oracle, 12)).map_err(|_| ParseError::Overflow { scale: 12 });
            prop_assert_eq!(parse_exact(text.as_bytes(), 12), expected);
        }

        #[test]
        fn writing_agrees_with_rust_decimal(mantissa: i64, digits in 0u32..19, scale in 0u8..=18) {
            let mantissa = mantissa / 10i64.pow(digits);
            let oracle = Decimal::new(mantissa, u32::from(scale)).normalize().to_string();
            prop_assert_eq!(to_text(mantissa, scale), &oracle[..]);
            let mut wide = Vec::new();
            write_decimal_wide(i128::from(mantissa), scale, &mut wide);
            prop_assert_eq!(wide, oracle.into_bytes());
        }

        #[test]
        fn what_is_written_reads_back(mantissa: i64, scale in 0u8..=18) {
            prop_assert_eq!(parse_exact(to_text(mantissa, scale).as_bytes(), scale), Ok(mantissa));
        }

        #[test]
        fn any_bytes_are_read_or_refused(text in "[-+0-9.eE]{0,24}", scale in 0u8..=18) {
            let json = serde_json::from_str::<serde_json::Number>(&text);
            match parse_rounded(text.as_bytes(), scale) {
                Ok(_) => prop_assert!(json.is_ok()),
                Err(ParseError::Syntax { .. }) => prop_assert!(json.is_err()),
                Err(_) => {}
            }
        }

        #[test]
        fn rescaling_agrees_with_rust_decimal(
            mantissa in -1_000_000_000_000i64..1_000_000_000_000, from in 0u8..12, to in 0u8..6,
            rounding in roundings(),
        ) {
            let oracle = Decimal::new(mantissa, u32::from(from))
                .round_dp_with_strategy(u32::from(to), strategy(rounding));
            prop_assert_eq!(rescale(mantissa, from, to, rounding), Ok(at_scale(oracle, to) as i64));
        }

        #[test]
        fn division_agrees_with_long_division(
            num: i64, den in prop_oneof![1i64..1_000_000_000_000, -1_000_000_000_000i64..-1],
            rounding in roundings(),
        ) {
            // Scales 9 and 3 to 8: times 100, then divided.
            let quotient = div(i128::from(num), 9, i128::from(den), 3, 8, rounding).unwrap();
            let (num, den) = (i128::from(num) * 100, i128::from(den));
            let rest = num - quotient * den;
            let (twice, size) = (2 * rest.abs(), den.abs());
            let ok = match rounding {
                Rounding::HalfEven => twice < size || (twice == size && quotient % 2 == 0),
                Rounding::HalfUp => {
                    twice < size || (twice == size && (quotient * den).abs() >= num.abs())
                }
                Rounding::Down => rest.abs() < size && (quotient * den).abs() <= num.abs(),
                Rounding::Up => rest.abs() < size && (quotient * den).abs() >= num.abs(),
            };
            prop_assert!(ok, "{num} / {den} gave {quotient}");
        }

        #[test]
        fn a_wide_division_equals_the_direct_one(num in -1_000_000_000_000i128..1_000_000_000_000, den in 1i128..1_000_000) {
            let direct = arith::divide(num * 1_000_000, den, Rounding::HalfEven);
            prop_assert_eq!(arith::divide_digits(num, 6, den, Rounding::HalfEven), direct);
        }
    }

    #[test]
    fn a_volume_weighted_price_needs_no_room_for_its_numerator_at_the_new_scale() {
        // 10^37 at scale 16 cannot be multiplied by 10^16, and need not be.
        let (num, den) = (10i128.pow(37), 10i128.pow(29));
        assert_eq!(
            div(num, 16, den, 8, 8, Rounding::HalfEven),
            Ok(10i128.pow(8))
        );
        assert_eq!(
            div(num, 0, den, 18, 18, Rounding::HalfEven),
            Err(ArithmeticError::Overflow)
        );
        assert_eq!(
            div(1, 0, 0, 0, 8, Rounding::HalfEven),
            Err(ArithmeticError::DivisionByZero)
        );
    }

    #[test]
    fn the_extremes_are_read_and_written() {
        for (text, scale, value) in [
            ("9223372036854775807", 0, i64::MAX),
            ("-9223372036854775808", 0, i64::MIN),
            ("-9.223372036854775808", 18, i64::MIN),
            ("-92233720368547758.08", 2, i64::MIN),
        ] {
            assert_eq!(parse_exact(text.as_bytes(), scale), Ok(value));
            assert_eq!(to_text(value, scale), text);
        }
        let mut wide = Vec::new();
        write_decimal_wide(i128::MIN, 8, &mut wide);
        assert_eq!(wide, b"-1701411834604692317316873037158.84105728");
        let parsed = Decimal::from_str("0.10").unwrap();
        assert_eq!(
            parse_exact(b"0.10", 1),
            Ok(parsed.normalize().mantissa() as i64)
        );
    }

    #[test]
    fn each_refusal_says_its_reason() {
        let over = Err(ParseError::Overflow { scale: 8 });
        let far = Err(ParseError::Exponent);
        for (text, refusal) in [
            ("", Err(ParseError::Syntax { at: 0 })),
            ("-", Err(ParseError::Syntax { at: 1 })),
            ("+1", Err(ParseError::Syntax { at: 0 })),
            ("01", Err(ParseError::Syntax { at: 1 })),
            ("1.", Err(ParseError::Syntax { at: 2 })),
            (".5", Err(ParseError::Syntax { at: 0 })),
            ("1e", Err(ParseError::Syntax { at: 2 })),
            ("1 ", Err(ParseError::Syntax { at: 1 })),
            ("NaN", Err(ParseError::NotFinite)),
            ("-Infinity", Err(ParseError::NotFinite)),
            ("inf", Err(ParseError::NotFinite)),
            ("1e400", far),
            ("0e31", far),
            ("1e-31", far),
            ("1e99999999999999999999", far),
            ("92233720368.54775808", over),
            ("1e30", over),
            ("100000000000000000000000000000000000000000000000000", over),
            ("0.123456789", Err(ParseError::Decimals { scale: 8 })),
        ] {
            assert_eq!(parse_exact(text.as_bytes(), 8), refusal, "{text}");
        }
        assert_eq!(parse_exact(b"-0", 8), Ok(0));
        assert_eq!(
            parse_exact(b"0.1234567800000000000000000000000000", 8),
            Ok(12_345_678)
        );
        assert_eq!(
            parse_exact(b"1000000000000000000000000e-24", 8),
            Ok(100_000_000)
        );
        assert_eq!(parse_rounded(b"1e-30", 8), Ok((0, true)));
        assert_eq!(parse_rounded(b"0.125", 2), Ok((12, true)));
        assert_eq!(parse_rounded(b"0.1250000001", 2), Ok((13, true)));
        assert_eq!(parse_rounded(b"-0.135", 2), Ok((-14, true)));
        assert_eq!(parse_rounded(b"0.6", 0), Ok((1, true)));
    }
}
