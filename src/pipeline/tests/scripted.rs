//! A broker in memory that does at chosen places what a test says.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidemill_broker::{
    Acks, Broker, Consumer, ConsumerOptions, Delivery, Error as BrokerError, Generation, Layer,
    Offset, Outcome, RecordSet, Rejection, Result, Subscription, TopicPartition, Transaction,
    TransactionalId, Transactor,
};
use tidemill_broker_memory::MemoryBroker;

/// What becomes of a commit.
pub(super) enum Commit {
    Goes,
    /// It goes after so long.
    Waits(Duration),
    Refused,
}

type OnCommit = Arc<dyn Fn(&Transaction) -> Commit + Send + Sync>;
/// Asked before each delivery of the inputs: what comes before it.
type OnDelivery = Arc<dyn Fn(&Delivery) -> Vec<Delivery> + Send + Sync>;
/// Asked before records are produced outside of transactions; how long that takes.
type OnAppend = Arc<dyn Fn(&[RecordSet]) -> Duration + Send + Sync>;
type OnPause = Arc<dyn Fn(&[TopicPartition], bool) + Send + Sync>;

#[derive(Clone)]
pub(super) struct Scripted {
    inner: MemoryBroker,
    on_commit: OnCommit,
    on_append: OnAppend,
    on_delivery: OnDelivery,
    on_pause: OnPause,
    /// How long each delivery takes of partitions that are read by hand, one record at a time.
    pace: Duration,
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").finish_non_exhaustive()
    }
}

impl Scripted {
    pub(super) fn new(inner: &MemoryBroker) -> Self {
        Self {
            inner: inner.clone(),
            on_commit: Arc::new(|_| Commit::Goes),
            on_append: Arc::new(|_| Duration::ZERO),
            on_delivery: Arc::new(|_| Vec::new()),
            on_pause: Arc::new(|_, _| {}),
            pace: Duration::ZERO,
        }
    }

    pub(super) fn on_commit(
        mut self,
        say: impl Fn(&Transaction) -> Commit + Send + Sync + 'static,
    ) -> Self {
        self.on_commit = Arc::new(say);
        self
    }

    pub(super) fn on_append(
        mut self,
        say: impl Fn(&[RecordSet]) -> Duration + Send + Sync + 'static,
    ) -> Self {
        self.on_append = Arc::new(say);
        self
    }

    pub(super) fn on_delivery(
        mut self,
        say: impl Fn(&Delivery) -> Vec<Delivery> + Send + Sync + 'static,
    ) -> Self {
        self.on_delivery = Arc::new(say);
        self
    }

    /// Told of each partition that is paused, or resumed.
    pub(super) fn on_pause(
        mut self,
        told: impl Fn(&[TopicPartition], bool) + Send + Sync + 'static,
    ) -> Self {
        self.on_pause = Arc::new(told);
        self
    }

    pub(super) fn pace(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }
}

#[async_trait]
impl Layer for Scripted {
    fn inner(&self) -> &dyn Broker {
        &self.inner
    }

    async fn append(&self, records: Vec<RecordSet>) -> Result<Vec<Acks>> {
        tokio::time::sleep((self.on_append)(&records)).await;
        self.inner.produce(records).await
    }

    async fn consume(&self, mut options: ConsumerOptions) -> Result<Box<dyn Consumer>> {
        let of_inputs = matches!(options.subscription, Subscription::Topics(_));
        if !of_inputs && !self.pace.is_zero() {
            options.batch_records_max = 1;
        }
        Ok(Box::new(Reader {
            inner: self.inner.consumer(options).await?,
            broker: self.clone(),
            of_inputs,
            waiting: VecDeque::new(),
        }))
    }

    async fn transact(&self, id: &TransactionalId) -> Result<Box<dyn Transactor>> {
        Ok(Box::new(Committing {
            inner: self.inner.transactor(id).await?,
            on_commit: self.on_commit.clone(),
        }))
    }
}

struct Committing {
    inner: Box<dyn Transactor>,
    on_commit: OnCommit,
}

impl fmt::Debug for Committing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Transactor for Committing {
    async fn commit(&mut self, transaction: Transaction) -> Outcome {
        match (self.on_commit)(&transaction) {
            Commit::Goes => {}
            Commit::Waits(time) => tokio::time::sleep(time).await,
            Commit::Refused => {
                return Outcome::NotCommitted(Rejection::from(BrokerError::Invalid {
                    what: "the transaction is too large".into(),
                }));
            }
        }
        self.inner.commit(transaction).await
    }
}

#[derive(Debug)]
struct Reader {
    inner: Box<dyn Consumer>,
    broker: Scripted,
    of_inputs: bool,
    waiting: VecDeque<Delivery>,
}

#[async_trait]
impl Consumer for Reader {
    async fn next(&mut self) -> Result<Delivery> {
        if let Some(delivery) = self.waiting.pop_front() {
            return Ok(delivery);
        }
        if !self.of_inputs {
            // Before it asks, as what it was given is lost if the future is dropped.
            tokio::time::sleep(self.broker.pace).await;
            return self.inner.next().await;
        }
        let delivery = self.inner.next().await?;
        self.waiting.extend((self.broker.on_delivery)(&delivery));
        self.waiting.push_back(delivery);
        self.next().await
    }

    async fn commit(
        &mut self,
        generation: Option<&Generation>,
        offsets: &[(TopicPartition, Offset)],
    ) -> Result<()> {
        self.inner.commit(generation, offsets).await
    }

    async fn seek(&mut self, at: &TopicPartition, offset: Offset) -> Result<()> {
        // What was fetched before is not wanted any more.
        self.waiting
            .retain(|delivery| !matches!(delivery, Delivery::Records(batch) if batch.at() == at));
        self.inner.seek(at, offset).await
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        (self.broker.on_pause)(partitions, true);
        self.inner.pause(partitions);
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        (self.broker.on_pause)(partitions, false);
        self.inner.resume(partitions);
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.inner.position(at)
    }
}
