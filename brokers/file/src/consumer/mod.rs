//! Reading.

mod member;
mod start;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tidemill_broker::coordinator::{self, Held, Joining, Look, Membership, Waiting};
use tidemill_broker::{
    Consumer, ConsumerOptions, Delivery, Error, Generation, Group, Offset, Result, Start,
    Subscription, TopicPartition,
};
use tokio::time::Instant;

use member::join;

use crate::cursor::{Cursor, Limits, Step};
use crate::shared::Shared;

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

    /// Looks once. What it takes it returns at once, so that a caller who stops waiting loses
    /// nothing.
    fn look(&mut self, waiting: &mut Waiting) -> Look {
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
        Look::Wait(match &self.shared.writing {
            Some(_) => self.wait(waiting),
            None => Some(Instant::now() + self.shared.options.poll),
        })
    }

    /// Notes that a member waits. Returns when it looks again of its own accord.
    fn wait(&self, waiting: &mut Waiting) -> Option<Instant> {
        // Members whose time is up go now, whoever it is that waits.
        let mut groups = self.shared.groups_at(Instant::now());
        let until = groups.next_deadline();
        if let Some(Membership { group, member, .. }) = &self.membership
            && let (Some(member), Some(members)) = (member, groups.get_mut(group))
        {
            members.waits(member, until, Instant::now());
            let (shared, group, id) = (Arc::clone(&self.shared), group.clone(), member.clone());
            waiting.of(member, move || shared.waits_no_more(&group, &id));
        }
        until
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
                    part.silent = !error.is_transient();
                    Err(error)
                }
            };
            self.held.has_had_its_turn(index);
            return Some(delivery);
        }
        None
    }
}

#[async_trait]
impl Consumer for FileConsumer {
    async fn next(&mut self) -> Result<Delivery> {
        let shared = Arc::clone(&self.shared);
        coordinator::next(&shared.changed, |waiting| self.look(waiting)).await
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
        self.shared.settle_change(end).await
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
        self.leave();
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
