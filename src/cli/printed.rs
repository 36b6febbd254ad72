//! A broker whose records count as written once they have been printed.

use std::sync::Arc;

use async_trait::async_trait;
use tidemill_broker::{
    Acks, Broker, Capabilities, Consumer, ConsumerOptions, Error, Group, Offset, RecordSet, Result,
    Timestamp, Topic, TopicDescription, TopicPartition, TopicSpec, TransactionalId, Transactor,
    Watermarks,
};
use tokio::sync::watch;

/// A broker in memory in front of standard output.
///
/// # Delivery
///
/// A record is acknowledged when it has been handed to whoever reads standard output. So an epoch is
/// not committed before its lines are out, and a reader that is slow is felt by the source.
#[derive(Debug)]
pub(super) struct Printed {
    inner: Arc<dyn Broker>,
    /// The offset after the last line that was printed.
    next: watch::Receiver<Offset>,
}

impl Printed {
    pub(super) fn new(inner: Arc<dyn Broker>, next: watch::Receiver<Offset>) -> Self {
        Self { inner, next }
    }
}

#[async_trait]
impl Broker for Printed {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        self.inner.create_topic(topic).await
    }

    async fn describe_topic(&self, name: &Topic) -> Result<TopicDescription> {
        self.inner.describe_topic(name).await
    }

    async fn list_topics(&self) -> Result<Vec<Topic>> {
        self.inner.list_topics().await
    }

    async fn delete_topic(&self, name: &Topic) -> Result<()> {
        self.inner.delete_topic(name).await
    }

    async fn watermarks(&self, at: &TopicPartition) -> Result<Watermarks> {
        self.inner.watermarks(at).await
    }

    async fn offset_at(&self, at: &TopicPartition, time: Timestamp) -> Result<Offset> {
        self.inner.offset_at(at, time).await
    }

    async fn committed(&self, group: &Group, at: &[TopicPartition]) -> Result<Vec<Option<Offset>>> {
        self.inner.committed(group, at).await
    }

    /// # Cancel safety
    ///
    /// Dropping the future leaves unknown which of them are or will be printed.
    async fn produce(&self, records: Vec<RecordSet>) -> Result<Vec<Acks>> {
        let acks = self.inner.produce(records).await?;
        let last = acks.iter().filter_map(|acks| {
            let last = acks.len().checked_sub(1)?;
            acks.get(last).ok()
        });
        if let Some(last) = last.max() {
            let mut next = self.next.clone();
            let printed = next.wait_for(|next| *next > last).await;
            printed.map_err(|_| Error::Io {
                doing: "write",
                path: "standard output".into(),
                source: std::io::ErrorKind::BrokenPipe.into(),
            })?;
        }
        Ok(acks)
    }

    async fn transactor(&self, id: &TransactionalId) -> Result<Box<dyn Transactor>> {
        self.inner.transactor(id).await
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>> {
        self.inner.consumer(options).await
    }

    async fn sync(&self) -> Result<()> {
        self.inner.sync().await
    }
}
