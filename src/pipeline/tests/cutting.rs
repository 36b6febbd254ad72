//! A broker that cuts batches anew, and has the run stopped after so many records.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidemill_broker::{
    Batch, Broker, Consumer, ConsumerOptions, Delivery, Generation, Layer, Offset, Result,
    TopicPartition,
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
impl Layer for Cutting {
    fn inner(&self) -> &dyn Broker {
        &self.inner
    }

    async fn consume(&self, mut options: ConsumerOptions) -> Result<Box<dyn Consumer>> {
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
