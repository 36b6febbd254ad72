//! The owner of a transactional id.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tidemill_broker::{
    Appended, Error, Offset, Outcome, Rejection, Transaction, TransactionalId, Transactor,
};
use tokio::time::Instant;

use crate::append::{Failure, unknown};
use crate::shared::{Appender, Shared, lock};

/// Commits under one transactional id until another opens it.
pub(crate) struct FileTransactor {
    shared: Arc<Shared>,
    id: TransactionalId,
    owner: u64,
    /// Whether an outcome is unknown, also because a commit was dropped before it answered.
    unsettled: bool,
}

/// Why a transaction did not, or perhaps did not, happen.
enum Refusal {
    Rejected(Rejection),
    Unknown(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Rejected(error.into())
    }
}

impl FileTransactor {
    pub(crate) fn new(shared: Arc<Shared>, id: TransactionalId, owner: u64) -> Self {
        Self {
            shared,
            id,
            owner,
            unsettled: false,
        }
    }

    fn check_owner(&self, appender: &Appender) -> Result<(), Error> {
        if appender.owners.get(&self.id) == Some(&self.owner) {
            return Ok(());
        }
        Err(Error::Fenced {
            what: format!("transactional id `{}` was opened by another owner", self.id),
        })
    }

    fn append(&self, transaction: Transaction) -> Result<(Vec<Appended>, u64), Refusal> {
        // A former owner is told that it is one, whatever else is wrong with what it commits.
        let writing = self.shared.writing("transactions")?;
        self.check_owner(&lock(&writing.appender))?;
        let Transaction { records, offsets } = transaction;
        for (index, of) in offsets.iter().enumerate() {
            if offsets[..index]
                .iter()
                .any(|other| other.group == of.group && other.generation != of.generation)
            {
                return Err(Refusal::from(Error::Invalid {
                    what: format!("the transaction mixes generations of group `{}`", of.group),
                }));
            }
        }
        let partitions: Vec<_> = records.iter().map(|set| set.at.clone()).collect();
        let drafts = self.shared.draft(records).map_err(|culprit| {
            Refusal::Rejected(Rejection {
                error: culprit.error,
                culprit: Some((culprit.set, culprit.record)),
            })
        })?;
        let mut entries = Vec::new();
        for of in &offsets {
            entries.extend(self.shared.offset_entries(&of.group, &of.offsets)?);
        }
        // Held until the frame is written: no round of a group ends between check and commit.
        let mut groups = self.shared.groups_at(Instant::now());
        for of in &offsets {
            groups
                .entry(&of.group)
                .check(of.generation.as_ref(), &of.offsets)?;
        }
        let guard = |appender: &Appender| self.check_owner(appender);
        let appended = self.shared.append(drafts, entries, guard);
        drop(groups);
        match appended {
            Ok((firsts, end)) => Ok((appended_once(partitions, firsts), end)),
            Err(Failure::Refused(error)) => Err(Refusal::from(error)),
            Err(Failure::Unknown(error)) => Err(Refusal::Unknown(unknown(&error))),
        }
    }
}

/// One entry for each partition that got records, in the order of the sets.
fn appended_once(
    partitions: Vec<tidemill_broker::TopicPartition>,
    firsts: Vec<Option<Offset>>,
) -> Vec<Appended> {
    let mut seen = BTreeSet::new();
    partitions
        .into_iter()
        .zip(firsts)
        .filter_map(|(at, first)| Some((at, first?)))
        .filter(|(at, _)| seen.insert(at.clone()))
        .map(|(at, first)| Appended { at, first })
        .collect()
}

impl fmt::Debug for FileTransactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileTransactor")
            .field("id", &self.id)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Transactor for FileTransactor {
    async fn commit(&mut self, transaction: Transaction) -> Outcome {
        if self.unsettled {
            return Outcome::NotCommitted(Rejection::unsettled(&self.id));
        }
        self.unsettled = true;
        tokio::task::consume_budget().await;
        let outcome = match self.shared.room().await {
            Err(error) => Err(Refusal::from(error)),
            Ok(()) => match self.append(transaction) {
                Err(refusal) => Err(refusal),
                Ok((appended, end)) => match self.shared.settle(end).await {
                    Ok(()) => Ok(appended),
                    Err(error) => Err(Refusal::Unknown(unknown(&error))),
                },
            },
        };
        self.unsettled = false;
        match outcome {
            Ok(appended) => Outcome::Committed(appended),
            Err(Refusal::Rejected(rejection)) => Outcome::NotCommitted(rejection),
            Err(Refusal::Unknown(error)) => {
                self.unsettled = true;
                Outcome::Unknown(error)
            }
        }
    }
}
