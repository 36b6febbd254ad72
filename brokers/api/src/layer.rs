//! Brokers in front of others.

use std::fmt;

use async_trait::async_trait;

use crate::{
    Acks, Broker, Capabilities, Consumer, ConsumerOptions, Group, Offset, RecordSet, Result,
    Timestamp, Topic, TopicDescription, TopicPartition, TopicSpec, TransactionalId, Transactor,
    Watermarks,
};

/// A broker in front of another, which it changes in what it says here; the rest of the contract is
/// the other's. Every layer is a [`Broker`].
#[async_trait]
pub trait Layer: fmt::Debug + Send + Sync + 'static {
    /// The broker behind it.
    fn inner(&self) -> &dyn Broker;

    /// As [`Broker::produce`].
    async fn append(&self, records: Vec<RecordSet>) -> Result<Vec<Acks>> {
        self.inner().produce(records).await
    }

    /// As [`Broker::consumer`].
    async fn consume(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>> {
        self.inner().consumer(options).await
    }

    /// As [`Broker::transactor`].
    async fn transact(&self, id: &TransactionalId) -> Result<Box<dyn Transactor>> {
        self.inner().transactor(id).await
    }
}

// A method that is added to the contract must not be answered by its default here.
#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<L: Layer> Broker for L {
    fn capabilities(&self) -> Capabilities {
        self.inner().capabilities()
    }

    async fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        self.inner().create_topic(topic).await
    }

    async fn describe_topic(&self, name: &Topic) -> Result<TopicDescription> {
        self.inner().describe_topic(name).await
    }

    async fn list_topics(&self) -> Result<Vec<Topic>> {
        self.inner().list_topics().await
    }

    async fn delete_topic(&self, name: &Topic) -> Result<()> {
        self.inner().delete_topic(name).await
    }

    async fn watermarks(&self, at: &TopicPartition) -> Result<Watermarks> {
        self.inner().watermarks(at).await
    }

    async fn offset_at(&self, at: &TopicPartition, time: Timestamp) -> Result<Offset> {
        self.inner().offset_at(at, time).await
    }

    async fn committed(&self, group: &Group, at: &[TopicPartition]) -> Result<Vec<Option<Offset>>> {
        self.inner().committed(group, at).await
    }

    async fn produce(&self, records: Vec<RecordSet>) -> Result<Vec<Acks>> {
        self.append(records).await
    }

    async fn transactor(&self, id: &TransactionalId) -> Result<Box<dyn Transactor>> {
        self.transact(id).await
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>> {
        self.consume(options).await
    }

    async fn sync(&self) -> Result<()> {
        self.inner().sync().await
    }
}
