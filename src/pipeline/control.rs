//! Control records: what a task took in which order, where more than one order was possible.
//!
//! They go to `PIPELINE.control` in the epoch's own transaction, so that a replay can follow them: one
//! for each epoch, or several where one would be larger than brokers take.
//! Value: a format byte, then [`Control`] in postcard. Key: the task's name. Format 1 knows no
//! [`Step::Awake`], and is read as well.

use serde::{Deserialize, Serialize};
use tidemill_broker::{Offset, RecordSet, Timestamp, TopicPartition};
use tidemill_state::Epoch;

// Written to topics: never renumber.
const FORMAT: u8 = 2;
const OLDEST_READ: u8 = 1;

/// Most steps in one record: each has at most 16 bytes, and Kafka takes records up to a million.
const STEPS_MAX: usize = 16_384;

/// One thing that happened to a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// It took records of an input up to this next offset.
    Taken {
        /// Index of the input partition in the marker's list.
        input: u32,
        /// The next offset after them.
        next: u64,
    },
    /// The clock said that an input is idle.
    Idle {
        /// Index of the input partition in the marker's list.
        input: u32,
    },
    /// The run was told to end here: everything open was fired at this watermark, microseconds.
    Ended {
        /// The last watermark.
        watermark: i64,
    },
    /// An idle input holds back again, though none of its records come yet. Written by earlier versions, in
    /// which that could move event time; and by who follows one.
    Awake {
        /// Index of the input partition in the marker's list.
        input: u32,
    },
}

/// The steps of one epoch, in order; where they are many, those of one of its records, which follow
/// each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The epoch.
    pub epoch: Epoch,
    /// What happened.
    pub steps: Vec<Step>,
}

impl Control {
    /// From a record's value.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (format, rest) = bytes.split_first()?;
        if !(OLDEST_READ..=FORMAT).contains(format) {
            return None;
        }
        postcard::from_bytes(rest).ok()
    }
}

/// Collects the steps of the open epoch.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    steps: Vec<Step>,
    decided: bool,
}

impl Steps {
    /// Notes that records were taken; runs of one input become one step.
    pub(crate) fn taken(&mut self, input: usize, next: Offset) {
        let input = input as u32;
        match self.steps.last_mut() {
            Some(Step::Taken {
                input: last,
                next: end,
            }) if *last == input => *end = next.0,
            _ => self.steps.push(Step::Taken {
                input,
                next: next.0,
            }),
        }
    }

    /// Notes a decision that the input does not imply.
    pub(crate) fn decided(&mut self, step: Step) {
        self.decided = true;
        self.steps.push(step);
    }

    /// Whether the clock or a person decided anything.
    pub(crate) fn has_decision(&self) -> bool {
        self.decided
    }

    /// The control records of the epoch, if more than one order was possible.
    pub(crate) fn take(
        &mut self,
        epoch: Epoch,
        at: &TopicPartition,
        task: &str,
        inputs: usize,
    ) -> Option<RecordSet> {
        let steps = std::mem::take(&mut self.steps);
        let decided = std::mem::take(&mut self.decided);
        if inputs < 2 && !decided {
            return None;
        }
        let mut set = RecordSet::new(at.clone());
        let mut left = &steps[..];
        loop {
            let (now, later) = left.split_at(left.len().min(STEPS_MAX));
            let control = Control {
                epoch,
                steps: now.to_vec(),
            };
            // Writing plain data to memory cannot fail.
            let value = postcard::to_extend(&control, vec![FORMAT]).unwrap_or_default();
            set.push_with(Timestamp::MIN, Some(task.as_bytes()), &[], |slab| {
                slab.extend_from_slice(&value);
            });
            left = later;
            if left.is_empty() {
                return Some(set);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemill_broker::Topic;

    use super::*;

    /// An epoch of a million turns between two inputs made a record that no broker took, and a
    /// restart made the same one.
    #[test]
    fn many_steps_go_into_records_of_a_bounded_size() {
        let mut steps = Steps::default();
        for turn in 0..100_000_u64 {
            steps.taken((turn % 2) as usize, Offset(u64::MAX - 100_000 + turn));
        }
        let whole = steps.steps.clone();
        let at = TopicPartition::new(Topic::new("p.control").unwrap(), 0);
        let set = steps.take(Epoch(7), &at, "0-0", 2).unwrap();
        let mut found = Vec::new();
        for record in set.iter() {
            let value = record.value.unwrap();
            assert!(value.len() < 512 << 10, "{} bytes", value.len());
            assert_eq!(record.key, Some(&b"0-0"[..]));
            let control = Control::decode(value).unwrap();
            assert_eq!(control.epoch, Epoch(7));
            found.extend(control.steps);
        }
        assert_eq!(found, whole);
    }

    /// Held still: a run may be told to follow what another version wrote.
    #[test]
    fn control_records_of_formats_1_and_2_are_read_and_2_is_written() {
        let mut steps = Steps::default();
        steps.taken(0, Offset(300));
        steps.decided(Step::Idle { input: 1 });
        steps.decided(Step::Awake { input: 1 });
        steps.decided(Step::Ended { watermark: -5 });
        let whole = steps.steps.clone();
        let at = TopicPartition::new(Topic::new("p.control").unwrap(), 0);
        let set = steps.take(Epoch(700), &at, "0-0", 2).unwrap();
        let values: Vec<_> = set.iter().filter_map(|record| record.value).collect();
        let second = b"\x02\xbc\x05\x04\x00\x00\xac\x02\x01\x01\x03\x01\x02\x09";
        assert_eq!(values, [second]);
        assert_eq!(Control::decode(second).unwrap().steps, whole);

        let first = b"\x01\xbc\x05\x03\x00\x00\xac\x02\x01\x01\x02\x09";
        let read = Control::decode(first).unwrap();
        assert_eq!(read.epoch, Epoch(700));
        assert_eq!(read.steps, [&whole[..2], &whole[3..]].concat());
        assert_eq!(Control::decode(b"\x03\xbc\x05\x00"), None);
        assert_eq!(Control::decode(b"\x00\xbc\x05\x00"), None);
    }

    #[test]
    fn an_epoch_of_several_inputs_that_took_nothing_says_so() {
        let at = TopicPartition::new(Topic::new("p.control").unwrap(), 0);
        let set = Steps::default().take(Epoch(7), &at, "0-0", 2).unwrap();
        let values: Vec<_> = set.iter().filter_map(|record| record.value).collect();
        assert_eq!(values.len(), 1);
        assert_eq!(Control::decode(values[0]).unwrap().steps, []);
    }
}
