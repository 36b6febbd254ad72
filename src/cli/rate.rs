//! How fast a progress bar moves, in whole numbers.

use std::fmt::Write;
use std::time::Duration;

use indicatif::{HumanCount, ProgressState, ProgressStyle};

/// So long a bar goes by its average.
const SETTLED: Duration = Duration::from_secs(3);

/// Gives a style the key `{rate}`: so many in a second.
pub(super) fn with_rate(style: ProgressStyle) -> ProgressStyle {
    style.with_key("rate", |state: &ProgressState, out: &mut dyn Write| {
        // Nothing can be done about a line that cannot be made.
        let rate = settled(state.pos(), state.elapsed(), || state.per_sec());
        let _ = write!(out, "{}", shown(rate));
    })
}

/// What one tick has come to says little: of a short time all of it counts.
fn settled(done: u64, elapsed: Duration, of_late: impl FnOnce() -> f64) -> f64 {
    match elapsed < SETTLED {
        true => done as f64 / elapsed.as_secs_f64(),
        false => of_late(),
    }
}

fn shown(per_second: f64) -> String {
    // Saturates; what is not a number is none.
    format!("{}/s", HumanCount(per_second.round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 14,860 records in the first tick were shown as 142 million in a second.
    #[test]
    fn a_rate_is_an_average_until_it_has_settled() {
        let of_late = || 142_148_644.0;
        assert_eq!(
            settled(14_860, Duration::from_millis(100), of_late),
            148_600.0
        );
        assert_eq!(
            settled(14_860, Duration::from_secs(4), of_late),
            142_148_644.0
        );
        assert_eq!(shown(settled(0, Duration::ZERO, of_late)), "0/s");
    }

    #[test]
    fn a_rate_has_no_decimals() {
        assert_eq!(shown(760_615.617_1), "760,616/s");
        assert_eq!(shown(f64::NAN), "0/s");
    }
}
