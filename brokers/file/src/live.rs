//! What readers in this process see: topics, segments, and an index of the log's tail in memory.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use tidemill_broker::{Error, Group, Offset, Result, Topic, TopicPartition, Watermarks};

use crate::catalog::{Catalog, SharedCatalog, TopicEntry, TopicId};
use crate::disk::DiskFile;
use crate::format::block::Header;
use crate::format::frame::Head;
use crate::format::log_header::LogHeader;
use crate::format::manifest::Manifest;
use crate::layout::Layout;
use crate::segment::Segment;

/// A log file that is not split yet.
#[derive(Debug, Clone)]
pub(crate) struct LogFile {
    pub(crate) header: LogHeader,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    /// The end of its last whole frame.
    pub(crate) len: u64,
    /// The catalog at its end, once the log goes on in another file.
    pub(crate) end: Option<SharedCatalog>,
    /// Whether it was ended as there was hardly room left to split it: that comes before anything else is
    /// appended.
    pub(crate) cramped: bool,
}

impl LogFile {
    /// The end of its last whole frame, as a place in the whole log.
    pub(crate) fn end_place(&self) -> u64 {
        self.header.start + self.len
    }
}

/// A block in a log file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TailBlock {
    pub(crate) base: u64,
    pub(crate) next: u64,
    pub(crate) log: u64,
    pub(crate) position: u64,
    pub(crate) len: u32,
    pub(crate) count: u32,
    pub(crate) append_time: i64,
    pub(crate) max_timestamp: i64,
}

impl TailBlock {
    pub(crate) fn new(header: &Header, log: u64, position: u64) -> Self {
        Self {
            base: header.base,
            next: header.next,
            log,
            position,
            len: header.len,
            count: header.count,
            append_time: header.append_time,
            max_timestamp: header.max_timestamp,
        }
    }
}

/// Where one partition's records are.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    pub(crate) low: u64,
    pub(crate) tombstones_gone: u64,
    /// In offset order.
    pub(crate) segments: Vec<Arc<Segment>>,
    /// What comes after the segments, in offset order.
    pub(crate) tail: VecDeque<TailBlock>,
}

/// Everything readers see.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) catalog: Catalog,
    /// Also those of deleted topics, for as long as a log holds records of theirs.
    pub(crate) partitions: BTreeMap<TopicId, Vec<Partition>>,
    pub(crate) logs: BTreeMap<u64, LogFile>,
    /// The number of the manifest.
    pub(crate) manifest: u64,
    /// The first log file that is not split, by number and place.
    pub(crate) first_log: u64,
    pub(crate) first_start: u64,
}

impl Live {
    /// The state where the first unsplit log begins.
    pub(crate) fn from_manifest(manifest: &Manifest, layout: &Layout) -> Self {
        let mut live = Self {
            catalog: manifest.catalog.clone(),
            ..Self::default()
        };
        live.install(manifest, layout);
        live
    }

    /// Takes in a new manifest: what it has in segments leaves the tail.
    pub(crate) fn install(&mut self, manifest: &Manifest, layout: &Layout) {
        self.manifest = manifest.number;
        self.first_log = manifest.first_log;
        self.first_start = manifest.first_start;
        self.logs = self.logs.split_off(&manifest.first_log);
        for partitions in self.partitions.values_mut() {
            for partition in partitions {
                while partition
                    .tail
                    .front()
                    .is_some_and(|block| block.log < manifest.first_log)
                {
                    partition.tail.pop_front();
                }
            }
        }
        for (id, metas) in &manifest.partitions {
            if !self.catalog.topics.contains_key(id) {
                continue;
            }
            let partitions = self.partitions.entry(*id).or_default();
            partitions.resize_with(metas.len().max(partitions.len()), Partition::default);
            for (number, (partition, meta)) in (0u32..).zip(partitions.iter_mut().zip(metas)) {
                partition.low = meta.low;
                partition.tombstones_gone = meta.tombstones_gone;
                let former = std::mem::take(&mut partition.segments);
                let mut former = former.into_iter().peekable();
                partition.segments = meta
                    .segments
                    .iter()
                    .map(|meta| {
                        // What did not change keeps its index.
                        while former.next_if(|old| old.meta.base < meta.base).is_some() {}
                        former
                            .next_if(|old| old.meta == *meta)
                            .unwrap_or_else(|| Segment::new(layout, *id, number, *meta))
                    })
                    .collect();
            }
        }
        let catalog = &self.catalog;
        self.partitions.retain(|id, partitions| {
            catalog.topics.contains_key(id)
                || partitions
                    .iter()
                    .any(|partition| !partition.tail.is_empty())
        });
    }

