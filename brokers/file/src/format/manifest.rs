//! The manifest: what the segments hold, as of the first log file that is not split yet.

use std::collections::BTreeMap;

use super::frame::{OffsetEntry, decode_topic, encode_topic};
use super::{COUNT_MAX, Reader, VERSION, Writer, crc32c, newer};
use crate::catalog::{Catalog, TopicId};

const MAGIC: &[u8; 8] = b"TmMan\r\n\0";

/// A segment that was rewritten so often is not compacted any more.
pub(crate) const REWRITES_MAX: u32 = u32::MAX - 1;

/// One segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentMeta {
    /// Its first offset, and the number in its name.
    pub(crate) base: u64,
    /// How often it was rewritten by compaction; the second number in its name.
    pub(crate) rewrite: u32,
    /// The offset after it.
    pub(crate) next: u64,
    /// Its bytes. The file may be longer after a crash; what is beyond was never taken in.
    pub(crate) len: u64,
    /// CRC32C of those bytes.
    pub(crate) crc: u32,
    pub(crate) records: u64,
    /// When its oldest record was appended.
    pub(crate) first_append: i64,
    /// When its newest record was appended.
    pub(crate) last_append: i64,
    pub(crate) max_timestamp: i64,
    /// CRC32C of its index file.
    pub(crate) index_crc: u32,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PartitionMeta {
    /// The first offset that may still be read.
    pub(crate) low: u64,
    /// Tombstones below this offset may be gone.
    pub(crate) tombstones_gone: u64,
    /// Everything below this offset has been compacted.
    pub(crate) compacted: u64,
    /// In offset order, without overlap.
    pub(crate) segments: Vec<SegmentMeta>,
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Manifest {
    pub(crate) uuid: [u8; 16],
    /// Rises with each manifest.
    pub(crate) number: u64,
    /// The first log file that is not split, by number and place.
    pub(crate) first_log: u64,
    pub(crate) first_start: u64,
    /// Topics and group offsets where that log begins.
    pub(crate) catalog: Catalog,
    /// The partitions of each topic of the catalog.
    pub(crate) partitions: BTreeMap<TopicId, Vec<PartitionMeta>>,
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.u32(VERSION)
            .bytes(&self.uuid)
            .u64(self.number)
            .u64(self.first_log)
            .u64(self.first_start)
            .u64(self.catalog.next_topic)
            .u32(self.catalog.topics.len() as u32);
        for (id, topic) in &self.catalog.topics {
            body.u64(*id);
            encode_topic(&mut body, topic);
            let metas = self.partitions.get(id).map_or(&[][..], |metas| metas);
            for (partition, next) in topic.next.iter().enumerate() {
                let empty = PartitionMeta::default();
                let meta = metas.get(partition).unwrap_or(&empty);
                body.u64(*next)
                    .u64(meta.low)
                    .u64(meta.tombstones_gone)
                    .u64(meta.compacted)
                    .u32(meta.segments.len() as u32);
                for segment in &meta.segments {
                    segment.encode(&mut body);
                }
            }
        }
        let count: usize = self.catalog.offsets.values().map(BTreeMap::len).sum();
        body.u32(count as u32);
        for (group, offsets) in &self.catalog.offsets {
            for ((topic, partition), offset) in offsets {
                OffsetEntry {
                    group: group.clone(),
                    topic: *topic,
                    partition: *partition,
                    offset: *offset,
                }
                .encode(&mut body);
            }
        }
        let mut whole = Writer::default();
        whole.bytes(MAGIC).u32(crc32c(&body.0)).bytes(&body.0);
        whole.0
    }

    /// `None` if these bytes are not a manifest, whole and unharmed.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.array()? != *MAGIC || reader.u32()? != crc32c(bytes.get(12..)?) {
            return None;
        }
        if reader.u32()? > VERSION {
            return None;
        }
        let mut manifest = Self {
            uuid: reader.array()?,
            number: reader.u64()?,
            first_log: reader.u64()?,
            first_start: reader.u64()?,
            ..Self::default()
        };
        manifest.catalog.next_topic = reader.u64()?;
        for _ in 0..reader.u32()? {
            let id = reader.u64().filter(|id| *id < COUNT_MAX)?;
            let mut topic = decode_topic(&mut reader)?;
            let mut metas = Vec::with_capacity(topic.next.len());
            for next in &mut topic.next {
                *next = reader.u64()?;
                let mut meta = PartitionMeta {
                    low: reader.u64()?,
                    tombstones_gone: reader.u64()?,
                    compacted: reader.u64()?,
                    segments: Vec::new(),
                };
                for _ in 0..reader.u32()? {
                    meta.segments.push(SegmentMeta::decode(&mut reader)?);
                }
                metas.push(meta);
            }
            manifest.catalog.add(id, topic);
            manifest.partitions.insert(id, metas);
        }
        for _ in 0..reader.u32()? {
            let entry = OffsetEntry::decode(&mut reader)?;
            manifest
                .catalog
                .offsets
                .entry(entry.group)
                .or_default()
                .insert((entry.topic, entry.partition), entry.offset);
        }
        reader.is_empty().then_some(manifest)
    }

    /// The version of a manifest that [`parse`](Self::parse) does not take because it is a newer one.
    pub(crate) fn newer(bytes: &[u8]) -> Option<u32> {
        newer(MAGIC, bytes)
    }

    /// What in it cannot be true although its checksum holds; `None` for every manifest that a
    /// writer has made.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let numbers = [
            self.number,
            self.first_log,
            self.first_start,
            self.catalog.next_topic,
        ];
        if numbers.iter().any(|number| *number > COUNT_MAX) {
            return Some("a number in it is too large".into());
        }
        if self.catalog.names.len() != self.catalog.topics.len() {
            return Some("two topics have one name".into());
        }
        for (id, topic) in &self.catalog.topics {
            if *id >= self.catalog.next_topic {
                return Some(format!("topic {id} is not below the next topic's number"));
            }
            let metas = self.partitions.get(id).map_or(&[][..], |metas| metas);
            for (partition, (meta, next)) in metas.iter().zip(&topic.next).enumerate() {
                if let Some(what) = meta.contradiction(*next) {
                    return Some(format!("{what} in {}/{partition}", topic.name));
                }
            }
        }
        None
    }

    /// The partition's entry, made where the topic is new.
    pub(crate) fn partition(&mut self, topic: TopicId, partition: u32) -> &mut PartitionMeta {
        let metas = self.partitions.entry(topic).or_default();
        if metas.len() <= partition as usize {
            metas.resize(partition as usize + 1, PartitionMeta::default());
        }
        &mut metas[partition as usize]
    }
}

