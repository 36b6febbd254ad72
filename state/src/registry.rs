//! Table 0: which tables a state has.
//!
//! Key: table 0, the table's name. Value: number (2 bytes, big endian), kind (1 byte), codec (4 bytes, big endian),
//! time to live in milliseconds (8 bytes, big endian; 0 = none). It is part of delta and digest like any other
//! table, so a state rebuilt from the changelog alone knows its tables.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::key;
use crate::{Changes, DecodeError, Epoch, Error, Kind, Result, Share, TableId};

/// A table as the program declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpec {
    /// Its name, unique in the task.
    pub name: String,
    /// What it holds under a key.
    pub kind: Kind,
    /// The number of the values' encoding; a new encoding needs a new number.
    pub codec: u32,
    /// How long after its last write, in event time (milliseconds), an entry lives: the value of a key, or each
    /// element of a map or deque by itself.
    pub ttl_ms: Option<u64>,
}

impl TableSpec {
    /// Whether an element with this stored key registers a table.
    pub fn registers(key: &[u8]) -> bool {
        TableId::split(key).is_some_and(|(table, _)| table == TableId::REGISTRY)
    }

    /// The table that an element registers, with its number.
    ///
    /// # Errors
    ///
    /// If it registers none.
    pub fn registered(key: &[u8], value: &[u8]) -> Result<(TableId, Self), DecodeError> {
        match TableId::split(key) {
            Some((TableId::REGISTRY, name)) => Self::decode(name, value),
            _ => Err(DecodeError::new("this element registers no table")),
        }
    }

    fn encode(&self, id: TableId, out: &mut Vec<u8>) {
        out.extend_from_slice(&id.0.to_be_bytes());
        out.push(match self.kind {
            Kind::Value => 0,
            Kind::Map => 1,
            Kind::Deque => 2,
        });
        out.extend_from_slice(&self.codec.to_be_bytes());
        out.extend_from_slice(&self.ttl_ms.unwrap_or(0).to_be_bytes());
    }

    fn decode(name: &[u8], value: &[u8]) -> Result<(TableId, Self), DecodeError> {
        let name = String::from_utf8(name.to_vec())
            .map_err(|_| DecodeError::new("a table's name is not UTF-8"))?;
        let bytes: &[u8; 15] = value.try_into().map_err(|_| {
            DecodeError::new(format!(
                "expected 15 bytes for table `{name}`, found {}",
                value.len()
            ))
        })?;
        let [i0, i1, kind, c0, c1, c2, c3, ttl @ ..] = *bytes;
        let kind = match kind {
            0 => Kind::Value,
            1 => Kind::Map,
            2 => Kind::Deque,
            other => return Err(DecodeError::new(format!("table `{name}` has kind {other}"))),
        };
        let ttl_ms = u64::from_be_bytes(ttl);
        Ok((
            TableId(u16::from_be_bytes([i0, i1])),
            Self {
                name,
                kind,
                codec: u32::from_be_bytes([c0, c1, c2, c3]),
                ttl_ms: (ttl_ms > 0).then_some(ttl_ms),
            },
        ))
    }

    fn shape(&self) -> String {
        let ttl = self
            .ttl_ms
            .map_or("no ttl".to_owned(), |ms| format!("ttl {ms} ms"));
        format!("{} with codec {} and {ttl}", self.kind, self.codec)
    }
}

/// A registered table.
#[derive(Debug, Clone)]
struct Entry {
    spec: TableSpec,
    id: TableId,
    /// Its share of the digest once it was handed to an epoch.
    share: Share,
    written: Written,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    No,
    In(Epoch),
    Committed,
}

/// The tables of a state, stored and declared.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    tables: BTreeMap<String, Entry>,
}

impl Registry {
    /// Takes in a stored entry.
    pub(crate) fn restore(&mut self, name: &[u8], value: &[u8]) -> Result<(), DecodeError> {
        let (id, spec) = TableSpec::decode(name, value)?;
        let share = Share::of(&key::encoded(Kind::Value, TableId::REGISTRY, name), value);
        let entry = Entry {
            id,
            share,
            written: Written::Committed,
            spec,
        };
        self.tables.insert(entry.spec.name.clone(), entry);
        Ok(())
    }

