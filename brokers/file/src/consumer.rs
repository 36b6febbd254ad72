//! Reading.

use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use tidemill_broker::coordinator::{Event, Joining, MemberId};
use tidemill_broker::{
    Consumer, ConsumerOptions, Delivery, Error, Generation, Group, Offset, Permit, Result, Start,
    Subscription, Topic, TopicPartition,
};
use tokio::time::Instant;

use crate::append::{Drafts, Failure};
use crate::cursor::{Cursor, Limits, Step, offset_at};
use crate::group::with_world;
use crate::shared::{Shared, lock};

/// A partition being read.
#[derive(Debug)]
struct Part {
    cursor: Cursor,
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

/// A reader of one directory.
pub(crate) struct FileConsumer {
    shared: Arc<Shared>,
    /// Whose committed offsets count.
    group: Option<Group>,
    membership: Option<Membership>,
    start: Start,
    limits: Limits,
    parts: Vec<Part>,
    /// Whose turn it is.
    turn: usize,
    /// What is to be told before anything else.
    first: VecDeque<Result<Delivery>>,
}

/// What a look came to.
enum Look {
    Deliver(Result<Delivery>),
    Wait(Option<Instant>),
}

impl FileConsumer {
    pub(crate) fn open(shared: Arc<Shared>, options: ConsumerOptions) -> Result<Self> {
        options.check()?;
        let mut consumer = Self {
            limits: Limits {
                records: options.batch_records_max,
                bytes: options.batch_bytes_max,
            },
            group: options.group.clone(),
            membership: None,
            start: options.start,
            parts: Vec::new(),
            turn: 0,
            first: VecDeque::new(),
            shared: Arc::clone(&shared),
        };
        match options.subscription {
            Subscription::Topics(topics) => {
                shared.writing("consumer groups")?;
                for topic in &topics {
                    shared.live().topic(topic)?;
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
                    membership.join(&shared);
                    consumer.membership = Some(membership);
                }
            }
            Subscription::Partitions(partitions) => {
                for (at, _) in &partitions {
                    shared.live().partition(at)?;
                }
                consumer.first.push_back(Ok(Delivery::Assigned {
                    generation: None,
                    partitions: partitions.iter().map(|(at, _)| at.clone()).collect(),
                }));
                for (at, start) in partitions {
                    consumer.add(at, start);
                }
            }
        }
        shared.changed.notify_waiters();
        Ok(consumer)
    }

    /// Begins to read a partition.
    fn add(&mut self, at: TopicPartition, start: Start) {
        let topic = match self.shared.live().partition(&at) {
            Ok((topic, ..)) => topic,
            // The next look tells that it is gone.
            Err(_) => return,
        };
        let (offset, silent) = match self.resolve(&at, start) {
            Ok(offset) => (offset, false),
            Err(error) => {
                self.first.push_back(Err(error));
                (Offset::START, true)
            }
        };
        self.parts.push(Part {
            cursor: Cursor::new(at, topic, offset),
            paused: false,
            ended: false,
            silent,
        });
    }

    /// Finds where to begin.
    fn resolve(&self, at: &TopicPartition, start: Start) -> Result<Offset> {
        // What a group has committed comes before any start but one given by hand.
        if let Some(group) = &self.group
            && (self.membership.is_some() || start == Start::Committed)
        {
            match self.shared.committed(group, at)? {
                Some(offset) => return Ok(offset),
                None if start == Start::Committed => {
                    return Err(Error::NoCommittedOffset {
                        group: group.clone(),
                        at: at.clone(),
                    });
                }
                None => {}
            }
        }
        let marks = self.shared.live().watermarks(at)?;
        match start {
            // Without a group that was refused when the consumer was opened.
            Start::Committed | Start::Earliest => Ok(marks.low),
            Start::Latest => Ok(marks.last_stable),
            Start::At(time) => offset_at(&self.shared, at, time),
            Start::Offset(offset) => Ok(offset),
        }
    }

    /// Looks once. What it takes it returns at once, so that a caller who stops waiting loses
    /// nothing.
    fn look(&mut self) -> Look {
        if let Err(error) = self.shared.alive() {
            return Look::Deliver(Err(error));
        }
        if let Some(delivery) = self.first.pop_front() {
            return Look::Deliver(delivery);
        }
        if let Err(error) = self.shared.refresh() {
            return Look::Deliver(Err(error));
        }
        if let Some(delivery) = self.news() {
            return Look::Deliver(delivery);
        }
        if let Some(delivery) = self.read() {
            return Look::Deliver(delivery);
        }
        if let Some(delivery) = self.first.pop_front() {
            return Look::Deliver(delivery);
        }
        let now = Instant::now();
        Look::Wait(match &self.shared.writing {
            Some(_) => lock(&self.shared.groups).next_deadline(),
            None => Some(now + self.shared.options.poll),
        })
    }

    /// What the group has to say.
    fn news(&mut self) -> Option<Result<Delivery>> {
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
            None => membership.join(&self.shared),
        };
        let group = membership.group.clone();
        loop {
            let event = self
                .shared
                .groups_at(Instant::now())
                .get_mut(&group)?
                .next_event(&member)?;
            match event {
                Event::Assigned {
                    generation,
                    partitions,
                } => return Some(Ok(self.assign(generation, partitions))),
                Event::Revoked {
                    partitions,
                    deadline,
                } => {
                    self.parts
                        .retain(|part| !partitions.contains(&part.cursor.at));
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
                    let partitions: Vec<_> =
                        self.parts.drain(..).map(|part| part.cursor.at).collect();
                    if partitions.is_empty() {
                        return self.news();
                    }
                    return Some(Ok(Delivery::Lost { partitions }));
                }
            }
        }
    }

