//! Opening a directory to write: lock, identity, manifest, and the log's tail.

use std::io;
use std::sync::Arc;

use tidemill_broker::{Error, Result};
use tidemill_crash_point::crash_point;

use crate::disk::{Disk, Locked, Mode, read_whole};
use crate::format::identity::{self, Identity};
use crate::format::log_header::{self, Durable, LogHeader};
use crate::format::manifest::Manifest;
use crate::format::{VERSION, crc32c};
use crate::layout::{Layout, damaged, failed, is_missing, log_number, stage};
use crate::live::{Live, LogFile};
use crate::options::FileOptions;
use crate::scan::{Found, Scanner, Torn};
use crate::segment::Segment;
use crate::shared::{Appender, Shared, Writing};
use crate::unlisted::remove_unlisted;

/// Opens a directory to write, making it if need be.
pub(crate) fn open(layout: Layout, options: FileOptions) -> Result<(Shared, Option<Torn>)> {
    let disk = Arc::clone(&options.disk);
    let disk = &*disk;
    disk.create_dir(&layout.root)
        .map_err(failed("create", &layout.root))?;
    if read_identity(disk, &layout)?.is_none() {
        // Before anything, be it a lock, is put into somebody else's directory.
        refuse_foreign(disk, &layout)?;
    }
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
        owners: Default::default(),
    };
    let path = layout.durable();
    let durable_file = match disk.open(&path, Mode::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.open(&path, Mode::Create),
        other => other,
    }
    .map_err(failed("open", &path))?;
    let writing = Writing::new(appender, manifest, durable_file, guard);
    let shared = Shared::new(layout, options, uuid, live, 0, Some(writing));
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
        Identity::Newer { version } => Err(Error::NewerFormat {
            path,
            found: version,
            known: VERSION,
        }),
        Identity::Damaged { at, what } => Err(damaged(&path, at, what)),
    }
}

/// Refuses a directory without `FORMAT` that holds anything but what a creation cut short by a crash
/// leaves: either it is damaged, or it is somebody else's.
pub(crate) fn refuse_foreign(disk: &dyn Disk, layout: &Layout) -> Result<()> {
    let list = |path: &std::path::Path| disk.list(path).map_err(failed("list", path));
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
    // The name of the directory itself. Where the parent may not be opened it is somebody else's.
    if let Some(parent) = layout.root.parent()
        && let Err(error) = disk.sync_dir(parent)
    {
        tracing::debug!(%error, "cannot sync the parent directory");
    }
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
        None => Err(damaged(&path, 8, "the checksum does not match the bytes")),
    }
}

/// Every segment is there and long enough. Their bytes are checked when they are read.
fn check_segments(disk: &dyn Disk, layout: &Layout, manifest: &Manifest) -> Result<()> {
    for (id, metas) in &manifest.partitions {
        for (partition, meta) in (0..).zip(metas) {
            for segment in &meta.segments {
                let segment = Segment::new(layout, *id, partition, *segment);
                match segment.file(disk) {
                    Err(error) if is_missing(&error) => {
                        return Err(damaged(&segment.path, 0, "the segment is missing"));
                    }
                    other => other?,
                };
            }
        }
    }
    Ok(())
}

