//! Reading a directory that another process may be writing.

use std::sync::{Arc, Mutex};

use tidemill_broker::{Error, Result};

use tidemill_crash_point::planted;

use crate::disk::{DiskFile, Mode};
use crate::format::log_header::{self, Durable, LogHeader};
use crate::layout::{Layout, damaged, failed, is_missing, lost};
use crate::live::{Live, LogFile};
use crate::open::{identify, read_manifest};
use crate::options::FileOptions;
use crate::recover::{log_numbers, read_durable};
use crate::scan::{Found, Scanner, read_header};
use crate::shared::{Shared, lock};

/// What a reader remembers between two looks.
#[derive(Debug, Default)]
pub(crate) struct Following {
    /// What the writer said last.
    seen: Option<Durable>,
    /// Whether anything was taken in since the last look anew. Where no writer has left its word, the
    /// log stays as it is until one comes.
    looked: bool,
    scanner: Option<Scanner>,
}

impl Following {
    fn look_anew(&mut self) {
        self.seen = None;
        self.looked = false;
    }
}

/// Opens a directory to read.
pub(crate) fn open(layout: Layout, options: FileOptions) -> Result<Shared> {
    let disk = &*options.disk;
    let Some(uuid) = identify(disk, &layout)? else {
        return Err(Error::Invalid {
            what: format!(
                "{} is not a tidemill log: it is empty",
                layout.root.display()
            ),
        });
    };
    let manifest = read_manifest(disk, &layout, uuid)?;
    let live = Live::from_manifest(&manifest, &layout);
    let mut shared = Shared::new(layout, options, uuid, live, manifest.first_start, None);
    shared.following = Some(Mutex::new(Following::default()));
    shared.refresh()?;
    Ok(shared)
}

impl Shared {
    /// Takes in what became durable since the last look. Does nothing in the writer's process.
    pub(crate) fn refresh(&self) -> Result<()> {
        let Some(following) = &self.following else {
            return Ok(());
        };
        let mut following = lock(following);
        // A manifest may be replaced, and files removed, while they are looked at: look again.
        let mut tries = 0;
        loop {
            match self.follow(&mut following) {
                Ok(()) => return Ok(()),
                Err(error) if tries < 5 && is_missing(&error) => {
                    following.look_anew();
                    tries += 1;
                }
                Err(error) => return Err(lost(error, "the file is missing")),
            }
        }
    }

    /// Looks anew after a file was missing that a manifest listed: the writer may have replaced
    /// both. In its own process it has said so before it removed the file.
    pub(crate) fn look_anew(&self) -> Result<()> {
        if let Some(following) = &self.following {
            lock(following).look_anew();
        }
        self.refresh()
    }

