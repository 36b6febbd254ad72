//! Transactions as values.

use async_trait::async_trait;

use crate::{Error, Generation, Group, Offset, RecordSet, TopicPartition, TransactionalId};

/// Records and offsets that become visible together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// Records to append. Several sets may name one partition: they are appended in this order.
    pub records: Vec<RecordSet>,
    /// Offsets to commit for consumer groups.
    pub offsets: Vec<GroupOffsets>,
}

/// How far a group has read, as part of a transaction.
#[derive(Debug, Clone)]
pub struct GroupOffsets {
    /// The group.
    pub group: Group,
    /// The assignment under which the records were read; `None` for partitions assigned by hand,
    /// which is refused while the group has members.
    pub generation: Option<Generation>,
    /// The next offset to read of each partition.
    pub offsets: Vec<(TopicPartition, Offset)>,
}

/// Where the records of one partition went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The partition.
    pub at: TopicPartition,
    /// The offset of the first record. Those after it follow in order, perhaps with gaps.
    pub first: Offset,
}

/// Why a transaction did not happen.
#[derive(Debug)]
pub struct Rejection {
    /// The cause.
    pub error: Error,
    /// The record at fault, as (index of its set, index within the set), where the broker can name
    /// it: the caller composes again without it. The first of a set whose partition is at fault.
    pub culprit: Option<(usize, usize)>,
}

impl Rejection {
    /// The answer to a commit after one whose outcome is unknown, also because it was dropped: the id is
    /// to be opened again.
    pub fn unsettled(id: &TransactionalId) -> Self {
        let what = format!(
            "the outcome of an earlier commit is unknown: open transactional id `{id}` again"
        );
        Self::from(Error::Fenced { what })
    }
}

/// Nothing of the transaction is to blame.
impl From<Error> for Rejection {
    fn from(error: Error) -> Self {
        Self {
            error,
            culprit: None,
        }
    }
}

/// What became of a transaction.
///
/// Matched exhaustively on purpose: there is no fourth answer, and none of these may be passed over.
#[derive(Debug)]
#[must_use = "an unknown outcome must be settled"]
pub enum Outcome {
    /// It happened: one entry for each partition that got records.
    Committed(Vec<Appended>),
    /// It did not happen and never will.
    NotCommitted(Rejection),
    /// It may have happened or may yet happen. Opening the same transactional id again settles
    /// it: after that it has either happened or never will, and the log tells which.
    Unknown(Error),
}

/// The owner of a transactional id.
#[async_trait]
pub trait Transactor: Send + std::fmt::Debug {
    /// Commits a transaction.
    ///
    /// All its records and offsets become visible at once. One commit is in flight at a time, by
    /// `&mut`. A former owner gets [`Outcome::NotCommitted`] with a
    /// [`Error::Fenced`], and a transaction with a stale generation gets
    /// [`Error::StaleGeneration`]; none of its records is ever seen.
    ///
    /// After [`Outcome::Unknown`] this transactor answers nothing but fenced errors: open the id
    /// again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the outcome unknown.
    async fn commit(&mut self, transaction: Transaction) -> Outcome;
}
