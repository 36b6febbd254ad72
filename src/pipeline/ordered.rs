//! Inputs of a task, taken in an order that does not depend on when their records arrive.
//!
//! In lockstep a task with several inputs takes, of the records that come next in each, the one with
//! the least timestamp, then the input that comes first; so that records alone decide. Where a
//! control record has written down what was taken in which order, that is followed as far as it
//! goes. Each input has a consumer of its own, asked only once what it gave is used up: so nothing
//! piles up of one while another is waited for.

mod followed;

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::select_all;
use tidemill_broker::{
    Batch, Broker, Consumer, ConsumerOptions, Delivery, Offset, Start, Timestamp, TopicPartition,
};

pub(crate) use self::followed::{Followed, Place};
use super::control::Step;
use super::error::Doing;
use super::reading::{self, Reading};
use super::recovery::retrying;
use super::{Error, Result};

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Records of the input with this index.
    Batch(usize, Batch),
    /// Everything committed in an input has been taken.
    End(TopicPartition, Offset),
    /// The clock said that the input with this index is idle.
    Idle(usize),
    /// The input with this index is idle no more, though none of its records come yet.
    Awake(usize),
    /// The run was told to end here, with this last watermark.
    Ended(Timestamp),
    /// All control records have been followed.
    Followed,
    /// What comes next in an input is not there any more, or not yet.
    OutOfRange,
}

/// The inputs of a task in order.
#[derive(Debug)]
pub(crate) struct Ordered {
    heads: Vec<Head>,
    // An input that is at its end is looked at again once another has given something.
    look_again: bool,
    followed: Option<Followed>,
    is_following: bool,
}

#[derive(Debug)]
struct Head {
    at: TopicPartition,
    consumer: Box<dyn Consumer>,
    // What it has given and is not used up.
    batch: Option<Batch>,
    // Everything before this has been handed on.
    next: Offset,
    // Where it ended, if that was the last it told.
    ended_at: Option<Offset>,
}

impl Ordered {
    /// Reads inputs from their positions, each on its broker.
    pub(crate) async fn open(
        inputs: Vec<(Arc<dyn Broker>, TopicPartition, Offset)>,
        followed: Option<Followed>,
    ) -> Result<Self> {
        let mut heads = Vec::with_capacity(inputs.len());
        for (broker, at, next) in inputs {
            let consumer = consumer(&*broker, &at, next).await?;
            heads.push(Head {
                at,
                consumer,
                batch: None,
                next,
                ended_at: None,
            });
        }
        Ok(Self {
            heads,
            look_again: false,
            is_following: followed.is_some(),
            followed,
        })
    }

    /// Whether control records still say what comes next.
    pub(crate) fn is_following(&self) -> bool {
        self.is_following
    }

    /// How far control records have been followed.
    pub(crate) fn followed(&self) -> Option<Place> {
        self.followed.as_ref().map(|followed| followed.place)
    }

