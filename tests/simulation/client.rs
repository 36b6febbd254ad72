//! The broker as one process reaches it: its death is not told to the group.

use std::sync::Arc;

use async_trait::async_trait;
use tidemill_broker::{
    Acks, Broker, Capabilities, Consumer, ConsumerOptions, Delivery, Generation, Group, Offset,
    RecordSet, Result, Timestamp, Topic, TopicDescription, TopicPartition, TopicSpec,
    TransactionalId, Transactor, Watermarks,
};
use tidemill_broker_memory::MemoryBroker;

use crate::world::World;

/// One process's connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) world: Arc<World>,
    pub(crate) process: usize,
    pub(crate) scope: u64,
}

impl Client {
    fn broker(&self) -> &MemoryBroker {
        &self.world.broker
    }
}

#[async_trait]
impl Broker for Client {
    fn capabilities(&self) -> Capabilities {
        self.broker().capabilities()
    }

    async fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        self.broker().create_topic(topic).await
    }

    async fn describe_topic(&self, name: &Topic) -> Result<TopicDescription> {
        self.broker().describe_topic(name).await
    }

    async fn list_topics(&self) -> Result<Vec<Topic>> {
        self.broker().list_topics().await
    }

    async fn delete_topic(&self, name: &Topic) -> Result<()> {
        self.broker().delete_topic(name).await
    }

    async fn watermarks(&self, at: &TopicPartition) -> Result<Watermarks> {
        self.broker().watermarks(at).await
    }

    async fn offset_at(&self, at: &TopicPartition, time: Timestamp) -> Result<Offset> {
        self.broker().offset_at(at, time).await
    }

    async fn committed(&self, group: &Group, at: &[TopicPartition]) -> Result<Vec<Option<Offset>>> {
        self.broker().committed(group, at).await
    }

    async fn produce(&self, records: Vec<RecordSet>) -> Result<Vec<Acks>> {
        self.broker().produce(records).await
    }

    async fn transactor(&self, id: &TransactionalId) -> Result<Box<dyn Transactor>> {
        self.broker().transactor(id).await
    }

    async fn consumer(&self, mut options: ConsumerOptions) -> Result<Box<dyn Consumer>> {
        options.batch_records_max = self.world.draw.batch_records;
        options.revoke_deadline = self.world.draw.revoke_deadline;
        let in_group = options.group.is_some();
        let consumer = self.broker().consumer(options).await?;
        if !in_group {
            return Ok(consumer);
        }
        Ok(Box::new(Member {
            consumer: Some(consumer),
            world: self.world.clone(),
            process: self.process,
            scope: self.scope,
        }))
    }

    async fn sync(&self) -> Result<()> {
        self.broker().sync().await
    }
}

/// A member of the group.
#[derive(Debug)]
struct Member {
    consumer: Option<Box<dyn Consumer>>,
    world: Arc<World>,
    process: usize,
    scope: u64,
}

impl Member {
    fn consumer(&mut self) -> &mut Box<dyn Consumer> {
        self.consumer.as_mut().unwrap()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let was_killed = self.world.scope_of(self.process) != Some(self.scope);
        if let (true, Some(consumer)) = (was_killed, self.consumer.take()) {
            self.world.bury(consumer);
        }
    }
}

#[async_trait]
impl Consumer for Member {
    async fn next(&mut self) -> Result<Delivery> {
        self.consumer().next().await
    }

    async fn commit(
        &mut self,
        generation: Option<&Generation>,
        offsets: &[(TopicPartition, Offset)],
    ) -> Result<()> {
        self.consumer().commit(generation, offsets).await
    }

    async fn seek(&mut self, at: &TopicPartition, offset: Offset) -> Result<()> {
        self.consumer().seek(at, offset).await
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        self.consumer().pause(partitions);
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        self.consumer().resume(partitions);
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.consumer.as_ref().and_then(|one| one.position(at))
    }
}
