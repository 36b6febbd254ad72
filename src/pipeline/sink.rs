//! Sinks: rows to records, in the partitions of a topic.

use std::sync::Arc;

use tidemill_broker::{RecordSet, Topic, TopicPartition, partition};
use tidemill_state::planted;

use super::graph::SinkRows;
use crate::config::Plan;
use crate::events::identity::Identity;
use crate::operators::{Dead, Encode};

/// Most records and bytes that room is made for before they come: a sink of many partitions keeps that
/// for each, whether or not anything comes.
const ROOM_RECORDS_MAX: usize = 1 << 10;
const ROOM_BYTES_MAX: usize = 64 << 10;

/// One sink of a task.
#[derive(Debug)]
pub(crate) struct SinkWriter {
    pub(crate) name: Arc<str>,
    /// Index of its broker in the plan.
    pub(crate) broker: usize,
    encode: Encode,
    topic: Topic,
    // What its broker takes at most.
    record_bytes_max: usize,
    // Where records without key go.
    home: u32,
    // One per partition.
    sets: Vec<RecordSet>,
    /// Records written to each partition since the task began to exist.
    pub(crate) sequences: Vec<u64>,
    edges: Vec<u64>,
}

impl SinkWriter {
    /// A sink of a task over `partitions` partitions, of records of so many bytes at most, with one edge
    /// for each name in `edges`.
    pub(crate) fn new(
        plan: &Plan,
        sink: usize,
        partitions: u32,
        record_bytes_max: usize,
        task_partition: u32,
        edges: &[Arc<str>],
    ) -> Self {
        let sink = &plan.sinks[sink];
        let edge = |from: &Arc<str>| {
            let id = Identity::of("edge").text(plan.name.as_str());
            planted!(P17, {
                let chance = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
                return id.number(chance).finish() as u64;
            });
            id.number(u64::from(plan.version))
                .text(&sink.name)
                .text(from)
                .finish() as u64
        };
        let topic = sink.topic.topic.clone();
        let at = |partition| TopicPartition::new(topic.clone(), partition);
        Self {
            name: sink.name.clone(),
            broker: sink.topic.broker,
            encode: Encode::new(sink.schema.clone(), sink.key.clone()),
            home: task_partition % partitions.max(1),
            sets: (0..partitions)
                .map(|partition| RecordSet::new(at(partition)))
                .collect(),
            sequences: vec![0; partitions as usize],
            edges: edges.iter().map(edge).collect(),
            topic,
            record_bytes_max,
        }
    }

    /// Writes what came out of the graph for this sink, in the order of the input records that led
    /// to it, then of the sink's edges, so that the order does not depend on how batches were cut.
    /// Returns how many; what is larger than the broker takes is `dead` instead.
    pub(crate) fn write(&mut self, rows: &[&SinkRows], dead: &mut Vec<Dead>) -> u64 {
        let mut count = 0;
        let one_edge = rows.windows(2).all(|two| two[0].edge == two[1].edge);
        if one_edge {
            for one in rows {
                for row in 0..one.rows.len() {
                    count += u64::from(self.write_row(one, row, dead));
                }
            }
            return count;
        }
        let mut order: Vec<(u32, usize, usize, usize)> = Vec::new();
        for (place, one) in rows.iter().enumerate() {
            let of = |row| (one.rows.head(row).record, one.edge, place, row);
            order.extend((0..one.rows.len()).map(of));
        }
        order.sort_unstable();
        for (_, _, place, row) in order {
            count += u64::from(self.write_row(rows[place], row, dead));
        }
        count
    }

    /// Whether it was written.
    fn write_row(&mut self, rows: &SinkRows, row: usize, dead: &mut Vec<Dead>) -> bool {
        let partition = if self.sets.len() == 1 {
            0
        } else {
            match self.encode.key(&rows.rows, row) {
                Some(key) => partition::for_key(key, self.sets.len() as u32),
                None => self.home,
            }
        };
        let partition = planted!(P19, {
            (self.sequences.iter().sum::<u64>() % self.sets.len() as u64) as usize
        } else { partition as usize });
        let set = &mut self.sets[partition];
        let before = set.bytes();
        self.encode
            .encode(&rows.rows, row, self.edges[rows.edge], set);
        let bytes = set.bytes() - before;
        if bytes > self.record_bytes_max {
            // In a transaction it would be refused for ever, and the task with it.
            set.pop();
            dead.push(Dead {
                rows: rows.rows.clone(),
                row,
                class: "sink.too_large",
                message: format!(
                    "it makes a record of {bytes} bytes for topic `{}`, which takes {} at most",
                    self.topic, self.record_bytes_max
                ),
            });
            return false;
        }
        self.sequences[partition] += 1;
        true
    }

    /// Takes what was written since the last call.
    pub(crate) fn take(&mut self, into: &mut Vec<(usize, RecordSet)>) {
        for (partition, set) in self.sets.iter_mut().enumerate() {
            if !set.is_empty() {
                let at = TopicPartition::new(self.topic.clone(), partition as u32);
                // The next will be about as large, and need not grow to that step by step.
                let next = RecordSet::with_capacity(
                    at,
                    set.len().min(ROOM_RECORDS_MAX),
                    set.bytes().min(ROOM_BYTES_MAX),
                );
                into.push((self.broker, std::mem::replace(set, next)));
            }
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.sets.iter().map(RecordSet::bytes).sum()
    }
}
