//! Reading.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tidemill_broker::{
    Consumer, ConsumerOptions, Delivery, Error, Generation, Group, Offset, Permit, Result, Start,
    Subscription, Topic, TopicPartition,
};
use tokio::time::Instant;

use crate::faults::{FetchFault, unavailable};
use crate::group::{Event, Joining, MemberId};
use crate::log::ReadLimits;
use crate::shared::{Committed, Shared, State};

/// A partition being read.
#[derive(Debug)]
struct Part {
    at: TopicPartition,
    /// The incarnation of its topic.
    incarnation: u64,
    start: Start,
    /// `None` while the group's offset is part of an open transaction.
    position: Option<u64>,
    paused: bool,
    /// Whether its end was told since it last moved.
    ended: bool,
    /// Whether it waits for a seek after an error was told.
    silent: bool,
}

/// The place of a consumer in its group.
struct Membership {
    group: Group,
    joining: Joining,
    /// `None` after the group removed it: it joins anew.
    member: Option<MemberId>,
    /// Another took over its name.
    replaced: bool,
}

/// A reader of one broker in memory.
pub(crate) struct MemoryConsumer {
    shared: Arc<Shared>,
    /// Whose committed offsets count.
    group: Option<Group>,
    membership: Option<Membership>,
    start: Start,
    limits: ReadLimits,
    parts: Vec<Part>,
    /// Whose turn it is.
    turn: usize,
    /// What is to be told before anything else.
    first: VecDeque<Result<Delivery>>,
    /// Records wait until then.
    held_until: Option<Instant>,
    /// The next delivery has had its faults already.
    faults_drawn: bool,
}

/// What a look at the state came to.
enum Step {
    Deliver(Result<Delivery>),
    Wait(Option<Instant>),
}

