//! The owner of a transactional id.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tidemill_broker::{Outcome, Rejection, Transaction, TransactionalId, Transactor};

use crate::shared::Shared;

/// Commits under one transactional id until another opens it.
pub(crate) struct MemoryTransactor {
    shared: Arc<Shared>,
    id: TransactionalId,
    owner: u64,
    /// Whether an outcome is unknown, also because a commit was dropped before it answered.
    unsettled: bool,
}

impl MemoryTransactor {
    pub(crate) fn new(shared: Arc<Shared>, id: TransactionalId, owner: u64) -> Self {
        Self {
            shared,
            id,
            owner,
            unsettled: false,
        }
    }
}

impl fmt::Debug for MemoryTransactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransactor")
            .field("id", &self.id)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Transactor for MemoryTransactor {
    async fn commit(&mut self, transaction: Transaction) -> Outcome {
        if self.unsettled {
            return Outcome::NotCommitted(Rejection::unsettled(&self.id));
        }
        self.unsettled = true;
        let outcome = match self.shared.enter().await {
            Ok(()) => self.shared.commit(&self.id, self.owner, transaction),
            Err(error) => Outcome::NotCommitted(error.into()),
        };
        self.unsettled = matches!(outcome, Outcome::Unknown(_));
        outcome
    }
}
