//! Writing: produce and transactions.

use std::collections::BTreeSet;

use tidemill_broker::{
    Acks, Appended, Cleanup, Error, Group, Offset, Outcome, RecordSet, Rejection, Result, Topic,
    TopicPartition, Transaction, TransactionalId,
};
use tokio::time::Instant;

use crate::Persona;
use crate::faults::{Fate, WriteFault, unavailable};
use crate::log::size_of_record;
use crate::shared::{Hanging, Shared, State};

#[cfg(test)]
mod tests;

/// The most bytes of one set: far more than a transaction should hold, and far from where places in its slab,
/// of 32 bits, would run over.
pub(crate) const SET_BYTES_MAX: usize = 1 << 30;

/// Why a write was refused, and the record at fault as (set, record).
type Refused = (Error, Option<(usize, usize)>);

impl Shared {
    /// Refuses what could never be appended, before anything is.
    fn check_records(&self, state: &State, sets: &[RecordSet]) -> Result<(), Refused> {
        let limits = &self.options.capabilities;
        for (set_index, set) in sets.iter().enumerate() {
            let of_set = |error| (error, Some((set_index, 0)));
            state.log(&set.at).map_err(of_set)?;
            if set.bytes() > SET_BYTES_MAX {
                let (at, bytes) = (&set.at, set.bytes());
                let what = format!("{bytes} bytes at once for {at}; the limit is {SET_BYTES_MAX}");
                return Err(of_set(Error::Invalid { what }));
            }
            let compacted = matches!(
                state.topic(&set.at.topic).map(|topic| topic.cleanup),
                Ok(Cleanup::Compact { .. })
            );
            let keyed = compacted && self.options.persona == Persona::Kafka;
            if limits.headers && !keyed && set.bytes() <= limits.record_bytes_max {
                continue;
            }
            for (index, record) in set.iter().enumerate() {
                let culprit = Some((set_index, index));
                let bytes = size_of_record(record);
                if bytes > limits.record_bytes_max {
                    let error = Error::TooLarge {
                        at: set.at.clone(),
                        index,
                        bytes,
                        limit: limits.record_bytes_max,
                    };
                    return Err((error, culprit));
                }
                if !limits.headers && !record.encoded_headers().is_empty() {
                    let error = Error::Unsupported {
                        broker: self.broker(),
                        what: "headers",
                    };
                    return Err((error, culprit));
                }
                if keyed && record.key.is_none() {
                    let what = format!(
                        "record {index} for {} has no key, and the topic is compacted",
                        set.at
                    );
                    return Err((Error::Invalid { what }, culprit));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn produce(&self, sets: Vec<RecordSet>) -> Result<Vec<Acks>> {
        let mut state = self.lock_at(Instant::now());
        self.check_records(&state, &sets)
            .map_err(|(error, _)| error)?;
        let fault = state
            .faults
            .draw_produce(self.options.capabilities.idempotent_produce);
        let now = self.now();
        let mut answers = Vec::with_capacity(sets.len());
        for set in sets {
            let count = set.len();
            if count > 0 && state.faults.meets_moved_leader(&set.at, true) {
                answers.push(Acks::each(
                    (0..count)
                        .map(|_| Err(unavailable(self.broker(), "the leader moved")))
                        .collect(),
                ));
                continue;
            }
            if count > 0 && fault == Some(WriteFault::Duplicate) {
                let records = set.clone().into_records();
                state.log_mut(&set.at)?.append(records, now, None);
            }
            let at = set.at.clone();
            let acks = match fault {
                Some(WriteFault::Forgotten) => unknown(count, "the connection broke"),
                Some(WriteFault::LostReply) => {
                    append_each(&mut state, set, now)?;
                    unknown(count, "the reply was lost")
                }
                _ => append_each(&mut state, set, now)?,
            };
            state.clean_lazily(&at, now);
            answers.push(acks);
        }
        self.changed(state);
        Ok(answers)
    }

    pub(crate) fn open_id(&self, id: &TransactionalId) -> u64 {
        let mut state = self.lock_at(Instant::now());
        let entry = state.ids.entry(id.clone()).or_default();
        entry.owner += 1;
        let owner = entry.owner;
        if let Some(hanging) = entry.hanging.take() {
            state.settle(hanging);
            // Also who waits for an offset of its group.
            state.ring_all();
        }
        owner
    }

    pub(crate) fn commit(
        &self,
        id: &TransactionalId,
        owner: u64,
        transaction: Transaction,
    ) -> Outcome {
        let mut state = self.lock_at(Instant::now());
        let late = state.controls;
        let fault = state.faults.draw_commit(late);
        if fault == Some(WriteFault::Forgotten) {
            return Outcome::Unknown(unknown_outcome("the connection broke"));
        }
        let outcome = match self.check_transaction(&mut state, id, owner, &transaction) {
            Ok(()) => Ok(self.apply(&mut state, id, transaction, fault)),
            Err((error, culprit)) => {
                abort(&mut state, &transaction, &error, culprit);
                Err(Rejection { error, culprit })
            }
        };
        if matches!(
            fault,
            Some(WriteFault::Hanging { .. } | WriteFault::LateEnd { .. })
        ) {
            // There is a time now by which somebody has to look.
            state.ring_all();
        }
        self.changed(state);
        match (outcome, fault) {
            (Ok(Ok(_)), Some(WriteFault::Hanging { .. })) => {
                Outcome::Unknown(unknown_outcome("the commit was not answered"))
            }
            (_, Some(WriteFault::LostReply)) => {
                Outcome::Unknown(unknown_outcome("the reply was lost"))
            }
            (Ok(Ok(appended)), _) => Outcome::Committed(appended),
            (Ok(Err(error)), _) => Outcome::NotCommitted(Rejection {
                error,
                culprit: None,
            }),
            (Err(rejection), _) => Outcome::NotCommitted(rejection),
        }
    }

    fn check_transaction(
        &self,
        state: &mut State,
        id: &TransactionalId,
        owner: u64,
        transaction: &Transaction,
    ) -> Result<(), Refused> {
        let capabilities = &self.options.capabilities;
        let present = state.ids.get(id).map_or(0, |entry| entry.owner);
        if capabilities.fencing && present != owner {
            let what = format!("transactional id `{id}` was opened by another owner");
            return Err((Error::Fenced { what }, None));
        }
        if !transaction.offsets.is_empty() && !capabilities.offsets_in_transaction {
            let error = Error::Unsupported {
                broker: self.broker(),
                what: "offsets in transactions",
            };
            return Err((error, None));
        }
        for (index, offsets) in transaction.offsets.iter().enumerate() {
            if transaction.offsets[..index]
                .iter()
                .any(|other| other.group == offsets.group && other.generation != offsets.generation)
            {
                let what = format!(
                    "the transaction mixes generations of group `{}`",
                    offsets.group
                );
                return Err((Error::Invalid { what }, None));
            }
        }
        for offsets in &transaction.offsets {
            for (at, _) in &offsets.offsets {
                state.log(at).map_err(|error| (error, None))?;
            }
            let group = state.group_entry(&offsets.group);
            group
                .members
                .check(offsets.generation.as_ref(), &offsets.offsets)
                .map_err(|error| (error, None))?;
        }
        self.check_records(state, &transaction.records)?;
        let touched: BTreeSet<&TopicPartition> = transaction
            .records
            .iter()
            .filter(|set| !set.is_empty())
            .map(|set| &set.at)
            .collect();
        for at in touched {
            if state.faults.meets_moved_leader(at, true) {
                return Err((unavailable(self.broker(), "the leader moved"), None));
            }
        }
        if state.faults.may_reject() {
            for (set_index, set) in transaction.records.iter().enumerate() {
                for (index, record) in set.iter().enumerate() {
                    if state.faults.rejects(&set.at.topic, record.key) {
                        return Err((refused(&set.at.topic, index), Some((set_index, index))));
                    }
                }
            }
        }
        Ok(())
    }

    /// Appends a checked transaction, open or committed.
    fn apply(
        &self,
        state: &mut State,
        id: &TransactionalId,
        transaction: Transaction,
        fault: Option<WriteFault>,
    ) -> Result<Vec<Appended>> {
        let now = self.now();
        let entry = state.ids.get_mut(id);
        let former = entry.and_then(|entry| entry.hanging.take_if(|former| former.is_answered));
        if let Some(former) = former {
            // Nothing of the next goes anywhere before the last has ended everywhere.
            state.settle(former);
            state.ring_all();
        }
        state.transactions += 1;
        let serial = state.transactions;
        let hangs = matches!(fault, Some(WriteFault::Hanging { .. }));
        let ends = match fault {
            Some(WriteFault::Hanging { fate, after }) => Some((fate, after)),
            Some(WriteFault::LateEnd { after }) => Some((Fate::Commits, Some(after))),
            _ => None,
        };
        let mut open = BTreeSet::new();
        if ends.is_some() {
            open.extend(transaction.records.iter().map(|set| set.at.clone()));
            open.retain(|_| hangs || state.faults.is_late());
        }
        let mut appended: Vec<Appended> = Vec::with_capacity(transaction.records.len());
        for set in transaction.records {
            if set.is_empty() {
                continue;
            }
            let at = set.at.clone();
            let serial = open.contains(&at).then_some(serial);
            let first = state.log_mut(&at)?.append(set.into_records(), now, serial);
            if !appended.iter().any(|other| other.at == at) {
                appended.push(Appended { at, first });
            }
        }
        let groups: Vec<Group> = transaction
            .offsets
            .iter()
            .map(|offsets| offsets.group.clone())
            .collect();
        for offsets in transaction.offsets {
            let group = state.group_entry(&offsets.group);
            if hangs {
                group.commit_unsettled(serial, &offsets.offsets);
            } else {
                group.commit(&offsets.offsets);
            }
        }
        if let Some((fate, after)) = ends {
            let hanging = Hanging {
                transaction: serial,
                fate,
                lands: after.map(|after| Instant::now() + after),
                is_answered: !hangs,
                partitions: open.iter().cloned().collect(),
                groups,
            };
            let entry = state.ids.entry(id.clone()).or_default();
            let former = entry.hanging.replace(hanging);
            state.hanging += 1;
            if let Some(former) = former {
                // Of another owner, where none is fenced: nobody else would settle it.
                state.settle(former);
            }
        }
        for entry in appended.iter().filter(|entry| !open.contains(&entry.at)) {
            if state.controls {
                state.log_mut(&entry.at)?.append_gap(1);
            }
            state.clean_lazily(&entry.at, now);
        }
        Ok(appended)
    }
}

/// Leaves what a refused transaction leaves with Kafka, where records are sent before anybody refuses the
/// whole: a gap of theirs and of the control record that aborts them.
fn abort(
    state: &mut State,
    transaction: &Transaction,
    error: &Error,
    culprit: Option<(usize, usize)>,
) {
    if !state.controls {
        return;
    }
    let sent = match (error, culprit) {
        // Offsets go last.
        (Error::StaleGeneration { .. }, _) => transaction.records.len(),
        // What went before it is there.
        (Error::Invalid { .. }, Some((set, _))) => set,
        // The client refuses it, or nobody took it.
        _ => 0,
    };
    let mut touched = BTreeSet::new();
    for set in transaction.records[..sent]
        .iter()
        .filter(|set| !set.is_empty())
    {
        if let Ok(log) = state.log_mut(&set.at) {
            log.append_gap(set.len() as u64);
            touched.insert(&set.at);
        }
    }
    for at in touched {
        if let Ok(log) = state.log_mut(at) {
            log.append_gap(1);
        }
    }
}

/// Appends a set outside transactions, without the records that a fault refuses.
fn append_each(state: &mut State, set: RecordSet, now: tidemill_broker::Timestamp) -> Result<Acks> {
    let count = set.len();
    if count == 0 {
        return Ok(Acks::contiguous(Offset::START, 0));
    }
    let at = set.at.clone();
    if !state.faults.may_reject() {
        let first = state.log_mut(&at)?.append(set.into_records(), now, None);
        return Ok(Acks::contiguous(first, count));
    }
    let mut answers = Vec::with_capacity(count);
    let mut kept = tidemill_broker::BatchBuilder::default();
    for (index, record) in set.iter().enumerate() {
        if state.faults.rejects(&at.topic, record.key) {
            answers.push(Err(refused(&at.topic, index)));
            continue;
        }
        // Filled in below, once the first offset is known.
        answers.push(Ok(Offset(kept.len() as u64)));
        kept.push(
            record.timestamp,
            record.key,
            record.value,
            record.encoded_headers(),
        );
    }
    if !kept.is_empty() {
        let first = state.log_mut(&at)?.append(kept, now, None);
        for answer in answers.iter_mut().flatten() {
            answer.0 += first.0;
        }
    }
    Ok(Acks::each(answers))
}

fn unknown(count: usize, what: &str) -> Acks {
    Acks::each((0..count).map(|_| Err(unknown_outcome(what))).collect())
}

fn unknown_outcome(what: &str) -> Error {
    Error::UnknownOutcome { what: what.into() }
}

fn refused(topic: &Topic, index: usize) -> Error {
    Error::Invalid {
        what: format!("topic `{topic}` refused record {index} (injected fault)"),
    }
}