impl MemoryConsumer {
    pub(crate) fn open(shared: Arc<Shared>, options: ConsumerOptions) -> Result<Self> {
        if options.group.is_some() && !shared.options.capabilities.groups {
            return shared.unsupported("consumer groups");
        }
        options.check()?;
        let mut consumer = Self {
            limits: ReadLimits {
                records: options.batch_records_max,
                bytes: options.batch_bytes_max,
                over_gaps: !shared.lock().controls,
            },
            group: options.group.clone(),
            membership: None,
            start: options.start,
            parts: Vec::new(),
            turn: 0,
            first: VecDeque::new(),
            held_until: None,
            faults_drawn: false,
            shared: Arc::clone(&shared),
        };
        let mut state = shared.lock_at(Instant::now());
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
                    };
                    let mut membership = Membership {
                        group,
                        joining,
                        member: None,
                        replaced: false,
                    };
                    membership.join(&mut state);
                    consumer.membership = Some(membership);
                }
            }
            Subscription::Partitions(partitions) => {
                for (at, _) in &partitions {
                    state.log(at)?;
                }
                consumer.first.push_back(Ok(Delivery::Assigned {
                    generation: None,
                    partitions: partitions.iter().map(|(at, _)| at.clone()).collect(),
                }));
                for (at, start) in partitions {
                    consumer.add(&state, at, start);
                }
            }
        }
        drop(state);
        shared.changed.notify_waiters();
        Ok(consumer)
    }

    /// Begins to read a partition that is there.
    fn add(&mut self, state: &State, at: TopicPartition, start: Start) {
        let Ok(topic) = state.topic(&at.topic) else {
            return;
        };
        let mut part = Part {
            incarnation: topic.incarnation,
            at,
            start,
            position: None,
            paused: false,
            ended: false,
            silent: false,
        };
        if let Err(error) = self.resolve(state, &mut part) {
            part.silent = true;
            self.first.push_back(Err(error));
        }
        self.parts.push(part);
    }

    /// Finds where to begin, unless that depends on an open transaction.
    fn resolve(&self, state: &State, part: &mut Part) -> Result<()> {
        let log = state.log(&part.at)?;
        let marks = log.watermarks();
        let committed = match &self.group {
            // What a group has committed comes before any start but one given by hand.
            Some(group) if self.membership.is_some() || part.start == Start::Committed => {
                state.offset_of(group, &part.at)
            }
            _ => Committed::Nothing,
        };
        part.position = match (committed, part.start) {
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
                        at: part.at.clone(),
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
    fn step(&mut self) -> Step {
        let shared = Arc::clone(&self.shared);
        let now = Instant::now();
        let mut state = shared.lock_at(now);
        if let Some(delivery) = self.first.pop_front() {
            return Step::Deliver(delivery);
        }
        if let Some(delivery) = self.news(&mut state) {
            return Step::Deliver(delivery);
        }
        if let Some(until) = self.held_until {
            if now < until {
                let next = state.next_deadline().map_or(until, |due| due.min(until));
                return Step::Wait(Some(next));
            }
            self.held_until = None;
        }
        match self.read(&mut state) {
            Some(delivery) => Step::Deliver(delivery),
            None if self.held_until.is_some() || !self.first.is_empty() => {
                drop(state);
                self.step()
            }
            None => Step::Wait(state.next_deadline()),
        }
    }

    /// What the group has to say.
    fn news(&mut self, state: &mut State) -> Option<Result<Delivery>> {
        let membership = self.membership.as_mut()?;
        if membership.replaced {
            return Some(Err(Error::Fenced {
                what: format!(
                    "another member of group `{}` took over the instance name",
                    membership.group
                ),
            }));
        }
        let member = match &membership.member {
            Some(member) => Arc::clone(member),
            None => {
                let member = membership.join(state);
                self.shared.changed.notify_waiters();
                member
            }
        };
        let group = membership.group.clone();
        loop {
            let event = state.groups.get_mut(&group)?.members.next_event(&member)?;
            match event {
                Event::Assigned {
                    generation,
                    partitions,
                } => return Some(Ok(self.assign(state, generation, partitions))),
                Event::Revoked {
                    partitions,
                    deadline,
                } => {
                    self.parts.retain(|part| !partitions.contains(&part.at));
                    if partitions.is_empty() {
                        continue;
                    }
                    let shared = Arc::clone(&self.shared);
                    let (group, member) = (group.clone(), Arc::clone(&member));
                    let released = partitions.clone();
                    let permit = Permit::new(deadline, move || {
                        shared.release(&group, &member, &released);
                    });
                    return Some(Ok(Delivery::Revoked { partitions, permit }));
                }
                Event::Deleted { topic } => {
                    if let Some(lost) = self.lose_topic(&topic) {
                        return Some(lost);
                    }
                }
                Event::Removed | Event::Replaced => {
                    if let Some(membership) = &mut self.membership {
                        membership.member = None;
                        membership.replaced = matches!(event, Event::Replaced);
                    }
                    let partitions: Vec<_> = self.parts.drain(..).map(|part| part.at).collect();
                    if partitions.is_empty() {
                        return self.news(state);
                    }
                    return Some(Ok(Delivery::Lost { partitions }));
                }
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
        self.parts.retain(|part| partitions.contains(&part.at));
        for at in &partitions {
            if !self.parts.iter().any(|part| part.at == *at) {
                self.add(state, at.clone(), self.start);
            }
        }
        self.parts.sort_by(|a, b| a.at.cmp(&b.at));
        Delivery::Assigned {
            generation: Some(generation),
            partitions,
        }
    }

    /// Gives up the partitions of a topic that is gone.
    fn lose_topic(&mut self, topic: &Topic) -> Option<Result<Delivery>> {
        let partitions: Vec<_> = self
            .parts
            .extract_if(.., |part| part.at.topic == *topic)
            .map(|part| part.at)
            .collect();
        self.first.push_back(Err(Error::UnknownTopic {
            topic: topic.clone(),
        }));
        if partitions.is_empty() {
            return self.first.pop_front();
        }
        Some(Ok(Delivery::Lost { partitions }))
    }

    /// The next records or the next end, partitions taking turns.
    fn read(&mut self, state: &mut State) -> Option<Result<Delivery>> {
        let count = self.parts.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            let part = &self.parts[index];
            match state.topics.get(&part.at.topic) {
                Some(topic) if topic.incarnation == part.incarnation => {}
                _ => {
                    let topic = part.at.topic.clone();
                    return self.lose_topic(&topic);
                }
            }
            if part.paused || part.silent {
                continue;
            }
            if let Some(delivery) = self.read_part(state, index) {
                self.turn = (index + 1) % count;
                return Some(delivery);
            }
            if self.held_until.is_some() {
                return None;
            }
        }
        None
    }

    fn read_part(&mut self, state: &mut State, index: usize) -> Option<Result<Delivery>> {
        let mut part = self.parts[index].clone_for_reading();
        if part.position.is_none() {
            let resolved = self.resolve(state, &mut part);
            self.parts[index].position = part.position;
            if let Err(error) = resolved {
                self.parts[index].silent = true;
                return Some(Err(error));
            }
        }
        let position = part.position?;
        let log = match state.log(&part.at) {
            Ok(log) => log,
            Err(error) => return Some(Err(error)),
        };
        let marks = log.watermarks();
        if position < marks.low.0 || position > marks.high.0 {
            self.parts[index].silent = true;
            return Some(Err(Error::OutOfRange {
                at: part.at,
                asked: Offset(position),
                low: marks.low,
                high: marks.high,
            }));
        }
        let Some(batch) = log.read(position, self.limits) else {
            if part.ended {
                return None;
            }
            self.parts[index].ended = true;
            return Some(Ok(Delivery::End {
                partition: part.at,
                offset: Offset(position),
            }));
        };
        if state.faults.meets_moved_leader(&part.at, false) {
            return Some(Err(unavailable(self.shared.broker(), "the leader moved")));
        }
        if !std::mem::take(&mut self.faults_drawn)
            && let Some(fault) = state.faults.draw_fetch(self.membership.is_some())
        {
            return self.suffer(state, fault);
        }
        let part = &mut self.parts[index];
        part.position = Some(batch.next().0);
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
                    self.shared.changed.notify_waiters();
                }
                // The news come first at the next look, which follows at once.
                self.held_until = Some(Instant::now());
                None
            }
        }
    }

    fn part_mut(&mut self, at: &TopicPartition) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| part.at == *at)
    }
}

