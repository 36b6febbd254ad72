//! The committer: makes closed epochs visible, one transaction at a time.
//!
//! It is the only part of a process that commits. It composes a transaction from every closed epoch
//! at hand, in task order; while that is in flight the tasks fill their next epochs. After an
//! unknown outcome the markers decide.

mod compose;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_broker::{
    Appended, Broker, Error as BrokerError, Headers, Offset, Outcome, TransactionalId, Transactor,
};
use tidemill_state::{Epoch, crash_point, planted};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use self::compose::{by_generation, compose, fitting};
use super::epoch::{ClosedEpoch, Settled, Submission, pause_before_retry};
use super::error::Doing;
use super::recovery::last_marker;
use super::{Attempt, Error, Marker, Progress, Result, TaskId};

/// How transactions are cut from epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Whatever is closed goes: least delay.
    Live,
    /// First epoch *k* of every task not at its end, in their order, then epoch *k + 1*: so that output
    /// topics come out equal byte for byte, for any number of threads and wherever a run was killed;
    /// one that is told to stop commits what is open, and so cuts there. They are one transaction where
    /// they are not too much for one. A task whose epochs are ahead of those of others waits for them:
    /// it is for runs over what there is.
    Lockstep,
}

/// A message to the committer.
#[derive(Debug)]
pub(crate) enum ToCommitter {
    /// A task has begun; with [`Cut::Lockstep`] its epochs are waited for.
    Begin(TaskId),
    /// A task has closed an epoch.
    Closed(Box<Submission>),
    /// A task has ended.
    End(TaskId),
}

/// How a run commits.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) id: TransactionalId,
    pub(crate) cut: Cut,
    /// As many bytes of epochs go into one transaction, or else one epoch.
    pub(crate) transaction_bytes: usize,
    /// The attempt of each marker; its transactions are counted from there.
    pub(crate) attempt: Attempt,
    /// Of every marker: what it says besides.
    pub(crate) marker_headers: Headers,
}

/// Commits closed epochs until all its senders are gone.
#[derive(Debug)]
pub(crate) struct Committer {
    broker: Arc<dyn Broker>,
    progress: Arc<Progress>,
    terms: Terms,
    transactor: Box<dyn Transactor>,
    inbox: mpsc::Receiver<ToCommitter>,
    tasks: BTreeSet<TaskId>,
    waiting: BTreeMap<TaskId, Submission>,
    // Of the epochs that did not fit into one transaction, the next begins with the task after this.
    turn: Option<TaskId>,
    // How often the id was opened: each time takes it back from whoever had it in between.
    openings: u64,
    known: BTreeMap<TaskId, Known>,
}

/// What is known of a task's changelog.
#[derive(Debug, Clone, Copy)]
struct Known {
    // At or before its last marker.
    from: Offset,
    // With this opening of the id it was seen that nobody else had gone on from there.
    opening: u64,
    // The last that this process has committed of it.
    epoch: Epoch,
}

impl Known {
    /// Of a task that has committed nothing in this process.
    const START: Self = Self {
        from: Offset::START,
        opening: 1,
        epoch: Epoch::NONE,
    };
}

impl Committer {
    /// Opens the transactional id, which shuts out its former owner, and takes its place.
    pub(crate) async fn open(
        broker: Arc<dyn Broker>,
        progress: Arc<Progress>,
        terms: Terms,
        inbox: mpsc::Receiver<ToCommitter>,
    ) -> Result<Self> {
        let transactor = open_transactor(&*broker, &terms.id).await?;
        Ok(Self {
            broker,
            progress,
            terms,
            transactor,
            inbox,
            tasks: BTreeSet::new(),
            waiting: BTreeMap::new(),
            turn: None,
            openings: 1,
            known: BTreeMap::new(),
        })
    }

