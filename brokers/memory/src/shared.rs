//! What all handles of one broker share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tidemill_broker::{
    Cleanup, Error, Group, Offset, Result, Timestamp, Topic, TopicDescription, TopicIdentity,
    TopicPartition, TopicSpec, TransactionalId,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Persona;
use crate::faults::{Fate, FaultState, unavailable};
use crate::group::{GroupState, MemberId, World};
use crate::log::Log;
use crate::options::MemoryOptions;

/// One broker.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: MemoryOptions,
    state: Mutex<State>,
}

impl Shared {
    pub(crate) fn new(options: MemoryOptions) -> Self {
        Self {
            state: Mutex::new(State {
                topics: BTreeMap::new(),
                groups: BTreeMap::new(),
                ids: BTreeMap::new(),
                faults: FaultState::new(options.seed),
                // What it holds lives no longer than it does.
                seed: options.seed,
                eager: options.persona == Persona::Kafka,
                controls: options.persona == Persona::Kafka,
                created: 0,
                transactions: 0,
                hanging: 0,
                readers: Vec::new(),
                to_ring: Vec::new(),
            }),
            options,
        }
    }

    /// The state. No call panics while it holds the lock, so a poisoned one is whole.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state after everything that was due by now.
    pub(crate) fn lock_at(&self, now: Instant) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if state.pass(now) {
            state.ring_all();
        }
        state
    }

    /// Ends a change of some partitions: who waits for their records looks again.
    pub(crate) fn changed(&self, mut state: MutexGuard<'_, State>) {
        let bells = std::mem::take(&mut state.to_ring);
        // Whoever wakes wants the state.
        drop(state);
        for bell in bells.iter().filter_map(Weak::upgrade) {
            bell.notify_one();
        }
    }

    pub(crate) fn broker(&self) -> &'static str {
        self.options.persona.name()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    pub(crate) fn unsupported<T>(&self, what: &'static str) -> Result<T> {
        Err(Error::Unsupported {
            broker: self.broker(),
            what,
        })
    }

    /// Begins an operation: it may take long, or fail before it has any effect.
    pub(crate) async fn enter(&self) -> Result<()> {
        // Calls that never wait would keep a single-threaded runtime to themselves.
        tokio::task::consume_budget().await;
        let (delay, cut) = self.lock().faults.draw_operation();
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        if cut {
            return Err(unavailable(self.broker(), "disconnected"));
        }
        Ok(())
    }

    pub(crate) fn create_topic(&self, spec: &TopicSpec) -> Result<()> {
        let mut state = self.lock();
        if state.topics.contains_key(&spec.name) {
            return Err(Error::TopicExists {
                topic: spec.name.clone(),
            });
        }
        state.created += 1;
        let created = TopicState {
            incarnation: state.created,
            identity: TopicIdentity(state.faults.identity()),
            cleanup: spec.cleanup,
            logs: (0..spec.partitions.get())
                .map(|partition| Log::new(TopicPartition::new(spec.name.clone(), partition)))
                .collect(),
        };
        state.topics.insert(spec.name.clone(), created);
        state.each_group(Instant::now(), |group, world| {
            if group.members.reads(&spec.name) {
                group.members.rebalance(world, false);
            }
        });
        state.ring_all();
        Ok(())
    }

    pub(crate) fn delete_topic(&self, name: &Topic) -> Result<()> {
        let mut state = self.lock();
        if state.topics.remove(name).is_none() {
            return Err(Error::UnknownTopic {
                topic: name.clone(),
            });
        }
        state.each_group(Instant::now(), |group, world| group.forget(name, world));
        state.ring_all();
        Ok(())
    }

    /// Notes that a member no longer waits for news.
    pub(crate) fn waits_no_more(&self, group: &Group, member: &MemberId) {
        let mut state = self.lock();
        if let Some(group) = state.groups.get_mut(group)
            && group.members.waits_no_more(member, Instant::now())
        {
            state.ring_all();
        }
    }

    /// Takes partitions back from a member that dropped its permit.
    pub(crate) fn release(&self, group: &Group, member: &MemberId, partitions: &[TopicPartition]) {
        let mut state = self.lock();
        if let Some(group) = state.groups.get_mut(group) {
            group.members.release(member, partitions);
        }
        state.ring_all();
    }
}

/// One topic.
#[derive(Debug)]
pub(crate) struct TopicState {
    /// Tells it from others of its name, also where no identity is shown.
    pub(crate) incarnation: u64,
    identity: TopicIdentity,
    pub(crate) cleanup: Cleanup,
    pub(crate) logs: Vec<Log>,
}