    /// Takes in what a frame says in its head.
    pub(crate) fn apply(&mut self, head: &Head) {
        self.catalog.apply(head);
        if let Head::CreateTopic { id, topic } = head {
            let mut partitions = Vec::new();
            partitions.resize_with(topic.next.len(), Partition::default);
            self.partitions.insert(*id, partitions);
        }
        if let Head::DeleteTopic { id } = head
            && let Some(partitions) = self.partitions.get_mut(id)
        {
            for partition in partitions {
                partition.segments.clear();
            }
        }
    }

    /// Takes in a block at a place of a log file. `false` if it cannot follow what came before.
    pub(crate) fn append(&mut self, header: &Header, log: u64, position: u64) -> bool {
        if !self.catalog.append(header) {
            return false;
        }
        if let Some(partition) = self
            .partitions
            .get_mut(&header.topic)
            .and_then(|partitions| partitions.get_mut(header.partition as usize))
        {
            partition
                .tail
                .push_back(TailBlock::new(header, log, position));
        }
        true
    }

    pub(crate) fn topic(&self, name: &Topic) -> Result<(TopicId, &TopicEntry)> {
        self.catalog.topic(name).ok_or_else(|| Error::UnknownTopic {
            topic: name.clone(),
        })
    }

    /// The topic's number and where the partition's records are.
    pub(crate) fn partition(&self, at: &TopicPartition) -> Result<(TopicId, &Partition, u64)> {
        let (id, topic) = self.topic(&at.topic)?;
        let unknown = || Error::UnknownPartition { at: at.clone() };
        let next = *topic.next.get(at.partition as usize).ok_or_else(unknown)?;
        let partition = self
            .partitions
            .get(&id)
            .and_then(|partitions| partitions.get(at.partition as usize))
            .ok_or_else(unknown)?;
        Ok((id, partition, next))
    }

    /// What a group has committed for a partition, be it durable or not.
    pub(crate) fn committed(&self, group: &Group, at: &TopicPartition) -> Option<Offset> {
        let topic = self.catalog.id(&at.topic)?;
        let offset = self
            .catalog
            .offsets
            .get(group)?
            .get(&(topic, at.partition))?;
        Some(Offset(*offset))
    }

    /// The end of what is committed, as a place in the whole log; `None` if all of it is split.
    pub(crate) fn end(&self) -> Option<u64> {
        let (_, log) = self.logs.last_key_value()?;
        Some(log.end_place())
    }

    /// The offset before which readers stop: that of the first block that does not lie below a place of
    /// the whole log, or the partition's end.
    pub(crate) fn stable(&self, partition: &Partition, next: u64, readable: u64) -> u64 {
        let end = |block: &TailBlock| {
            let log = self.logs.get(&block.log);
            log.map(|log| log.header.start + block.position + u64::from(block.len))
        };
        let blocks = partition
            .tail
            .partition_point(|block| end(block).is_none_or(|end| end <= readable));
        partition.tail.get(blocks).map_or(next, |block| block.base)
    }

    /// The ends of a partition to readers that stop at a place of the whole log.
    pub(crate) fn watermarks(&self, at: &TopicPartition, readable: u64) -> Result<Watermarks> {
        let (_, partition, next) = self.partition(at)?;
        Ok(Watermarks {
            low: Offset(partition.low),
            last_stable: Offset(self.stable(partition, next, readable)),
            high: Offset(next),
            tombstones_gone: Offset(partition.tombstones_gone),
        })
    }
}