    /// Runs until every task has gone.
    ///
    /// # Errors
    ///
    /// If somebody else has taken over the transactional id, or an outcome cannot be learnt.
    pub(crate) async fn run(mut self) -> Result<()> {
        loop {
            match self.inbox.recv().await {
                Some(message) => self.take(message),
                None => return Ok(()),
            }
            // Tasks close their epochs at the same instants: let those that are about to.
            tokio::task::yield_now().await;
            while let Ok(message) = self.inbox.try_recv() {
                self.take(message);
            }
            while self.is_complete() {
                for epochs in self.next_transactions() {
                    self.commit(epochs).await?;
                }
                while let Ok(message) = self.inbox.try_recv() {
                    self.take(message);
                }
            }
        }
    }

    fn take(&mut self, message: ToCommitter) {
        match message {
            ToCommitter::Begin(task) => {
                self.tasks.insert(task);
            }
            ToCommitter::Closed(submission) => {
                let epoch = &submission.epoch;
                let known = self.known.get(&epoch.task).unwrap_or(&Known::START);
                if epoch.marker.epoch <= known.epoch {
                    // The task was opened again while the same epoch of its former self was still on
                    // its way: one that goes by what the log said then.
                    debug!(task = %epoch.task, "dropped an epoch that had been committed already");
                    settle(*submission, Settled::Dropped);
                } else {
                    self.waiting.insert(epoch.task, *submission);
                }
            }
            ToCommitter::End(task) => {
                self.tasks.remove(&task);
            }
        }
    }

    fn is_complete(&self) -> bool {
        match self.terms.cut {
            Cut::Live => !self.waiting.is_empty(),
            Cut::Lockstep => {
                !self.waiting.is_empty()
                    && self
                        .tasks
                        .iter()
                        .all(|task| self.waiting.contains_key(task))
            }
        }
    }

    /// Takes what is committed before any other epoch is looked at.
    fn next_transactions(&mut self) -> Vec<Vec<Submission>> {
        let transactions = match self.terms.cut {
            Cut::Live => vec![self.next_epochs()],
            Cut::Lockstep => self.next_in_step(),
        };
        transactions.into_iter().flat_map(by_generation).collect()
    }

