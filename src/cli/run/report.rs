//! What a run has done, told at its end.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tidemill_broker::Topic;

use super::super::{counted, time};
use crate::pipeline::Counts;

pub(super) fn json(
    counts: Counts,
    by_class: &[(&'static str, u64)],
    took: Duration,
) -> serde_json::Value {
    let by_class = by_class.iter().map(|(class, count)| (*class, *count));
    json!({
        "taken": counts.taken,
        "committed": counts.committed,
        "written": counts.written,
        "setAside": counts.set_aside,
        "deadLetters": counts.dead,
        "deadLettersByClass": by_class.collect::<BTreeMap<_, _>>(),
        "transactions": counts.transactions,
        "reachedEnd": counts.has_ended,
        "windowsClosed": counts.windows_closed,
        "closedAt": counts.closed_at.map(|at| time::show(at.0)),
        "seconds": took.as_secs_f64(),
    })
}

/// How much was set aside, where and why: a record once, its reasons each.
pub(super) fn set_aside(counts: Counts, by_class: &[(&'static str, u64)], topic: &Topic) -> String {
    if by_class.is_empty() {
        return "0 set aside".to_owned();
    }
    let reasons = by_class.iter().map(|(class, times)| match times {
        1 => (*class).to_owned(),
        times => format!("{class} {times} times"),
    });
    let reasons = reasons.collect::<Vec<_>>().join(", ");
    format!("{} set aside in `{topic}` ({reasons})", counts.set_aside)
}

pub(super) fn text(counts: Counts, set_aside: &str, took: Duration) -> String {
    let rate = counts.committed as f64 / took.as_secs_f64().max(1e-9);
    let mut told = format!(
        "{} read and committed, {} written, {set_aside}, {}, {:.1} s ({:.0} records/s)",
        counted(counts.committed, "record"),
        counts.written,
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
