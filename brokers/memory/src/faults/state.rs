//! Faults waiting to happen, and the chance they are drawn from.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill_broker::{Error, Topic, TopicPartition};

use super::{Fate, Fault, FaultPlan};

/// How a write ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteFault {
    LostReply,
    Forgotten,
    Hanging { fate: Fate, after: Option<Duration> },
    LateEnd { after: Duration },
    Duplicate,
}

/// How a delivery of records ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FetchFault {
    Delay(Duration),
    Disconnect,
    Rebalance,
    Expulsion,
}

/// A fault put in on purpose.
#[derive(Debug, thiserror::Error)]
#[error("injected fault: {0}")]
pub(crate) struct Injected(pub(crate) &'static str);

/// Faults waiting to happen.
#[derive(Debug)]
pub(crate) struct FaultState {
    rng: SmallRng,
    pub(super) plan: FaultPlan,
    pub(super) commits: VecDeque<WriteFault>,
    pub(super) produces: VecDeque<WriteFault>,
    pub(super) delays: VecDeque<Duration>,
    pub(super) disconnects: u64,
    pub(super) leader_moves: BTreeMap<TopicPartition, u32>,
    pub(super) reject_next: BTreeMap<Topic, u32>,
    pub(super) reject_keys: Vec<(Topic, Bytes)>,
    pub(super) counts: BTreeMap<Fault, u64>,
}

impl FaultState {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(seed),
            plan: FaultPlan::default(),
            commits: VecDeque::new(),
            produces: VecDeque::new(),
            delays: VecDeque::new(),
            disconnects: 0,
            leader_moves: BTreeMap::new(),
            reject_next: BTreeMap::new(),
            reject_keys: Vec::new(),
            counts: BTreeMap::new(),
        }
    }

    /// 16 bytes of chance.
    pub(crate) fn identity(&mut self) -> [u8; 16] {
        self.rng.random()
    }

    pub(super) fn count(&mut self, fault: Fault) {
        *self.counts.entry(fault).or_default() += 1;
        tracing::debug!(?fault, "injected a fault");
    }

    fn happens(&mut self, probability: f64) -> bool {
        // Nothing is drawn for what cannot happen, so that a script does not depend on the plan.
        probability > 0.0 && self.rng.random_bool(probability.min(1.0))
    }

    fn up_to(&mut self, max: Duration) -> Duration {
        max.mul_f64(self.rng.random_range(0.0..=1.0))
    }

    /// How long an operation waits, and whether it then fails.
    pub(crate) fn draw_operation(&mut self) -> (Option<Duration>, bool) {
        let mut delay = self.delays.pop_front();
        if delay.is_none() && self.happens(self.plan.delay) {
            delay = Some(self.up_to(self.plan.delay_max));
        }
        if delay.is_some() {
            self.count(Fault::Delay);
        }
        (delay, self.draw_disconnect())
    }

    fn draw_disconnect(&mut self) -> bool {
        let cut = if self.disconnects > 0 {
            self.disconnects -= 1;
            true
        } else {
            self.happens(self.plan.disconnect)
        };
        if cut {
            self.count(Fault::Disconnect);
        }
        cut
    }

    pub(crate) fn draw_fetch(&mut self, grouped: bool) -> Option<FetchFault> {
        if self.draw_disconnect() {
            return Some(FetchFault::Disconnect);
        }
        if grouped && self.happens(self.plan.rebalance) {
            self.count(Fault::Rebalance);
            return Some(FetchFault::Rebalance);
        }
        if grouped && self.happens(self.plan.expulsion) {
            self.count(Fault::Expulsion);
            return Some(FetchFault::Expulsion);
        }
        if self.happens(self.plan.delay) {
            self.count(Fault::Delay);
            return Some(FetchFault::Delay(self.up_to(self.plan.delay_max)));
        }
        None
    }

    /// `late` is whether the end of a transaction reaches each partition by itself.
    pub(crate) fn draw_commit(&mut self, late: bool) -> Option<WriteFault> {
        let mut drawn = self.commits.pop_front();
        if drawn.is_none() && self.happens(self.plan.hanging) {
            let fate = if self.rng.random_bool(0.5) {
                Fate::Commits
            } else {
                Fate::Aborts
            };
            let after = Some(self.up_to(self.plan.hanging_max));
            drawn = Some(WriteFault::Hanging { fate, after });
        }
        if drawn.is_none() && late && self.happens(self.plan.late_end) {
            let after = self.up_to(self.plan.late_end_max);
            drawn = Some(WriteFault::LateEnd { after });
        }
        let drawn = self.draw_write(drawn);
        drawn.filter(|drawn| late || !matches!(drawn, WriteFault::LateEnd { .. }))
    }

    pub(crate) fn draw_produce(&mut self, idempotent: bool) -> Option<WriteFault> {
        let mut drawn = self.produces.pop_front();
        if drawn.is_none() && !idempotent && self.happens(self.plan.duplicate) {
            drawn = Some(WriteFault::Duplicate);
        }
        let drawn = self.draw_write(drawn);
        drawn.filter(|drawn| !idempotent || *drawn != WriteFault::Duplicate)
    }

    fn draw_write(&mut self, mut drawn: Option<WriteFault>) -> Option<WriteFault> {
        if drawn.is_none() && self.happens(self.plan.lost_reply) {
            drawn = Some(WriteFault::LostReply);
        }
        if drawn.is_none() && self.happens(self.plan.forgotten) {
            drawn = Some(WriteFault::Forgotten);
        }
        match drawn {
            Some(WriteFault::LostReply) => self.count(Fault::LostReply),
            Some(WriteFault::Forgotten) => self.count(Fault::Forgotten),
            Some(WriteFault::Hanging { .. }) => self.count(Fault::Hanging),
            Some(WriteFault::LateEnd { .. }) => self.count(Fault::LateEnd),
            Some(WriteFault::Duplicate) => self.count(Fault::Duplicate),
            None => {}
        }
        drawn
    }

    /// Whether the end of a transaction reaches something late, when it does not reach everything at once.
    pub(crate) fn is_late(&mut self) -> bool {
        // One that was asked for is late wherever it can be.
        self.plan.late_end == 0.0 || self.rng.random_bool(0.5)
    }

    /// Whether this access to a partition meets a leader that has moved.
    pub(crate) fn meets_moved_leader(&mut self, at: &TopicPartition, writing: bool) -> bool {
        if let Some(left) = self.leader_moves.get_mut(at) {
            *left -= 1;
            if *left == 0 {
                self.leader_moves.remove(at);
            }
            return true;
        }
        if writing && self.happens(self.plan.leader_move) {
            self.count(Fault::LeaderMove);
            return true;
        }
        false
    }

    /// Whether any record may be refused at present.
    pub(crate) fn may_reject(&self) -> bool {
        self.plan.rejection > 0.0 || !self.reject_next.is_empty() || !self.reject_keys.is_empty()
    }

    /// Whether this record is refused.
    pub(crate) fn rejects(&mut self, topic: &Topic, key: Option<&[u8]>) -> bool {
        let keyed = self
            .reject_keys
            .iter()
            .any(|(poisoned, bytes)| poisoned == topic && key == Some(bytes));
        let next = match self.reject_next.get_mut(topic) {
            Some(left) if !keyed => {
                *left -= 1;
                if *left == 0 {
                    self.reject_next.remove(topic);
                }
                true
            }
            _ => false,
        };
        let rejected = keyed || next || self.happens(self.plan.rejection);
        if rejected {
            self.count(Fault::Rejection);
        }
        rejected
    }
}

/// A transient error made on purpose.
pub(crate) fn unavailable(broker: &'static str, what: &'static str) -> Error {
    Error::Unavailable {
        broker,
        source: Box::new(Injected(what)),
    }
}