    /// The epochs that are first by their number, in as many transactions as they need.
    fn next_in_step(&mut self) -> Vec<Vec<Submission>> {
        let number = |one: &Submission| one.epoch.marker.epoch;
        let first = self.waiting.values().map(number).min();
        let (next, later): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, one)| Some(number(one)) == first);
        self.waiting = later;
        let mut next: Vec<Submission> = next.into_values().collect();
        let mut transactions = Vec::new();
        while !next.is_empty() {
            let later = next.split_off(fitting(next.iter(), self.terms.transaction_bytes));
            transactions.push(std::mem::replace(&mut next, later));
        }
        transactions
    }

    /// Takes what goes into the next transaction: as much as may. The tasks take turns, so that the
    /// last ones have theirs however much the first ones write.
    fn next_epochs(&mut self) -> Vec<Submission> {
        let tasks = || self.waiting.keys().copied();
        let later = tasks().filter(|task| Some(*task) > self.turn);
        let order: Vec<TaskId> = later
            .chain(tasks().filter(|task| Some(*task) <= self.turn))
            .collect();
        let epochs = order.iter().filter_map(|task| self.waiting.get(task));
        let count = fitting(epochs, self.terms.transaction_bytes);
        let next = &order[..count];
        self.turn = next.last().copied();
        let mut taken: Vec<Submission> = Vec::with_capacity(count);
        taken.extend(next.iter().filter_map(|task| self.waiting.remove(task)));
        taken.sort_by_key(|one| one.epoch.task);
        taken
    }

    async fn commit(&mut self, mut submissions: Vec<Submission>) -> Result<()> {
        self.terms.attempt.transaction += 1;
        for submission in &mut submissions {
            submission.epoch.marker.attempt = self.terms.attempt.clone();
        }
        let mut tries = 0;
        while !submissions.is_empty() {
            #[allow(unused_mut)]
            let (mut transaction, owners) = compose(
                submissions.iter().map(|one| &one.epoch),
                &self.terms.marker_headers,
            );
            self.still_ours(&submissions).await?;
            crash_point!("commit.composed");
            planted!(P1, {
                let offsets = tidemill_broker::Transaction {
                    records: Vec::new(),
                    offsets: transaction.offsets.clone(),
                };
                let _ = self.transactor.commit(offsets).await;
            });
            planted!(P2, {
                let mut first = tidemill_broker::Transaction::default();
                for set in &mut transaction.records {
                    let mut marker = tidemill_broker::RecordSet::new(set.at.clone());
                    let mut rest = tidemill_broker::RecordSet::new(set.at.clone());
                    for record in set.iter() {
                        match record.key {
                            Some(crate::pipeline::MARKER_KEY) => marker.push_ref(record),
                            _ => rest.push_ref(record),
                        }
                    }
                    first.records.push(rest);
                    *set = marker;
                }
                if !matches!(self.transactor.commit(first).await, Outcome::Committed(_)) {
                    self.transactor = open_transactor(&*self.broker, &self.terms.id).await?;
                }
            });
            let outcome = self.transactor.commit(transaction).await;
            crash_point!("commit.answered");
            match outcome {
                Outcome::Committed(appended) => {
                    self.progress.transaction();
                    self.finish(submissions, &appended);
                    return Ok(());
                }
                Outcome::Unknown(error) => {
                    warn!(%error, "the outcome of a commit is unknown: reading the markers");
                    metrics::counter!("tidemill_commits_unknown_total").increment(1);
                    self.transactor = open_transactor(&*self.broker, &self.terms.id).await?;
                    self.openings += 1;
                    crash_point!("commit.reopened");
                    if self.settle_unknown(&mut submissions).await? {
                        return Ok(());
                    }
                    debug!("the unknown commit did not happen: sending it again");
                }
                Outcome::NotCommitted(rejection) => {
                    let culprit = rejection
                        .culprit
                        .and_then(|(set, _)| owners.get(set).copied())
                        .or_else(|| reader_of_gone(&rejection.error, &submissions))
                        .or((submissions.len() == 1).then_some(0));
                    match (&rejection.error, culprit) {
                        (BrokerError::StaleGeneration { .. }, _) => {
                            // All epochs of a group carry one generation; those that carry
                            // another, or none, are not to blame.
                            let stale = |one: &Submission| {
                                one.epoch.offsets.as_ref().is_some_and(|offsets| {
                                    rejection
                                        .error
                                        .is_stale(&offsets.group, offsets.generation.as_ref())
                                })
                            };
                            let (dropped, rest): (Vec<_>, Vec<_>) =
                                submissions.into_iter().partition(|one| stale(one));
                            if dropped.is_empty() {
                                return Err(Error::Fenced {
                                    what: rejection.error.to_string(),
                                });
                            }
                            for one in dropped {
                                debug!(task = %one.epoch.task, "dropped an epoch of a former assignment");
                                settle(one, Settled::Dropped);
                            }
                            submissions = rest;
                        }
                        (error, _) if error.is_fenced() => {
                            let what = format!(
                                "another process has taken over `{}` ({error})",
                                self.terms.id
                            );
                            return Err(Error::Fenced { what });
                        }
                        (error, _) if error.is_transient() => {
                            warn!(%error, tries, "a commit failed: trying again");
                            tokio::time::sleep(pause_before_retry(tries)).await;
                            tries += 1;
                        }
                        (_, Some(index)) => {
                            // Only the task at fault halts.
                            let one = submissions.remove(index);
                            settle(one, Settled::Refused(rejection.error));
                        }
                        (_, None) => {
                            return Err(Error::Broker {
                                doing: "a commit was refused".into(),
                                source: rejection.error,
                            });
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks for the markers of a transaction whose outcome was unknown: these very ones are there, or
    /// it did not happen. Settles the epochs if it did.
    ///
    /// Attempts alone do not tell: runs that an embedding program numbers alike count their transactions
    /// alike, and may commit the same epoch, each with what it had read.
    async fn settle_unknown(&mut self, submissions: &mut Vec<Submission>) -> Result<bool> {
        let mut last = Vec::with_capacity(submissions.len());
        let mut happened = false;
        for one in &*submissions {
            let marker = self.last_marker(&one.epoch).await?;
            happened |= marker
                .as_ref()
                .is_some_and(|(marker, _)| *marker == one.epoch.marker);
            last.push(marker);
        }
        if !happened {
            return Ok(false);
        }
        for (one, last) in std::mem::take(submissions).into_iter().zip(last) {
            match last {
                Some((marker, offset)) if marker == one.epoch.marker => {
                    self.settle_committed(one, offset);
                }
                // It happened as a whole, so a later owner has gone on from there: no longer ours.
                Some((marker, _)) if marker.epoch > one.epoch.marker.epoch => {
                    settle(one, Settled::Dropped);
                }
                _ => {
                    return Err(Error::Contradiction {
                        task: one.epoch.task,
                        what: "a transaction has happened in part".to_owned(),
                    });
                }
            }
        }
        Ok(true)
    }

    /// Where no generation guards an epoch, a later run under the same id may have gone on from any
    /// task's last marker before the id was opened again, which took it back from that run: the one
    /// to stay. Looked up once for each task and opening, as nobody else commits from then on; the
    /// first opening comes before any task reads its marker.
    async fn still_ours(&mut self, submissions: &[Submission]) -> Result<()> {
        for Submission { epoch, .. } in submissions {
            let is_guarded = epoch
                .offsets
                .as_ref()
                .is_some_and(|offsets| offsets.generation.is_some());
            let opening = self.known.get(&epoch.task).map_or(1, |known| known.opening);
            if is_guarded || opening == self.openings {
                continue;
            }
            let last = self.last_marker(epoch).await?;
            if last.is_some_and(|(marker, _)| marker.epoch >= epoch.marker.epoch) {
                let what = "a later run of this pipeline has gone on from here".to_owned();
                return Err(Error::Fenced { what });
            }
            self.known.entry(epoch.task).or_insert(Known::START).opening = self.openings;
        }
        Ok(())
    }

    async fn last_marker(&mut self, epoch: &ClosedEpoch) -> Result<Option<(Marker, Offset)>> {
        let known = self.known.get(&epoch.task).unwrap_or(&Known::START);
        last_marker(&*self.broker, &epoch.changelog, known.from).await
    }

    fn finish(&mut self, submissions: Vec<Submission>, appended: &[Appended]) {
        for one in submissions {
            metrics::histogram!("tidemill_epoch_seconds")
                .record(one.epoch.opened.elapsed().as_secs_f64());
            // Where the first record of this epoch went: redoing from there repeats at most this
            // epoch, which is harmless. Unknown after a settled doubt: redo from the start.
            let first = appended
                .iter()
                .find(|to| to.at == one.epoch.changelog)
                .map(|to| to.first);
            self.settle_committed(one, first.unwrap_or(Offset::START));
        }
    }

    fn settle_committed(&mut self, one: Submission, from: Offset) {
        let known = self.known.entry(one.epoch.task).or_insert(Known::START);
        known.from = from;
        known.epoch = one.epoch.marker.epoch;
        let changelog_next = from.0;
        settle(one, Settled::Committed { changelog_next });
    }
}

async fn open_transactor(broker: &dyn Broker, id: &TransactionalId) -> Result<Box<dyn Transactor>> {
    let mut tries = 0;
    loop {
        match broker.transactor(id).await {
            Err(error) if error.is_transient() => {
                warn!(%error, tries, "cannot open transactional id `{id}`: trying again");
                tokio::time::sleep(pause_before_retry(tries)).await;
                tries += 1;
            }
            opened => return opened.doing(|| format!("cannot open transactional id `{id}`")),
        }
    }
}

/// Which epoch commits offsets of a topic that is gone, if that is why a transaction was refused.
fn reader_of_gone(error: &BrokerError, submissions: &[Submission]) -> Option<usize> {
    let (BrokerError::UnknownTopic { topic: gone } | BrokerError::TopicDeleted { topic: gone }) =
        error
    else {
        return None;
    };
    submissions.iter().position(|one| {
        let offsets = one.epoch.offsets.iter();
        let mut read = offsets.flat_map(|offsets| &offsets.next);
        read.any(|(at, _)| at.topic == *gone)
    })
}

fn settle(submission: Submission, settled: Settled) {
    if submission.settled.send(settled).is_err() {
        debug!(task = %submission.epoch.task, "a task went before its epoch was settled");
    }
}

#[cfg(test)]
mod tests;