impl Part {
    fn clone_for_reading(&self) -> Self {
        Self {
            at: self.at.clone(),
            ..*self
        }
    }
}

impl Membership {
    fn join(&mut self, state: &mut State) -> MemberId {
        state.group_entry(&self.group);
        let joining = self.joining.clone();
        let joined = state.group(&self.group, Instant::now(), |group, world| {
            group.members.join(joining, world)
        });
        self.member.clone_from(&joined);
        joined.unwrap_or_else(|| Arc::from(""))
    }
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next(&mut self) -> Result<Delivery> {
        // A reader that always finds something would keep a single-threaded runtime to itself.
        tokio::task::consume_budget().await;
        if let Step::Deliver(delivery) = self.step() {
            return delivery;
        }
        let shared = Arc::clone(&self.shared);
        loop {
            // Listen before looking, so that nothing falls in between.
            let changed = shared.changed.notified();
            match self.step() {
                Step::Deliver(delivery) => return delivery,
                Step::Wait(None) => changed.await,
                Step::Wait(Some(until)) => {
                    // Which of both it was is seen at the next look.
                    let _ = tokio::time::timeout_at(until, changed).await;
                }
            }
        }
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
        let Some(part) = self.part_mut(at) else {
            return Err(Error::NotAssigned { at: at.clone() });
        };
        part.position = Some(offset.0);
        part.ended = false;
        part.silent = false;
        Ok(())
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        for at in partitions {
            if let Some(part) = self.part_mut(at) {
                part.paused = true;
            }
        }
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        for at in partitions {
            if let Some(part) = self.part_mut(at) {
                part.paused = false;
            }
        }
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.parts
            .iter()
            .find(|part| part.at == *at)
            .and_then(|part| part.position)
            .map(Offset)
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
            drop(state);
            self.shared.changed.notify_waiters();
        }
    }
}

impl fmt::Debug for MemoryConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryConsumer")
            .field("group", &self.group)
            .field("partitions", &self.parts)
            .finish_non_exhaustive()
    }
}
