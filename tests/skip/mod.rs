//! Tests that cannot run on a machine say so, all in one manner.

use std::io::Write as _;

/// Names what must not be wanting, separated by spaces: a skip for want of it is a failure.
const NO_SKIPS: &str = "TIDEMILL_NO_SKIPS";

/// Says what is left out for want of what: `cc`, `data`, `mount` or `python3`.
///
/// # Panics
///
/// If [`NO_SKIPS`] says that it is not wanting.
#[track_caller]
pub(crate) fn skip(what: &str, want_of: &str) {
    let promised = std::env::var(NO_SKIPS).unwrap_or_default();
    assert!(
        !is_promised(&promised, want_of),
        "{what}: skipped for want of {want_of}, which {NO_SKIPS} promises"
    );
    // Past the capture of the test harness: what was skipped must be seen.
    let _ = writeln!(std::io::stderr(), "{what}: skipped for want of {want_of}");
}

fn is_promised(promised: &str, want_of: &str) -> bool {
    promised.split_whitespace().any(|name| name == want_of)
}

#[test]
fn a_skip_is_refused_only_where_it_is_promised_that_nothing_is_wanting() {
    assert!(is_promised("cc python3", "python3"));
    assert!(!is_promised("cc python3", "mount"));
    assert!(!is_promised("", "cc"));
}
