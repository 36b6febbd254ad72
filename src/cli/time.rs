//! Instants in words.

use crate::events::write_time;

/// An instant as RFC 3339 in UTC with microseconds; the bare number where a year has more than four
/// digits.
pub(super) fn show(micros: i64) -> String {
    let mut text = Vec::new();
    match write_time(micros, &mut text) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => micros.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_shown_with_microseconds() {
        assert_eq!(show(1_500_000), "1970-01-01T00:00:01.500000Z");
        assert_eq!(show(253_402_300_799_999_999), "9999-12-31T23:59:59.999999Z");
        assert_eq!(show(253_402_300_800_000_000), "253402300800000000");
        assert_eq!(show(i64::MIN), i64::MIN.to_string());
        assert_eq!(show(i64::MAX), i64::MAX.to_string());
    }
}
