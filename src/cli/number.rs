//! Whole numbers on the command line.

use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::config::not_in_range;

/// A parser of whole numbers. What is none, or none of the type, is told with the range.
pub(super) fn whole<N: FromStr>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<N, String> + Clone {
    move |text| text.parse().map_err(|_| not_in_range(&range))
}
