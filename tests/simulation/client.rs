//! The broker as one process reaches it: what passes is counted, calls are slow now and then, and the
//! death of a process is not told to its group.

use std::sync::Arc;

use async_trait::async_trait;
use rand::Rng;
use tidemill_broker::{
    Acks, Broker, Capabilities, Consumer, ConsumerOptions, Delivery, Generation, Group, Offset,
    Outcome, RecordSet, Result, Timestamp, Topic, TopicDescription, TopicPartition, TopicSpec,
    Transaction, TransactionalId, Transactor, Watermarks,
};

use crate::checker::Checker;
use crate::world::World;

/// Whose connection it is.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) world: Arc<World>,
    pub(crate) process: usize,
    pub(crate) machine: usize,
    /// The run.
    pub(crate) scope: u64,
}

impl Peer {
    /// Before and after calls that change something: the machine has other things to do.
    async fn dawdle(&self) {
        let Some(files) = &self.world.draw.files else {
            return;
        };
        if files.slow == 0.0 || self.world.is_healed() {
            return;
        }
        let pause = self.world.draw_with(|rng| {
            rng.random_bool(files.slow)
                .then(|| files.slow_max.mul_f64(rng.random_range(0.0..1.0)))
        });
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
}

/// One process's connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) peer: Peer,
}

impl Client {
    fn broker(&self) -> &dyn Broker {
        &*self.broker
    }
}

#[async_trait]
impl Broker for Client {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.broker().capabilities();
        capabilities.groups &= self.peer.world.draw.groups;
        capabilities
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
        self.peer.dawdle().await;
        let acks = self.broker().produce(records).await;
        self.peer.dawdle().await;
        acks
    }

    async fn transactor(&self, id: &TransactionalId) -> Result<Box<dyn Transactor>> {
        Ok(Box::new(Committing {
            transactor: self.broker().transactor(id).await?,
            peer: self.peer.clone(),
        }))
    }

    async fn consumer(&self, mut options: ConsumerOptions) -> Result<Box<dyn Consumer>> {
        options.batch_records_max = self.peer.world.draw.batch_records;
        options.revoke_deadline = self.peer.world.draw.revoke_deadline;
        let in_group = options.group.is_some();
        let consumer = self.broker().consumer(options).await?;
        Ok(Box::new(Member {
            consumer: Some(consumer),
            in_group,
            peer: self.peer.clone(),
        }))
    }

    async fn sync(&self) -> Result<()> {
        self.peer.dawdle().await;
        let synced = self.broker().sync().await;
        self.peer.dawdle().await;
        synced
    }
}

/// An owner of a transactional id.
#[derive(Debug)]
struct Committing {
    transactor: Box<dyn Transactor>,
    peer: Peer,
}

#[async_trait]
impl Transactor for Committing {
    async fn commit(&mut self, transaction: Transaction) -> Outcome {
        let Peer {
            world,
            scope,
            machine,
            ..
        } = &self.peer;
        if let Some(wrong) = world.load.submitted(*scope, *machine, &transaction) {
            world.caught(Checker::Bounds, wrong);
        }
        self.peer.dawdle().await;
        let outcome = self.transactor.commit(transaction).await;
        self.peer.dawdle().await;
        outcome
    }
}

/// A reader; often a member of the group.
#[derive(Debug)]
struct Member {
    consumer: Option<Box<dyn Consumer>>,
    in_group: bool,
    peer: Peer,
}

impl Member {
    fn consumer(&mut self) -> &mut Box<dyn Consumer> {
        self.consumer.as_mut().unwrap()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let Peer {
            world,
            process,
            scope,
            ..
        } = &self.peer;
        // A group that is kept on the machine dies with it.
        let is_missed = self.in_group && world.host().is_none();
        if is_missed
            && world.scope_of(*process) != Some(*scope)
            && let Some(consumer) = self.consumer.take()
        {
            world.bury(consumer);
        }
    }
}

#[async_trait]
impl Consumer for Member {
    async fn next(&mut self) -> Result<Delivery> {
        let delivery = self.consumer().next().await;
        if let Ok(Delivery::Records(batch)) = &delivery {
            let Peer { world, scope, .. } = &self.peer;
            world.load.delivered(*scope, batch.at(), batch.next());
        }
        delivery
    }

    async fn commit(
        &mut self,
        generation: Option<&Generation>,
        offsets: &[(TopicPartition, Offset)],
    ) -> Result<()> {
        self.consumer().commit(generation, offsets).await
    }

    async fn seek(&mut self, at: &TopicPartition, offset: Offset) -> Result<()> {
        self.consumer().seek(at, offset).await?;
        self.peer.world.load.sought(self.peer.scope, at, offset);
        Ok(())
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
