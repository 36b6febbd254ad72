//! Opening a directory to write: lock, identity, manifest, then the log's tail.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tidemill_broker::{Error, Result, Timestamp};
use tidemill_crash_point::crash_point;

use crate::disk::{Disk, Locked, Mode, read_whole};
use crate::format::identity::{self, Identity};
use crate::format::manifest::Manifest;
use crate::group::Groups;
use crate::layout::{Layout, damaged, failed, is_missing, newer, stage};
use crate::options::FileOptions;
use crate::recover::recover;
use crate::scan::Torn;
use crate::segment::Segment;
use crate::shared::{Appender, Shared, Writing};
use crate::unlisted::remove_unlisted;

/// Opens a directory to write, making it if need be.
pub(crate) fn open(layout: Layout, options: FileOptions) -> Result<(Shared, Option<Torn>)> {
    let disk = Arc::clone(&options.disk);
    let disk = &*disk;
    disk.create_dir(&layout.root)
        .map_err(failed("create", &layout.root))?;
    // Before anything, be it a lock, is put into somebody else's directory.
    identify(disk, &layout)?;
    let owner = format!("process {}", rustix::process::getpid().as_raw_nonzero());
    let guard = match disk
        .lock(&layout.lock(), &owner)
        .map_err(failed("lock", &layout.lock()))?
    {
        Locked::Ours(guard) => guard,
        Locked::Theirs(owner) => {
            return Err(Error::InUse {
                path: layout.root.clone(),
                owner: if owner.is_empty() {
                    "another process".into()
                } else {
                    owner
                },
            });
        }
    };
    crash_point!("open.locked");
    let uuid = match read_identity(disk, &layout)? {
        Some(uuid) => {
            // A process killed right after it put its manifest in place may not have made the name
            // durable. That comes before anything is removed that the one before may still list.
            disk.sync_dir(&layout.root)
                .map_err(failed("sync", &layout.root))?;
            uuid
        }
        None => create(disk, &layout)?,
    };
    let manifest = read_manifest(disk, &layout, uuid)?;
    check_segments(disk, &layout, &manifest)?;
    remove_unlisted(disk, &layout, &manifest)?;
    crash_point!("open.unlisted");
    let (live, end, torn) = recover(disk, &layout, &manifest)?;
    let mut last = live.logs.last_key_value().map(|(_, log)| log.clone());
    // An ended log is not appended to.
    if last.as_ref().is_some_and(|log| log.end.is_some()) {
        last = None;
    }
    let appender = Appender {
        next_log: live
            .logs
            .last_key_value()
            .map_or(manifest.first_log, |(number, _)| number + 1),
        next_start: end,
        log: last,
        look_at: 0,
        looked: Timestamp::MIN,
        outdated: false,
        latest: Timestamp::MIN,
        owners: Default::default(),
    };
    let path = layout.durable();
    let durable_file = match disk.open(&path, Mode::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.open(&path, Mode::Create),
        other => other,
    }
    .map_err(failed("open", &path))?;
    let path = layout.logs();
    let logs_dir = disk.open_dir(&path).map_err(failed("open", &path))?;
    let writing = Writing::new(appender, manifest, durable_file, logs_dir, guard);
    let mut shared = Shared::new(layout, options, uuid, live, 0, Some(writing));
    let unique = shared.disk().unique();
    let unique = unique.map_err(failed("draw a name for members in", &shared.layout.root))?;
    shared.groups = Mutex::new(Groups::in_life(u128::from_le_bytes(unique) as u64));
    shared.sync_opened(end)?;
    crash_point!("open.synced");
    Ok((shared, torn))
}