/// A transaction that was left open.
#[derive(Debug)]
pub(crate) struct Hanging {
    pub(crate) transaction: u64,
    pub(crate) fate: Fate,
    pub(crate) lands: Option<Instant>,
    /// Whether it was answered as committed: nothing but its end is missing.
    pub(crate) is_answered: bool,
    pub(crate) partitions: Vec<TopicPartition>,
    pub(crate) groups: Vec<Group>,
}

/// One transactional id.
#[derive(Debug, Default)]
pub(crate) struct IdState {
    /// Which of its owners is the present one.
    pub(crate) owner: u64,
    pub(crate) hanging: Option<Hanging>,
}

/// Everything a broker remembers. Ordered maps only: their order reaches callers.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) topics: BTreeMap<Topic, TopicState>,
    pub(crate) groups: BTreeMap<Group, GroupState>,
    pub(crate) ids: BTreeMap<TransactionalId, IdState>,
    pub(crate) faults: FaultState,
    seed: u64,
    eager: bool,
    /// Whether the end of a transaction takes an offset.
    pub(crate) controls: bool,
    created: u64,
    pub(crate) transactions: u64,
    /// How many transactions are open.
    pub(crate) hanging: usize,
    /// The bells of all readers.
    readers: Vec<Weak<Notify>>,
    /// Of those that wait for records of partitions that are being changed.
    to_ring: Vec<Weak<Notify>>,
}

impl State {
    /// A bell of a new reader. It rings for news of partitions that [wait](Self::rings) with it, and for
    /// everything else that may concern a reader.
    pub(crate) fn bell(&mut self) -> Arc<Notify> {
        let bell = Arc::new(Notify::new());
        self.readers.retain(|reader| reader.strong_count() > 0);
        self.readers.push(Arc::downgrade(&bell));
        bell
    }

    /// Has every reader look again: for what happens seldom, such as news of a group.
    pub(crate) fn ring_all(&mut self) {
        self.to_ring.clear();
        for bell in self.readers.iter().filter_map(Weak::upgrade) {
            bell.notify_one();
        }
    }

    pub(crate) fn topic(&self, name: &Topic) -> Result<&TopicState> {
        self.topics.get(name).ok_or_else(|| Error::UnknownTopic {
            topic: name.clone(),
        })
    }

    pub(crate) fn log(&self, at: &TopicPartition) -> Result<&Log> {
        self.topic(&at.topic)?
            .logs
            .get(at.partition as usize)
            .ok_or_else(|| Error::UnknownPartition { at: at.clone() })
    }

    /// A partition to be changed: who waits for its records is rung when [that is
    /// done](Shared::changed).
    pub(crate) fn log_mut(&mut self, at: &TopicPartition) -> Result<&mut Log> {
        self.log(at)?;
        let log = self
            .topics
            .get_mut(&at.topic)
            .and_then(|topic| topic.logs.get_mut(at.partition as usize))
            .ok_or_else(|| Error::UnknownPartition { at: at.clone() })?;
        self.to_ring.append(&mut log.waiting);
        Ok(log)
    }

    /// A partition whose news a reader waits for.
    pub(crate) fn rings(&mut self, at: &TopicPartition, bell: &Arc<Notify>) {
        let log = self.topics.get_mut(&at.topic);
        let log = log.and_then(|topic| topic.logs.get_mut(at.partition as usize));
        if let Some(log) = log {
            let bell = Arc::downgrade(bell);
            // Those of readers that are gone would gather where nothing is written.
            let other = |known: &Weak<Notify>| known.strong_count() > 0 && !known.ptr_eq(&bell);
            log.waiting.retain(other);
            log.waiting.push(bell);
        }
    }

    pub(crate) fn describe(&self, name: &Topic, identity: bool) -> Result<TopicDescription> {
        let topic = self.topic(name)?;
        Ok(TopicDescription {
            name: name.clone(),
            partitions: topic.logs.len() as u32,
            cleanup: topic.cleanup,
            identity: identity.then_some(topic.identity),
        })
    }

    /// Runs retention and compaction of everything.
    pub(crate) fn clean(&mut self, now: Timestamp) {
        for topic in self.topics.values_mut() {
            for log in &mut topic.logs {
                match topic.cleanup {
                    Cleanup::Delete(retention) => log.expire(retention, now),
                    Cleanup::Compact { tombstones } => log.compact(tombstones, now),
                }
            }
        }
    }

