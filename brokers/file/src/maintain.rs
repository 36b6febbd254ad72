//! What the splitter is asked for, and its rounds: expire, split, expire, compact.

use std::io;
use std::path::PathBuf;

use tidemill_broker::{Error, Result};

use crate::append::Failure;
use crate::bell::Ring;
use crate::shared::{Shared, Writing, lock, ran_out_of_room};
use crate::unlisted::{cut_segments, remove_unlisted};

/// How much to do when asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Effort {
    /// What is due.
    #[default]
    Due,
    /// Split also the log file that is still appended to.
    Split,
    /// And compact whatever may be compacted.
    Clean,
}

/// How far the splitter has come with what it was asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cleaned {
    requested: u64,
    done: u64,
    /// The most that any request asks for that is not done.
    effort: Effort,
    /// Why the latest attempt stopped, if the next may get further.
    stuck: Option<Stuck>,
}

/// What stopped an attempt: no room on the disk, or no more files that may be open.
#[derive(Debug, Clone)]
struct Stuck {
    path: PathBuf,
    kind: io::ErrorKind,
    code: Option<i32>,
}

impl Stuck {
    fn at(path: PathBuf, source: &io::Error) -> Self {
        Self {
            path,
            kind: source.kind(),
            code: source.raw_os_error(),
        }
    }

    fn source(&self) -> io::Error {
        self.code
            .map_or_else(|| self.kind.into(), io::Error::from_raw_os_error)
    }
}

impl Cleaned {
    /// The latest failure, if it still stands.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.stuck {
            None => Ok(()),
            Some(stuck) => Err(Error::Io {
                doing: "split the log into",
                path: stuck.path.clone(),
                source: stuck.source(),
            }),
        }
    }
}

impl Shared {
    /// Asks for everything to be split and cleaned, and waits.
    pub(crate) async fn clean(&self, effort: Effort) -> Result<()> {
        let writing = self.writing("clean")?;
        let mut cleaned = writing.cleaned.subscribe();
        let mut ticket = 0;
        self.now();
        writing.cleaned.send_modify(|cleaned| {
            cleaned.requested += 1;
            cleaned.effort = cleaned.effort.max(effort);
            ticket = cleaned.requested;
        });
        writing.splitter.ring(Ring::Urgent);
        loop {
            {
                let now = cleaned.borrow_and_update();
                if now.done >= ticket {
                    return now.check();
                }
            }
            self.alive()?;
            if cleaned.changed().await.is_err() {
                return self.alive();
            }
        }
    }

    /// Splits what is ended, and cleans. Run by the splitter alone.
    pub(crate) fn maintain(&self) -> Result<()> {
        let writing = self.writing("split")?;
        loop {
            let (mut requested, mut effort) = (0, Effort::Due);
            writing.cleaned.send_if_modified(|cleaned| {
                requested = cleaned.requested;
                effort = std::mem::take(&mut cleaned.effort);
                false
            });
            if effort > Effort::Due {
                self.end_log(writing, &mut lock(&writing.appender), false);
            }
            let clean = effort == Effort::Clean;
            let mut done = self.maintain_once(writing, effort);
            if self.is_stuck(&done) {
                // Without what it left half written there may be room: to let go what was not let go for
                // want of it, and to make segments smaller.
                self.withdraw(writing);
                done = self
                    .expire(writing)
                    .and_then(|()| self.compact(writing, clean))
                    .and_then(|()| self.maintain_once(writing, effort));
            }
            let is_stuck = self.is_stuck(&done);
            let stuck = match done {
                Ok(()) => None,
                // Nothing is lost: the log files stay, and the next round begins anew.
                Err(Error::Io { path, source, .. }) if is_stuck => {
                    self.withdraw(writing);
                    tracing::warn!(path = %path.display(), %source, "the log stays unsplit for now");
                    Some(Stuck::at(path, &source))
                }
                Err(error) => {
                    if self.alive().is_ok() {
                        self.poison(&error);
                    }
                    return Err(error);
                }
            };
            writing.cleaned.send_modify(|cleaned| {
                cleaned.done = requested;
                cleaned.stuck = stuck;
            });
            self.changed.notify_waiters();
            if is_stuck || writing.cleaned.borrow().requested == requested {
                return Ok(());
            }
        }
    }

    fn maintain_once(&self, writing: &Writing, effort: Effort) -> Result<()> {
        // Before what takes room: on a full disk nothing else gives any back.
        self.expire(writing)?;
        let mut any = effort > Effort::Due;
        while let Some(log) = self.next_ended() {
            self.split(writing, &log)?;
            any = true;
        }
        if any {
            self.expire(writing)?;
            self.compact(writing, effort == Effort::Clean)?;
        }
        Ok(())
    }

    /// Whether a round stopped for want of room or of files that may be open, and of nothing else.
    fn is_stuck(&self, done: &Result<()>) -> bool {
        done.as_ref()
            .is_err_and(|error| ran_out_of_room(error) || error.is_transient())
            && self.alive().is_ok()
    }

    /// Gives back the room of what a round left half written.
    fn withdraw(&self, writing: &Writing) {
        let manifest = lock(&writing.manifest);
        let gone = remove_unlisted(self.disk(), &self.layout, &manifest)
            .and_then(|()| cut_segments(self.disk(), &self.layout, &manifest));
        // It is in nobody's way but for its room, and the next round writes over it.
        if let Err(error) = gone {
            tracing::warn!(%error, "what was half written stays for now");
        }
    }

    /// Has what retention lets go give back its room, where an append found none.
    pub(crate) fn make_room(&self, writing: &Writing, failure: &Failure) {
        if matches!(failure, Failure::Refused(error) if ran_out_of_room(error)) {
            self.now();
            writing.splitter.ring(Ring::Work);
        }
    }
}
