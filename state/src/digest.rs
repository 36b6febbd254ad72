//! A number that says what a state holds: equal states, equal digests.
//!
//! The wrapping sum over all elements of a 128-bit hash of key and value, so that changing one element costs
//! one subtraction and one addition, in any order. It finds faults, not forgers.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// The digest of a state: the wrapping sum of its elements' hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of a state that holds nothing.
    pub const EMPTY: Self = Self(0);

    /// Takes an element in.
    pub fn add(&mut self, share: Share) {
        self.0 = self.0.wrapping_add(share.0);
    }

    /// Takes an element out.
    pub fn subtract(&mut self, share: Share) {
        self.0 = self.0.wrapping_sub(share.0);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What one element gives to a [`Digest`]. An absent element gives nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share(pub(crate) u128);

impl Share {
    /// What an absent element gives.
    pub const ABSENT: Self = Self(0);

    /// What the element with this encoded key and value gives.
    pub fn of(key: &[u8], value: &[u8]) -> Self {
        let mut framed = Vec::with_capacity(FRAME + key.len() + value.len());
        // The key's length comes first, so that no other split of the same bytes has this hash.
        framed.extend_from_slice(&(key.len() as u32).to_le_bytes());
        framed.extend_from_slice(key);
        framed.extend_from_slice(value);
        Self::of_framed(&framed)
    }

    /// What an element gives that is laid out as its key's length, its key and its value.
    pub(crate) fn of_framed(framed: &[u8]) -> Self {
        Self(xxh3_128(framed))
    }
}

/// Bytes before the key in a framed element.
pub(crate) const FRAME: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_changes_does_not_matter_and_what_goes_leaves_no_trace() {
        let (a, b) = (Share::of(b"a", b"1"), Share::of(b"b", b"2"));
        let (mut one, mut other) = (Digest::EMPTY, Digest::EMPTY);
        one.add(a);
        one.add(b);
        one.subtract(a);
        other.add(b);
        assert_eq!(one, other);
        assert_ne!(one, Digest::EMPTY);
    }

    #[test]
    fn the_border_between_key_and_value_counts() {
        assert_ne!(Share::of(b"ab", b"c"), Share::of(b"a", b"bc"));
        assert_ne!(Share::of(b"a", b""), Share::of(b"", b"a"));
    }
}
