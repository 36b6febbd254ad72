//! What some clauses need that not every backend has.

use std::fmt;

use crate::{Capabilities, Durability};

/// What some clauses need. Where it is lacking they check that it is refused, or what holds without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Need {
    /// [`Capabilities::groups`].
    Groups,
    /// [`Capabilities::transactions`].
    Transactions,
    /// [`Capabilities::offsets_in_transaction`].
    OffsetsInTransaction,
    /// [`Capabilities::fencing`].
    Fencing,
    /// [`Capabilities::headers`].
    Headers,
    /// [`Capabilities::compaction`].
    Compaction,
    /// [`Capabilities::identity`].
    Identity,
    /// More than [`Durability::Process`]: what is opened again holds what it held.
    Durability,
    /// The suite can have retention and compaction run to the end.
    Cleaning,
    /// The suite can let hours pass, as the clock is paused and the broker goes by it.
    Hours,
}

impl Need {
    /// Every one.
    pub const ALL: &[Self] = &[
        Self::Groups,
        Self::Transactions,
        Self::OffsetsInTransaction,
        Self::Fencing,
        Self::Headers,
        Self::Compaction,
        Self::Identity,
        Self::Durability,
        Self::Cleaning,
        Self::Hours,
    ];

    /// Whether a broker with these capabilities has it; what the suite itself needs it has.
    pub(super) fn is_met_by(self, capabilities: &Capabilities) -> bool {
        match self {
            Self::Groups => capabilities.groups,
            Self::Transactions => capabilities.transactions,
            Self::OffsetsInTransaction => capabilities.offsets_in_transaction,
            Self::Fencing => capabilities.fencing,
            Self::Headers => capabilities.headers,
            Self::Compaction => capabilities.compaction,
            Self::Identity => capabilities.identity,
            Self::Durability => capabilities.durability > Durability::Process,
            Self::Cleaning | Self::Hours => true,
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Groups => "consumer groups",
            Self::Transactions => "transactions",
            Self::OffsetsInTransaction => "offsets in transactions",
            Self::Fencing => "fencing of transactional ids",
            Self::Headers => "headers",
            Self::Compaction => "compaction",
            Self::Identity => "identities of topics",
            Self::Durability => "storage that outlives the process",
            Self::Cleaning => "retention that runs when asked",
            Self::Hours => "a clock that can be moved by hours",
        })
    }
}
