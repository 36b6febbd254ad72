//! Compaction: the newest record of each key stays; old tombstones go.

mod newest;
mod output;

use std::sync::Arc;

use tidemill_broker::{Cleanup, Result, Timestamp};
use tidemill_crash_point::crash_point;

use newest::{KEYS_MAX, Newest};
use output::Output;

use crate::catalog::TopicId;
use crate::format::block::{Entries, Entry, Header};
use crate::format::manifest::{PartitionMeta, REWRITES_MAX, SegmentMeta};
use crate::layout::remove;
use crate::segment::Segment;
use crate::shared::{Shared, Writing, lock};

impl Shared {
    /// Compacts the partitions of compacted topics that are due: when asked, those with anything
    /// new; otherwise those of which at least half is new, so that each byte is rewritten a few
    /// times at most.
    pub(crate) fn compact(&self, writing: &Writing, asked: bool) -> Result<()> {
        let topics: Vec<(TopicId, Timestamp)> = {
            let manifest = lock(&writing.manifest);
            let now = self.noted();
            let compacted = |cleanup| match cleanup {
                Cleanup::Compact { tombstones } => Some(now.minus(tombstones)),
                Cleanup::Delete(_) => None,
            };
            manifest
                .catalog
                .topics
                .iter()
                .filter_map(|(id, topic)| Some((*id, compacted(topic.cleanup)?)))
                .collect()
        };
        for (topic, horizon) in topics {
            let partitions = lock(&writing.manifest)
                .partitions
                .get(&topic)
                .map_or(0, Vec::len);
            for partition in 0..partitions as u32 {
                self.alive()?;
                self.compact_partition(writing, topic, partition, horizon, asked)?;
            }
        }
        Ok(())
    }

    fn compact_partition(
        &self,
        writing: &Writing,
        topic: TopicId,
        partition: u32,
        horizon: Timestamp,
        asked: bool,
    ) -> Result<()> {
        let mut manifest = lock(&writing.manifest);
        let partitions = manifest.partitions.get(&topic);
        let Some(meta) = partitions.and_then(|metas| metas.get(partition as usize)) else {
            return Ok(());
        };
        let new: u64 = meta
            .segments
            .iter()
            .filter(|segment| segment.next > meta.compacted)
            .map(|segment| segment.len)
            .sum();
        let total: u64 = meta.segments.iter().map(|segment| segment.len).sum();
        let due = if asked {
            total > 0
        } else {
            new > 0 && new * 2 >= total
        };
        if !due {
            return Ok(());
        }
        let mut next = manifest.clone();
        let meta = next.partition(topic, partition);
        let old = std::mem::take(&mut meta.segments);
        let Some(rewritten) = self.rewrite(topic, partition, &old, horizon, meta)? else {
            return Ok(());
        };
        meta.segments = rewritten;
        meta.compacted = meta
            .segments
            .last()
            .map_or(meta.compacted, |last| last.next);
        next.number += 1;
        self.install(&mut manifest, next)?;
        drop(manifest);
        crash_point!("compact.installed");
        metrics::counter!("tidemill_file_compactions_total").increment(1);
        for segment in &old {
            for path in [
                self.layout.segment(topic, partition, segment),
                self.layout.index(topic, partition, segment),
            ] {
                remove(self.disk(), &path)?;
                crash_point!("compact.removed");
            }
        }
        Ok(())
    }

    /// Writes what stays into new segments. `None` if everything stays and the segments are few
    /// enough, or they cannot be told from new ones any more.
    fn rewrite(
        &self,
        topic: TopicId,
        partition: u32,
        old: &[SegmentMeta],
        horizon: Timestamp,
        meta: &mut PartitionMeta,
    ) -> Result<Option<Vec<SegmentMeta>>> {
        let rewritten = old.iter().map(|segment| segment.rewrite).max().unwrap_or(0);
        if rewritten >= REWRITES_MAX {
            return Ok(None);
        }
        let segments: Vec<_> = old
            .iter()
            .map(|meta| Segment::new(&self.layout, topic, partition, *meta))
            .collect();
        let newest = Newest::find(KEYS_MAX, u64::from(self.salt), &mut |visit| {
            self.each_entry(&segments, |_, block, entry| {
                visit(key(entry, block));
                Ok(())
            })
        })?;
        let stays = |number: usize, header: &Header, block: &[u8], entry: &Entry| {
            // Without a key there is nothing that another could be newer of, or that could be gone.
            if key(entry, block).is_none() {
                return (true, false);
            }
            let expired = entry.value_len.is_none() && header.append_time < horizon.0;
            (newest.is_newest(number), expired)
        };
        let mut any_goes = old.len() > 1;
        if !any_goes {
            let mut number = 0;
            self.each_entry(&segments, |header, block, entry| {
                any_goes |= stays(number, header, block, entry) != (true, false);
                number += 1;
                Ok(())
            })?;
        }
        if !any_goes {
            return Ok(None);
        }
        let mut output = Output {
            shared: self,
            topic,
            partition,
            rewrite: rewritten + 1,
            done: Vec::new(),
        };
        // Each stretch of old segments becomes one new one.
        let mut rest = &segments[..];
        let mut number = 0;
        while let Some(first) = rest.first() {
            let mut count = 0;
            let mut bytes = 0;
            while count < rest.len() && (count == 0 || bytes < self.options.split_bytes) {
                bytes += rest[count].meta.len;
                count += 1;
            }
            let (stretch, after) = rest.split_at(count);
            rest = after;
            let end = stretch
                .last()
                .map_or(first.meta.next, |last| last.meta.next);
            let tombstones_gone = &mut meta.tombstones_gone;
            output.stretch(first.meta.base, end, |sink| {
                self.each_entry(stretch, |header, block, entry| {
                    match stays(number, header, block, entry) {
                        (true, false) => sink.push(header, block, entry)?,
                        (true, true) => {
                            *tombstones_gone = (*tombstones_gone).max(entry.offset + 1);
                        }
                        (false, _) => {}
                    }
                    number += 1;
                    Ok(())
                })
            })?;
        }
        Ok(Some(output.done))
    }

    /// Visits all records of segments, in their order.
    fn each_entry(
        &self,
        segments: &[Arc<Segment>],
        mut visit: impl FnMut(&Header, &[u8], &Entry) -> Result<()>,
    ) -> Result<()> {
        for segment in segments {
            segment.each_block(self.disk(), self.salt, |header, block| {
                Entries::new(header, block).try_for_each(|entry| visit(&header, block, &entry))
            })?;
        }
        Ok(())
    }
}

fn key<'a>(entry: &Entry, block: &'a [u8]) -> Option<&'a [u8]> {
    let start = entry.start as usize;
    let len = entry.key_len? as usize;
    block.get(start..start + len)
}
