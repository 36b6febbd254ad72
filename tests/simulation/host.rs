//! The machine whose log is in files: its disk, the broker that has the log open, and its deaths.
//!
//! Everything that reads or writes the log runs in one process on this machine, so all of it dies at
//! once. The process is killed, and the disk keeps what was written; or the power is lost, and the disk
//! keeps what was synced and whatever else it pleases.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tidemill_broker::{
    Acks, Broker, BrokerExt, Clock, RecordSet, Start, TokioClock, Topic, TopicPartition,
};
use tidemill_broker_file::{Fault, FileBroker, FileOptions, Fsync, SimDisk, verify};
use tokio::sync::watch;

use crate::checker::Checker;
use crate::draw::{Draw, Files};
use crate::reader;
use crate::world::World;

/// Where the log lies.
const LOG: &str = "/log";

/// The machine.
#[derive(Debug)]
pub(crate) struct Host {
    files: Files,
    clock: Arc<dyn Clock>,
    /// Whether the disk may refuse, so that a person must look after it.
    fails: bool,
    inner: Mutex<Inner>,
    /// How often it has died.
    lives: watch::Sender<u64>,
    /// Held while the log is opened.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Inner {
    disk: SimDisk,
    broker: Option<FileBroker>,
    /// Of former lives. They are dropped when nothing of theirs runs any more.
    former: Vec<FileBroker>,
    /// Changes of the disk until a crash.
    armed: Option<u32>,
    /// What was told to the log from outside.
    sent: BTreeMap<TopicPartition, Sent>,
}

/// The records sent to a partition.
#[derive(Debug, Default)]
struct Sent {
    hashes: Vec<u64>,
    /// As many of them must never be lost.
    durable: usize,
}