impl PartitionMeta {
    fn contradiction(&self, next: u64) -> Option<&'static str> {
        if next > COUNT_MAX {
            return Some("the next offset is too large");
        }
        if self.low.max(self.tombstones_gone).max(self.compacted) > next {
            return Some("the low watermark, or what was compacted, is beyond the end");
        }
        let (mut end, mut bytes, mut records) = (0, 0u64, 0u64);
        for segment in &self.segments {
            if segment.base < end || segment.next < segment.base {
                return Some("segments overlap");
            }
            end = segment.next;
            bytes = bytes.saturating_add(segment.len);
            records = records.saturating_add(segment.records);
            if segment.rewrite > REWRITES_MAX {
                return Some("a segment was rewritten too often");
            }
        }
        if bytes.max(records) > COUNT_MAX {
            return Some("the segments are too large");
        }
        (end > next).then_some("a segment reaches beyond the end")
    }
}

impl SegmentMeta {
    /// A segment that holds nothing.
    pub(crate) fn empty(base: u64, rewrite: u32) -> Self {
        Self {
            base,
            rewrite,
            next: base,
            len: 0,
            crc: crc32c(&[]),
            records: 0,
            first_append: i64::MAX,
            last_append: i64::MIN,
            max_timestamp: i64::MIN,
            index_crc: 0,
        }
    }

