//! Frames: what one commit appends to the log, whole or not at all.

use std::time::Duration;

use tidemill_broker::{Cleanup, Group, Retention};

use super::{COUNT_MAX, Reader, Writer, crc32c};
use crate::catalog::{TopicEntry, TopicId};

/// `TmFr`, the first bytes of every frame.
pub(crate) const MAGIC: [u8; 4] = *b"TmFr";

/// Bytes before a frame's head.
pub(crate) const HEADER_BYTES: usize = 40;

/// The most bytes a frame's head has: as many group offsets as anybody commits at once.
pub(crate) const HEAD_BYTES_MAX: usize = 64 << 20;

const COMMIT: u32 = 1;
const CREATE_TOPIC: u32 = 2;
const DELETE_TOPIC: u32 = 3;

/// What a frame says besides its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Head {
    /// Records, in the blocks that follow, and offsets of groups.
    Commit {
        /// Number of blocks.
        blocks: u32,
        /// CRC32C of the blocks' checksums, each as four bytes little endian.
        crcs: u32,
        offsets: Vec<OffsetEntry>,
    },
    CreateTopic {
        id: TopicId,
        topic: TopicEntry,
    },
    DeleteTopic {
        id: TopicId,
    },
}

/// The next offset to read of a group in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OffsetEntry {
    pub(crate) group: Group,
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) offset: u64,
}

impl OffsetEntry {
    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer
            .name(self.group.as_str())
            .u64(self.topic)
            .u32(self.partition)
            .u64(self.offset);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            group: Group::new(reader.name()?).ok()?,
            topic: reader.u64()?,
            partition: reader.u32()?,
            offset: reader.u64()?,
        })
    }
}

/// A topic's name and settings, and how many partitions; their ends are not part of it.
pub(crate) fn encode_topic(writer: &mut Writer, topic: &TopicEntry) {
    writer
        .name(topic.name.as_str())
        .u32(topic.next.len() as u32);
    let micros = |age: Duration| u64::try_from(age.as_micros()).unwrap_or(u64::MAX - 1);
    let (kind, age, bytes) = match topic.cleanup {
        Cleanup::Delete(Retention { age, bytes }) => {
            (0, age.map_or(u64::MAX, micros), bytes.unwrap_or(u64::MAX))
        }
        Cleanup::Compact { tombstones } => (1, micros(tombstones), 0),
    };
    writer.u8(kind).u64(age).u64(bytes);
}

pub(crate) fn decode_topic(reader: &mut Reader<'_>) -> Option<TopicEntry> {
    let name = reader.name()?.parse().ok()?;
    let partitions = reader.u32()?;
    // More than any directory holds: a length that is not one must not be allocated.
    if partitions > 1 << 20 {
        return None;
    }
    let (kind, age, bytes) = (reader.u8()?, reader.u64()?, reader.u64()?);
    let cleanup = match kind {
        0 => Cleanup::Delete(Retention {
            age: (age != u64::MAX).then(|| Duration::from_micros(age)),
            bytes: (bytes != u64::MAX).then_some(bytes),
        }),
        1 => Cleanup::Compact {
            tombstones: Duration::from_micros(age),
        },
        _ => return None,
    };
    Some(TopicEntry {
        name,
        cleanup,
        next: vec![0; partitions as usize],
    })
}

/// The fixed part of a frame, its checksum not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    crc: u32,
    pub(crate) head_len: u32,
    kind: u32,
    pub(crate) body_len: u64,
    /// Where the frame begins in the whole log.
    pub(crate) place: u64,
    /// How much of the whole log was known durable when the frame was written.
    pub(crate) durable: u64,
}

