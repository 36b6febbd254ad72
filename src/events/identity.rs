//! Identities: 128 bits that stay the same when a record is processed again, copied or recorded.

use tidemill_broker::{RecordRef, TopicPartition};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed, xxh3_128, xxh3_128_with_seed};

use super::Rows;

/// Header that carries an event's identity: 16 bytes, big endian.
pub const EVENT_ID: &str = "event-id";

/// Header that carries where a copied or recorded record came from; its bytes are its identity.
pub const ORIGIN: &str = "origin";

/// Hashes parts into an identity. Parts are delimited, so that ("ab", "c") differs from ("a", "bc").
#[derive(Clone)]
pub struct Identity(Xxh3);

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// An identity of this kind of thing.
    pub fn of(kind: &str) -> Self {
        Self(Xxh3::new()).text(kind)
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(mut self, part: &[u8]) -> Self {
        self.0.update(&(part.len() as u64).to_be_bytes());
        self.0.update(part);
        self
    }

    /// Adds text.
    #[must_use]
    pub fn text(self, part: &str) -> Self {
        self.bytes(part.as_bytes())
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, part: u64) -> Self {
        self.0.update(&part.to_be_bytes());
        self
    }

    /// The 128 bits.
    pub fn finish(&self) -> u128 {
        self.0.digest128()
    }
}

/// What all positions of one partition share: pass it to [`of_record`]. Offsets of another
/// `incarnation`, where the topic was deleted and created again, are other positions; the first is 0.
pub fn of_partition(at: &TopicPartition, incarnation: u64) -> u64 {
    let first = xxh3_64_with_seed(at.topic.as_str().as_bytes(), u64::from(at.partition));
    match incarnation {
        0 => first,
        again => xxh3_64_with_seed(&again.to_be_bytes(), first),
    }
}

/// The identity of a record: its event id, else its origin, else its position in `partition`.
pub fn of_record(partition: u64, record: RecordRef<'_>) -> u128 {
    let mut origin = None;
    for (name, value) in record.headers() {
        match name {
            EVENT_ID => {
                if let Ok(id) = value.try_into() {
                    return u128::from_be_bytes(id);
                }
            }
            ORIGIN => origin = origin.or(Some(value)),
            _ => {}
        }
    }
    match origin {
        Some(origin) => xxh3_128(origin),
        None => xxh3_128_with_seed(&record.offset.0.to_be_bytes(), partition),
    }
}

/// The identity of what `parent` led to by way of `by`, such as the output of one edge of a
/// pipeline.
pub fn derived(by: u64, parent: u128) -> u128 {
    xxh3_128_with_seed(&parent.to_be_bytes(), by)
}

impl Rows {
    /// The identity of row `row`: its own where an operator made it, else its record's; another for each
    /// way by which it came to where ways meet.
    pub fn identity(&self, row: usize) -> u128 {
        let id = match (self.id(row), self.source()) {
            (Some(id), _) => id,
            (None, Some(batch)) => {
                let partition = of_partition(batch.at(), self.incarnation());
                of_record(partition, batch.get(self.head(row).record as usize))
            }
            (None, None) => 0,
        };
        match self.way() {
            0 => id,
            way => derived(way, id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_identity_are_delimited() {
        let ab_c = Identity::of("x").text("ab").text("c").finish();
        assert_ne!(ab_c, Identity::of("x").text("a").text("bc").finish());
        assert_eq!(ab_c, Identity::of("x").text("ab").text("c").finish());
    }
}