/// How far the log is known to be durable by what its writer has left in `DURABLE`.
pub(crate) fn read_durable(disk: &dyn Disk, layout: &Layout) -> Result<Option<Durable>> {
    match read_whole(disk, &layout.durable()) {
        Ok(bytes) => Ok(Durable::parse(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", &layout.durable())(error)),
    }
}

/// The numbers of the log files there are, in order.
pub(crate) fn log_numbers(disk: &dyn Disk, layout: &Layout) -> Result<Vec<u64>> {
    let path = layout.logs();
    let names = disk.list(&path).map_err(failed("list", &path))?;
    Ok(names.iter().filter_map(|name| log_number(name)).collect())
}

/// A log file that was opened: its header, if that is whole, and its length.
struct Opened {
    number: u64,
    path: std::path::PathBuf,
    file: Arc<dyn crate::disk::DiskFile>,
    header: Option<LogHeader>,
    len: u64,
}

fn open_log(disk: &dyn Disk, layout: &Layout, uuid: [u8; 16], number: u64) -> Result<Opened> {
    let path = layout.log(number);
    let file = disk
        .open(&path, Mode::Write)
        .map_err(failed("open", &path))?;
    let len = file.len().map_err(failed("measure", &path))?;
    let mut bytes = Vec::new();
    file.read_at(0, log_header::BYTES, &mut bytes)
        .map_err(failed("read", &path))?;
    let header =
        LogHeader::parse(&bytes).filter(|header| header.uuid == uuid && header.number == number);
    Ok(Opened {
        number,
        path,
        file,
        header,
        len,
    })
}

/// Reads the tail of the log into memory. What a crash left half-written is cut off; what was
/// once durable and is broken now is damage, and nothing is touched.
fn recover(
    disk: &dyn Disk,
    layout: &Layout,
    manifest: &Manifest,
) -> Result<(Live, u64, Option<Torn>)> {
    let salt = crc32c(&manifest.uuid);
    let mut live = Live::from_manifest(manifest, layout);
    let mut logs = Vec::new();
    for number in log_numbers(disk, layout)? {
        if number < manifest.first_log {
            // Split, but a crash came before it was removed.
            let path = layout.log(number);
            disk.remove(&path).map_err(failed("remove", &path))?;
        } else {
            logs.push(open_log(disk, layout, manifest.uuid, number)?);
        }
    }
    let mut place = manifest.first_start;
    // Where the log stops making sense: which of `logs`, at which byte, and why.
    let mut bad: Option<(usize, u64, &'static str)> = None;
    for (index, log) in logs.iter().enumerate() {
        let expected = manifest.first_log + index as u64;
        let Some(header) = log
            .header
            .filter(|header| header.start == place && header.number == expected)
        else {
            bad = Some((index, 0, "this log file does not follow the one before"));
            break;
        };
        let mut scanner = Scanner::new(Arc::clone(&log.file), log.len, header, salt);
        let mut at = log_header::BYTES as u64;
        let torn = loop {
            match scanner.read(at).map_err(failed("read", &log.path))? {
                Found::Frame(frame) => {
                    live.apply(&frame.head);
                    for (block, position) in &frame.blocks {
                        if !live.append(block, log.number, *position) {
                            return Err(damaged(
                                &log.path,
                                *position,
                                "the offsets of this block do not follow those before",
                            ));
                        }
                    }
                    at = frame.end;
                }
                Found::End => break None,
                Found::Torn(what) => break Some(what),
            }
        };
        live.logs.insert(
            log.number,
            LogFile {
                header,
                path: log.path.clone(),
                file: Arc::clone(&log.file),
                len: at,
                end: None,
            },
        );
        place = header.start + at;
        if let Some(what) = torn {
            bad = Some((index, at, what));
            break;
        }
        if index + 1 < logs.len() {
            let end = Arc::new(live.catalog.clone());
            if let Some(log) = live.logs.get_mut(&log.number) {
                log.end = Some(end);
            }
        }
    }
    // Proof that what lies beyond was once durable.
    let mut durable = read_durable(disk, layout)?.map_or(0, |durable| durable.end);
    if let Some((index, at, _)) = bad {
        for (later, log) in logs.iter().enumerate().skip(index) {
            let from = if later == index { at } else { 0 };
            // Where the header is lost, frames still tell where they belong.
            let header = log.header.unwrap_or(LogHeader {
                uuid: manifest.uuid,
                number: log.number,
                start: place,
            });
            let mut scanner = Scanner::new(Arc::clone(&log.file), log.len, header, salt);
            let claimed = scanner
                .durable_from(from)
                .map_err(failed("read", &log.path))?;
            durable = durable.max(claimed);
        }
    }
    if durable > place {
        let (path, at, what) = match bad {
            Some((index, at, what)) => (logs[index].path.clone(), at, what),
            None => match live.logs.last_key_value() {
                Some((_, log)) => (log.path.clone(), log.len, "the file ends here"),
                None => (layout.log(manifest.first_log), 0, "the file is missing"),
            },
        };
        return Err(damaged(
            &path,
            at,
            format!(
                "{what}, but {} bytes from there on were durable",
                durable - place
            ),
        ));
    }
    let torn = match bad {
        Some((index, at, what)) => Some(cut(disk, layout, &logs, index, at, what)?),
        None => None,
    };
    // A log that lost its end, or its header, does not go on in another.
    if let Some((_, mut log)) = live.logs.pop_last() {
        log.end = None;
        live.logs.insert(log.header.number, log);
    }
    Ok((live, place, torn))
}

/// Cuts what a crash left half-written, last file first, so that a crash meanwhile leaves as much
/// sense as before.
fn cut(
    disk: &dyn Disk,
    layout: &Layout,
    logs: &[Opened],
    index: usize,
    at: u64,
    what: &'static str,
) -> Result<Torn> {
    let bytes = logs[index..].iter().map(|log| log.len).sum::<u64>() - at;
    let torn = Torn::new(&logs[index].path, at, bytes, what);
    tracing::warn!(
        log = %torn.path.display(), at, bytes, what,
        "cut commits that a crash left half-written; none was known durable"
    );
    metrics::counter!("tidemill_file_torn_tails").increment(1);
    let keep = index + usize::from(at > 0);
    for log in logs[keep..].iter().rev() {
        disk.remove(&log.path)
            .map_err(failed("remove", &log.path))?;
    }
    if keep < logs.len() {
        let path = layout.logs();
        disk.sync_dir(&path).map_err(failed("sync", &path))?;
    }
    crash_point!("open.cut");
    if at > 0 {
        let log = &logs[index];
        log.file
            .truncate(at)
            .map_err(failed("truncate", &log.path))?;
        log.file.sync_data().map_err(failed("sync", &log.path))?;
    }
    Ok(torn)
}
