//! What a run has done, told at its end.

use std::time::Duration;

use serde_json::json;

use super::super::{counted, time};
use crate::pipeline::Counts;

pub(super) fn json(counts: Counts, took: Duration) -> serde_json::Value {
    json!({
        "taken": counts.taken,
        "committed": counts.committed,
        "written": counts.written,
        "deadLetters": counts.dead,
        "transactions": counts.transactions,
        "reachedEnd": counts.has_ended,
        "windowsClosed": counts.windows_closed,
        "closedAt": counts.closed_at.map(|at| time::show(at.0)),
        "seconds": took.as_secs_f64(),
    })
}

pub(super) fn text(counts: Counts, took: Duration) -> String {
    let rate = counts.committed as f64 / took.as_secs_f64().max(1e-9);
    let mut told = format!(
        "{} read and committed, {} written, {} set aside, {}, {:.1} s ({:.0} records/s)",
        counted(counts.committed, "record"),
        counts.written,
        counts.dead,
        counted(counts.transactions, "transaction"),
        took.as_secs_f64(),
        rate
    );
    if let Some(at) = counts.closed_at.filter(|_| counts.windows_closed > 0) {
        told.push_str(&format!(
            "\nat the end of the input closed {} that {} open, so event time is at {}: records that come later for windows up to then are late",
            counted(counts.windows_closed, "window"),
            if counts.windows_closed == 1 { "was" } else { "were" },
            time::show(at.0)
        ));
    }
    told
}
