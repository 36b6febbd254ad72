//! Reading.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use tidemill_broker::coordinator::{Heard, Held, Joining, MemberId, Membership};
use tidemill_broker::{
    Consumer, ConsumerOptions, Delivery, Error, Generation, Group, Offset, Result, Start,
    Subscription, TopicPartition,
};
use tokio::time::Instant;

use crate::append::{Drafts, Failure};
use crate::cursor::{Cursor, Limits, Step, offset_at};
use crate::group::with_world;
use crate::shared::{Shared, lock};

/// A reader of one directory.
pub(crate) struct FileConsumer {
    shared: Arc<Shared>,
    /// Whose committed offsets count.
    group: Option<Group>,
    membership: Option<Membership>,
    start: Start,
    limits: Limits,
    held: Held<Cursor>,
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
            held: Held::default(),
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
                        session_timeout: options.session_timeout,
                    };
                    let mut membership = Membership::new(group, joining);
                    join(&mut membership, &shared);
                    consumer.membership = Some(membership);
                }
            }
            Subscription::Partitions(partitions) => {
                for (at, _) in &partitions {
                    shared.live().partition(at)?;
                }
                consumer.held.tell(Ok(Delivery::Assigned {
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
        let (offset, found) = match self.resolve(&at, start) {
            Ok(offset) => (offset, Ok(())),
            Err(error) => (Offset::START, Err(error)),
        };
        let cursor = Cursor::new(at.clone(), topic, offset);
        self.held.add(at, cursor, found);
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
        if let Some(delivery) = self.held.told() {
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
        if let Some(delivery) = self.held.told() {
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
        if let Err(error) = membership.check() {
            return Some(Err(error));
        }
        let member = match &membership.member {
            Some(member) => Arc::clone(member),
            None => join(membership, &self.shared),
        };
        loop {
            let membership = self.membership.as_mut()?;
            let event = self
                .shared
                .groups_at(Instant::now())
                .get_mut(&membership.group)?
                .next_event(&member, Instant::now())?;
            let shared = Arc::clone(&self.shared);
            let release = move |group: Group, member: MemberId, partitions: Vec<_>| {
                shared.release(&group, &member, &partitions);
            };
            match self.held.hear(event, membership, release) {
                Heard::Tell(delivery) => return Some(delivery),
                Heard::Assigned(generation, partitions) => {
                    return Some(Ok(self.assign(generation, partitions)));
                }
                Heard::Nothing => {}
                Heard::Out => return self.news(),
            }
        }
    }

    /// Takes the whole of a new assignment; what stays keeps its place.
    fn assign(&mut self, generation: Generation, partitions: Vec<TopicPartition>) -> Delivery {
        for at in self.held.keep(&partitions) {
            self.add(at, self.start);
        }
        self.held.sort();
        Delivery::Assigned {
            generation: Some(generation),
            partitions,
        }
    }

    /// The next records or the next end, partitions taking turns.
    fn read(&mut self) -> Option<Result<Delivery>> {
        for index in self.held.turns() {
            let part = self.held.part(index);
            if part.rests() {
                // A topic that is gone is told all the same.
                if self.shared.live().catalog.id(&part.at.topic) != Some(part.place.topic) {
                    let topic = part.at.topic.clone();
                    return self.held.lose_topic(&topic);
                }
                continue;
            }
            let delivery = match part.place.next(&self.shared, self.limits) {
                Ok(Step::Records(batch)) => {
                    part.ended = false;
                    Ok(Delivery::Records(batch))
                }
                Ok(Step::End) if part.ended => continue,
                Ok(Step::End) => {
                    part.ended = true;
                    Ok(Delivery::End {
                        partition: part.at.clone(),
                        offset: part.place.offset(),
                    })
                }
                Ok(Step::Gone) => {
                    let topic = part.at.topic.clone();
                    return self.held.lose_topic(&topic);
                }
                Err(error) => {
                    part.silent = true;
                    Err(error)
                }
            };
            self.held.has_had_its_turn(index);
            return Some(delivery);
        }
        None
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

fn join(membership: &mut Membership, shared: &Shared) -> MemberId {
    let now = Instant::now();
    let mut groups = shared.groups_at(now);
    let live = shared.live();
    let member = with_world(&live, now, |world| {
        let group = groups.entry(&membership.group);
        group.join(membership.joining.clone(), world)
    });
    drop(live);
    drop(groups);
    membership.member = Some(Arc::clone(&member));
    shared.changed.notify_waiters();
    member
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
                Look::Wait(until) => {
                    let _waiting = self.membership.as_ref().and_then(|membership| {
                        membership.waiting(|group, member, waits| shared.wait(group, member, waits))
                    });
                    let Some(until) = until else {
                        changed.await;
                        continue;
                    };
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
        self.held.seek(at)?.seek(offset);
        Ok(())
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        self.held.pause(partitions, true);
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        self.held.pause(partitions, false);
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.held.get(at).map(|part| part.place.offset())
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
            .field("partitions", &self.held)
            .finish_non_exhaustive()
    }
}
