//! Batches: consecutive records of one partition in one slab of bytes.

use bytes::Bytes;

use crate::{HeaderIter, Offset, Timestamp, TopicPartition};

/// A record borrowed from a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Its event time, or the broker's append time where the producer gave none.
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its payload; none is a tombstone.
    pub value: Option<&'a [u8]>,
    encoded_headers: &'a [u8],
}

impl<'a> RecordRef<'a> {
    /// Its headers in order.
    pub fn headers(&self) -> HeaderIter<'a> {
        HeaderIter::new(self.encoded_headers)
    }

    /// The value of the first header of this name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers()
            .find(|(header, _)| *header == name)
            .map(|(_, value)| value)
    }

    /// Its headers as encoded by [`Headers`](crate::Headers).
    pub fn encoded_headers(&self) -> &'a [u8] {
        self.encoded_headers
    }
}

/// Where one record's parts lie in the slab: 40 bytes.
#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: u64,
    timestamp: i64,
    start: u32,
    key_len: u32,
    value_len: u32,
    headers_len: u32,
}

/// Stands for "no key" and "no payload" in an entry's lengths.
const ABSENT: u32 = u32::MAX;

impl Entry {
    fn view<'a>(&self, slab: &'a [u8]) -> RecordRef<'a> {
        let key_len = if self.key_len == ABSENT {
            0
        } else {
            self.key_len as usize
        };
        let value_len = if self.value_len == ABSENT {
            0
        } else {
            self.value_len as usize
        };
        let key_at = self.start as usize;
        let value_at = key_at + key_len;
        let headers_at = value_at + value_len;
        RecordRef {
            offset: Offset(self.offset),
            timestamp: Timestamp(self.timestamp),
            key: (self.key_len != ABSENT).then(|| &slab[key_at..value_at]),
            value: (self.value_len != ABSENT).then(|| &slab[value_at..headers_at]),
            encoded_headers: &slab[headers_at..headers_at + self.headers_len as usize],
        }
    }
}

/// Consecutive records of one partition, in offset order.
///
/// Cloning shares the slab. Offsets may have gaps, inside a batch and between batches; what to read
/// after this batch is [`next`](Self::next), never the last record's offset plus one.
#[derive(Debug, Clone)]
pub struct Batch {
    at: TopicPartition,
    slab: Bytes,
    entries: std::sync::Arc<[Entry]>,
    // The stretch of `entries` that belongs to this batch: a slice shares both allocations.
    first: usize,
    len: usize,
    next: Offset,
}

impl Batch {
    /// The partition.
    pub fn at(&self) -> &TopicPartition {
        &self.at
    }

    /// The next offset to read: what a consumer commits once it is done with the whole batch.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no record: it then only moves [`next`](Self::next) over a gap.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn entries(&self) -> &[Entry] {
        &self.entries[self.first..self.first + self.len]
    }

    /// A stretch of the records, sharing the slab; `next` is what to read after it.
    ///
    /// # Panics
    ///
    /// If the range reaches beyond [`len`](Self::len).
    #[must_use]
    pub fn slice(&self, range: std::ops::Range<usize>, next: Offset) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "records {range:?} of {}",
            self.len
        );
        Self {
            at: self.at.clone(),
            slab: self.slab.clone(),
            entries: std::sync::Arc::clone(&self.entries),
            first: self.first + range.start,
            len: range.len(),
            next,
        }
    }

    /// The records in offset order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RecordRef<'_>> {
        self.entries().iter().map(|entry| entry.view(&self.slab))
    }

    /// The record at `index`.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`len`](Self::len).
    pub fn get(&self, index: usize) -> RecordRef<'_> {
        self.entries()[index].view(&self.slab)
    }

    /// The bytes that hold all keys, payloads and headers.
    pub fn slab(&self) -> &Bytes {
        &self.slab
    }

    /// Where the payload of the record at `index` lies in the [slab](Self::slab); `None` for a
    /// tombstone.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`len`](Self::len).
    pub fn value_range(&self, index: usize) -> Option<(u32, u32)> {
        let entry = &self.entries()[index];
        let key_len = if entry.key_len == ABSENT {
            0
        } else {
            entry.key_len
        };
        let start = entry.start + key_len;
        (entry.value_len != ABSENT).then(|| (start, start + entry.value_len))
    }

    /// Where the key of the record at `index` lies in the [slab](Self::slab).
    ///
    /// # Panics
    ///
    /// If `index` is not below [`len`](Self::len).
    pub fn key_range(&self, index: usize) -> Option<(u32, u32)> {
        let entry = &self.entries()[index];
        (entry.key_len != ABSENT).then(|| (entry.start, entry.start + entry.key_len))
    }
}

/// Collects records into a slab.
///
/// A record's bytes lie in the slab as key, payload, encoded headers, one after the other.
#[derive(Debug, Clone, Default)]
pub struct BatchBuilder {
    slab: Vec<u8>,
    entries: Vec<Entry>,
}

impl BatchBuilder {
    /// Makes room beforehand.
    pub fn with_capacity(records: usize, bytes: usize) -> Self {
        Self {
            slab: Vec::with_capacity(bytes),
            entries: Vec::with_capacity(records),
        }
    }

    /// Appends a record, its offset counting from 0.
    pub fn push(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        encoded_headers: &[u8],
    ) {
        let offset = Offset(self.entries.len() as u64);
        self.push_at(offset, timestamp, key, value, encoded_headers);
    }

