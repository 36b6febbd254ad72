//! What a broker can do, as facts.

/// What survives once a record is acknowledged and [`sync`](crate::Broker::sync) has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Nothing beyond the life of this process.
    Process,
    /// The kill of this process, but not a loss of power.
    Kill,
    /// A loss of power.
    Power,
}

/// What a broker can do.
///
/// Known from the scheme of its URL, so that a pipeline file is checked without connecting; verified
/// at start, when it may only turn out lower.
///
/// Begin with [`Capabilities::none`] and set what there is: what a later version adds is then absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Records of several partitions become visible at once.
    pub transactions: bool,
    /// A group's offsets can be part of a transaction.
    pub offsets_in_transaction: bool,
    /// Opening a transactional id again shuts out its former owner.
    pub fencing: bool,
    /// Partitions are shared out among the members of a group.
    pub groups: bool,
    /// Records carry headers.
    pub headers: bool,
    /// A produce that is retried inside the broker's client appends once.
    pub idempotent_produce: bool,
    /// Topics can be compacted.
    pub compaction: bool,
    /// Topics tell their incarnation.
    pub identity: bool,
    /// Members in other processes may share a group.
    pub shared: bool,
    /// What survives after [`sync`](crate::Broker::sync).
    pub durability: Durability,
    /// Largest record: key, payload and encoded headers, in bytes.
    pub record_bytes_max: usize,
}

impl Capabilities {
    /// A broker that appends records and delivers them, and nothing else.
    pub fn none(durability: Durability, record_bytes_max: usize) -> Self {
        Self {
            transactions: false,
            offsets_in_transaction: false,
            fencing: false,
            groups: false,
            headers: false,
            idempotent_produce: false,
            compaction: false,
            identity: false,
            shared: false,
            durability,
            record_bytes_max,
        }
    }

    /// A broker with everything, but that its groups are not [shared](Self::shared).
    pub fn all(durability: Durability, record_bytes_max: usize) -> Self {
        Self {
            transactions: true,
            offsets_in_transaction: true,
            fencing: true,
            groups: true,
            headers: true,
            idempotent_produce: true,
            compaction: true,
            identity: true,
            ..Self::none(durability, record_bytes_max)
        }
    }
}