    /// Cleans a partition just written to, as far as that costs little.
    pub(crate) fn clean_lazily(&mut self, at: &TopicPartition, now: Timestamp) {
        if let Some(topic) = self.topics.get_mut(&at.topic)
            && let Some(log) = topic.logs.get_mut(at.partition as usize)
        {
            match topic.cleanup {
                Cleanup::Delete(retention) => log.expire(retention, now),
                Cleanup::Compact { tombstones } if log.is_due_for_compaction() => {
                    log.compact(tombstones, now);
                }
                Cleanup::Compact { .. } => {}
            }
        }
    }

    /// A group, made if nobody has named it before.
    pub(crate) fn group_entry(&mut self, name: &Group) -> &mut GroupState {
        self.groups
            .entry(name.clone())
            .or_insert_with(|| GroupState::new(name.clone(), self.seed))
    }

    /// Acts on a group that is there.
    pub(crate) fn group<R>(
        &mut self,
        name: &Group,
        now: Instant,
        act: impl FnOnce(&mut GroupState, &World<'_>) -> R,
    ) -> Option<R> {
        let topics = &self.topics;
        let partitions = |topic: &Topic| topics.get(topic).map(|topic| topic.logs.len() as u32);
        let world = World {
            now,
            eager: self.eager,
            partitions: &partitions,
        };
        self.groups.get_mut(name).map(|group| act(group, &world))
    }

    /// Acts on all groups.
    pub(crate) fn each_group(
        &mut self,
        now: Instant,
        mut act: impl FnMut(&mut GroupState, &World<'_>),
    ) {
        let topics = &self.topics;
        let partitions = |topic: &Topic| topics.get(topic).map(|topic| topic.logs.len() as u32);
        let world = World {
            now,
            eager: self.eager,
            partitions: &partitions,
        };
        for group in self.groups.values_mut() {
            act(group, &world);
        }
    }

    /// Does what was due by now: permits that ran out, transactions that land late. Says whether
    /// anything changed.
    fn pass(&mut self, now: Instant) -> bool {
        let mut changed = false;
        if self
            .groups
            .values()
            .any(|group| group.members.next_deadline().is_some_and(|at| at <= now))
        {
            self.each_group(now, |group, world| {
                changed |= group.members.pass_deadlines(world)
            });
        }
        if self.hanging > 0 {
            let landed: Vec<Hanging> = self
                .ids
                .values_mut()
                .filter_map(|id| {
                    id.hanging
                        .take_if(|hanging| hanging.lands.is_some_and(|at| at <= now))
                })
                .collect();
            changed |= !landed.is_empty();
            for hanging in landed {
                self.settle(hanging);
            }
        }
        changed
    }

    /// When something is due that nobody calls for.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let permits = self
            .groups
            .values()
            .filter_map(|group| group.members.next_deadline());
        let landings = self
            .ids
            .values()
            .filter_map(|id| id.hanging.as_ref().and_then(|hanging| hanging.lands));
        permits.chain(landings).min()
    }

    /// Lets every open transaction meet its fate.
    pub(crate) fn settle_all(&mut self) {
        let open: Vec<Hanging> = self
            .ids
            .values_mut()
            .filter_map(|id| id.hanging.take())
            .collect();
        for hanging in open {
            self.settle(hanging);
        }
    }

    /// Lets an open transaction, already taken from its id, meet its fate.
    pub(crate) fn settle(&mut self, hanging: Hanging) {
        self.hanging -= 1;
        let commit = hanging.fate == Fate::Commits;
        let controls = self.controls;
        for at in &hanging.partitions {
            if let Ok(log) = self.log_mut(at)
                && log.settle(hanging.transaction, commit)
                && controls
            {
                log.append_gap(1);
            }
        }
        for name in &hanging.groups {
            if let Some(group) = self.groups.get_mut(name) {
                group.settle(hanging.transaction, commit);
            }
        }
        tracing::debug!(commit, "an open transaction was settled");
    }

    pub(crate) fn offset_of(&self, group: &Group, at: &TopicPartition) -> Committed {
        match self.groups.get(group) {
            None => Committed::Nothing,
            Some(group) => match group.committed(at) {
                Ok(None) => Committed::Nothing,
                Ok(Some(offset)) => Committed::Offset(offset),
                Err(unsettled) => Committed::Unsettled(unsettled.into()),
            },
        }
    }
}

/// What a group has committed for a partition.
pub(crate) enum Committed {
    Nothing,
    Offset(Offset),
    /// A transaction may yet move it.
    Unsettled(tidemill_broker::Source),
}