    /// Waits for what comes next.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Next> {
        loop {
            let next = match &mut self.followed {
                Some(followed) if self.is_following => match followed.step().await? {
                    Some(step) => self.follow(step).await?,
                    None => {
                        self.is_following = false;
                        return Ok(Next::Followed);
                    }
                },
                _ => self.choose().await?,
            };
            if let Some(next) = next {
                return Ok(next);
            }
        }
    }

    /// Does what a control record says; `None` once the step is done.
    async fn follow(&mut self, step: Step) -> Result<Option<Next>> {
        let (input, next) = match step {
            Step::Taken { input, next } => (input, Offset(next)),
            Step::Idle { input } => {
                self.done();
                let input = self.head_of(input)?;
                return Ok(Some(Next::Idle(input)));
            }
            Step::Awake { input } => {
                self.done();
                let input = self.head_of(input)?;
                return Ok(Some(Next::Awake(input)));
            }
            Step::Ended { watermark } => {
                self.done();
                return Ok(Some(Next::Ended(Timestamp(watermark))));
            }
        };
        let input = self.head_of(input)?;
        let head = &mut self.heads[input];
        if head.next >= next {
            self.done();
            return Ok(None);
        }
        let Some(batch) = &head.batch else {
            let delivery = match head.ended_at {
                Some(end) if end >= next => {
                    self.done();
                    return Ok(None);
                }
                Some(end) => head.consumer.next().now_or_never().ok_or_else(|| Error::OtherLog {
                    at: head.at.clone(),
                    what: format!(
                        "it ends at offset {end}, but a control record says that it was read up to {next}"
                    ),
                })?,
                None => head.consumer.next().await,
            };
            return self.note(input, delivery).await;
        };
        let count = (0..batch.len())
            .take_while(|record| batch.get(*record).offset < next)
            .count();
        if count == 0 && !batch.is_empty() {
            // What was between is a gap.
            self.done();
            return Ok(None);
        }
        Ok(Some(self.hand_on(input, count)))
    }

    fn head_of(&self, input: u32) -> Result<usize> {
        let index = input as usize;
        if index < self.heads.len() {
            return Ok(index);
        }
        Err(Error::Plan {
            what: format!(
                "a control record names input {input} of {}: it is of another pipeline",
                self.heads.len()
            ),
        })
    }

    fn done(&mut self) {
        if let Some(followed) = &mut self.followed {
            followed.done();
        }
    }

    /// Takes the least of what comes next in each input, once that is known of all.
    async fn choose(&mut self) -> Result<Option<Next>> {
        for input in 0..self.heads.len() {
            let head = &mut self.heads[input];
            if head.batch.is_none() && head.ended_at.is_none() {
                let delivery = head.consumer.next().await;
                return self.note(input, delivery).await;
            }
        }
        if std::mem::take(&mut self.look_again) {
            for input in 0..self.heads.len() {
                let head = &mut self.heads[input];
                if head.ended_at.is_some()
                    && head.batch.is_none()
                    && let Some(delivery) = head.consumer.next().now_or_never()
                {
                    self.look_again = true;
                    return self.note(input, delivery).await;
                }
            }
        }
        let Some((input, count)) = self.least() else {
            // All are at their end.
            let waiting = self.heads.iter_mut().map(|head| head.consumer.next());
            let (delivery, input, _) = select_all(waiting).await;
            return self.note(input, delivery).await;
        };
        Ok(Some(self.hand_on(input, count)))
    }

    /// The input with the least of what comes next, and how many of its records come before the next
    /// of every other.
    fn least(&self) -> Option<(usize, usize)> {
        let mut next: Vec<(Timestamp, usize)> = Vec::with_capacity(self.heads.len());
        for (input, head) in self.heads.iter().enumerate() {
            next.extend(head.batch.as_ref().map(|batch| (first_time(batch), input)));
        }
        next.sort_unstable();
        let (_, input) = *next.first()?;
        let second = next.get(1);
        let batch = self.heads[input].batch.as_ref()?;
        let more = |record: &usize| {
            let key = (batch.get(*record).timestamp, input);
            second.is_none_or(|second| key < *second)
        };
        Some((input, (1..batch.len()).take_while(more).count() + 1))
    }

    /// Hands on so many records of what an input has given.
    fn hand_on(&mut self, input: usize, count: usize) -> Next {
        let head = &mut self.heads[input];
        let Some(batch) = head.batch.take() else {
            return Next::End(head.at.clone(), head.next);
        };
        if count >= batch.len() {
            head.next = batch.next();
            return Next::Batch(input, batch);
        }
        let next = batch.get(count).offset;
        head.next = next;
        head.batch = Some(batch.slice(count..batch.len(), batch.next()));
        Next::Batch(input, batch.slice(0..count, next))
    }

    /// Takes note of what a consumer gave.
    async fn note(
        &mut self,
        input: usize,
        delivery: tidemill_broker::Result<Delivery>,
    ) -> Result<Option<Next>> {
        let head = &mut self.heads[input];
        match delivery {
            Ok(Delivery::Records(batch)) => {
                head.ended_at = None;
                if batch.next() > head.next {
                    head.batch = Some(batch);
                    self.look_again = true;
                }
                Ok(None)
            }
            Ok(Delivery::End { partition, offset }) => {
                head.ended_at = Some(offset);
                Ok(Some(Next::End(partition, offset)))
            }
            Ok(Delivery::Assigned { .. } | Delivery::Revoked { .. }) => Ok(None),
            Ok(Delivery::Lost { .. }) => Err(Error::LostInput {
                topic: head.at.topic.clone(),
            }),
            Err(error) => match reading::after(error).await? {
                Reading::GoesOn => Ok(None),
                Reading::OutOfRange(_) => Ok(Some(Next::OutOfRange)),
                Reading::Deleted(topic) => Err(Error::LostInput { topic }),
            },
        }
    }
}

fn first_time(batch: &Batch) -> Timestamp {
    match batch.is_empty() {
        // A gap stands in nobody's way.
        true => Timestamp::MIN,
        false => batch.get(0).timestamp,
    }
}

async fn consumer(
    broker: &dyn Broker,
    at: &TopicPartition,
    from: Offset,
) -> Result<Box<dyn Consumer>> {
    let options = ConsumerOptions::partitions(vec![(at.clone(), Start::Offset(from))]);
    let consumer = retrying(|| broker.consumer(options.clone())).await;
    consumer.doing(|| format!("cannot read {at}"))
}
