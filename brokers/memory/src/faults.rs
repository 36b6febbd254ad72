//! What can go wrong, on request or by chance from a seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill_broker::{Group, Offset, Result, Topic, TopicPartition};
use tokio::time::Instant;

use crate::shared::Shared;

pub(crate) use state::{FaultState, FetchFault, WriteFault, unavailable};

mod state;
#[cfg(test)]
mod tests;

/// A kind of fault, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// It happened, and the reply was lost.
    LostReply,
    /// It did not happen, and nobody said so.
    Forgotten,
    /// A transaction was left open.
    Hanging,
    /// A transaction was answered as committed before its end had reached every partition.
    LateEnd,
    /// A produce was repeated by the client and appended twice.
    Duplicate,
    /// A call took long.
    Delay,
    /// A call could not reach the broker.
    Disconnect,
    /// A group was rebalanced for no reason.
    Rebalance,
    /// A member was taken for dead.
    Expulsion,
    /// A partition's leader moved.
    LeaderMove,
    /// A record was refused.
    Rejection,
    /// The tail of a partition was lost.
    Truncation,
    /// The beginning of a partition was dropped.
    Retention,
}

/// What becomes of a transaction that was left open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It commits.
    Commits,
    /// It aborts.
    Aborts,
}

/// How likely each fault is, per operation; 0 is never and 1 always.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FaultPlan {
    /// A commit or a produce happens and its reply is lost.
    pub lost_reply: f64,
    /// A commit or a produce does not happen and its outcome is unknown.
    pub forgotten: f64,
    /// A commit stays open, and commits or aborts later.
    pub hanging: f64,
    /// How long a transaction stays open at most, unless its id is opened again before.
    pub hanging_max: Duration,
    /// A commit is answered, and some of its partitions show it later only: where ends of transactions are
    /// records, each partition has its own.
    pub late_end: f64,
    /// How much later at most, unless its id commits or is opened again before.
    pub late_end_max: Duration,
    /// A produce is appended twice, where produce is not idempotent.
    pub duplicate: f64,
    /// An operation or a delivery of records takes long.
    pub delay: f64,
    /// How long at most.
    pub delay_max: Duration,
    /// An operation or a delivery of records fails with a transient error.
    pub disconnect: f64,
    /// A delivery of records rebalances the group instead.
    pub rebalance: f64,
    /// A member is taken for dead when records are to be delivered to it.
    pub expulsion: f64,
    /// The leader of a partition moves when it is written to.
    pub leader_move: f64,
    /// A record of a commit or a produce is refused.
    pub rejection: f64,
}

impl FaultPlan {
    /// Draws which faults there are and how strong each is: every seed another mixture.
    ///
    /// Leaves out [`rejection`](Self::rejection): whether a record may be refused depends on what
    /// is tested.
    pub fn swarm(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut strength = |max: f64| {
            let present = rng.random_bool(0.5);
            let strength = rng.random_range(0.0..max);
            if present { strength } else { 0.0 }
        };
        Self {
            lost_reply: strength(0.1),
            forgotten: strength(0.1),
            hanging: strength(0.1),
            hanging_max: Duration::from_secs_f64(strength(10.0)),
            duplicate: strength(0.1),
            delay: strength(0.2),
            delay_max: Duration::from_secs_f64(strength(2.0)),
            disconnect: strength(0.1),
            rebalance: strength(0.02),
            expulsion: strength(0.005),
            leader_move: strength(0.02),
            rejection: 0.0,
            // After all others, which seeds have meant since before it was there.
            late_end: strength(0.2),
            late_end_max: Duration::from_secs_f64(strength(5.0)),
        }
    }
}

/// Puts faults into a broker. Every handle of one broker acts on the same faults.
#[derive(Debug, Clone)]
pub struct Faults {
    shared: Arc<Shared>,
}

impl Faults {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// From now on faults happen by chance, with these probabilities.
    pub fn plan(&self, plan: FaultPlan) {
        self.with(|faults| faults.plan = plan);
    }

    /// Ends all faults, those that wait and those by chance; open transactions meet their fate.
    pub fn heal(&self) {
        let mut state = self.shared.lock();
        let faults = &mut state.faults;
        faults.plan = FaultPlan::default();
        faults.commits.clear();
        faults.produces.clear();
        faults.delays.clear();
        faults.disconnects = 0;
        faults.leader_moves.clear();
        faults.reject_next.clear();
        faults.reject_keys.clear();
        state.settle_all();
        state.ring_all();
    }

    /// How often each fault has happened so far.
    pub fn counts(&self) -> BTreeMap<Fault, u64> {
        self.shared.lock().faults.counts.clone()
    }

    /// The next commit happens, but its outcome is unknown to the caller.
    pub fn lose_commit_reply(&self) {
        self.with(|faults| faults.commits.push_back(WriteFault::LostReply));
    }

