//! Instants in words.

/// An instant as RFC 3339 in UTC with microseconds; the bare number where no calendar reaches.
pub(super) fn show(micros: i64) -> String {
    match jiff::Timestamp::from_microsecond(micros) {
        Ok(time) => format!("{time:.6}"),
        Err(_) => micros.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_shown_with_microseconds() {
        assert_eq!(show(1_500_000), "1970-01-01T00:00:01.500000Z");
        assert_eq!(show(i64::MAX), i64::MAX.to_string());
    }
}
