//! Records on their way into a broker.

use bytes::Bytes;

use crate::{BatchBuilder, Headers, RecordRef, Timestamp, Topic, TopicPartition};

/// One record to produce, for programs that make few. Pipelines build [`RecordSet`]s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// The topic.
    pub topic: Topic,
    /// The partition; chosen by [murmur2 of the key](crate::partition::for_key) when absent.
    pub partition: Option<u32>,
    /// The key. Records of one key lie in one partition, in the order produced.
    pub key: Option<Bytes>,
    /// The payload; none is a tombstone in a compacted topic.
    pub value: Option<Bytes>,
    /// Headers.
    pub headers: Headers,
    /// Event time; the broker's append time when absent.
    pub timestamp: Option<Timestamp>,
}

impl NewRecord {
    /// A record with a payload and nothing else.
    pub fn new(topic: Topic, value: impl Into<Bytes>) -> Self {
        Self {
            topic,
            partition: None,
            key: None,
            value: Some(value.into()),
            headers: Headers::new(),
            timestamp: None,
        }
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the partition.
    #[must_use]
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Sets the event time.
    #[must_use]
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Sets the headers.
    #[must_use]
    pub fn headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// Makes the record a tombstone: no payload.
    #[must_use]
    pub fn tombstone(mut self) -> Self {
        self.value = None;
        self
    }
}

/// Records for one partition, in order, in one slab of bytes: the shape in which outputs travel.
#[derive(Debug, Clone)]
pub struct RecordSet {
    /// The partition.
    pub at: TopicPartition,
    records: BatchBuilder,
}

impl RecordSet {
    /// An empty set for one partition.
    pub fn new(at: TopicPartition) -> Self {
        Self {
            at,
            records: BatchBuilder::default(),
        }
    }

    /// An empty set for one partition, with room for so many records and bytes.
    pub fn with_capacity(at: TopicPartition, records: usize, bytes: usize) -> Self {
        Self {
            at,
            records: BatchBuilder::with_capacity(records, bytes),
        }
    }

    /// Appends a record. A timestamp of `None` means the broker's append time.
    pub fn push(
        &mut self,
        timestamp: Option<Timestamp>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &Headers,
    ) {
        self.records.push(
            timestamp.unwrap_or(Timestamp::MIN),
            key,
            value,
            headers.encoded(),
        );
    }

    /// Appends a copy of a record, with its timestamp and headers.
    pub fn push_ref(&mut self, record: RecordRef<'_>) {
        self.records.push(
            record.timestamp,
            record.key,
            record.value,
            record.encoded_headers(),
        );
    }

    /// Appends a record whose payload `write` appends to the slab, sparing a copy.
    pub fn push_with(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        headers: &[u8],
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.records.push_with(timestamp, key, headers, write);
    }

    /// Takes the last record away again.
    pub fn pop(&mut self) {
        self.records.pop();
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.len() == 0
    }

    /// Bytes of keys, payloads and headers.
    pub fn bytes(&self) -> usize {
        self.records.bytes()
    }

    /// The records in order. Their offsets count from 0; a timestamp of [`Timestamp::MIN`] means
    /// that the broker sets its append time.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RecordRef<'_>> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// The record at `index`.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`len`](Self::len).
    pub fn get(&self, index: usize) -> RecordRef<'_> {
        self.records.get(index)
    }

    /// Gives up the set for its records.
    pub fn into_records(self) -> BatchBuilder {
        self.records
    }
}
