//! How a table's keys become keys of the store.
//!
//! | Kind | Key |
//! | --- | --- |
//! | value | table (2 bytes), user key |
//! | map | table (2 bytes), length of the user key (2 bytes), user key, element key |
//! | deque | table (2 bytes), length of the user key (2 bytes), user key, number (8 bytes) |
//!
//! All numbers are big endian, so that order in the store is order in meaning. Table 0 is the registry of tables.
//! In a table with a time to live, each value begins with the event time of its last write (8 bytes, milliseconds).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// The longest user key, and the longest element key of a map, in bytes.
///
/// Together they stay well below the store's page size, above which its engine would put them where it never
/// syncs.
pub const KEY_MAX: usize = 1_024;

/// The number of a table in its task's state. Assigned when first declared, kept for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub(crate) u16);

impl TableId {
    /// The table in which the tables are registered.
    pub(crate) const REGISTRY: Self = Self(0);

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }

    /// What all keys of the table start with.
    pub fn prefix(self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }

    /// What the stored keys of a user key start with; of a value, its whole stored key.
    pub fn key(self, kind: Kind, user: &[u8]) -> Bytes {
        encoded(kind, self, user)
    }

    /// The table that a stored key belongs to, and the rest of the key.
    pub fn split(key: &[u8]) -> Option<(Self, &[u8])> {
        let (table, rest) = key.split_first_chunk()?;
        Some((Self(u16::from_be_bytes(*table)), rest))
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a table holds under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One value.
    Value,
    /// Elements by an element key, in order.
    Map,
    /// Elements in the order in which they were pushed.
    Deque,
}

impl Kind {
    /// Takes what follows the table in a stored key apart: the user key, and the element in it.
    pub fn split(self, rest: &[u8]) -> Option<(&[u8], &[u8])> {
        decode(self, rest)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Value => "value",
            Self::Map => "map",
            Self::Deque => "deque",
        })
    }
}

/// Why a table cannot answer for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key is not in memory and may be in the store: load it first.
    #[error("a key of state table {table} was used before it was loaded")]
    NotLoaded {
        /// The table's number.
        table: u16,
    },
    /// The key is longer than [`KEY_MAX`].
    #[error("a key of state table {table} has {bytes} bytes; the limit is {KEY_MAX}")]
    TooLong {
        /// The table's number.
        table: u16,
        /// Its size.
        bytes: usize,
    },
}

/// Appends the part of a stored key that all elements of `user` share.
pub(crate) fn encode(kind: Kind, table: TableId, user: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&table.0.to_be_bytes());
    if kind != Kind::Value {
        // Checked against KEY_MAX when the key entered its table.
        out.extend_from_slice(&(user.len() as u16).to_be_bytes());
    }
    out.extend_from_slice(user);
}

/// The part of a stored key that all elements of `user` share.
pub(crate) fn encoded(kind: Kind, table: TableId, user: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + user.len());
    out.put_u16(table.0);
    if kind != Kind::Value {
        out.put_u16(user.len() as u16);
    }
    out.put_slice(user);
    out.freeze()
}

/// Takes a stored key of a table apart: the user key, and what follows it.
pub(crate) fn decode(kind: Kind, rest: &[u8]) -> Option<(&[u8], &[u8])> {
    match kind {
        Kind::Value => Some((rest, &[])),
        Kind::Map | Kind::Deque => {
            let (length, rest) = rest.split_first_chunk()?;
            rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
        }
    }
}

pub(crate) fn check(table: TableId, key: &[u8]) -> Result<(), KeyError> {
    if key.len() > KEY_MAX {
        return Err(KeyError::TooLong {
            table: table.0,
            bytes: key.len(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_starts_like_another_does_not_share_its_elements() {
        let (short, long) = (
            encoded(Kind::Map, TableId(1), b"a"),
            encoded(Kind::Map, TableId(1), b"ab"),
        );
        assert!(!long.starts_with(&short));
        let (_, rest) = TableId::split(&long).unwrap();
        assert_eq!(decode(Kind::Map, rest), Some((&b"ab"[..], &b""[..])));
    }

    #[test]
    fn keys_that_are_cut_short_are_refused() {
        assert_eq!(TableId::split(&[1]), None);
        assert_eq!(decode(Kind::Deque, &[0, 9, 1]), None);
        assert_eq!(decode(Kind::Map, &[0]), None);
    }
}
