//! The broker itself.

use std::fmt;

use async_trait::async_trait;

use crate::{
    Acks, Batch, Capabilities, Consumer, ConsumerOptions, Delivery, Error, Group, NewRecord,
    Offset, RecordPosition, RecordSet, Result, Start, Timestamp, Topic, TopicDescription,
    TopicPartition, TopicSpec, TransactionalId, Transactor, Watermarks, partition,
};

/// A keeper of topics.
///
/// # Contract
///
/// * Offsets within a partition rise, may have gaps, and are never reused.
/// * A reader sees only what is committed; where the broker promises durability, readers in other
///   processes see only what is durable.
/// * Records of one partition are read in the order they were appended; those of one produce call
///   or transaction in the order given.
/// * Every method may be called from many tasks at once.
#[async_trait]
pub trait Broker: fmt::Debug + Send + Sync + 'static {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Creates a topic.
    ///
    /// # Errors
    ///
    /// [`Error::TopicExists`] if there is one of that name.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the topic whole or absent.
    async fn create_topic(&self, topic: &TopicSpec) -> Result<()>;

    /// Tells what a topic is made of.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    async fn describe_topic(&self, name: &Topic) -> Result<TopicDescription>;

    /// Lists all topics, sorted by name.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    async fn list_topics(&self) -> Result<Vec<Topic>>;

    /// Deletes a topic, its records, and the offsets groups have committed for it.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the topic whole or absent.
    async fn delete_topic(&self, name: &Topic) -> Result<()>;

    /// The ends of a partition.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    async fn watermarks(&self, at: &TopicPartition) -> Result<Watermarks>;

    /// The offset of the first record whose timestamp is not before `time`; the end if there is
    /// none.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    async fn offset_at(&self, at: &TopicPartition, time: Timestamp) -> Result<Offset>;

    /// The next offset to read that a group has committed, for each partition asked; `None` where
    /// it has committed nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    async fn committed(&self, group: &Group, at: &[TopicPartition]) -> Result<Vec<Option<Offset>>>;

    /// Appends records, each by itself: some may be appended and others not.
    ///
    /// One [`Acks`] per set. When this returns, what is acknowledged survives what
    /// [`Capabilities::durability`] says once [`sync`](Self::sync) has returned too.
    ///
    /// # Errors
    ///
    /// Only if nothing was appended. [`Error::UnknownOutcome`] inside [`Acks`] means that the record
    /// may have been appended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves unknown which records were appended; none is torn.
    async fn produce(&self, records: Vec<RecordSet>) -> Result<Vec<Acks>>;

    /// Opens a transactional id: shuts out its former owner and settles what that left hanging.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where the broker has no transactions.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may already have shut out the former owner.
    async fn transactor(&self, id: &TransactionalId) -> Result<Box<dyn Transactor>>;

    /// Begins to consume.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::Unsupported`] for groups where there are none,
    /// [`Error::Invalid`] for a subscription to topics without a group.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the group as it was, or as after a member left.
    async fn consumer(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>>;

    /// Makes everything committed so far durable.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves unknown whether it is durable.
    async fn sync(&self) -> Result<()>;
}

/// Conveniences over [`Broker`]. Implemented for every broker; never implement it yourself.
#[async_trait]
pub trait BrokerExt: Broker {
    /// Produces one record and returns where it went.
    async fn send(&self, record: NewRecord) -> Result<RecordPosition> {
        let partition = match (record.partition, &record.key) {
            (Some(partition), _) => partition,
            (None, None) => 0,
            (None, Some(key)) => {
                let topic = self.describe_topic(&record.topic).await?;
                partition::for_key(key, topic.partitions)
            }
        };
        let at = TopicPartition::new(record.topic, partition);
        let mut set = RecordSet::new(at.clone());
        set.push(
            record.timestamp,
            record.key.as_deref(),
            record.value.as_deref(),
            &record.headers,
        );
        let first = self.produce(vec![set]).await?.remove(0).into_result()?;
        match first {
            Some(offset) => Ok(RecordPosition { at, offset }),
            None => Err(Error::Invalid {
                what: "the broker acknowledged nothing".into(),
            }),
        }
    }

    /// Reads everything committed in a partition from `from` to its present end.
    async fn read_to_end(&self, at: &TopicPartition, from: Start) -> Result<Vec<Batch>> {
        let mut consumer = self
            .consumer(ConsumerOptions::partitions(vec![(at.clone(), from)]))
            .await?;
        let mut batches = Vec::new();
        loop {
            match consumer.next().await? {
                Delivery::Records(batch) => batches.push(batch),
                Delivery::End { .. } => return Ok(batches),
                Delivery::Assigned { .. } | Delivery::Revoked { .. } => {}
                Delivery::Lost { .. } => {
                    return Err(Error::TopicDeleted {
                        topic: at.topic.clone(),
                    });
                }
            }
        }
    }
}

impl<B: Broker + ?Sized> BrokerExt for B {}
