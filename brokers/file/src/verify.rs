//! Checking a directory: every frame, block, index and checksum.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemill_broker::Result;

use crate::catalog::TopicId;
use crate::disk::{Disk, DiskFile, Mode, read_whole};
use crate::format::index::Index;
use crate::format::log_header::{self, LogHeader};
use crate::format::manifest::{Manifest, SegmentMeta};
use crate::format::{Crc, crc32c};
use crate::layout::{Layout, failed, is_missing};
use crate::live::Live;
use crate::open::{read_identity, read_manifest};
use crate::recover::{log_numbers, read_durable};
use crate::scan::{Found, Scanner, read_header};
use crate::segment::Segment;
use crate::window::{WINDOW_BYTES, Window};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// The byte.
    pub at: u64,
    /// What was found.
    pub what: String,
    /// Whether no committed record is lost by it: an index that is rebuilt, or commits that were
    /// never known durable.
    pub harmless: bool,
}

/// What a check has seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Records in segments and in the log, also those that retention has passed.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Log files that are not split.
    pub logs: u64,
    /// Everything that is not as it should be; empty for a sound directory.
    pub findings: Vec<Finding>,
}

/// Checks a directory without changing it: the manifest, every segment against its checksum and its
/// blocks, every index, and every frame of the log.
///
/// Meant for a directory that nobody writes to; what is being written is found as torn.
///
/// # Errors
///
/// If it is no tidemill log, newer than this version, or cannot be read at all, as when its manifest
/// is damaged.
pub fn verify(path: impl AsRef<Path>, disk: &dyn Disk) -> Result<Report> {
    let layout = Layout::new(path.as_ref());
    let Some(uuid) = read_identity(disk, &layout)? else {
        return Err(crate::layout::damaged(
            &layout.identity(),
            0,
            "the file is missing",
        ));
    };
    let manifest = read_manifest(disk, &layout, uuid)?;
    let mut check = Check {
        disk,
        layout: &layout,
        salt: crc32c(&uuid),
        report: Report::default(),
    };
    for (id, partitions) in &manifest.partitions {
        for (partition, meta) in (0..).zip(partitions) {
            for segment in &meta.segments {
                check.segment(*id, partition, segment)?;
            }
        }
    }
    check.logs(&manifest)?;
    Ok(check.report)
}

struct Check<'a> {
    disk: &'a dyn Disk,
    layout: &'a Layout,
    salt: u32,
    report: Report,
}

