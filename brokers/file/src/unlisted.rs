//! Removing what the manifest does not list: files of deleted topics, and what a crash or a full disk left of
//! work that was not finished, or finished but for its removals.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::Path;

use tidemill_broker::Result;
use tidemill_crash_point::crash_point;

use crate::catalog::TopicId;
use crate::disk::{Disk, Mode};
use crate::format::manifest::{Manifest, SegmentMeta};
use crate::layout::{Layout, failed};
use crate::shared::{Shared, lock};

impl Shared {
    /// Removes topics that the manifest no longer has. Their partitions have no file that anybody else
    /// may be making.
    pub(crate) fn remove_topics(&self) -> Result<()> {
        match &self.writing {
            Some(writing) => remove_topics(self.disk(), &self.layout, &lock(&writing.manifest)),
            None => Ok(()),
        }
    }
}

/// Removes every file that the manifest does not list. Only while nothing else works on the directory but
/// who reads.
pub(crate) fn remove_unlisted(disk: &dyn Disk, layout: &Layout, manifest: &Manifest) -> Result<()> {
    remove_topics(disk, layout, manifest)?;
    for (topic, partitions) in &manifest.partitions {
        for (partition, meta) in (0..).zip(partitions) {
            remove_files(disk, layout, *topic, partition, &meta.segments)?;
        }
    }
    Ok(())
}

/// Cuts off segments what is not in the manifest yet: a split goes on where its last segment ended.
pub(crate) fn cut_segments(disk: &dyn Disk, layout: &Layout, manifest: &Manifest) -> Result<()> {
    for (topic, partitions) in &manifest.partitions {
        for (partition, meta) in (0..).zip(partitions) {
            let Some(last) = meta.segments.last() else {
                continue;
            };
            let path = layout.segment(*topic, partition, last);
            let file = disk
                .open(&path, Mode::Write)
                .map_err(failed("open", &path))?;
            if file.len().map_err(failed("measure", &path))? > last.len {
                file.truncate(last.len).map_err(failed("truncate", &path))?;
            }
        }
    }
    Ok(())
}

fn remove_topics(disk: &dyn Disk, layout: &Layout, manifest: &Manifest) -> Result<()> {
    let list = |path: &Path| disk.list(path).map_err(failed("list", path));
    let topics = layout.topics();
    for name in list(&topics)? {
        let listed = TopicId::from_str_radix(&name, 16)
            .is_ok_and(|id| manifest.partitions.contains_key(&id));
        if listed {
            continue;
        }
        let topic = topics.join(&name);
        for partition in list(&topic)? {
            let partition = topic.join(partition);
            for file in list(&partition)? {
                let file = partition.join(file);
                disk.remove(&file).map_err(failed("remove", &file))?;
                crash_point!("remove.file");
            }
            disk.remove_dir(&partition)
                .map_err(failed("remove", &partition))?;
        }
        disk.remove_dir(&topic).map_err(failed("remove", &topic))?;
        crash_point!("remove.topic");
    }
    Ok(())
}

/// Removes what lies beside a partition's segments.
fn remove_files(
    disk: &dyn Disk,
    layout: &Layout,
    topic: TopicId,
    partition: u32,
    segments: &[SegmentMeta],
) -> Result<()> {
    let dir = layout.partition(topic, partition);
    let names = match disk.list(&dir) {
        // Nothing was ever split into it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        names => names.map_err(failed("list", &dir))?,
    };
    let mut kept: BTreeSet<OsString> = BTreeSet::new();
    for segment in segments {
        let paths = [
            layout.segment(topic, partition, segment),
            layout.index(topic, partition, segment),
        ];
        kept.extend(
            paths
                .iter()
                .filter_map(|path| path.file_name())
                .map(Into::into),
        );
    }
    // What has another name is somebody else's.
    let ours = |name: &str| {
        [".segment", ".index", ".new"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    for name in names {
        if ours(&name) && !kept.contains(&OsString::from(&name)) {
            let path = dir.join(name);
            disk.remove(&path).map_err(failed("remove", &path))?;
            crash_point!("remove.leftover");
        }
    }
    Ok(())
}