/// Which directory this is. `None` if it is none yet.
pub(crate) fn read_identity(disk: &dyn Disk, layout: &Layout) -> Result<Option<[u8; 16]>> {
    let path = layout.identity();
    let bytes = match read_whole(disk, &path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    match identity::parse(&bytes) {
        Identity::Known { uuid } => Ok(Some(uuid)),
        Identity::Newer { version } => Err(newer(&path, version)),
        Identity::Damaged { at, what } => Err(damaged(&path, at, what)),
    }
}

/// Which directory this is. `None` if it is none yet, and may become one.
///
/// # Errors
///
/// If it is damaged, or somebody else's.
pub(crate) fn identify(disk: &dyn Disk, layout: &Layout) -> Result<Option<[u8; 16]>> {
    if let Some(uuid) = read_identity(disk, layout)? {
        return Ok(Some(uuid));
    }
    match refuse_foreign(disk, layout) {
        Ok(()) => Ok(None),
        // Another process may have made it between both looks: `FORMAT` is there before anything else
        // that would be out of place.
        Err(error) => match read_identity(disk, layout)? {
            Some(uuid) => Ok(Some(uuid)),
            None => Err(error),
        },
    }
}

/// Refuses a directory without `FORMAT` that holds anything but what a creation cut short by a crash
/// leaves: either it is damaged, or it is somebody else's.
fn refuse_foreign(disk: &dyn Disk, layout: &Layout) -> Result<()> {
    let list = |path: &Path| disk.list(path).map_err(failed("list", path));
    let names = list(&layout.root)?;
    for name in &names {
        let ours = match name.as_str() {
            "LOCK" | "MANIFEST" | "MANIFEST.new" | "FORMAT.new" => true,
            // Of a creation that a crash cut short: nothing can be in them yet.
            "log" => list(&layout.logs())?.is_empty(),
            "topics" => list(&layout.topics())?.is_empty(),
            _ => false,
        };
        if ours {
            continue;
        }
        if names.iter().any(|name| name == "MANIFEST") {
            let what = format!("the file is missing, but there is `{name}`");
            return Err(damaged(&layout.identity(), 0, what));
        }
        let root = layout.root.display();
        return Err(Error::Invalid {
            what: format!("{root} is not a tidemill log: it holds `{name}`"),
        });
    }
    Ok(())
}

/// Makes a new directory. `FORMAT` comes last: it says that all else is there.
fn create(disk: &dyn Disk, layout: &Layout) -> Result<[u8; 16]> {
    refuse_foreign(disk, layout)?;
    let uuid = disk
        .unique()
        .map_err(failed("draw an identity for", &layout.root))?;
    for path in [layout.logs(), layout.topics()] {
        disk.create_dir(&path).map_err(failed("create", &path))?;
        disk.sync_dir(&path).map_err(failed("sync", &path))?;
    }
    // The name of the directory itself, and of those above that may be as new. What may not be opened is
    // somebody else's, and older.
    for parent in layout.root.ancestors().skip(1) {
        let parent = match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        };
        if let Err(error) = disk.sync_dir(parent) {
            tracing::debug!(%error, "cannot sync a directory above the log");
        }
    }
    let manifest = Manifest {
        uuid,
        number: 1,
        first_log: 1,
        ..Manifest::default()
    };
    stage(disk, &layout.manifest(), &manifest.encode())?.put(disk)?;
    crash_point!("create.manifest");
    let path = layout.identity();
    let staged = stage(disk, &path, &identity::encode(uuid))?;
    crash_point!("create.staged");
    staged.put(disk)?;
    crash_point!("create.done");
    Ok(uuid)
}

pub(crate) fn read_manifest(disk: &dyn Disk, layout: &Layout, uuid: [u8; 16]) -> Result<Manifest> {
    let path = layout.manifest();
    let bytes = match read_whole(disk, &path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(damaged(&path, 0, "the file is missing"));
        }
        Err(error) => return Err(failed("read", &path)(error)),
    };
    match Manifest::parse(&bytes) {
        Some(manifest) if manifest.uuid == uuid => match manifest.contradiction() {
            None => Ok(manifest),
            Some(what) => Err(damaged(&path, 12, format!("it contradicts itself: {what}"))),
        },
        Some(_) => Err(damaged(&path, 16, "it belongs to another directory")),
        None => Err(match Manifest::newer(&bytes) {
            Some(version) => newer(&path, version),
            None => damaged(&path, 8, "the checksum does not match the bytes"),
        }),
    }
}

/// Every segment is there and long enough. Their bytes are checked when they are read.
fn check_segments(disk: &dyn Disk, layout: &Layout, manifest: &Manifest) -> Result<()> {
    for (id, metas) in &manifest.partitions {
        for (partition, meta) in (0..).zip(metas) {
            for segment in &meta.segments {
                let segment = Segment::new(layout, *id, partition, *segment);
                match segment.open(disk) {
                    Err(error) if is_missing(&error) => {
                        return Err(damaged(&segment.path, 0, "the segment is missing"));
                    }
                    other => drop(other?),
                };
            }
        }
    }
    Ok(())
}
