//! How fast a progress bar moves, in whole numbers.

use std::fmt::Write;

use indicatif::{HumanCount, ProgressState, ProgressStyle};

/// Gives a style the key `{rate}`: so many in a second.
pub(super) fn with_rate(style: ProgressStyle) -> ProgressStyle {
    style.with_key("rate", |state: &ProgressState, out: &mut dyn Write| {
        // Nothing can be done about a line that cannot be made.
        let _ = write!(out, "{}", shown(state.per_sec()));
    })
}

fn shown(per_second: f64) -> String {
    // Saturates; what is not a number is none.
    format!("{}/s", HumanCount(per_second.round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_no_decimals() {
        assert_eq!(shown(760_615.617_1), "760,616/s");
        assert_eq!(shown(f64::NAN), "0/s");
    }
}