impl Check<'_> {
    fn find(&mut self, path: &Path, at: u64, what: impl Into<String>, harmless: bool) {
        self.report.findings.push(Finding {
            path: path.to_path_buf(),
            at,
            what: what.into(),
            harmless,
        });
    }

    fn segment(&mut self, topic: TopicId, partition: u32, meta: &SegmentMeta) -> Result<()> {
        self.report.segments += 1;
        let segment = Segment::new(self.layout, topic, partition, *meta);
        let file = match segment.open(self.disk) {
            Ok(file) => file,
            Err(error) if is_missing(&error) => {
                self.find(&segment.path, 0, "the segment is missing", false);
                return Ok(());
            }
            Err(tidemill_broker::Error::Damaged { path, at, what }) => {
                self.find(&path, at, what, false);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut window = Window::new(file, meta.len);
        let mut crc = Crc::new();
        let mut at = 0;
        while at < meta.len {
            let len = (meta.len - at).min(WINDOW_BYTES as u64) as usize;
            match window.get(at, len).map_err(failed("read", &segment.path))? {
                Some(bytes) => crc.update(bytes),
                None => break,
            }
            at += len as u64;
        }
        self.report.bytes += meta.len;
        let mut records = 0;
        let walked = segment.each_block(self.disk, self.salt, |header, _| {
            records += u64::from(header.count);
            Ok(())
        });
        self.report.records += records;
        match walked {
            Ok(()) if crc.finish() != meta.crc => {
                self.find(
                    &segment.path,
                    0,
                    "the checksum is not the manifest's",
                    false,
                );
            }
            Ok(()) if records != meta.records => {
                self.find(
                    &segment.path,
                    0,
                    "it holds other records than listed",
                    false,
                );
            }
            Ok(()) => self.index(topic, partition, meta, &segment)?,
            Err(tidemill_broker::Error::Damaged { path, at, what }) => {
                self.find(&path, at, what, false);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn index(
        &mut self,
        topic: TopicId,
        partition: u32,
        meta: &SegmentMeta,
        segment: &Segment,
    ) -> Result<()> {
        let path = self.layout.index(topic, partition, meta);
        let bytes = match read_whole(self.disk, &path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.find(&path, 0, "the index is missing", true);
                return Ok(());
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        self.report.bytes += bytes.len() as u64;
        let Some(index) = Index::parse(&bytes) else {
            self.find(&path, 8, "the checksum does not match the bytes", true);
            return Ok(());
        };
        // It may cover more: a crash came between it and the manifest.
        let expected = segment.rebuild(self.disk, self.salt)?;
        if index.covers < meta.len || index.up_to(meta.len, meta.max_timestamp) != expected {
            self.find(&path, 12, "it does not describe its segment", true);
        }
        Ok(())
    }

    fn logs(&mut self, manifest: &Manifest) -> Result<()> {
        let durable = read_durable(self.disk, self.layout)?.map_or(0, |durable| durable.end);
        let mut live = Live::from_manifest(manifest, self.layout);
        let numbers: Vec<u64> = log_numbers(self.disk, self.layout)?
            .into_iter()
            .filter(|number| *number >= manifest.first_log)
            .collect();
        let mut place = manifest.first_start;
        let mut last = self.layout.log(manifest.first_log);
        let mut end = 0;
        for (index, number) in numbers.iter().enumerate() {
            self.report.logs += 1;
            let (path, file, header) = self.open_log(*number)?;
            let expected = manifest.first_log + index as u64;
            let follows = header.filter(|header| {
                header.uuid == manifest.uuid
                    && header.number == *number
                    && header.number == expected
                    && header.start == place
            });
            let Some(header) = follows else {
                let what = "this log file does not follow the one before";
                let claimed = self.claimed(manifest, &numbers[index..], 0, place)?;
                self.find(&path, 0, what, claimed.max(durable) <= place);
                return Ok(());
            };
            let len = file.len().map_err(failed("measure", &path))?;
            let mut scanner = Scanner::new(file, len, header, self.salt);
            let mut at = log_header::BYTES as u64;
            loop {
                match scanner.read(at).map_err(failed("read", &path))? {
                    Found::Frame(frame) => {
                        live.apply(&frame.head);
                        for (block, position) in &frame.blocks {
                            self.report.records += u64::from(block.count);
                            if !live.append(block, *number, *position) {
                                let what = "the offsets of this block do not follow those before";
                                self.find(&path, *position, what, false);
                                return Ok(());
                            }
                        }
                        at = frame.end;
                    }
                    Found::End => break,
                    Found::Torn(what) => {
                        place = header.start + at;
                        let claimed = self.claimed(manifest, &numbers[index..], at, place)?;
                        self.find(&path, at, what, claimed.max(durable) <= place);
                        return Ok(());
                    }
                }
            }
            self.report.bytes += at;
            place = header.start + at;
            last = path;
            end = at;
        }
        if durable > place {
            let what = format!(
                "the log ends here, but {} bytes more were durable",
                durable - place
            );
            self.find(&last, end, what, false);
        }
        Ok(())
    }

    /// A log file and, if that is whole, its header.
    fn open_log(&self, number: u64) -> Result<(PathBuf, Arc<dyn DiskFile>, Option<LogHeader>)> {
        let path = self.layout.log(number);
        let file = self
            .disk
            .open(&path, Mode::Read)
            .map_err(failed("open", &path))?;
        let header = read_header(&*file, &path)?;
        Ok((path, file, header))
    }

    /// The most that any frame of these log files, in the first from `at` on, says was durable: the
    /// proof that opening asks for before it cuts what is broken at `place`.
    fn claimed(&self, manifest: &Manifest, numbers: &[u64], at: u64, place: u64) -> Result<u64> {
        let mut most = 0;
        for (index, number) in numbers.iter().enumerate() {
            let (path, file, header) = self.open_log(*number)?;
            let header = header
                .filter(|header| header.uuid == manifest.uuid && header.number == *number)
                .unwrap_or(LogHeader {
                    uuid: manifest.uuid,
                    number: *number,
                    start: place,
                });
            let len = file.len().map_err(failed("measure", &path))?;
            let from = if index == 0 { at } else { 0 };
            let mut scanner = Scanner::new(file, len, header, self.salt);
            let claimed = scanner.durable_from(from).map_err(failed("read", &path))?;
            most = most.max(claimed);
        }
        Ok(most)
    }
}