impl Header {
    /// Reads the fixed part. `None` if these bytes cannot be one.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.array()? != MAGIC {
            return None;
        }
        let header = Self {
            crc: reader.u32()?,
            head_len: reader.u32()?,
            kind: reader.u32()?,
            body_len: reader.u64()?,
            place: reader.u64()?,
            durable: reader.u64()?,
        };
        (header.head_len as usize <= HEAD_BYTES_MAX).then_some(header)
    }

    /// Bytes of header and head.
    pub(crate) fn body_at(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.head_len)
    }

    /// The frame's bytes.
    pub(crate) fn len(&self) -> u64 {
        self.body_at().saturating_add(self.body_len)
    }

    /// Whether `bytes`, header and head together, are what was written.
    pub(crate) fn holds(&self, bytes: &[u8], salt: u32) -> bool {
        bytes.len() as u64 == self.body_at() && crc32c(&bytes[8..]) ^ salt == self.crc
    }

    /// Decodes the head of a frame that [holds](Self::holds).
    pub(crate) fn head(&self, head: &[u8]) -> Option<Head> {
        let mut reader = Reader::new(head);
        let head = match self.kind {
            COMMIT => {
                let (blocks, crcs, count) = (reader.u32()?, reader.u32()?, reader.u32()?);
                let mut offsets = Vec::new();
                for _ in 0..count {
                    offsets.push(OffsetEntry::decode(&mut reader)?);
                }
                Head::Commit {
                    blocks,
                    crcs,
                    offsets,
                }
            }
            CREATE_TOPIC => Head::CreateTopic {
                id: reader.u64().filter(|id| *id < COUNT_MAX)?,
                topic: decode_topic(&mut reader)?,
            },
            DELETE_TOPIC => Head::DeleteTopic { id: reader.u64()? },
            _ => return None,
        };
        reader.is_empty().then_some(head)
    }
}

/// Encodes header and head of a frame; its blocks, of `body_len` bytes together, follow.
pub(crate) fn encode(head: &Head, body_len: u64, place: u64, durable: u64, salt: u32) -> Vec<u8> {
    let mut content = Writer::default();
    let kind = match head {
        Head::Commit {
            blocks,
            crcs,
            offsets,
        } => {
            content.u32(*blocks).u32(*crcs).u32(offsets.len() as u32);
            for entry in offsets {
                entry.encode(&mut content);
            }
            COMMIT
        }
        Head::CreateTopic { id, topic } => {
            content.u64(*id);
            encode_topic(&mut content, topic);
            CREATE_TOPIC
        }
        Head::DeleteTopic { id } => {
            content.u64(*id);
            DELETE_TOPIC
        }
    };
    let mut frame = Writer(Vec::with_capacity(HEADER_BYTES + content.0.len()));
    frame
        .bytes(&MAGIC)
        .u32(0)
        .u32(content.0.len() as u32)
        .u32(kind)
        .u64(body_len)
        .u64(place)
        .u64(durable)
        .bytes(&content.0);
    let crc = crc32c(&frame.0[8..]) ^ salt;
    frame.0[4..8].copy_from_slice(&crc.to_le_bytes());
    frame.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cleanups() -> impl Strategy<Value = Cleanup> {
        let micros = 0..u64::MAX / 2;
        prop_oneof![
            (
                proptest::option::of(micros.clone().prop_map(Duration::from_micros)),
                proptest::option::of(0..u64::MAX)
            )
                .prop_map(|(age, bytes)| Cleanup::Delete(Retention { age, bytes })),
            micros.prop_map(|micros| Cleanup::Compact {
                tombstones: Duration::from_micros(micros)
            }),
        ]
    }

    fn heads() -> impl Strategy<Value = Head> {
        let offset = ("[a-z]{1,9}", any::<u64>(), any::<u32>(), any::<u64>()).prop_map(
            |(group, topic, partition, offset)| OffsetEntry {
                group: group.parse().unwrap(),
                topic,
                partition,
                offset,
            },
        );
        prop_oneof![
            (
                any::<u32>(),
                any::<u32>(),
                proptest::collection::vec(offset, 0..9)
            )
                .prop_map(|(blocks, crcs, offsets)| Head::Commit {
                    blocks,
                    crcs,
                    offsets
                }),
            (0..COUNT_MAX, "[a-z]{1,9}", cleanups(), 1..9usize).prop_map(
                |(id, name, cleanup, partitions)| Head::CreateTopic {
                    id,
                    topic: TopicEntry {
                        name: name.parse().unwrap(),
                        cleanup,
                        next: vec![0; partitions],
                    }
                }
            ),
            any::<u64>().prop_map(|id| Head::DeleteTopic { id }),
        ]
    }

    proptest! {
        #[test]
        fn a_frame_comes_back_as_it_was_written(head in heads(), place in any::<u64>()) {
            let bytes = encode(&head, 7, place, 5, 99);
            let header = Header::parse(&bytes).unwrap();
            prop_assert!(header.holds(&bytes, 99));
            prop_assert_eq!((header.body_len, header.place, header.durable), (7, place, 5));
            prop_assert_eq!(header.head(&bytes[HEADER_BYTES..]), Some(head));
        }
    }
}
