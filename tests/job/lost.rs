//! Outputs that are missing, and those that `at_most_once` may lose. It sends what an epoch wrote once the
//! log has that epoch, and closes no other before that is done: so of each task only the last epoch that the
//! log has may be missing.

use std::collections::{BTreeMap, BTreeSet};

use tidemill::pipeline::Marker;

use super::Outcome;

/// Outputs of each topic and partition, by their numbers: the first is 0.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Outputs(pub(crate) BTreeMap<(String, u32), BTreeSet<u64>>);

impl Outputs {
    /// What was written up to a marker, from another one on.
    pub(crate) fn add(&mut self, marker: &Marker, from: Option<&Marker>) {
        let before = from.map_or(&[][..], |marker| &marker.sequences);
        for (sink, partition, end) in &marker.sequences {
            let mut same = before
                .iter()
                .filter(|(of, at, _)| of == sink && at == partition);
            let begin = same.next().map_or(0, |(_, _, count)| *count);
            // Dead letters have no sink.
            let topic = match &sink[..] {
                "" => "job.dead-letter",
                sink => sink,
            };
            let numbers = self.0.entry((topic.to_owned(), *partition)).or_default();
            numbers.extend(begin..*end);
        }
    }

    pub(crate) fn extend(&mut self, other: Self) {
        for (at, numbers) in other.0 {
            self.0.entry(at).or_default().extend(numbers);
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    /// Says how many there are that are not of those that `may` be, and which is the first.
    pub(crate) fn beyond(&self, may: &Self) -> Option<String> {
        self.0.iter().find_map(|(at, numbers)| {
            let none = BTreeSet::new();
            let mut beyond = numbers.difference(may.0.get(at).unwrap_or(&none)).peekable();
            let first = **beyond.peek()?;
            let count = beyond.count();
            Some(format!(
                "of {} missing outputs {count} in {at:?}, from number {first} on, were not being sent",
                self.count()
            ))
        })
    }
}

impl Outcome {
    /// What is missing of what is expected.
    pub(crate) fn lost(&self, expected: &Self) -> Outputs {
        let mut lost = Outputs::default();
        for (at, expected) in &expected.outputs {
            let mut found = self.outputs.get(at).into_iter().flatten().peekable();
            let numbered = (0..).zip(expected);
            let missing = numbered.filter(|(_, one)| found.next_if(|next| next == one).is_none());
            let numbers = missing.map(|(number, _)| number).collect();
            lost.0.insert(at.clone(), numbers);
        }
        lost
    }

    /// What the last epoch of each of these tasks wrote.
    pub(crate) fn last_epochs(&self, is_of: impl Fn(u32) -> bool) -> Outputs {
        let mut last = Outputs::default();
        for (task, marker) in self.markers.iter().filter(|(task, _)| is_of(**task)) {
            last.add(marker, self.markers_before.get(task));
        }
        last
    }
}