    fn follow(&self, following: &mut Following) -> Result<()> {
        let durable = read_durable(self.disk(), &self.layout)?;
        match durable {
            Some(_) if durable == following.seen => return Ok(()),
            // Torn while it was written: the next look finds it whole. Or there is no writer.
            None if following.looked => return Ok(()),
            _ => {}
        }
        let known = self.live().manifest;
        if durable.is_none_or(|durable| durable.manifest != known) || following.seen.is_none() {
            self.reload(following)?;
        }
        let end = match durable {
            Some(durable) => durable.end,
            None => self.durable_without_writer()?,
        };
        // Whatever is written, though it may not last.
        let end = planted!(P16, {
            let number = log_numbers(self.disk(), &self.layout)?.pop().unwrap_or_default();
            let (file, path) = self.open_log(number)?;
            let len = file.len().map_err(failed("measure", &path))?;
            let header = self.log_header(&*file, &path, number)?;
            header.map_or(end, |header| end.max(header.start + len))
        } else { end });
        self.catch_up(following, end)?;
        following.seen = durable;
        following.looked = true;
        self.durable.set(end);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Takes in the manifest as it is now.
    fn reload(&self, following: &mut Following) -> Result<()> {
        let manifest = read_manifest(self.disk(), &self.layout, self.uuid)?;
        let mut live = self.live_mut();
        let scanned = live
            .logs
            .last_key_value()
            .map(|(_, log)| log.end_place())
            .unwrap_or_default();
        if scanned < manifest.first_start {
            // Segments have overtaken what was read of the log.
            following.scanner = None;
            *live = Live::from_manifest(&manifest, &self.layout);
        } else {
            live.install(&manifest, &self.layout);
            let scanned = following
                .scanner
                .as_ref()
                .map(|scanner| scanner.header().number);
            if scanned.is_some_and(|number| number < manifest.first_log) {
                following.scanner = None;
            }
        }
        Ok(())
    }

    /// Without the writer's word: what the frames themselves say was durable when they were
    /// written.
    fn durable_without_writer(&self) -> Result<u64> {
        let mut durable = 0;
        for number in log_numbers(self.disk(), &self.layout)? {
            let (file, path) = self.open_log(number)?;
            let len = file.len().map_err(failed("measure", &path))?;
            let Some(header) = self.log_header(&*file, &path, number)? else {
                break;
            };
            let mut scanner = Scanner::new(file, len, header, self.salt);
            let claimed = scanner
                .durable_from(log_header::BYTES as u64)
                .map_err(failed("read", &path))?;
            durable = durable.max(claimed);
        }
        Ok(durable)
    }

    fn open_log(&self, number: u64) -> Result<(Arc<dyn DiskFile>, std::path::PathBuf)> {
        let path = self.layout.log(number);
        let file = self
            .disk()
            .open(&path, Mode::Read)
            .map_err(failed("open", &path))?;
        Ok((file, path))
    }

    fn log_header(
        &self,
        file: &dyn DiskFile,
        path: &std::path::Path,
        number: u64,
    ) -> Result<Option<LogHeader>> {
        let header = read_header(file, path)?;
        Ok(header.filter(|header| header.uuid == self.uuid && header.number == number))
    }

    /// Reads frames up to a place that is durable.
    fn catch_up(&self, following: &mut Following, end: u64) -> Result<()> {
        loop {
            let (number, at) = {
                let live = self.live();
                match live.logs.last_key_value() {
                    None if live.first_start >= end => return Ok(()),
                    None => (live.first_log, log_header::BYTES as u64),
                    Some((_, log)) if log.end_place() >= end => return Ok(()),
                    Some((number, log)) => (*number, log.len),
                }
            };
            if self.read_log(following, number, at, end)? {
                continue;
            }
            // The file ends before the durable end: the log goes on in the next.
            self.begin_log_read(following, number + 1)?;
        }
    }

    fn begin_log_read(&self, following: &mut Following, number: u64) -> Result<()> {
        let (file, path) = self.open_log(number)?;
        let Some(header) = self.log_header(&*file, &path, number)? else {
            return Err(damaged(&path, 0, "this is not the header of a log file"));
        };
        following.scanner = Some(Scanner::new(
            Arc::clone(&file),
            log_header::BYTES as u64,
            header,
            self.salt,
        ));
        self.live_mut().logs.insert(
            number,
            LogFile {
                header,
                path,
                file,
                len: log_header::BYTES as u64,
                end: None,
                cramped: false,
            },
        );
        Ok(())
    }

    /// Reads frames of one file. `false` if it holds no more.
    fn read_log(&self, following: &mut Following, number: u64, at: u64, end: u64) -> Result<bool> {
        if !self.live().logs.contains_key(&number) {
            self.begin_log_read(following, number)?;
            return Ok(true);
        }
        let path = self.layout.log(number);
        let Some(scanner) = &mut following.scanner else {
            return Err(damaged(&path, at, "the log was read and is not any more"));
        };
        let len = {
            let live = self.live();
            match live.logs.get(&number) {
                Some(log) => log.file.len().map_err(failed("measure", &path))?,
                None => return Ok(true),
            }
        };
        scanner.extend(len.min(end.saturating_sub(scanner.header().start)));
        let mut at = at;
        let mut any = false;
        loop {
            match scanner.read(at).map_err(failed("read", &path))? {
                Found::Frame(frame) => {
                    let mut live = self.live_mut();
                    live.apply(&frame.head);
                    for (block, position) in &frame.blocks {
                        if !live.append(block, number, *position) {
                            return Err(damaged(
                                &path,
                                *position,
                                "the offsets of this block do not follow those before",
                            ));
                        }
                    }
                    at = frame.end;
                    if let Some(log) = live.logs.get_mut(&number) {
                        log.len = at;
                    }
                    any = true;
                }
                Found::End => return Ok(any),
                Found::Torn(what) => return Err(damaged(&path, at, what)),
            }
        }
    }
}
