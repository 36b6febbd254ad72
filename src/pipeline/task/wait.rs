//! What a task waits for.

use tidemill_broker::{Consumer, Delivery};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::pass::{Pass, PassDone};
use super::{Command, InFlight, Input, Task};
use crate::pipeline::Result;
use crate::pipeline::committer::Cut;
use crate::pipeline::epoch::Settled;
use crate::pipeline::input::InputPartition;
use crate::pipeline::ordered::{Next, Ordered};

/// What woke the task.
pub(super) enum Event {
    Settled(Settled),
    Command(Option<Command>),
    Input(Option<Input>),
    Broadcast(tidemill_broker::Result<Delivery>),
    Next(Result<Next>),
    Backlog,
    Rest,
    Drain,
    Close,
    Idle,
    PassDue,
    PassDone(PassDone),
}

impl Task {
    /// Waits for what is to be done next. Nothing is lost by dropping the future.
    pub(super) async fn wait(
        &mut self,
        inbox: &mut mpsc::Receiver<Input>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Event {
        let has_room = self.has_room();
        let has_backlog = self.graph.has_backlog();
        let has_rest = self.rest.is_some();
        // Nothing comes before what is left has been done.
        let takes = has_room && !has_backlog && !has_rest && self.ended_at.is_none();
        let close_at = match (&self.in_flight, self.open.since, self.settings.cut) {
            (None, Some(since), Cut::Live) => Some(since + self.settings.commit.interval),
            _ => None,
        };
        let idle_at = match (self.settings.cut, &self.ordered) {
            (Cut::Live, None) => self.inputs.iter().filter_map(InputPartition::idle_at).min(),
            // The clock decides nothing.
            (Cut::Lockstep, _) | (_, Some(_)) => None,
        };
        let pass_at = match &self.pass {
            Some(_) => None,
            // State is waiting: now, not in a while. What is in flight no pass can write.
            None if self.is_state_full() && self.state.has_committed() => Some(Instant::now()),
            None => Some(self.next_pass),
        };
        tokio::select! {
            biased;
            settled = settled(&mut self.in_flight) => Event::Settled(settled),
            command = commands.recv() => Event::Command(command),
            Ok(()) = self.drain.changed() => Event::Drain,
            done = pass_done(&mut self.pass) => Event::PassDone(done),
            () = at(close_at) => Event::Close,
            () = at(pass_at) => Event::PassDue,
            () = std::future::ready(()), if has_room && has_backlog => Event::Backlog,
            () = std::future::ready(()), if has_room && !has_backlog && has_rest => Event::Rest,
            event = input(inbox, &mut self.broadcast, &mut self.broadcast_is_next), if takes => event,
            next = next(&mut self.ordered), if takes => Event::Next(next),
            () = at(idle_at), if takes => Event::Idle,
        }
    }
}

pub(super) async fn settled(in_flight: &mut Option<InFlight>) -> Settled {
    match in_flight {
        // A committer that goes without an answer has stopped on an error of its own.
        Some(in_flight) => (&mut in_flight.settled).await.unwrap_or(Settled::Dropped),
        None => std::future::pending().await,
    }
}

async fn pass_done(pass: &mut Option<Pass>) -> PassDone {
    match pass {
        Some(pass) => pass.done().await,
        None => std::future::pending().await,
    }
}

/// What comes next of the inputs that the intake reads and of those that are read whole.
async fn input(
    inbox: &mut mpsc::Receiver<Input>,
    consumer: &mut Option<Box<dyn Consumer>>,
    broadcast_is_next: &mut bool,
) -> Event {
    let shared = inbox.recv();
    let whole = broadcast(consumer);
    let event = if *broadcast_is_next {
        tokio::select! {
            biased;
            delivery = whole => Event::Broadcast(delivery),
            input = shared => Event::Input(input),
        }
    } else {
        tokio::select! {
            biased;
            input = shared => Event::Input(input),
            delivery = whole => Event::Broadcast(delivery),
        }
    };
    *broadcast_is_next = matches!(event, Event::Input(_));
    event
}

async fn broadcast(consumer: &mut Option<Box<dyn Consumer>>) -> tidemill_broker::Result<Delivery> {
    match consumer {
        Some(consumer) => consumer.next().await,
        None => std::future::pending().await,
    }
}

async fn next(ordered: &mut Option<Ordered>) -> Result<Next> {
    match ordered {
        Some(ordered) => ordered.next().await,
        None => std::future::pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use tidemill_broker::{
        Broker, BrokerExt, ConsumerOptions, NewRecord, Offset, Start, Topic, TopicPartition,
        TopicSpec,
    };
    use tidemill_broker_memory::MemoryBroker;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_input_that_is_read_whole_is_not_left_behind_by_a_full_inbox() {
        let broker = MemoryBroker::default();
        let topic = Topic::new("rates").unwrap();
        let spec = TopicSpec::new(topic.clone(), NonZeroU32::MIN);
        broker.create_topic(&spec).await.unwrap();
        for value in ["1", "2"] {
            let record = NewRecord::new(topic.clone(), value.as_bytes());
            broker.send(record).await.unwrap();
        }
        let at = TopicPartition::new(topic, 0);
        let mut options = ConsumerOptions::partitions(vec![(at.clone(), Start::Earliest)]);
        options.batch_records_max = 1;
        let mut consumer = Some(broker.consumer(options).await.unwrap());
        let (send, mut inbox) = mpsc::channel(16);
        for offset in 0..16 {
            let end = Input::End(at.clone(), Offset(offset));
            send.send(end).await.unwrap();
        }

        let mut whole_is_next = false;
        let mut seen = 0;
        for _ in 0..8 {
            let event = input(&mut inbox, &mut consumer, &mut whole_is_next).await;
            let Event::Broadcast(Ok(Delivery::Records(batch))) = event else {
                continue;
            };
            seen += batch.len();
        }
        assert_eq!(seen, 2, "each in its turn");
    }
}
