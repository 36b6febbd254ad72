//! Reading.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tidemill_broker::coordinator::{
    self, Heard, Held, Joining, Look, MemberId, Membership, Waiting,
};
use tidemill_broker::{
    Consumer, ConsumerOptions, Delivery, Error, Generation, Group, Offset, Result, Start,
    Subscription, TopicPartition,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::faults::{FetchFault, unavailable};
use crate::log::ReadLimits;
use crate::shared::{Committed, Shared, State};
use crate::write::SET_BYTES_MAX;

#[cfg(test)]
mod tests;

/// Where a partition is read.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// The incarnation of its topic.
    incarnation: u64,
    start: Start,
    /// `None` while the group's offset is part of an open transaction.
    position: Option<u64>,
}

/// A reader of one broker in memory.
pub(crate) struct MemoryConsumer {
    shared: Arc<Shared>,
    /// Whose committed offsets count.
    group: Option<Group>,
    membership: Option<Membership>,
    start: Start,
    limits: ReadLimits,
    held: Held<Place>,
    /// Rings when a look may come to something else.
    bell: Arc<Notify>,
    /// Records wait until then.
    held_until: Option<Instant>,
    /// The next delivery has had its faults already.
    faults_drawn: bool,
}

impl MemoryConsumer {
    pub(crate) fn open(shared: Arc<Shared>, options: ConsumerOptions) -> Result<Self> {
        if options.group.is_some() && !shared.options.capabilities.groups {
            return shared.unsupported("consumer groups");
        }
        options.check()?;
        let mut state = shared.lock_at(Instant::now());
        let mut consumer = Self {
            limits: ReadLimits {
                records: options.batch_records_max,
                bytes: options.batch_bytes_max.min(SET_BYTES_MAX),
                over_gaps: !state.controls,
            },
            group: options.group.clone(),
            membership: None,
            start: options.start,
            held: Held::default(),
            bell: state.bell(),
            held_until: None,
            faults_drawn: false,
            shared: Arc::clone(&shared),
        };
        match options.subscription {
            Subscription::Topics(topics) => {
                for topic in &topics {
                    state.topic(topic)?;
                }
                if let Some(group) = options.group {
                    let joining = Joining {
                        instance: options.instance,
                        topics,
                        revoke_deadline: options.revoke_deadline,
                        session_timeout: options.session_timeout,
                    };
                    let mut membership = Membership::new(group, joining);
                    join(&mut membership, &mut state);
                    consumer.membership = Some(membership);
                }
            }
            Subscription::Partitions(partitions) => {
                for (at, _) in &partitions {
                    state.log(at)?;
                }
                consumer.held.tell(Ok(Delivery::Assigned {
                    generation: None,
                    partitions: partitions.iter().map(|(at, _)| at.clone()).collect(),
                }));
                for (at, start) in partitions {
                    consumer.add(&state, at, start);
                }
            }
        }
        drop(state);
        Ok(consumer)
    }

    /// Begins to read a partition that is there.
    fn add(&mut self, state: &State, at: TopicPartition, start: Start) {
        let Ok(topic) = state.topic(&at.topic) else {
            return;
        };
        let mut place = Place {
            incarnation: topic.incarnation,
            start,
            position: None,
        };
        let found = self.resolve(state, &at, &mut place);
        self.held.add(at, place, found);
    }

    /// Finds where to begin, unless that depends on an open transaction.
    fn resolve(&self, state: &State, at: &TopicPartition, place: &mut Place) -> Result<()> {
        let log = state.log(at)?;
        let marks = log.watermarks();
        let committed = match &self.group {
            // What a group has committed comes before any start but one given by hand.
            Some(group) if self.membership.is_some() || place.start == Start::Committed => {
                state.offset_of(group, at)
            }
            _ => Committed::Nothing,
        };
        place.position = match (committed, place.start) {
            (Committed::Unsettled(_), _) => None,
            (Committed::Offset(offset), _) => Some(offset.0),
            (Committed::Nothing, Start::Earliest) => Some(marks.low.0),
            (Committed::Nothing, Start::Latest) => Some(marks.last_stable.0),
            (Committed::Nothing, Start::At(time)) => Some(log.offset_at(time).0),
            (Committed::Nothing, Start::Offset(offset)) => Some(offset.0),
            (Committed::Nothing, Start::Committed) => match &self.group {
                Some(group) => {
                    return Err(Error::NoCommittedOffset {
                        group: group.clone(),
                        at: at.clone(),
                    });
                }
                // Refused when the consumer was opened.
                None => Some(marks.low.0),
            },
        };
        Ok(())
    }

