//! What a task writes: outputs and dead letters, on their way to their brokers.

use std::collections::BTreeSet;

use tidemill_broker::{Batch, Broker, Class, RecordSet};

use super::{Task, Written};
use crate::config::plan::Guarantee;
use crate::events::Poison;
use crate::operators::Dead;
use crate::pipeline::Result;
use crate::pipeline::epoch::pause_before_retry;
use crate::pipeline::error::Doing;
use crate::pipeline::graph::{Output, Setter, SinkRows};
use crate::pipeline::recovery::retrying;

impl Task {
    /// Writes what came out for the sinks; what one cannot take joins what the stages set aside.
    pub(super) fn write_out(&mut self, output: &mut Output) {
        let mut too_large = Vec::new();
        for (index, sink) in self.sinks.iter_mut().enumerate() {
            let rows: Vec<&SinkRows> = output
                .rows
                .iter()
                .filter(|rows| rows.sink == index)
                .collect();
            if !rows.is_empty() {
                self.progress.wrote(sink.write(&rows, &mut too_large));
            }
            let by = |dead| (Setter::Sink(sink.name.clone()), dead);
            output.dead.extend(too_large.drain(..).map(by));
        }
        self.open.kept += output.kept;
        if output.dropped > 0 {
            metrics::counter!("tidemill_records_dropped_total").increment(output.dropped);
        }
    }

    /// Writes out what event time alone has made.
    pub(super) fn put_out(&mut self, mut output: Output) {
        self.write_out(&mut output);
        self.count_aside(&output.dead, &[]);
        for (setter, dead) in &output.dead {
            self.dead.row(setter, dead);
        }
    }

    /// Sets aside what could not be decoded and what stages and sinks could not take of a batch: in the
    /// order of its records, so that it does not depend on how batches were cut.
    pub(super) fn set_aside(
        &mut self,
        dead: &[(Setter, Dead)],
        (batch, incarnation): (&Batch, u64),
        poisoned: &[(usize, Poison)],
    ) {
        self.count_aside(dead, poisoned);
        let mut order: Vec<&(Setter, Dead)> = dead.iter().collect();
        let record_of = |dead: &Dead| dead.rows.head(dead.row).record as usize;
        order.sort_by_key(|(_, dead)| record_of(dead));
        let mut poisoned = poisoned.iter().peekable();
        for (setter, dead) in order {
            while let Some((record, poison)) =
                poisoned.next_if(|(record, _)| *record <= record_of(dead))
            {
                self.dead.poison(batch, incarnation, *record, poison);
            }
            self.dead.row(setter, dead);
        }
        for (record, poison) in poisoned {
            self.dead.poison(batch, incarnation, *record, poison);
        }
    }

    /// Counts what is set aside: a record that several stages do not take is one.
    fn count_aside(&self, dead: &[(Setter, Dead)], poisoned: &[(usize, Poison)]) {
        let records = dead.iter().map(|(_, dead)| dead.rows.identity(dead.row));
        let records = records.collect::<BTreeSet<u128>>().len() + poisoned.len();
        if records > 0 {
            let dead = dead.iter().map(|(_, dead)| dead.class);
            let classes = dead.chain(poisoned.iter().map(|(_, poison)| poison.class));
            self.progress.set_aside(records as u64, classes);
        }
    }

    pub(super) fn take_written(&mut self) -> Vec<Written> {
        let mut records = Vec::new();
        for sink in &mut self.sinks {
            sink.take(&mut records);
        }
        let dead = self.dead.take();
        if !dead.is_empty() {
            records.push((self.dead_letter_broker, dead));
        }
        records
    }

    /// With at_least_once: sends what arose, if it could not have been anything else. Where inputs may come
    /// in another order, or the clock decided, it waits for its control record.
    pub(super) async fn send_early(&mut self) -> Result<()> {
        let is_held = self.inputs.len() > 1
            || self.open.steps.has_decision()
            // What the epoch in flight still holds comes first.
            || self.in_flight.as_ref().is_some_and(|epoch| epoch.holds_back);
        if self.settings.guarantee != Guarantee::AtLeastOnce || is_held {
            return Ok(());
        }
        let records = self.take_written();
        self.produce(records).await
    }

    pub(super) async fn produce(&mut self, mut records: Vec<Written>) -> Result<()> {
        // What may be lost and not doubled: first the log has to know for good that it was sent.
        if self.settings.guarantee == Guarantee::AtMostOnce
            && records.iter().any(|(broker, _)| *broker != self.home)
        {
            sync(&*self.brokers[self.home]).await?;
        }
        while let Some((broker, _)) = records.first() {
            let broker = *broker;
            if broker != self.home {
                self.unsynced.insert(broker);
            }
            let (now, later) = records.into_iter().partition(|(of, _)| *of == broker);
            let now: Vec<Written> = now;
            let sets = now.into_iter().map(|(_, set)| set).collect();
            // What may have been written is written again, except where nothing may double.
            let may_repeat = self.settings.guarantee != Guarantee::AtMostOnce;
            produce(&*self.brokers[broker], sets, may_repeat).await?;
            records = later;
        }
        Ok(())
    }

    /// Makes durable what was written to other brokers than that of the changelog, and what was read of
    /// them, so that no loss of power leaves offsets past what is missing. On its own broker a marker comes
    /// after its inputs and outputs.
    pub(super) async fn sync_others(&mut self) -> Result<()> {
        while let Some(broker) = self.unsynced.first().copied() {
            sync(&*self.brokers[broker]).await?;
            self.unsynced.remove(&broker);
        }
        Ok(())
    }
}

async fn sync(broker: &dyn Broker) -> Result<()> {
    retrying(|| broker.sync())
        .await
        .doing(|| "cannot make durable what was read or written".into())
}

/// Produces records and waits for each to be acknowledged; transient failures are tried again, and
/// if they `may_repeat` unknown outcomes too, which may append twice.
async fn produce(broker: &dyn Broker, records: Vec<RecordSet>, may_repeat: bool) -> Result<()> {
    let mut tries = 0;
    let mut left = records;
    loop {
        match broker.produce(left.clone()).await {
            Ok(acks) => {
                let mut again = Vec::new();
                for (set, acks) in left.into_iter().zip(acks) {
                    let mut rest = RecordSet::new(set.at.clone());
                    for (index, record) in set.iter().enumerate() {
                        match acks.get(index) {
                            Ok(_) => {}
                            Err(error) if error.is_transient() => rest.push_ref(record),
                            Err(error) if error.class() == Class::UnknownOutcome => {
                                if may_repeat {
                                    rest.push_ref(record);
                                }
                            }
                            Err(_) => {
                                return acks
                                    .into_result()
                                    .map(|_| ())
                                    .doing(|| format!("cannot write to {}", set.at));
                            }
                        }
                    }
                    if !rest.is_empty() {
                        again.push(rest);
                    }
                }
                if again.is_empty() {
                    return Ok(());
                }
                left = again;
            }
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error).doing(|| "cannot write outputs".into()),
        }
        tokio::time::sleep(pause_before_retry(tries)).await;
        tries += 1;
    }
}
