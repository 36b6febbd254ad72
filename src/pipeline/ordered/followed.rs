//! Control records of a task, as they are followed.

use std::collections::VecDeque;

use tidemill_broker::{Broker, Consumer, Delivery, Offset, TopicPartition};

use super::consumer;
use crate::pipeline::control::{Control, Step};
use crate::pipeline::error::Doing;
use crate::pipeline::recovery::retrying;
use crate::pipeline::{Error, Result, TaskId};

/// A place among control records: the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Offset of the control record.
    pub(crate) record: u64,
    /// Index of the step in it.
    pub(crate) step: u64,
}

/// Control records of a task, as they are followed.
#[derive(Debug)]
pub(crate) struct Followed {
    at: TopicPartition,
    task: TaskId,
    consumer: Box<dyn Consumer>,
    // Where they ended when this was opened.
    end: Offset,
    batch: VecDeque<(Offset, Control)>,
    pub(super) place: Place,
}

impl Followed {
    /// Follows the control records of a task from a place on, to their present end.
    pub(crate) async fn open(
        broker: &dyn Broker,
        at: TopicPartition,
        task: TaskId,
        from: Option<Place>,
    ) -> Result<Self> {
        let ends = retrying(|| broker.watermarks(&at)).await;
        let ends = ends.doing(|| format!("cannot look at the control records {at}"))?;
        if let Some(place) = from.filter(|place| place.record < ends.low.0) {
            return Err(Error::OtherLog {
                what: format!(
                    "its control records have been followed up to offset {}, and begin at {}",
                    place.record, ends.low
                ),
                at,
            });
        }
        let place = from.unwrap_or(Place {
            record: ends.low.0,
            step: 0,
        });
        let start = Offset(place.record).max(ends.low).min(ends.last_stable);
        Ok(Self {
            consumer: consumer(broker, &at, start).await?,
            at,
            task,
            end: ends.last_stable,
            batch: VecDeque::new(),
            place,
        })
    }

    /// The step to be done next; `None` once all are.
    pub(super) async fn step(&mut self) -> Result<Option<Step>> {
        loop {
            while let Some((offset, control)) = self.batch.front() {
                if offset.0 > self.place.record {
                    self.place = Place {
                        record: offset.0,
                        step: 0,
                    };
                }
                let step = usize::try_from(self.place.step).unwrap_or(usize::MAX);
                if let Some(step) = control.steps.get(step) {
                    return Ok(Some(step.clone()));
                }
                self.place = Place {
                    record: offset.next().0,
                    step: 0,
                };
                self.batch.pop_front();
            }
            if self.end.0 <= self.place.record {
                return Ok(None);
            }
            self.read().await?;
        }
    }

    pub(super) fn done(&mut self) {
        self.place.step += 1;
    }

    async fn read(&mut self) -> Result<()> {
        match self.consumer.next().await {
            Ok(Delivery::Records(batch)) => {
                let own = self.task.to_string();
                for record in batch.iter() {
                    if record.key != Some(own.as_bytes()) {
                        continue;
                    }
                    let control = record.value.and_then(Control::decode);
                    let control = control.ok_or_else(|| Error::OtherLog {
                        at: self.at.clone(),
                        what: format!(
                            "the record at offset {} is no control record",
                            record.offset
                        ),
                    })?;
                    self.batch.push_back((record.offset, control));
                }
                if self.batch.is_empty() {
                    self.place = Place {
                        record: batch.next().0,
                        step: 0,
                    };
                }
                Ok(())
            }
            Ok(Delivery::End { offset, .. }) => {
                self.place = Place {
                    record: offset.max(self.end).0,
                    step: 0,
                };
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) if error.is_transient() => {
                tokio::time::sleep(crate::pipeline::epoch::pause_before_retry(0)).await;
                Ok(())
            }
            Err(error) => {
                Err(error).doing(|| format!("cannot read the control records {}", self.at))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use tidemill_broker::{RecordSet, Topic, TopicSpec};
    use tidemill_broker_memory::MemoryBroker;

    use super::*;

    /// It went on with what was left, as if nothing had been between.
    #[tokio::test(start_paused = true)]
    async fn control_records_that_are_gone_before_they_were_followed_are_missed() {
        let broker = MemoryBroker::default();
        let at = TopicPartition::new(Topic::new("p.control").unwrap(), 0);
        let spec = TopicSpec::new(at.topic.clone(), NonZeroU32::MIN);
        broker.create_topic(&spec).await.unwrap();
        let mut set = RecordSet::new(at.clone());
        for _ in 0..10 {
            set.push(None, Some(b"0-0"), Some(b"-"), &Default::default());
        }
        let acks = broker.produce(vec![set]).await.unwrap();
        acks.into_iter().for_each(|acks| {
            acks.into_result().unwrap();
        });
        broker.faults().drop_before(&at, Offset(5)).unwrap();
        let task = TaskId {
            sub_topology: 0,
            partition: 0,
        };
        let open = |record| {
            let place = Some(Place { record, step: 0 });
            Followed::open(&broker, at.clone(), task, place)
        };
        open(5).await.unwrap();
        let error = open(4).await.unwrap_err();
        assert!(matches!(error, Error::OtherLog { .. }), "{error}");
        assert!(error.to_string().contains("begin at 5"), "{error}");
    }
}