    /// Takes the whole of a new assignment; what stays keeps its place.
    fn assign(&mut self, generation: Generation, partitions: Vec<TopicPartition>) -> Delivery {
        self.parts
            .retain(|part| partitions.contains(&part.cursor.at));
        for at in &partitions {
            if !self.parts.iter().any(|part| part.cursor.at == *at) {
                self.add(at.clone(), self.start);
            }
        }
        self.parts.sort_by(|a, b| a.cursor.at.cmp(&b.cursor.at));
        Delivery::Assigned {
            generation: Some(generation),
            partitions,
        }
    }

    /// Gives up the partitions of a topic that is gone.
    fn lose_topic(&mut self, topic: &Topic) -> Option<Result<Delivery>> {
        let partitions: Vec<_> = self
            .parts
            .extract_if(.., |part| part.cursor.at.topic == *topic)
            .map(|part| part.cursor.at)
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
    fn read(&mut self) -> Option<Result<Delivery>> {
        let count = self.parts.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            let part = &mut self.parts[index];
            if part.paused || part.silent {
                // A topic that is gone is told all the same.
                if self.shared.live().catalog.id(&part.cursor.at.topic) != Some(part.cursor.topic) {
                    let topic = part.cursor.at.topic.clone();
                    return self.lose_topic(&topic);
                }
                continue;
            }
            let delivery = match part.cursor.next(&self.shared, self.limits) {
                Ok(Step::Records(batch)) => {
                    part.ended = false;
                    Ok(Delivery::Records(batch))
                }
                Ok(Step::End) if part.ended => continue,
                Ok(Step::End) => {
                    part.ended = true;
                    Ok(Delivery::End {
                        partition: part.cursor.at.clone(),
                        offset: part.cursor.offset(),
                    })
                }
                Ok(Step::Gone) => {
                    let topic = part.cursor.at.topic.clone();
                    return self.lose_topic(&topic);
                }
                Err(error) => {
                    part.silent = true;
                    Err(error)
                }
            };
            self.turn = (index + 1) % count;
            return Some(delivery);
        }
        None
    }

    fn part_mut(&mut self, at: &TopicPartition) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| part.cursor.at == *at)
    }

    /// Appends the offsets, checked against the group while nothing else moves it.
    fn append_offsets(
        &self,
        group: &Group,
        generation: Option<&Generation>,
        offsets: &[(TopicPartition, Offset)],
    ) -> Result<u64> {
        let entries = self.shared.offset_entries(group, offsets)?;
        let mut groups = self.shared.groups_at(Instant::now());
        groups.entry(group).check(generation, offsets)?;
        self.shared
            .append(Drafts::default(), entries, |_| Ok(()))
            .map(|(_, end)| end)
            .map_err(Failure::into_error)
    }
}

impl Membership {
    fn join(&mut self, shared: &Shared) -> MemberId {
        let now = Instant::now();
        let mut groups = shared.groups_at(now);
        let live = shared.live();
        let member = with_world(&live, now, |world| {
            groups.entry(&self.group).join(self.joining.clone(), world)
        });
        drop(live);
        drop(groups);
        self.member = Some(Arc::clone(&member));
        shared.changed.notify_waiters();
        member
    }
}

#[async_trait]
impl Consumer for FileConsumer {
    async fn next(&mut self) -> Result<Delivery> {
        // A reader that always finds something would keep a single-threaded runtime to itself.
        tokio::task::consume_budget().await;
        if let Look::Deliver(delivery) = self.look() {
            return delivery;
        }
        let shared = Arc::clone(&self.shared);
        loop {
            // Listen before looking, so that nothing falls in between.
            let mut changed = pin!(shared.changed.notified());
            changed.as_mut().enable();
            match self.look() {
                Look::Deliver(delivery) => return delivery,
                Look::Wait(None) => changed.await,
                Look::Wait(Some(until)) => {
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
        let Some(group) = &self.group else {
            return Err(Error::Invalid {
                what: "a consumer without a group commits no offsets".into(),
            });
        };
        tokio::task::consume_budget().await;
        self.shared.room().await?;
        let end = self.append_offsets(group, generation, offsets)?;
        self.shared.settle(end).await
    }

    async fn seek(&mut self, at: &TopicPartition, offset: Offset) -> Result<()> {
        let Some(part) = self.part_mut(at) else {
            return Err(Error::NotAssigned { at: at.clone() });
        };
        part.cursor.seek(offset);
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
            .find(|part| part.cursor.at == *at)
            .map(|part| part.cursor.offset())
    }
}

impl Drop for FileConsumer {
    fn drop(&mut self) {
        let Some(membership) = &self.membership else {
            return;
        };
        if let Some(member) = &membership.member {
            let mut groups = lock(&self.shared.groups);
            let live = self.shared.live();
            with_world(&live, Instant::now(), |world| {
                if let Some(group) = groups.get_mut(&membership.group) {
                    group.leave(member, world);
                }
            });
            drop(live);
            drop(groups);
            self.shared.changed.notify_waiters();
        }
    }
}

impl fmt::Debug for FileConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileConsumer")
            .field("group", &self.group)
            .field("partitions", &self.parts)
            .finish_non_exhaustive()
    }
}
