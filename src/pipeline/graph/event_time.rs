//! How far event time has come where several inputs meet.

use tidemill_broker::Timestamp;

/// How far event time has come on one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventTime {
    /// No earlier event time is expected.
    At(Timestamp),
    /// It came this far, and nothing has come for a while: it holds nobody back.
    Idle(Timestamp),
}

impl EventTime {
    /// What it holds others back at.
    pub(super) fn limit(self) -> i64 {
        match self {
            Self::At(time) => time.0,
            Self::Idle(_) => i64::MAX,
        }
    }

    /// How far it came.
    pub(crate) fn reached(self) -> Timestamp {
        match self {
            Self::At(time) | Self::Idle(time) => time,
        }
    }
}

/// The least of several that are not idle. Where all are, nobody is held back by any: idle, at the
/// greatest.
pub(crate) fn least(times: impl Iterator<Item = EventTime>) -> EventTime {
    times.fold(EventTime::Idle(Timestamp::MIN), |least, time| {
        match (least, time) {
            (EventTime::At(a), EventTime::At(b)) => EventTime::At(a.min(b)),
            (EventTime::Idle(a), EventTime::Idle(b)) => EventTime::Idle(a.max(b)),
            (EventTime::Idle(_), at) | (at, EventTime::Idle(_)) => at,
        }
    })
}
