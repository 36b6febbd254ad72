//! Transactions made of epochs.

use tidemill_broker::{Headers, RecordSet, Transaction};

use crate::pipeline::MARKER_KEY;
use crate::pipeline::epoch::{ClosedEpoch, Submission};

/// How many of the first of these epochs go into one transaction: up to `most` bytes, or else one.
pub(super) fn fitting<'a>(epochs: impl Iterator<Item = &'a Submission>, most: usize) -> usize {
    let mut bytes = 0_usize;
    let fits = epochs.enumerate().take_while(|(index, one)| {
        bytes = bytes.saturating_add(one.epoch.bytes());
        *index == 0 || bytes <= most
    });
    fits.count()
}

/// Splits epochs so that none of a transaction mixes generations of a group: a task may have closed
/// its epoch just before it heard of the assignment under which another has closed its own.
pub(super) fn by_generation(epochs: Vec<Submission>) -> Vec<Vec<Submission>> {
    let mut parts: Vec<Vec<Submission>> = Vec::with_capacity(1);
    for one in epochs {
        let mixes = |other: &Submission| match (&one.epoch.offsets, &other.epoch.offsets) {
            (Some(one), Some(other)) => {
                one.group == other.group && one.generation != other.generation
            }
            _ => false,
        };
        match parts.iter_mut().find(|part| !part.iter().any(mixes)) {
            Some(part) => part.push(one),
            None => parts.push(vec![one]),
        }
    }
    parts
}

/// One transaction of all epochs, and which epoch each of its record sets belongs to.
pub(super) fn compose<'a>(
    epochs: impl Iterator<Item = &'a ClosedEpoch>,
    marker_headers: &Headers,
) -> (Transaction, Vec<usize>) {
    let mut transaction = Transaction::default();
    let mut owners = Vec::new();
    for (index, epoch) in epochs.enumerate() {
        let mut put = |set: RecordSet| {
            if !set.is_empty() {
                transaction.records.push(set);
                owners.push(index);
            }
        };
        epoch.records.iter().cloned().for_each(&mut put);
        epoch.control.iter().cloned().for_each(&mut put);
        put(changelog_records(epoch, marker_headers));
        if let Some(offsets) = &epoch.offsets {
            let offsets = offsets.to_group_offsets();
            match transaction.offsets.iter_mut().find(|other| {
                other.group == offsets.group && other.generation == offsets.generation
            }) {
                Some(other) => other.offsets.extend(offsets.offsets),
                None => transaction.offsets.push(offsets),
            }
        }
    }
    (transaction, owners)
}

/// Delta, then marker: whoever reads the marker has read all that belongs to it.
fn changelog_records(epoch: &ClosedEpoch, marker_headers: &Headers) -> RecordSet {
    let mut set = RecordSet::new(epoch.changelog.clone());
    let none = Headers::new();
    for change in epoch.delta.changes() {
        set.push(None, Some(&change.key), change.value.as_deref(), &none);
    }
    let marker = epoch.marker.encode();
    set.push(None, Some(MARKER_KEY), Some(&marker), marker_headers);
    set
}
