//! Values with units.

use std::time::Duration;

/// Reads a duration: a whole number and `us`, `ms`, `s`, `m`, `h` or `d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text).ok_or_else(|| {
        format!(
            "`{}` is not a duration: write a number and its unit",
            short(text)
        )
    })?;
    let micros: u64 = match unit {
        "us" | "µs" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        "" => {
            return Err(format!(
                "`{number}` needs a unit, as in \"{number}ms\" or \"{number}s\""
            ));
        }
        _ => {
            return Err(format!(
                "unknown unit `{}`: use us, ms, s, m, h or d",
                short(unit)
            ));
        }
    };
    number
        .checked_mul(micros)
        // Event time is microseconds in an i64.
        .filter(|micros| i64::try_from(*micros).is_ok())
        .map(Duration::from_micros)
        .ok_or_else(|| "is too long".to_owned())
}

/// Reads a size in bytes: a whole number and `B`, `KiB`, `MiB`, `GiB`, `TiB`, `kB`, `MB`, `GB` or
/// `TB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text).ok_or_else(|| {
        format!(
            "`{}` is not a size: write a number and its unit",
            short(text)
        )
    })?;
    let bytes: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "" => {
            return Err(format!(
                "`{number}` needs a unit, as in \"{number}KiB\" or \"{number}MiB\""
            ));
        }
        _ => {
            return Err(format!(
                "unknown unit `{}`: use B, KiB, MiB, GiB, TiB, kB, MB, GB or TB",
                short(unit)
            ));
        }
    };
    number
        .checked_mul(bytes)
        .ok_or_else(|| "is too large".to_owned())
}

/// A whole number and what follows it.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number = text[..digits].parse().ok()?;
    let unit = text[digits..].trim_start();
    // "1.5s" and "1h30m" are told what is wrong, rather than that ".5s" is no unit.
    (!unit.contains(|c: char| c.is_ascii_digit() || c == '.')).then_some((number, unit))
}

/// Writes a duration as it would be written in a file.
pub fn show_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    for (unit, size) in [
        ("d", 86_400_000_000),
        ("h", 3_600_000_000),
        ("m", 60_000_000),
        ("s", 1_000_000),
        ("ms", 1_000),
    ] {
        if micros >= size && micros.is_multiple_of(size) {
            return format!("{}{unit}", micros / size);
        }
    }
    if micros == 0 {
        return "0s".into();
    }
    format!("{micros}us")
}

/// Writes a size as it would be written in a file.
pub fn show_size(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// Reads a decimal number exactly, as an integer of its last digit at `scale`.
pub(crate) fn decimal(text: &str, scale: u8) -> Result<i64, String> {
    let not_a_number = || format!("`{}` is not a plain decimal number", short(text));
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || digits.ends_with('.') {
        return Err(not_a_number());
    }
    let fraction = fraction.trim_end_matches('0');
    let missing = usize::from(scale)
        .checked_sub(fraction.len())
        .ok_or_else(|| format!("`{}` has more than {scale} decimals", short(text)))?;
    let digits = format!("{whole}{fraction}{}", "0".repeat(missing));
    let signed = if negative {
        format!("-{digits}")
    } else {
        digits
    };
    signed
        .parse()
        .map_err(|_| format!("`{}` is too large", short(text)))
}

/// At most the first 40 characters, for messages.
pub(crate) fn short(text: &str) -> String {
    let mut chars = text.chars();
    let mut shown: String = chars.by_ref().take(40).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_and_sizes_need_their_unit() {
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(duration("5 m").unwrap(), Duration::from_secs(300));
        assert_eq!(duration("1d").unwrap(), Duration::from_secs(86_400));
        assert_eq!(size("64MiB").unwrap(), 64 << 20);
        assert_eq!(size("2kB").unwrap(), 2_000);
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "1h30m",
            "1w",
            "99999999999999d",
            "1e3s",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
        for bad in ["64", "64mib", "99999999TiB", "∞B"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn decimals_are_read_exactly_or_not_at_all() {
        assert_eq!(decimal("1.25", 8).unwrap(), 125_000_000);
        assert_eq!(decimal("-0.10", 1).unwrap(), -1);
        for bad in ["1.25", "1e5", "", ".5", "5.", "nan", "99999999999999999999"] {
            assert!(decimal(bad, 1).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(micros in 0..i64::MAX as u64, bytes in any::<u64>()) {
            let written = Duration::from_micros(micros);
            prop_assert_eq!(duration(&show_duration(written)).unwrap(), written);
            prop_assert_eq!(size(&show_size(bytes)).unwrap(), bytes);
        }

        #[test]
        fn no_text_is_too_much_for_them(text in ".{0,40}", scale in 0..=18u8) {
            let _ = (duration(&text), size(&text), decimal(&text, scale));
        }
    }
}
