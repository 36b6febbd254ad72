//! How a broker in memory behaves, and whom it impersonates.

use std::sync::Arc;

use tidemill_broker::{Capabilities, Clock, Durability, SystemClock};

/// Whose rules a broker in memory keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Persona {
    /// Its own: everything the contract offers.
    #[default]
    Memory,
    /// Apache Kafka's: a control record takes an offset for each transaction and partition, and may come to
    /// some of them after the commit was answered; every
    /// rebalance takes all partitions from all members, a compacted topic refuses a missing key.
    Kafka,
    /// Fluvio's: no transactions, groups, headers, compaction or identity; a retried produce may
    /// append twice.
    Fluvio,
}

impl Persona {
    /// What a broker of this persona can do.
    pub fn capabilities(self) -> Capabilities {
        let durability = Durability::Process;
        match self {
            Self::Memory => Capabilities::all(durability, 16 * 1024 * 1024),
            Self::Kafka => Capabilities::all(durability, KAFKA_RECORD_BYTES_MAX),
            Self::Fluvio => Capabilities::none(durability, KAFKA_RECORD_BYTES_MAX),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Kafka => "memory as kafka",
            Self::Fluvio => "memory as fluvio",
        }
    }
}

/// Kafka's default `max.message.bytes`, less what its batch header may take.
const KAFKA_RECORD_BYTES_MAX: usize = 1_000_000;

/// What a broker in memory is made of.
#[derive(Debug, Clone)]
pub struct MemoryOptions {
    /// Tells append times, on which retention counts. Deadlines use tokio's clock.
    pub clock: Arc<dyn Clock>,
    /// Where all chance comes from: identities of topics and faults.
    pub seed: u64,
    /// Whose rules it keeps.
    pub persona: Persona,
    /// What it can do; each flag may be switched off by itself.
    pub capabilities: Capabilities,
}

impl MemoryOptions {
    /// A broker of a persona, on this clock, with this seed.
    pub fn new(persona: Persona, clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self {
            clock,
            seed,
            persona,
            capabilities: persona.capabilities(),
        }
    }
}

impl Default for MemoryOptions {
    /// Its own persona, on the machine's clock, with seed 0.
    fn default() -> Self {
        Self::new(Persona::Memory, Arc::new(SystemClock), 0)
    }
}
