//! What waits in a process, counted from outside of it: no queue is longer than it may be, no tables take
//! more memory, and no store holds more than the state (X10; for the store see `store.rs`).
//!
//! Between the consumer and the commit lie records that were taken; between the commit and the store lies
//! state that was not written behind. Both are counted where they pass: what was delivered, what was
//! handed to a transaction, what was written to a store.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use tidemill::pipeline::{MARKER_KEY, Marker};
use tidemill_broker::{Offset, TopicPartition, Transaction};
use tidemill_state::{Change, Epoch, StateOptions};

use crate::draw::Draw;

/// What an element that waits takes beside its key and value.
const ELEMENT_OVERHEAD: usize = 96;

/// Batches that are in nobody's inbox: one in the hands of the task, one that came while the inbox was
/// full, and one that was under way when its partitions were paused.
const BATCHES_IN_HAND: u64 = 3;

/// Counts what waits.
#[derive(Debug)]
pub(crate) struct Load {
    /// Records that a task may hold of a partition.
    taken_max: u64,
    /// From here on a task is to take no more.
    inbox_max: u64,
    dirty_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By run and partition of an input.
    taken: BTreeMap<(u64, TopicPartition), Taken>,
    /// By machine and task.
    dirty: BTreeMap<(usize, String), Dirty>,
    pressed: Pressed,
}

/// How often somebody had to wait for room.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pressed {
    /// For records on their way to be full.
    pub(crate) inboxes: u64,
    /// For state that may wait to be full.
    pub(crate) states: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    delivered: u64,
    submitted: u64,
    /// How many records were too many, and up to where. What is submitted in the end was held; what is
    /// sought again was not, but dropped.
    excess: Option<(u64, u64)>,
}

#[derive(Debug, Default)]
struct Dirty {
    elements: Elements,
    bytes: usize,
    /// Of the largest delta so far.
    largest: usize,
    /// What the last epoch that was tried holds.
    tried: Option<(Epoch, Elements)>,
}

type Elements = BTreeMap<Bytes, Option<Bytes>>;

fn cost(key: &[u8], value: Option<&[u8]>) -> usize {
    ELEMENT_OVERHEAD + key.len() + value.map_or(0, <[u8]>::len)
}

impl Load {
    pub(crate) fn new(draw: &Draw) -> Self {
        let batch = draw.batch_records as u64;
        let inbox_max = draw.bounds.inbox_batches as u64 * batch;
        // One epoch is open and one is in flight; each may exceed its limit by a batch.
        let epochs = 2 * (draw.commit_records + batch);
        Self {
            taken_max: inbox_max + BATCHES_IN_HAND * batch + epochs,
            inbox_max,
            dirty_max: match &draw.bounds.state {
                Some(options) => options.dirty_bytes_max,
                // What the file's memory comes to, by the engine's word.
                None => draw
                    .memory
                    .clamp(64 << 10, StateOptions::default().dirty_bytes_max),
            },
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(crate) fn pressed(&self) -> Pressed {
        self.inner().pressed
    }

    /// A run goes on at an offset.
    pub(crate) fn sought(&self, run: u64, at: &TopicPartition, offset: Offset) {
        let taken = Taken {
            delivered: offset.0,
            submitted: offset.0,
            excess: None,
        };
        self.inner().taken.insert((run, at.clone()), taken);
    }

    /// A run was given records.
    pub(crate) fn delivered(&self, run: u64, at: &TopicPartition, next: Offset) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let Some(taken) = inner.taken.get_mut(&(run, at.clone())) else {
            // Before it says from where nothing of a partition is taken.
            return;
        };
        taken.delivered = taken.delivered.max(next.0);
        let waiting = taken.delivered.saturating_sub(taken.submitted);
        inner.pressed.inboxes += u64::from(waiting > self.inbox_max);
        if waiting > self.taken_max {
            taken.excess.get_or_insert((waiting, taken.delivered));
        }
    }

    /// A run has handed epochs to a transaction. Says what is wrong, if more has waited than may.
    pub(crate) fn submitted(
        &self,
        run: u64,
        machine: usize,
        transaction: &Transaction,
    ) -> Option<String> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let mut wrong = None;
        for set in &transaction.records {
            let markers = set.iter().filter(|record| record.key == Some(MARKER_KEY));
            let Some(marker) = markers.last().and_then(|record| record.value) else {
                continue;
            };
            let marker = Marker::decode(marker).unwrap();
            for input in &marker.inputs {
                for ((of, at), taken) in &mut inner.taken {
                    if *of == run && input.is_of(at) {
                        taken.submitted = taken.submitted.max(input.next);
                        if let Some((waiting, up_to)) = taken.excess
                            && up_to <= input.next
                        {
                            wrong = Some(format!(
                                "run {run} held {waiting} records of {at}, of at most {}",
                                self.taken_max
                            ));
                        }
                    }
                }
            }
            let dirty = inner
                .dirty
                .entry((machine, marker.task.clone()))
                .or_default();
            inner.pressed.states += u64::from(dirty.bytes > self.dirty_max);
            dirty.begin(marker.epoch);
            let mut delta = 0;
            for record in set.iter().filter(|record| record.key != Some(MARKER_KEY)) {
                let key = record.key.unwrap_or_default();
                delta += cost(key, record.value);
                dirty.put(key, record.value);
            }
            dirty.largest = dirty.largest.max(delta);
            // One epoch was open, and one in flight, when there was no more room.
            let most = self.dirty_max + 2 * dirty.largest;
            if dirty.bytes > most {
                wrong = Some(format!(
                    "{} bytes of the state of task {} wait to be written, of at most {most}",
                    dirty.bytes, marker.task
                ));
            }
        }
        wrong
    }

    /// A store is opened: what its former owner still had to write is redone from the log.
    pub(crate) fn opened(&self, machine: usize, task: &str) {
        self.inner().dirty.remove(&(machine, task.to_owned()));
    }

    /// Elements were written to a store.
    pub(crate) fn wrote(&self, machine: usize, task: &str, changes: &[Change]) {
        let mut inner = self.inner();
        let Some(dirty) = inner.dirty.get_mut(&(machine, task.to_owned())) else {
            return;
        };
        for change in changes {
            // What has changed since still waits.
            dirty.take(&change.key, &change.value);
        }
    }
}

impl Dirty {
    /// An epoch is tried: what another try at it held, by a task that has been dropped since, waits no
    /// more.
    fn begin(&mut self, epoch: Epoch) {
        let before = self.tried.replace((epoch, Elements::new()));
        let Some((_, elements)) = before.filter(|(before, _)| *before >= epoch) else {
            return;
        };
        for (key, value) in elements {
            self.take(&key, &value);
        }
    }

    fn take(&mut self, key: &Bytes, value: &Option<Bytes>) {
        if self.elements.get(key) == Some(value) {
            self.bytes -= cost(key, value.as_deref());
            self.elements.remove(key);
        }
    }

    fn put(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.bytes += cost(key, value);
        let (key, value) = (
            Bytes::copy_from_slice(key),
            value.map(Bytes::copy_from_slice),
        );
        if let Some((_, elements)) = &mut self.tried {
            elements.insert(key.clone(), value.clone());
        }
        let before = self.elements.insert(key.clone(), value);
        if let Some(before) = before {
            self.bytes -= cost(&key, before.as_deref());
        }
    }
}
