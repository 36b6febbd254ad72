//! Partitions that are taken away and given again.

use async_trait::async_trait;
use tidemill_broker::{
    Consumer, ConsumerOptions, Delivery, Generation, Layer, Offset, Subscription,
};

use super::*;

/// A broker that takes away all partitions of a group's member once the first has been read to its end,
/// before any record of the others, and gives them back later.
#[derive(Debug)]
struct Shaken(MemoryBroker);

#[derive(Debug)]
struct Reader {
    inner: Box<dyn Consumer>,
    assigned: Option<(Option<Generation>, Vec<TopicPartition>)>,
    stage: Stage,
}

#[derive(Debug, PartialEq)]
enum Stage {
    Before,
    AtEnd,
    Taken,
    Given,
}

#[async_trait]
impl Layer for Shaken {
    fn inner(&self) -> &dyn Broker {
        &self.0
    }

    async fn consume(
        &self,
        options: ConsumerOptions,
    ) -> tidemill_broker::Result<Box<dyn Consumer>> {
        let of_group = matches!(options.subscription, Subscription::Topics(_));
        let inner = self.0.consumer(options).await?;
        if !of_group {
            return Ok(inner);
        }
        Ok(Box::new(Reader {
            inner,
            assigned: None,
            stage: Stage::Before,
        }))
    }
}

#[async_trait]
impl Consumer for Reader {
    async fn next(&mut self) -> tidemill_broker::Result<Delivery> {
        let Some((generation, partitions)) = self.assigned.clone() else {
            let delivery = self.inner.next().await?;
            if let Delivery::Assigned {
                generation,
                partitions,
            } = &delivery
            {
                self.assigned = Some((generation.clone(), partitions.clone()));
            }
            return Ok(delivery);
        };
        match self.stage {
            Stage::Before => loop {
                let delivery = self.inner.next().await?;
                match &delivery {
                    Delivery::Records(batch) if batch.at().partition > 0 => {}
                    Delivery::End { partition, .. } if partition.partition > 0 => {}
                    Delivery::End { .. } => {
                        self.stage = Stage::AtEnd;
                        return Ok(delivery);
                    }
                    _ => return Ok(delivery),
                }
            },
            Stage::AtEnd => {
                tokio::time::sleep(Duration::from_secs(5)).await;
                self.stage = Stage::Taken;
                Ok(Delivery::Lost { partitions })
            }
            Stage::Taken => {
                tokio::time::sleep(Duration::from_secs(5)).await;
                for at in &partitions {
                    // An assignment begins where the group is.
                    self.inner.seek(at, Offset::START).await?;
                }
                self.stage = Stage::Given;
                Ok(Delivery::Assigned {
                    generation,
                    partitions,
                })
            }
            Stage::Given => self.inner.next().await,
        }
    }

    async fn commit(
        &mut self,
        generation: Option<&Generation>,
        offsets: &[(TopicPartition, Offset)],
    ) -> tidemill_broker::Result<()> {
        self.inner.commit(generation, offsets).await
    }

    async fn seek(&mut self, at: &TopicPartition, offset: Offset) -> tidemill_broker::Result<()> {
        self.inner.seek(at, offset).await
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        self.inner.pause(partitions);
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        self.inner.resume(partitions);
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.inner.position(at)
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_to_the_end_waits_for_the_partitions_that_were_taken_from_it() {
    let inner = broker_with(2).await;
    for partition in 0..2 {
        let tick = tick(&format!("P{partition}"), 0, "1", "1");
        inner.send(tick.partition(partition)).await.unwrap();
    }
    let broker: Arc<dyn Broker> = Arc::new(Shaken(inner.clone()));
    let copy = r#"
        [topics.all]
        broker = "main"
        [sinks.all]
        from = "market-data-updates"
        topic = "all"
    "#;
    let stores = Arc::new(MemoryStores::default());
    run(&Pipeline::in_order(plan("", copy), vec![broker], stores))
        .await
        .unwrap();
    assert_eq!(read_all(&inner, "all").await.len(), 2);
}