impl Host {
    pub(crate) fn new(draw: &Draw, files: &Files, clock: Arc<TokioClock>) -> Self {
        let disk = SimDisk::new(draw.seed);
        disk.set_short_writes(files.short_writes);
        Self {
            files: files.clone(),
            clock,
            fails: draw.disk_faults > 0,
            inner: Mutex::new(Inner {
                disk,
                broker: None,
                former: Vec::new(),
                armed: None,
                sent: BTreeMap::new(),
            }),
            lives: watch::Sender::new(0),
            opening: tokio::sync::Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// How often it has died.
    pub(crate) fn life(&self) -> u64 {
        *self.lives.borrow()
    }

    /// Tells of deaths.
    pub(crate) fn deaths(&self) -> watch::Receiver<u64> {
        self.lives.subscribe()
    }

    fn options(&self, disk: &SimDisk) -> FileOptions {
        FileOptions {
            clock: self.clock.clone(),
            disk: Arc::new(disk.clone()),
            fsync: self.files.fsync,
            split_bytes: self.files.split_bytes,
            unsplit_max: self.files.unsplit_max,
            poll: Duration::from_millis(50),
            ..FileOptions::default()
        }
    }

    /// Lets the machine crash before the `left`th change of its disk from now on.
    pub(crate) fn arm(&self, left: u32) {
        self.inner().armed = Some(left);
    }

    /// The disk is about to change: whether the machine crashes now.
    pub(crate) fn about_to_change(&self) -> bool {
        let armed = &mut self.inner().armed;
        match armed {
            Some(0) => {
                *armed = None;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    /// Makes later calls of the disk fail, or fills it.
    pub(crate) fn fail(&self, chance: u32) {
        let inner = self.inner();
        match chance % 4 {
            0 => inner.disk.fail(Fault::Write, chance / 4 % 20),
            1 => inner.disk.fail(Fault::Sync, chance / 4 % 10),
            2 => inner.disk.fail(Fault::SyncDir, chance / 4 % 3),
            _ => inner.disk.set_space(Some(u64::from(chance / 4 % 5_000))),
        }
    }

    /// Ends what makes the disk fail, and what waits for it to change.
    pub(crate) fn heal(&self) {
        let mut inner = self.inner();
        inner.disk.heal();
        inner.armed = None;
    }

    /// Dies. The next life finds what the disk has kept.
    pub(crate) fn crash(&self, world: &World, loses_power: bool, seed: u64) {
        let mut inner = self.inner();
        let disk = if loses_power {
            inner.disk.crash_image(seed)
        } else {
            inner.disk.kill_image(seed)
        };
        disk.set_short_writes(self.files.short_writes);
        inner.disk.watch(|| {});
        watch_changes(world, &disk);
        inner.disk = disk;
        inner.armed = None;
        let former = inner.broker.take();
        inner.former.extend(former);
        drop(inner);
        self.lives.send_modify(|lives| *lives += 1);
    }

    /// The broker, opened if it is not: by whoever comes first after a death.
    pub(crate) async fn broker(&self, world: &World) -> FileBroker {
        let _opening = self.opening.lock().await;
        loop {
            let (disk, former) = {
                let mut inner = self.inner();
                if let Some(broker) = &inner.broker {
                    return broker.clone();
                }
                (inner.disk.clone(), std::mem::take(&mut inner.former))
            };
            drop(former);
            let life = self.life();
            if life == 0 {
                watch_changes(world, &disk);
            }
            let opened = FileBroker::open(LOG, self.options(&disk)).await;
            if self.life() != life {
                continue;
            }
            match opened {
                Ok(broker) => {
                    self.inner().broker = Some(broker.clone());
                    self.nothing_durable_is_lost(world, &broker, life).await;
                }
                Err(error) if self.fails && is_of_the_disk(&error) => {
                    world.say(format!("the log cannot be opened: {error}; somebody comes"));
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    self.inner().disk.heal();
                }
                Err(error) => {
                    world.wrong(format!("the log cannot be opened: {error}"));
                    panic!("nothing goes on without a log");
                }
            }
        }
    }

    /// A reader of the log in another process.
    pub(crate) async fn reader(&self) -> tidemill_broker::Result<FileBroker> {
        let disk = self.inner().disk.clone();
        FileBroker::open_reader(LOG, self.options(&disk)).await
    }

    /// Looks after a death whether what was durable is there, and takes the rest as the log has it.
    async fn nothing_durable_is_lost(&self, world: &World, broker: &FileBroker, life: u64) {
        for input in world.draw.shape.inputs() {
            for partition in 0..world.draw.partitions {
                let at = TopicPartition::new(Topic::new(input).unwrap(), partition);
                let Ok(batches) = broker.read_to_end(&at, Start::Earliest).await else {
                    // Before its first topic is there, or dead again.
                    continue;
                };
                if self.life() != life {
                    return;
                }
                let records = batches.iter().flat_map(|batch| batch.iter());
                let there: Vec<u64> = records.map(reader::content).collect();
                let mut inner = self.inner();
                let sent = inner.sent.entry(at.clone()).or_default();
                let durable = &sent.hashes[..sent.durable];
                if !there.starts_with(durable) {
                    world.wrong(format!(
                        "{at}: {} records were durable, {} are there",
                        sent.durable,
                        there.len()
                    ));
                }
                // An opened log is durable as a whole.
                sent.durable = there.len();
                sent.hashes = there;
            }
        }
    }

    /// Puts records into the log from outside, and sometimes waits until they are durable. A record
    /// of which nobody was told that it is there may be lost.
    pub(crate) async fn append(&self, world: &World, sets: Vec<RecordSet>, syncs: bool) {
        let broker = self.broker(world).await;
        let life = self.life();
        let answer = broker.produce(sets.clone()).await;
        if self.life() != life {
            return;
        }
        let acknowledged = answer.and_then(|all| {
            all.into_iter()
                .try_for_each(|acks: Acks| acks.into_result().map(drop))
        });
        if let Err(error) = acknowledged {
            self.refused(world, &error);
            return;
        }
        for set in &sets {
            let mut inner = self.inner();
            let sent = inner.sent.entry(set.at.clone()).or_default();
            sent.hashes.extend(hashes(set));
            if self.files.fsync == Fsync::Commit {
                sent.durable = sent.hashes.len();
            }
        }
        if !syncs {
            return;
        }
        let synced = broker.sync().await;
        if self.life() != life {
            return;
        }
        match synced {
            Ok(()) => {
                for sent in self.inner().sent.values_mut() {
                    sent.durable = sent.hashes.len();
                }
            }
            Err(error) => self.refused(world, &error),
        }
    }

    fn refused(&self, world: &World, error: &tidemill_broker::Error) {
        if self.fails {
            world.kill_all("an input that was refused", Some(true));
        } else {
            world.wrong(format!("an input was refused: {error}"));
        }
    }

    /// Starts the machine again if its broker has stopped for good.
    pub(crate) async fn revive(&self, world: &World) {
        let broker = self.inner().broker.clone();
        let Some(broker) = broker else { return };
        let life = self.life();
        if broker.list_topics().await.is_err() && self.life() == life {
            if !self.fails {
                world.wrong("the log has stopped, but its disk has not failed");
            }
            // What a failed sync left is known to nobody: the machine goes with it.
            world.kill_all("a log that has stopped", Some(true));
        }
    }

    /// Splits the log and cleans it, beside everything else.
    pub(crate) async fn clean(&self, world: &World) {
        let broker = self.broker(world).await;
        let life = self.life();
        let cleaned = broker.clean().await;
        if let Err(error) = cleaned
            && self.life() == life
            && !self.fails
        {
            world.wrong(format!("the log cannot be cleaned: {error}"));
        }
    }

    /// No more files are open, and no more of the log waits to be split, than may (X10).
    pub(crate) fn is_within_bounds(&self, world: &World) {
        let inner = self.inner();
        let files = inner.disk.files();
        let logs = files.iter().filter(|path| path.starts_with("/log/log"));
        let (logs, open) = (logs.count(), inner.disk.open_files());
        drop(inner);
        // One that is being appended to, and one that is split and not yet removed.
        let logs_max = self.files.unsplit_max + 2;
        // Each log by the broker and by the reader beside it, once more while it is about to be removed;
        // the lock, the directory of the logs, and the note of what is durable. What is read of a segment is
        // read at once.
        let open_max = 2 * (logs + 1) + 3;
        if logs > logs_max || open > open_max {
            let what = format!(
                "{logs} log files of at most {logs_max}, {open} files open of at most {open_max}"
            );
            world.caught(Checker::Bounds, what);
        }
    }

    /// Checks the directory as a whole.
    pub(crate) fn verify(&self, world: &World) {
        let disk = self.inner().disk.clone();
        match verify(LOG, &disk) {
            Ok(report) if report.findings.is_empty() => {}
            Ok(report) => world.wrong(format!("the log is damaged: {:?}", report.findings)),
            Err(error) => world.wrong(format!("the log cannot be checked: {error}")),
        }
    }
}

fn is_of_the_disk(error: &tidemill_broker::Error) -> bool {
    matches!(
        error,
        tidemill_broker::Error::Io { .. } | tidemill_broker::Error::Poisoned { .. }
    )
}

fn watch_changes(world: &World, disk: &SimDisk) {
    let world = world.weak();
    disk.watch(move || {
        if let Some(world) = world.upgrade() {
            world.pass_change();
        }
    });
}

/// Of each record, what the log must keep.
fn hashes(set: &RecordSet) -> Vec<u64> {
    set.iter().map(reader::content).collect()
}
