//! Retention: whole segments leave from the beginning, by age and size.

use std::path::PathBuf;

use tidemill_broker::{Cleanup, Result, Retention};
use tidemill_crash_point::crash_point;

use crate::format::manifest::Manifest;
use crate::layout::remove;
use crate::live::Partition;
use crate::shared::{Shared, Writing, lock, ran_out_of_room};

impl Shared {
    /// Applies retention to every topic that has one.
    pub(crate) fn expire(&self, writing: &Writing) -> Result<()> {
        let mut manifest = lock(&writing.manifest);
        let (next, gone) = self.leaving(&manifest);
        if gone.is_empty() {
            return Ok(());
        }
        // Newer records that are to stay in their place were counted, and must not go with the power.
        self.sync_now()?;
        let mut installed = self.install(&mut manifest, next.clone());
        if installed.as_ref().is_err_and(ran_out_of_room) && self.alive().is_ok() {
            // Not even room for a manifest. An index may be lost at any time, and these are to go.
            for (_, index) in &gone {
                remove(self.disk(), index)?;
            }
            installed = self.install(&mut manifest, next);
        }
        installed?;
        drop(manifest);
        crash_point!("expire.installed");
        metrics::counter!("tidemill_file_segments_expired_total").increment(gone.len() as u64);
        for path in gone.iter().flat_map(|(segment, index)| [segment, index]) {
            remove(self.disk(), path)?;
            crash_point!("expire.removed");
        }
        Ok(())
    }

    /// The manifest without what is to leave, and the segments that leave with their indexes.
    fn leaving(&self, manifest: &Manifest) -> (Manifest, Vec<(PathBuf, PathBuf)>) {
        let now = self.noted();
        let mut next = manifest.clone();
        next.number += 1;
        let mut gone = Vec::new();
        for (id, topic) in &manifest.catalog.topics {
            let Cleanup::Delete(retention) = topic.cleanup else {
                continue;
            };
            for (number, end) in (0u32..).zip(&topic.next) {
                let tail = self.tail_bytes(*id, number);
                let partition = next.partition(*id, number);
                let mut bytes: u64 = partition
                    .segments
                    .iter()
                    .map(|segment| segment.len)
                    .sum::<u64>()
                    + tail;
                let mut leave = 0;
                for segment in &partition.segments {
                    let old = retention
                        .age
                        .is_some_and(|age| segment.last_append < now.minus(age).0);
                    let large = retention
                        .bytes
                        .is_some_and(|limit| bytes - segment.len >= limit);
                    if !old && !large {
                        break;
                    }
                    bytes -= segment.len;
                    leave += 1;
                }
                if leave == 0 {
                    continue;
                }
                for segment in partition.segments.drain(..leave) {
                    gone.push((
                        self.layout.segment(*id, number, &segment),
                        self.layout.index(*id, number, &segment),
                    ));
                }
                partition.low = partition
                    .segments
                    .first()
                    .map_or(*end, |segment| segment.base);
            }
        }
        (next, gone)
    }

    /// Whether of any partition what `appended` says was appended so long ago that it is to leave by its age.
    pub(crate) fn is_any_outdated(&self, appended: impl Fn(&Partition) -> Option<i64>) -> bool {
        let now = self.noted();
        let live = self.live();
        live.catalog.topics.iter().any(|(id, topic)| {
            let Cleanup::Delete(Retention { age: Some(age), .. }) = topic.cleanup else {
                return false;
            };
            let mut appended = live
                .partitions
                .get(id)
                .into_iter()
                .flatten()
                .filter_map(&appended);
            appended.any(|appended| appended < now.minus(age).0)
        })
    }

    fn tail_bytes(&self, topic: u64, partition: u32) -> u64 {
        let live = self.live();
        live.partitions
            .get(&topic)
            .and_then(|partitions| partitions.get(partition as usize))
            .map_or(0, |partition| {
                partition
                    .tail
                    .iter()
                    .map(|block| u64::from(block.len))
                    .sum()
            })
    }
}
