//! Standard input and output as source and sink of JSON lines.
//!
//! Behind both stands a broker in memory: lines read go into its topic `stdin`, and what is
//! committed to its topic `stdout` is printed. So the pipeline between is the same as on any broker.

use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::{
    Broker, BrokerExt, Cleanup, ConsumerOptions, Delivery, Error as BrokerError, Headers,
    NewRecord, Offset, Retention, Start, Topic, TopicPartition, TopicSpec,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;

use super::{Exit, Failure};
use crate::config::Plan;
use crate::config::plan::BrokerUrl;
use crate::market::import::BYTE_ORDER_MARK;
use crate::pipeline::{Progress, WHOLE_BYTES};

/// The longest line taken from standard input, in bytes.
const LINE_BYTES_MAX: usize = 16 << 20;

type Pump = JoinHandle<Result<(), Failure>>;

/// What moves lines beside a run.
pub(super) struct Pumps {
    input: Option<Pump>,
    // With what tells it that no more will be committed.
    output: Option<(Pump, watch::Sender<bool>)>,
    // How reading or printing ended, if it ended before its time.
    ended: Option<Result<(), Failure>>,
}

impl Pumps {
    /// Starts what the plan needs. `drain` becomes true once standard input has ended; `printed` is
    /// kept at the offset after the last line printed.
    pub(super) async fn start(
        plan: &Plan,
        brokers: &[Arc<dyn Broker>],
        progress: Arc<Progress>,
        printed: watch::Sender<Offset>,
        drain: watch::Sender<bool>,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, Failure> {
        let is_stdio = |broker: usize| plan.brokers[broker].url == BrokerUrl::Stdio;
        let mut sources = plan.sources.iter().enumerate();
        let source = sources.find(|(_, source)| is_stdio(source.topic.broker));
        let sink = plan.sinks.iter().find(|sink| is_stdio(sink.topic.broker));
        let mut pumps = Self {
            input: None,
            output: None,
            ended: None,
        };
        if let Some((index, source)) = source {
            let broker = brokers[source.topic.broker].clone();
            let topic = source.topic.topic.clone();
            let pace = Pace::new(progress, index);
            create(&*broker, &topic).await?;
            pumps.input = Some(tokio::spawn(read_lines(broker, topic, pace, drain, stop)));
        }
        if let Some(sink) = sink {
            let broker = brokers[sink.topic.broker].clone();
            let topic = sink.topic.topic.clone();
            create(&*broker, &topic).await?;
            let (last, ended) = watch::channel(false);
            let print = write_lines(broker, topic, printed, ended);
            pumps.output = Some((tokio::spawn(print), last));
        }
        Ok(pumps)
    }

    /// Waits until reading or printing has failed; for ever, if neither does.
    pub(super) async fn broken(&mut self) {
        loop {
            let reading = ended(self.input.as_mut());
            let printing = ended(self.output.as_mut().map(|(output, _)| output));
            let (end, was_reading) = tokio::select! {
                end = reading => (end, true),
                end = printing => (end, false),
            };
            if was_reading {
                self.input = None;
            } else {
                self.output = None;
            }
            // That the input has ended is told to the run.
            if end.is_err() || !was_reading {
                self.ended = Some(end);
                return;
            }
        }
    }

    /// Prints what is left and ends.
    pub(super) async fn finish(self) -> Result<(), Failure> {
        if let Some(input) = self.input {
            // Reading a terminal or pipe that has nothing to say cannot be waited for.
            input.abort();
            if let Ok(read) = input.await {
                read?;
            }
        }
        if let Some((output, last)) = self.output {
            // It may have ended on an error of its own, which is told next.
            let _ = last.send(true);
            output.await.map_err(|_| died())??;
        }
        self.ended.unwrap_or(Ok(()))
    }
}

/// How a pump ends; never, where there is none.
async fn ended(pump: Option<&mut Pump>) -> Result<(), Failure> {
    match pump {
        Some(pump) => pump.await.unwrap_or_else(|_| Err(died())),
        None => std::future::pending().await,
    }
}

fn died() -> Failure {
    Failure::new(Exit::Internal, "printing has stopped")
}

/// Lines that are done with are forgotten beyond this many bytes: more than can be on the way, which
/// for the input is twice [`Pace::BYTES`] and for the output what an epoch may write.
const KEPT_BYTES: u64 = 128 << 20;

async fn create(broker: &dyn Broker, topic: &Topic) -> Result<(), Failure> {
    let retention = Retention {
        age: None,
        bytes: Some(KEPT_BYTES),
    };
    let spec = TopicSpec::new(topic.clone(), std::num::NonZeroU32::MIN);
    match broker
        .create_topic(&spec.cleanup(Cleanup::Delete(retention)))
        .await
    {
        Ok(()) | Err(BrokerError::TopicExists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Keeps what was read and not yet taken by the pipeline bounded.
struct Pace {
    progress: Arc<Progress>,
    source: usize,
    sent: u64,
    /// Bytes since the last mark.
    bytes: usize,
    /// What was sent up to the last mark and the one before.
    marks: [u64; 2],
}

impl Pace {
    /// Bytes between two marks: enough that waiting is rare.
    const BYTES: usize = 16 << 20;

    fn new(progress: Arc<Progress>, source: usize) -> Self {
        Self {
            progress,
            source,
            sent: 0,
            bytes: 0,
            marks: [0; 2],
        }
    }

    /// Takes note of a line, and waits until all lines before the last mark but one are taken.
    async fn sent(&mut self, bytes: usize) {
        self.sent += 1;
        self.bytes += bytes;
        if self.bytes >= Self::BYTES {
            self.bytes = 0;
            self.marks = [self.marks[1], self.sent];
            // Offsets of the topic count its lines. While no task is open, nothing is taken.
            let taken = || {
                self.progress
                    .next_of(self.source, 0)
                    .map_or(0, |next| next.0)
            };
            while taken() < self.marks[0] {
                // The task is busy with what it has: sixteen megabytes take tens of milliseconds.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

async fn read_lines(
    broker: Arc<dyn Broker>,
    topic: Topic,
    mut pace: Pace,
    drain: watch::Sender<bool>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Failure> {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut line = Vec::new();
    let mut is_first = true;
    loop {
        line.clear();
        let read = tokio::select! {
            read = read_line(&mut input, &mut line) => read,
            _ = stop.changed() => return Ok(()),
        };
        let read = read
            .map_err(|error| Failure::new(Exit::Io, "cannot read standard input").because(error))?;
        let Some(mut bytes) = read else {
            // A run that has ended already needs no telling.
            let _ = drain.send(true);
            return Ok(());
        };
        if std::mem::take(&mut is_first) && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
            bytes -= BYTE_ORDER_MARK.len();
        }
        if !line.is_empty() {
            let mut record = NewRecord::new(topic.clone(), line.clone()).partition(0);
            if bytes > line.len() {
                warn!(
                    bytes,
                    kept = line.len(),
                    "a line of standard input is too long: only its beginning goes to the dead letters"
                );
                let bytes = bytes.to_string();
                record = record.headers(Headers::new().with(WHOLE_BYTES, bytes));
            }
            broker.send(record).await?;
            pace.sent(line.len()).await;
        }
    }
}

/// Reads one line without its end, and tells how long it was; none at the end of input. What is longer
/// than a record may be is cut there: it is poison either way.
async fn read_line(
    input: &mut BufReader<tokio::io::Stdin>,
    line: &mut Vec<u8>,
) -> std::io::Result<Option<usize>> {
    let mut any = false;
    let mut bytes = 0;
    loop {
        let available = input.fill_buf().await?;
        if available.is_empty() {
            return Ok(any.then_some(bytes));
        }
        any = true;
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = &available[..end.unwrap_or(available.len())];
        let room = LINE_BYTES_MAX.saturating_sub(line.len() + 1024);
        line.extend_from_slice(&part[..part.len().min(room)]);
        bytes += part.len();
        let used = end.map_or(available.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            if bytes == line.len() && line.last() == Some(&b'\r') {
                line.pop();
                bytes -= 1;
            }
            return Ok(Some(bytes));
        }
    }
}

async fn write_lines(
    broker: Arc<dyn Broker>,
    topic: Topic,
    printed: watch::Sender<Offset>,
    mut ended: watch::Receiver<bool>,
) -> Result<(), Failure> {
    let at = TopicPartition::new(topic, 0);
    let options = ConsumerOptions::partitions(vec![(at, Start::Earliest)]);
    let mut consumer = broker.consumer(options).await?;
    let mut output = BufWriter::new(tokio::io::stdout());
    let failed = |error| Failure::new(Exit::Io, "cannot write standard output").because(error);
    let mut at_end = false;
    let mut next = Offset::START;
    loop {
        let last = *ended.borrow_and_update();
        if last && at_end {
            output.flush().await.map_err(failed)?;
            return Ok(());
        }
        tokio::select! {
            biased;
            delivery = consumer.next() => match delivery? {
                Delivery::Records(batch) => {
                    at_end = false;
                    next = batch.next();
                    for record in batch.iter() {
                        output.write_all(record.value.unwrap_or_default()).await.map_err(failed)?;
                        output.write_all(b"\n").await.map_err(failed)?;
                    }
                }
                Delivery::End { .. } => {
                    at_end = true;
                    output.flush().await.map_err(failed)?;
                    printed.send_replace(next);
                }
                Delivery::Assigned { .. } | Delivery::Revoked { .. } | Delivery::Lost { .. } => {}
            },
            changed = ended.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::pipeline::{Taken, TaskId};

    /// Beside another source there was once no bound.
    #[tokio::test(start_paused = true)]
    async fn lines_wait_for_the_task_that_is_furthest_behind_whatever_else_it_reads() {
        let progress = Arc::new(Progress::default());
        let reading = [0, 1].map(|partition| {
            let task = TaskId {
                sub_topology: 0,
                partition,
            };
            Taken::new(progress.clone(), task)
        });
        let mut pace = Pace::new(progress, 1);
        pace.sent(Pace::BYTES).await;
        // What is taken of another source says nothing of this one.
        reading[0].comes_to(0, 0, Offset(1_000));
        let mut second = task::spawn(pace.sent(Pace::BYTES));
        assert_pending!(second.poll());
        reading[0].comes_to(1, 0, Offset(2));
        reading[1].comes_to(1, 0, Offset(0));
        tokio::time::advance(Duration::from_millis(5)).await;
        assert_pending!(second.poll());
        reading[1].comes_to(1, 0, Offset(1));
        tokio::time::advance(Duration::from_millis(5)).await;
        assert_ready!(second.poll());
    }
}