    /// Appends a record with its offset.
    pub fn push_at(
        &mut self,
        offset: Offset,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        encoded_headers: &[u8],
    ) {
        let start = self.slab.len() as u32;
        self.slab.extend_from_slice(key.unwrap_or_default());
        self.slab.extend_from_slice(value.unwrap_or_default());
        self.slab.extend_from_slice(encoded_headers);
        self.entries.push(Entry {
            offset: offset.0,
            timestamp: timestamp.0,
            start,
            key_len: key.map_or(ABSENT, |key| key.len() as u32),
            value_len: value.map_or(ABSENT, |value| value.len() as u32),
            headers_len: encoded_headers.len() as u32,
        });
    }

    /// Appends a record whose payload `write` appends to the slab, sparing a copy.
    ///
    /// `write` must only append.
    pub fn push_with(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        encoded_headers: &[u8],
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.slab.len();
        self.slab.extend_from_slice(key.unwrap_or_default());
        let value_at = self.slab.len();
        write(&mut self.slab);
        let value_len = self.slab.len() - value_at;
        self.slab.extend_from_slice(encoded_headers);
        self.entries.push(Entry {
            offset: self.entries.len() as u64,
            timestamp: timestamp.0,
            start: start as u32,
            key_len: key.map_or(ABSENT, |key| key.len() as u32),
            value_len: value_len as u32,
            headers_len: encoded_headers.len() as u32,
        });
    }

    /// Declares a record whose bytes already lie in `slab` at `start`, as key, payload, headers.
    ///
    /// For readers that decode a stored frame in place; see [`build_in`](Self::build_in).
    pub fn push_in_place(
        &mut self,
        offset: Offset,
        timestamp: Timestamp,
        start: u32,
        key_len: Option<u32>,
        value_len: Option<u32>,
        headers_len: u32,
    ) {
        self.entries.push(Entry {
            offset: offset.0,
            timestamp: timestamp.0,
            start,
            key_len: key_len.unwrap_or(ABSENT),
            value_len: value_len.unwrap_or(ABSENT),
            headers_len,
        });
    }

    /// Takes the last record away again, with its bytes.
    pub fn pop(&mut self) {
        if let Some(last) = self.entries.pop() {
            self.slab.truncate(last.start as usize);
        }
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of keys, payloads and headers.
    pub fn bytes(&self) -> usize {
        self.slab.len()
    }

    /// The record at `index`.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`len`](Self::len).
    pub fn get(&self, index: usize) -> RecordRef<'_> {
        self.entries[index].view(&self.slab)
    }

    /// Gives the records their place in a log: offsets count on from `base`, and records without an
    /// event time ([`Timestamp::MIN`]) get `appended`.
    pub fn rebase(&mut self, base: Offset, appended: Timestamp) {
        for (offset, entry) in (base.0..).zip(&mut self.entries) {
            entry.offset = offset;
            if entry.timestamp == Timestamp::MIN.0 {
                entry.timestamp = appended.0;
            }
        }
    }

    /// Closes the batch: `next` is what to read after it.
    pub fn build(self, at: TopicPartition, next: Offset) -> Batch {
        Batch {
            at,
            slab: self.slab.into(),
            first: 0,
            len: self.entries.len(),
            entries: self.entries.into(),
            next,
        }
    }

    /// Closes a batch whose records were declared with [`push_in_place`](Self::push_in_place) over
    /// `slab`.
    ///
    /// # Panics
    ///
    /// Reading a record panics if it was declared beyond the slab.
    pub fn build_in(self, slab: Bytes, at: TopicPartition, next: Offset) -> Batch {
        Batch {
            at,
            slab,
            first: 0,
            len: self.entries.len(),
            entries: self.entries.into(),
            next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Headers, Topic};

    #[test]
    fn a_batch_tells_a_missing_key_from_an_empty_one() {
        let mut builder = BatchBuilder::default();
        let headers = Headers::new().with("h", "v");
        builder.push_at(Offset(4), Timestamp(9), Some(b""), None, headers.encoded());
        builder.push_at(Offset(7), Timestamp(8), None, Some(b"v"), &[]);
        let batch = builder.build(TopicPartition::new(Topic::new("t").unwrap(), 0), Offset(10));
        assert_eq!(batch.get(0).key, Some(&b""[..]));
        assert_eq!(batch.get(0).value, None);
        assert_eq!(batch.get(0).header("h"), Some(&b"v"[..]));
        assert_eq!(batch.get(1).key, None);
        assert_eq!(batch.get(1).value, Some(&b"v"[..]));
        assert_eq!(
            batch
                .value_range(1)
                .map(|(a, b)| &batch.slab()[a as usize..b as usize]),
            Some(&b"v"[..])
        );
        assert_eq!(batch.next(), Offset(10));
    }

    #[test]
    fn a_slice_shows_its_stretch_of_a_rebased_batch() {
        let mut builder = BatchBuilder::default();
        for value in [b"a", b"b", b"c"] {
            builder.push(Timestamp::MIN, None, Some(value), &[]);
        }
        builder.rebase(Offset(7), Timestamp(5));
        let batch = builder.build(TopicPartition::new(Topic::new("t").unwrap(), 0), Offset(11));
        let slice = batch.slice(1..3, Offset(11)).slice(1..2, Offset(11));
        assert_eq!(slice.len(), 1);
        assert_eq!(slice.get(0).value, Some(&b"c"[..]));
        assert_eq!(slice.get(0).offset, Offset(9));
        assert_eq!(slice.get(0).timestamp, Timestamp(5));
        let (start, end) = slice.value_range(0).unwrap();
        assert_eq!(&slice.slab()[start as usize..end as usize], b"c");
        assert_eq!(batch.slice(0..0, Offset(7)).iter().len(), 0);
    }
}
