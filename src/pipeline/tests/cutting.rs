//! A broker that cuts batches anew, and has the run stopped after so many records.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill_broker::{
    Acks, Batch, Broker, Capabilities, Consumer, ConsumerOptions, Delivery, Generation, Group,
    Offset, RecordSet, Result, Timestamp, Topic, TopicDescription, TopicPartition, TopicSpec,
    TransactionalId, Transactor, Watermarks,
};
use tidemill_broker_memory::MemoryBroker;
use tokio::sync::watch;

/// How batches of the inputs are cut.
#[derive(Debug, Clone)]
pub(crate) struct Cuts {
    /// Most records in a batch.
    pub(crate) records_max: usize,
    /// Draws how many.
    pub(crate) seed: u64,
    /// Whether always as many.
    pub(crate) even: bool,
    /// Stop the run once this many records have been handed out.
    pub(crate) stop_after: Option<u64>,
}

/// A broker in memory, its batches cut.
#[derive(Debug)]
pub(crate) struct Cutting {
    pub(crate) inner: MemoryBroker,
    pub(crate) cuts: Cuts,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) handed_out: Arc<Mutex<u64>>,
}

#[async_trait]
impl Broker for Cutting {
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

    async fn produce(&self, records: Vec<RecordSet>) -> Result<Vec<Acks>> {
        self.inner.produce(records).await
    }

    async fn transactor(&self, id: &TransactionalId) -> Result<Box<dyn Transactor>> {
        self.inner.transactor(id).await
    }

    async fn consumer(&self, mut options: ConsumerOptions) -> Result<Box<dyn Consumer>> {
        options.batch_records_max = options.batch_records_max.max(self.cuts.records_max);
        Ok(Box::new(Cutter {
            inner: self.inner.consumer(options).await?,
            rng: SmallRng::seed_from_u64(self.cuts.seed),
            cuts: self.cuts.clone(),
            stop: self.stop.clone(),
            handed_out: self.handed_out.clone(),
            waiting: VecDeque::new(),
            paused: BTreeSet::new(),
        }))
    }

    async fn sync(&self) -> Result<()> {
        self.inner.sync().await
    }
}

#[derive(Debug)]
struct Cutter {
    inner: Box<dyn Consumer>,
    rng: SmallRng,
    cuts: Cuts,
    stop: watch::Sender<bool>,
    handed_out: Arc<Mutex<u64>>,
    waiting: VecDeque<Batch>,
    paused: BTreeSet<TopicPartition>,
}

impl Cutter {
    fn cut(&mut self, batch: &Batch) {
        let mut from = 0;
        while from < batch.len() {
            let most = self.cuts.records_max;
            let count = match self.cuts.even {
                true => most,
                false => self.rng.random_range(1..=most),
            };
            let to = batch.len().min(from + count);
            let next = match to < batch.len() {
                true => batch.get(to).offset,
                false => batch.next(),
            };
            self.waiting.push_back(batch.slice(from..to, next));
            from = to;
        }
    }
}

#[async_trait]
impl Consumer for Cutter {
    async fn next(&mut self) -> Result<Delivery> {
        let batch = loop {
            let ready = |batch: &Batch| !self.paused.contains(batch.at());
            if let Some(place) = self.waiting.iter().position(ready) {
                break self.waiting.remove(place).unwrap();
            }
            match self.inner.next().await? {
                Delivery::Records(batch) if !batch.at().topic.as_str().contains('.') => {
                    self.cut(&batch);
                }
                other => return Ok(other),
            }
        };
        let mut handed_out = self.handed_out.lock().unwrap();
        *handed_out += batch.len() as u64;
        if self
            .cuts
            .stop_after
            .is_some_and(|after| *handed_out >= after)
        {
            self.stop.send_replace(true);
        }
        Ok(Delivery::Records(batch))
    }

    async fn commit(
        &mut self,
        generation: Option<&Generation>,
        offsets: &[(TopicPartition, Offset)],
    ) -> Result<()> {
        self.inner.commit(generation, offsets).await
    }

    async fn seek(&mut self, at: &TopicPartition, offset: Offset) -> Result<()> {
        self.waiting.retain(|batch| batch.at() != at);
        self.inner.seek(at, offset).await
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        self.paused.extend(partitions.iter().cloned());
        self.inner.pause(partitions);
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        self.paused.retain(|at| !partitions.contains(at));
        self.inner.resume(partitions);
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.inner.position(at)
    }
}