    /// Checks and numbers what the program declares.
    pub(crate) fn declare(&mut self, specs: &[TableSpec]) -> Result<Vec<TableId>> {
        // New tables are numbered in the order of their names, so that the order in which operators are built
        // does not matter.
        let mut sorted: Vec<&TableSpec> = specs.iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(Error::invalid(format!(
                "table `{}` is declared twice",
                pair[0].name
            )));
        }
        for spec in sorted {
            if spec.name.len() > key::KEY_MAX {
                return Err(Error::invalid(format!(
                    "a table's name has {} bytes; the limit is {}",
                    spec.name.len(),
                    key::KEY_MAX
                )));
            }
            if let Some(entry) = self.tables.get(&spec.name) {
                if entry.spec != *spec {
                    return Err(Error::TableChanged {
                        table: spec.name.clone(),
                        stored: entry.spec.shape(),
                        declared: spec.shape(),
                    });
                }
                continue;
            }
            let last = self
                .tables
                .values()
                .map(|entry| entry.id.0)
                .max()
                .unwrap_or(0);
            let id = last
                .checked_add(1)
                .ok_or_else(|| Error::invalid("a state has at most 65,535 tables"))?;
            let entry = Entry {
                spec: spec.clone(),
                id: TableId(id),
                share: Share::ABSENT,
                written: Written::No,
            };
            self.tables.insert(spec.name.clone(), entry);
        }
        Ok(specs
            .iter()
            .filter_map(|spec| Some(self.tables.get(&spec.name)?.id))
            .collect())
    }

    /// All known tables, by name.
    pub(crate) fn tables(&self) -> Vec<(TableId, TableSpec)> {
        self.tables
            .values()
            .map(|entry| (entry.id, entry.spec.clone()))
            .collect()
    }

    /// Hands what is new to an epoch.
    pub(crate) fn close(&mut self, epoch: Epoch, changes: &mut Changes) {
        for (name, entry) in &mut self.tables {
            if entry.written == Written::No {
                entry.share = changes.set(
                    Share::ABSENT,
                    |out| key::encode(Kind::Value, TableId::REGISTRY, name.as_bytes(), out),
                    |out| entry.spec.encode(entry.id, out),
                );
                entry.written = Written::In(epoch);
            }
        }
    }

    pub(crate) fn committed(&mut self, epoch: Epoch) {
        for entry in self.tables.values_mut() {
            if matches!(entry.written, Written::In(at) if at <= epoch) {
                entry.written = Written::Committed;
            }
        }
    }

    pub(crate) fn rollback(&mut self) {
        for entry in self.tables.values_mut() {
            if matches!(entry.written, Written::In(_)) {
                entry.written = Written::No;
            }
        }
    }
}

/// Reads one entry of the registry: for listings.
pub(crate) fn read_entry(name: &Bytes, value: &Bytes) -> Result<(TableId, TableSpec)> {
    TableSpec::decode(name, value).map_err(|source| Error::Decode {
        table: TableId::REGISTRY.0,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    fn spec(name: &str) -> TableSpec {
        TableSpec {
            name: name.into(),
            kind: Kind::Map,
            codec: 3,
            ttl_ms: Some(5),
        }
    }

    #[test]
    fn numbers_do_not_depend_on_the_order_of_declaration_and_are_kept() {
        let mut registry = Registry::default();
        let ids = registry.declare(&[spec("b"), spec("a")]).unwrap();
        assert_eq!(ids, [TableId(2), TableId(1)]);
        let mut changes = Changes::new(Digest::EMPTY);
        registry.close(Epoch(1), &mut changes);
        let delta = changes.finish(Epoch(1));

        let mut again = Registry::default();
        for change in delta.changes() {
            again
                .restore(&change.key[2..], change.value.as_ref().unwrap())
                .unwrap();
        }
        assert_eq!(
            again.declare(&[spec("A"), spec("b")]).unwrap(),
            [TableId(3), TableId(2)]
        );
    }

    #[test]
    fn a_table_of_another_kind_is_refused() {
        let mut registry = Registry::default();
        registry.declare(&[spec("a")]).unwrap();
        let other = TableSpec {
            kind: Kind::Value,
            ..spec("a")
        };
        assert!(registry.declare(&[other]).unwrap_err().is_integrity());
    }

    #[test]
    fn what_was_rolled_back_is_handed_in_again() {
        let mut registry = Registry::default();
        registry.declare(&[spec("a")]).unwrap();
        let mut first = Changes::new(Digest::EMPTY);
        registry.close(Epoch(1), &mut first);
        registry.rollback();
        let mut second = Changes::new(Digest::EMPTY);
        registry.close(Epoch(2), &mut second);
        let first = first.finish(Epoch(1));
        assert_eq!(first.changes(), second.finish(Epoch(2)).changes());
        registry.committed(Epoch(2));
        let mut third = Changes::new(Digest::EMPTY);
        registry.close(Epoch(3), &mut third);
        assert!(third.finish(Epoch(3)).changes().is_empty());
    }
}
