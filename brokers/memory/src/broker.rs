//! The broker itself.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tidemill_broker::{
    Acks, Broker, Capabilities, Cleanup, Clock, Consumer, ConsumerOptions, Error, Group, Offset,
    RecordSet, Result, Timestamp, Topic, TopicDescription, TopicPartition, TopicSpec,
    TransactionalId, Transactor, Watermarks,
};
use tokio::time::Instant;

use crate::consumer::MemoryConsumer;
use crate::faults::Faults;
use crate::options::{MemoryOptions, Persona};
use crate::shared::{Committed, Shared};
use crate::transactor::MemoryTransactor;

/// A broker in this process.
///
/// A clone is another handle of the same broker. Nothing runs in the background: what is due by the
/// time of a call is done first, and whoever waits wakes up for it. With one seed, one clock and one
/// order of calls everything it answers is the same.
///
/// # Delivery
///
/// Everything the contract offers, for the life of the process.
#[derive(Clone)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

impl MemoryBroker {
    /// A broker without topics.
    pub fn new(options: MemoryOptions) -> Self {
        Self {
            shared: Arc::new(Shared::new(options)),
        }
    }

    /// A broker of its own persona on this clock, with seed 0.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::new(MemoryOptions::new(Persona::Memory, clock, 0))
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Puts faults into this broker.
    pub fn faults(&self) -> Faults {
        Faults::new(Arc::clone(&self.shared))
    }

    /// Runs retention and compaction of every topic now. Otherwise they run now and then, when
    /// records are appended.
    pub fn clean(&self) {
        let now = self.shared.now();
        self.shared.lock().clean(now);
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new(MemoryOptions::default())
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker")
            .field("persona", &self.shared.options.persona)
            .field("seed", &self.shared.options.seed)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    fn capabilities(&self) -> Capabilities {
        self.shared.options.capabilities
    }

    async fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        if matches!(topic.cleanup, Cleanup::Compact { .. })
            && !self.shared.options.capabilities.compaction
        {
            return self.shared.unsupported("compacted topics");
        }
        self.shared.enter().await?;
        self.shared.create_topic(topic)
    }

    async fn describe_topic(&self, name: &Topic) -> Result<TopicDescription> {
        self.shared.enter().await?;
        let identity = self.shared.options.capabilities.identity;
        self.shared.lock().describe(name, identity)
    }

    async fn list_topics(&self) -> Result<Vec<Topic>> {
        self.shared.enter().await?;
        Ok(self.shared.lock().topics.keys().cloned().collect())
    }

    async fn delete_topic(&self, name: &Topic) -> Result<()> {
        self.shared.enter().await?;
        self.shared.delete_topic(name)
    }

    async fn watermarks(&self, at: &TopicPartition) -> Result<Watermarks> {
        self.shared.enter().await?;
        let state = self.shared.lock_at(Instant::now());
        Ok(state.log(at)?.watermarks())
    }

    async fn offset_at(&self, at: &TopicPartition, time: Timestamp) -> Result<Offset> {
        self.shared.enter().await?;
        let state = self.shared.lock_at(Instant::now());
        Ok(state.log(at)?.offset_at(time))
    }

    async fn committed(&self, group: &Group, at: &[TopicPartition]) -> Result<Vec<Option<Offset>>> {
        if !self.shared.options.capabilities.groups {
            return self.shared.unsupported("consumer groups");
        }
        self.shared.enter().await?;
        let state = self.shared.lock_at(Instant::now());
        at.iter()
            .map(|at| match state.offset_of(group, at) {
                Committed::Nothing => Ok(None),
                Committed::Offset(offset) => Ok(Some(offset)),
                Committed::Unsettled(source) => Err(Error::Unavailable {
                    broker: self.shared.broker(),
                    source,
                }),
            })
            .collect()
    }

    async fn produce(&self, records: Vec<RecordSet>) -> Result<Vec<Acks>> {
        self.shared.enter().await?;
        self.shared.produce(records)
    }

    async fn transactor(&self, id: &TransactionalId) -> Result<Box<dyn Transactor>> {
        if !self.shared.options.capabilities.transactions {
            return self.shared.unsupported("transactions");
        }
        self.shared.enter().await?;
        let owner = self.shared.open_id(id);
        Ok(Box::new(MemoryTransactor::new(
            Arc::clone(&self.shared),
            id.clone(),
            owner,
        )))
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>> {
        self.shared.enter().await?;
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(MemoryConsumer::open(shared, options)?))
    }

    async fn sync(&self) -> Result<()> {
        self.shared.enter().await
    }
}
