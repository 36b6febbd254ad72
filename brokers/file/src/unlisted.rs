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
        let Some(id) = topic_id(layout, &name) else {
            continue;
        };
        if manifest.partitions.contains_key(&id) {
            continue;
        }
        let topic = layout.topic(id);
        let mut is_ours = true;
        for name in list(&topic)? {
            if !name.bytes().all(|byte| byte.is_ascii_digit()) {
                is_ours = false;
                continue;
            }
            let partition = topic.join(name);
            let mut is_empty = true;
            for name in list(&partition)? {
                if !is_file_name(&name) {
                    is_empty = false;
                    continue;
                }
                let file = partition.join(name);
                disk.remove(&file).map_err(failed("remove", &file))?;
                crash_point!("remove.file");
            }
            if is_empty {
                disk.remove_dir(&partition)
                    .map_err(failed("remove", &partition))?;
            }
            is_ours &= is_empty;
        }
        if is_ours {
            disk.remove_dir(&topic).map_err(failed("remove", &topic))?;
        }
        crash_point!("remove.topic");
    }
    Ok(())
}

/// The topic whose directory has this name; none if it is somebody else's.
fn topic_id(layout: &Layout, name: &str) -> Option<TopicId> {
    let id = TopicId::from_str_radix(name, 16).ok()?;
    let path = layout.topic(id);
    (path.file_name()?.to_str()? == name).then_some(id)
}

/// Whether a file beside segments has a name that we give. Others are somebody else's.
fn is_file_name(name: &str) -> bool {
    [".segment", ".index", ".new"]
        .iter()
        .any(|end| name.ends_with(end))
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
    for name in names {
        if is_file_name(&name) && !kept.contains(&OsString::from(&name)) {
            let path = dir.join(name);
            disk.remove(&path).map_err(failed("remove", &path))?;
            crash_point!("remove.leftover");
        }
    }
    Ok(())
}
