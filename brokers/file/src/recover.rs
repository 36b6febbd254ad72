//! The tail of the log as the last writer left it: read, cut where a crash left it half-written, refused
//! where it was durable and is broken.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tidemill_broker::Result;
use tidemill_crash_point::crash_point;

use crate::disk::{Disk, DiskFile, Mode, read_whole, write_all};
use crate::format::crc32c;
use crate::format::log_header::{self, Durable, LogHeader};
use crate::format::manifest::Manifest;
use crate::layout::{Layout, damaged, failed, log_number};
use crate::live::{Live, LogFile};
use crate::scan::{Found, Scanner, Torn, read_header};

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
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    header: Option<LogHeader>,
    len: u64,
}

fn open_log(disk: &dyn Disk, layout: &Layout, uuid: [u8; 16], number: u64) -> Result<Opened> {
    let path = layout.log(number);
    let file = disk
        .open(&path, Mode::Write)
        .map_err(failed("open", &path))?;
    let len = file.len().map_err(failed("measure", &path))?;
    let header =
        read_header(&*file, &path)?.filter(|header| header.uuid == uuid && header.number == number);
    Ok(Opened {
        number,
        path,
        file,
        header,
        len,
    })
}

/// How much is written anew at once.
const REWRITE_BYTES: usize = 1 << 20;

impl Opened {
    /// Writes what is not known durable once more, the same bytes at the same place.
    ///
    /// A sync that failed leaves pages that the kernel takes for clean: they are read as if they were
    /// stored, no later sync writes them, and they go when memory runs short. The process that saw it
    /// fail has stopped, and this one cannot tell such pages from others. Written anew they are dirty:
    /// they stay, and the next sync is about them. Killed meanwhile, the log is as it was.
    fn rewrite(&self, durable: u64) -> Result<()> {
        let known = self
            .header
            .map_or(0, |header| durable.saturating_sub(header.start));
        let mut at = known;
        let mut bytes = Vec::new();
        while at < self.len {
            bytes.clear();
            let len = (self.len - at).min(REWRITE_BYTES as u64) as usize;
            let read = self.file.read_at(at, len, &mut bytes);
            if read.map_err(failed("read", &self.path))? == 0 {
                break;
            }
            write_all(&*self.file, at, &[&bytes]).map_err(failed("write", &self.path))?;
            at += bytes.len() as u64;
        }
        Ok(())
    }
}

/// Reads the tail of the log into memory. What a crash left half-written is cut off; what was
/// once durable and is broken now is damage, and nothing is touched.
pub(crate) fn recover(
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
    let mut durable = read_durable(disk, layout)?.map_or(0, |durable| durable.end);
    // Before anything is read: what is found must be what is synced.
    for log in &logs {
        log.rewrite(durable)?;
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
                cramped: false,
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
    metrics::counter!("tidemill_file_torn_tails_total").increment(1);
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