    /// Looks once at the state. What it takes it returns at once, so that a caller who stops waiting
    /// loses nothing.
    fn look(&mut self, waiting: &mut Waiting) -> Look {
        let shared = Arc::clone(&self.shared);
        let now = Instant::now();
        let mut state = shared.lock_at(now);
        if let Some(delivery) = self.held.told() {
            return Look::Deliver(delivery);
        }
        if let Some(delivery) = self.news(&mut state) {
            return Look::Deliver(delivery);
        }
        let mut until = state.next_deadline();
        if let Some(held_until) = self.held_until.filter(|until| now < *until) {
            until = Some(until.map_or(held_until, |due| due.min(held_until)));
        } else {
            self.held_until = None;
            match self.read(&mut state) {
                Some(delivery) => return Look::Deliver(delivery),
                None if self.held_until.is_some() || self.held.has_to_tell() => {
                    drop(state);
                    return self.look(waiting);
                }
                None => until = state.next_deadline(),
            }
        }
        self.wait(&mut state, until, waiting);
        Look::Wait(until)
    }

    /// Notes that a member waits, with when it looks again of its own accord.
    fn wait(&self, state: &mut State, until: Option<Instant>, waiting: &mut Waiting) {
        let Some(Membership { group, member, .. }) = &self.membership else {
            return;
        };
        let (Some(member), Some(state)) = (member, state.groups.get_mut(group)) else {
            return;
        };
        state.members.waits(member, until, Instant::now());
        let (shared, group, id) = (Arc::clone(&self.shared), group.clone(), member.clone());
        waiting.of(member, move || shared.waits_no_more(&group, &id));
    }

    /// What the group has to say.
    fn news(&mut self, state: &mut State) -> Option<Result<Delivery>> {
        let membership = self.membership.as_mut()?;
        if let Err(error) = membership.check() {
            return Some(Err(error));
        }
        let member = match &membership.member {
            Some(member) => Arc::clone(member),
            None => join(membership, state),
        };
        loop {
            let membership = self.membership.as_mut()?;
            let group = state.groups.get_mut(&membership.group)?;
            let event = group.members.next_event(&member, Instant::now())?;
            let shared = Arc::clone(&self.shared);
            let release = move |group: Group, member: MemberId, partitions: Vec<_>| {
                shared.release(&group, &member, &partitions);
            };
            match self.held.hear(event, membership, release) {
                Heard::Tell(delivery) => return Some(delivery),
                Heard::Assigned(generation, partitions) => {
                    return Some(Ok(self.assign(state, generation, partitions)));
                }
                Heard::Nothing => {}
                Heard::Out => return self.news(state),
            }
        }
    }

    /// Takes the whole of a new assignment; what stays keeps its position.
    fn assign(
        &mut self,
        state: &State,
        generation: Generation,
        partitions: Vec<TopicPartition>,
    ) -> Delivery {
        for at in self.held.keep(&partitions) {
            self.add(state, at, self.start);
        }
        self.held.sort();
        Delivery::Assigned {
            generation: Some(generation),
            partitions,
        }
    }

    /// The next records or the next end, partitions taking turns.
    fn read(&mut self, state: &mut State) -> Option<Result<Delivery>> {
        for index in self.held.turns() {
            let part = self.held.part(index);
            match state.topics.get(&part.at.topic) {
                Some(topic) if topic.incarnation == part.place.incarnation => {}
                _ => {
                    let topic = part.at.topic.clone();
                    return self.held.lose_topic(&topic);
                }
            }
            if part.rests() {
                continue;
            }
            if let Some(delivery) = self.read_part(state, index) {
                self.held.has_had_its_turn(index);
                return Some(delivery);
            }
            if self.held_until.is_some() {
                return None;
            }
        }
        None
    }