    /// The next commit does not happen, and its outcome is unknown to the caller.
    pub fn forget_commit(&self) {
        self.with(|faults| faults.commits.push_back(WriteFault::Forgotten));
    }

    /// The next commit's outcome is unknown, and its transaction stays open: readers stop before it
    /// until it meets its fate after a while, or when its id is opened again.
    pub fn hang_commit(&self, fate: Fate, after: Option<Duration>) {
        self.with(|faults| {
            faults
                .commits
                .push_back(WriteFault::Hanging { fate, after });
        });
    }

    /// The next commit is answered, and its records show later only; the offsets of its group at once. Happens
    /// only where ends of transactions are records.
    pub fn end_commit_late(&self, after: Duration) {
        self.with(|faults| faults.commits.push_back(WriteFault::LateEnd { after }));
    }

    /// The next produce appends, but every record's answer is *unknown*.
    pub fn lose_produce_reply(&self) {
        self.with(|faults| faults.produces.push_back(WriteFault::LostReply));
    }

    /// The next produce appends nothing, and every record's answer is *unknown*.
    pub fn forget_produce(&self) {
        self.with(|faults| faults.produces.push_back(WriteFault::Forgotten));
    }

    /// The next produce is appended twice. Happens only where produce is not idempotent.
    pub fn duplicate_produce(&self) {
        self.with(|faults| faults.produces.push_back(WriteFault::Duplicate));
    }

    /// The next operation waits this long first.
    pub fn delay(&self, by: Duration) {
        self.with(|faults| faults.delays.push_back(by));
    }

    /// The next `operations` fail with a transient error and have no effect.
    pub fn disconnect(&self, operations: u64) {
        self.with(|faults| faults.disconnects = operations);
    }

    /// The leader of a partition moves: the next `accesses` to it fail with a transient error.
    pub fn move_leader(&self, at: &TopicPartition, accesses: u32) {
        self.with(|faults| {
            if accesses > 0 {
                faults.leader_moves.insert(at.clone(), accesses);
                faults.count(Fault::LeaderMove);
            }
        });
        // A reader that waits meets the new leader at once.
        self.shared.lock().ring_all();
    }

    /// The next `records` for a topic are refused.
    pub fn reject_next(&self, topic: &Topic, records: u32) {
        self.with(|faults| {
            if records > 0 {
                faults.reject_next.insert(topic.clone(), records);
            }
        });
    }

    /// Every record of this key is refused in a topic.
    pub fn reject_key(&self, topic: &Topic, key: impl Into<Bytes>) {
        self.with(|faults| faults.reject_keys.push((topic.clone(), key.into())));
    }

    /// Takes all partitions from all members of a group and shares them out anew, among members in
    /// another order. A group that is not there is ignored.
    pub fn rebalance(&self, group: &Group) {
        let mut state = self.shared.lock();
        state.faults.count(Fault::Rebalance);
        state.group(group, Instant::now(), |group, world| {
            group.members.rebalance(world, true);
        });
        state.ring_all();
    }

    /// Takes all members of a group for dead, as after a pause longer than the session timeout: they
    /// learn of it at their next call, and join anew.
    pub fn expel(&self, group: &Group) {
        let mut state = self.shared.lock();
        state.faults.count(Fault::Expulsion);
        state.group(group, Instant::now(), |group, world| {
            for member in group.members.members() {
                group.members.expel(&member, world);
            }
        });
        state.ring_all();
    }

    /// Cuts a partition from `to` on, as an unclean leader election does; offsets are used again.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`](tidemill_broker::Error::UnknownTopic), [`Error::UnknownPartition`](tidemill_broker::Error::UnknownPartition).
    pub fn truncate(&self, at: &TopicPartition, to: Offset) -> Result<()> {
        let mut state = self.shared.lock();
        state.log_mut(at)?.truncate(to.0);
        state.faults.count(Fault::Truncation);
        state.ring_all();
        Ok(())
    }

    /// Drops what lies before `to`, as retention does.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`](tidemill_broker::Error::UnknownTopic), [`Error::UnknownPartition`](tidemill_broker::Error::UnknownPartition).
    pub fn drop_before(&self, at: &TopicPartition, to: Offset) -> Result<()> {
        let mut state = self.shared.lock();
        state.log_mut(at)?.drop_before(to.0);
        state.faults.count(Fault::Retention);
        state.ring_all();
        Ok(())
    }

    /// Deletes a topic under its users.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`](tidemill_broker::Error::UnknownTopic).
    pub fn delete_topic(&self, name: &Topic) -> Result<()> {
        self.shared.delete_topic(name)
    }

    fn with(&self, change: impl FnOnce(&mut FaultState)) {
        change(&mut self.shared.lock().faults);
    }
}
