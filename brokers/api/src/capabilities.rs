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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