    fn read_part(&mut self, state: &mut State, index: usize) -> Option<Result<Delivery>> {
        let part = self.held.part(index);
        let (at, ended, mut place) = (part.at.clone(), part.ended, part.place);
        if place.position.is_none() {
            let resolved = self.resolve(state, &at, &mut place);
            let part = self.held.part(index);
            part.place = place;
            if let Err(error) = resolved {
                part.silent = true;
                return Some(Err(error));
            }
        }
        let position = place.position?;
        let log = match state.log(&at) {
            Ok(log) => log,
            Err(error) => return Some(Err(error)),
        };
        let marks = log.watermarks();
        if position < marks.low.0 || position > marks.high.0 {
            self.held.part(index).silent = true;
            return Some(Err(Error::OutOfRange {
                at,
                asked: Offset(position),
                low: marks.low,
                high: marks.high,
            }));
        }
        let Some(batch) = log.read(position, self.limits) else {
            if ended {
                state.rings(&at, &self.bell);
                return None;
            }
            self.held.part(index).ended = true;
            return Some(Ok(Delivery::End {
                partition: at,
                offset: Offset(position),
            }));
        };
        if state.faults.meets_moved_leader(&at, false) {
            return Some(Err(unavailable(self.shared.broker(), "the leader moved")));
        }
        if !std::mem::take(&mut self.faults_drawn)
            && let Some(fault) = state.faults.draw_fetch(self.membership.is_some())
        {
            return self.suffer(state, fault);
        }
        let part = self.held.part(index);
        part.place.position = Some(batch.next().0);
        part.ended = false;
        Some(Ok(Delivery::Records(batch)))
    }

    /// Lets a fault take the place of a delivery, which comes later.
    fn suffer(&mut self, state: &mut State, fault: FetchFault) -> Option<Result<Delivery>> {
        match fault {
            FetchFault::Disconnect => Some(Err(unavailable(self.shared.broker(), "disconnected"))),
            FetchFault::Delay(by) => {
                self.held_until = Some(Instant::now() + by);
                self.faults_drawn = true;
                None
            }
            FetchFault::Rebalance | FetchFault::Expulsion => {
                if let Some(membership) = &self.membership {
                    let member = membership.member.clone();
                    state.group(&membership.group, Instant::now(), |group, world| {
                        match (fault, member) {
                            (FetchFault::Expulsion, Some(member)) => {
                                group.members.expel(&member, world)
                            }
                            _ => group.members.rebalance(world, true),
                        }
                    });
                    state.ring_all();
                }
                // The news come first at the next look, which follows at once.
                self.held_until = Some(Instant::now());
                None
            }
        }
    }
}

fn join(membership: &mut Membership, state: &mut State) -> MemberId {
    state.group_entry(&membership.group);
    let joining = membership.joining.clone();
    let joined = state.group(&membership.group, Instant::now(), |group, world| {
        group.members.join(joining, world)
    });
    membership.member.clone_from(&joined);
    // The others have news, too.
    state.ring_all();
    joined.unwrap_or_else(|| Arc::from(""))
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next(&mut self) -> Result<Delivery> {
        let bell = Arc::clone(&self.bell);
        coordinator::next(&bell, |waiting| self.look(waiting)).await
    }

    async fn commit(
        &mut self,
        generation: Option<&Generation>,
        offsets: &[(TopicPartition, Offset)],
    ) -> Result<()> {
        let Some(group) = self.group.clone() else {
            return Err(Error::Invalid {
                what: "a consumer without a group commits no offsets".into(),
            });
        };
        self.shared.enter().await?;
        let mut state = self.shared.lock_at(Instant::now());
        for (at, _) in offsets {
            state.log(at)?;
        }
        let group = state.group_entry(&group);
        group.members.check(generation, offsets)?;
        group.commit(offsets);
        Ok(())
    }

    async fn seek(&mut self, at: &TopicPartition, offset: Offset) -> Result<()> {
        self.held.seek(at)?.position = Some(offset.0);
        Ok(())
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        self.held.pause(partitions, true);
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        self.held.pause(partitions, false);
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.held.get(at)?.place.position.map(Offset)
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        let Some(membership) = &self.membership else {
            return;
        };
        if let Some(member) = &membership.member {
            let mut state = self.shared.lock();
            state.group(&membership.group, Instant::now(), |group, world| {
                group.members.leave(member, world);
            });
            state.ring_all();
        }
    }
}

impl fmt::Debug for MemoryConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryConsumer")
            .field("group", &self.group)
            .field("partitions", &self.held)
            .finish_non_exhaustive()
    }
}