    fn encode(&self, writer: &mut Writer) {
        writer
            .u64(self.base)
            .u32(self.rewrite)
            .u64(self.next)
            .u64(self.len)
            .u32(self.crc)
            .u64(self.records)
            .i64(self.first_append)
            .i64(self.last_append)
            .i64(self.max_timestamp)
            .u32(self.index_crc);
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            base: reader.u64()?,
            rewrite: reader.u32()?,
            next: reader.u64()?,
            len: reader.u64()?,
            crc: reader.u32()?,
            records: reader.u64()?,
            first_append: reader.i64()?,
            last_append: reader.i64()?,
            max_timestamp: reader.i64()?,
            index_crc: reader.u32()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidemill_broker::{Cleanup, Retention};

    use super::*;
    use crate::catalog::TopicEntry;

    fn manifest() -> Manifest {
        let mut manifest = Manifest {
            uuid: [3; 16],
            number: 9,
            first_log: 4,
            first_start: 1 << 40,
            ..Manifest::default()
        };
        for (id, cleanup) in [
            (2, Cleanup::Delete(Retention::default())),
            (
                7,
                Cleanup::Compact {
                    tombstones: std::time::Duration::from_secs(1),
                },
            ),
        ] {
            let topic = TopicEntry {
                name: format!("topic-{id}").parse().unwrap(),
                cleanup,
                next: vec![10, 0, id],
            };
            manifest.catalog.add(id, topic);
            let partition = manifest.partition(id, 2);
            partition.low = 5;
            partition.tombstones_gone = 6;
            partition.compacted = 7;
            partition.segments = vec![SegmentMeta::empty(5, 0), SegmentMeta::empty(8, 3)];
        }
        let offsets = manifest
            .catalog
            .offsets
            .entry("g".parse().unwrap())
            .or_default();
        offsets.insert((7, 1), u64::MAX);
        manifest
    }

    #[test]
    fn a_manifest_comes_back_as_it_was_written() {
        let manifest = manifest();
        assert_eq!(Manifest::parse(&manifest.encode()), Some(manifest));
    }

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unseen() {
        let bytes = manifest().encode();
        for at in 0..bytes.len() {
            assert_eq!(Manifest::parse(&bytes[..at]), None);
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert_eq!(Manifest::parse(&flipped), None);
        }
    }

    /// Numbers of all sizes, those at which sums overflow more often than others.
    fn number() -> impl Strategy<Value = u64> {
        let near = |edge: u64| (0..4u64).prop_map(move |less| edge.wrapping_sub(less));
        let edges = [near(3), near(1 << 32), near(COUNT_MAX), near(u64::MAX)];
        prop_oneof![any::<u64>(), 0..9u64, prop::strategy::Union::new(edges)]
    }

    proptest! {
        /// Whoever has a manifest counts on from what it says, without asking again.
        #[test]
        fn what_does_not_contradict_itself_can_be_counted_on_from(
            [next, low, tombstones_gone, compacted] in prop::array::uniform4(number()),
            segments in prop::collection::vec(prop::array::uniform5(number()), 0..4),
            in_order in any::<bool>(),
        ) {
            let segments = segments.into_iter().map(|[base, next, len, records, rewrite]| SegmentMeta {
                next,
                len,
                records,
                ..SegmentMeta::empty(base, rewrite as u32)
            });
            let mut meta = PartitionMeta { low, tombstones_gone, compacted, segments: segments.collect() };
            if in_order {
                let mut end = 0;
                for segment in &mut meta.segments {
                    (segment.base, segment.next) = (end, end + segment.next % 10);
                    end = segment.next;
                }
            }
            if meta.contradiction(next).is_none() {
                let sum = |part: fn(&SegmentMeta) -> u64| {
                    meta.segments.iter().map(|segment| u128::from(part(segment))).sum::<u128>()
                };
                let most = u128::from(COUNT_MAX);
                prop_assert!(sum(|segment| segment.len) <= most);
                prop_assert!(sum(|segment| segment.records) <= most);
                prop_assert!(meta.segments.iter().all(|segment| segment.rewrite < u32::MAX));
                let ends = meta.segments.iter().map(|segment| segment.next);
                let last = ends.chain([low, tombstones_gone, compacted]).max();
                prop_assert!(last <= Some(next) && next <= COUNT_MAX);
            }
        }
    }
}
