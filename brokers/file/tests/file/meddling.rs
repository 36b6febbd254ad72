//! What another does between two steps of one call.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use futures::FutureExt;
use tempfile::TempDir;
use tidemill_broker::{
    Broker, BrokerExt, Cleanup, Error, Offset, Retention, Start, Timestamp, TopicSpec,
};
use tidemill_broker_file::{
    Disk, DiskDir, DiskFile, FileBroker, FileOptions, Fsync, Locked, Mode, RealDisk, SimDisk,
};

use crate::support::{at, create, numbered, read, set, topic, values};

type Matches = Box<dyn Fn(&Path, Option<Mode>) -> bool + Send>;

/// Something to be done once, right before this thread's next call that matches.
struct Trap {
    thread: ThreadId,
    matches: Matches,
    act: Box<dyn FnOnce() + Send>,
}

/// A disk on which traps can be laid.
#[derive(Clone)]
struct Meddled {
    disk: Arc<dyn Disk>,
    trap: Arc<Mutex<Option<Trap>>>,
    /// Whether there is no room for what readers in other processes are told.
    full: Arc<AtomicBool>,
}

impl std::fmt::Debug for Meddled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meddled").finish_non_exhaustive()
    }
}

impl Meddled {
    fn new(disk: impl Disk) -> Self {
        Self {
            disk: Arc::new(disk),
            trap: Arc::default(),
            full: Arc::default(),
        }
    }

    /// Has `act` done before the next opening, or with a mode of `None` listing, that matches.
    fn lay(
        &self,
        matches: impl Fn(&Path, Option<Mode>) -> bool + Send + 'static,
        act: impl FnOnce() + Send + 'static,
    ) {
        *self.trap.lock().unwrap() = Some(Trap {
            thread: thread::current().id(),
            matches: Box::new(matches),
            act: Box::new(act),
        });
    }

    fn is_laid(&self) -> bool {
        self.trap.lock().unwrap().is_some()
    }

    fn step(&self, path: &Path, mode: Option<Mode>) {
        let sprung =
            self.trap.lock().unwrap().take_if(|trap| {
                trap.thread == thread::current().id() && (trap.matches)(path, mode)
            });
        if let Some(trap) = sprung {
            (trap.act)();
        }
    }
}

impl Disk for Meddled {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.step(path, None);
        self.disk.list(path)
    }
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        self.step(path, Some(mode));
        let file = self.disk.open(path, mode)?;
        if !path.ends_with("DURABLE") {
            return Ok(file);
        }
        let full = Arc::clone(&self.full);
        Ok(Arc::new(Full { file, full }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn DiskDir>> {
        self.disk.open_dir(path)
    }
    fn lock(&self, path: &Path, owner: &str) -> io::Result<Locked> {
        self.disk.lock(path, owner)
    }
    fn room(&self, path: &Path) -> io::Result<u64> {
        self.disk.room(path)
    }
    fn unique(&self) -> io::Result<[u8; 16]> {
        self.disk.unique()
    }
    fn is_slow(&self) -> bool {
        self.disk.is_slow()
    }
}

/// Runs a future to its end on a thread of its own.
fn beside<F: Future<Output: Send> + Send + 'static>(future: F) -> F::Output {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(future)
    };
    thread::spawn(run).join().unwrap()
}

/// Ten records in a segment, and ten more in the log, after which that segment goes when it is cleaned.
async fn about_to_be_cleaned(path: &Path, disk: &Meddled, cleanup: Cleanup) -> FileBroker {
    let options = FileOptions {
        disk: Arc::new(disk.clone()),
        ..FileOptions::default()
    };
    let broker = FileBroker::open(path, options).await.unwrap();
    let spec = TopicSpec::new(topic("t"), 1.try_into().unwrap()).cleanup(cleanup);
    broker.create_topic(&spec).await.unwrap();
    let large = "x".repeat(1_000);
    broker
        .produce(vec![set(at("t", 0), vec![large.clone(); 10])])
        .await
        .unwrap();
    broker.clean().await.unwrap();
    broker
        .produce(vec![set(at("t", 0), vec![large; 10])])
        .await
        .unwrap();
    broker.sync().await.unwrap();
    broker
}

/// The writer removes a segment right after a reader has found in which one its offset lies. This was once
/// told as `Damaged` in the writer's own process, and of times as a bare `NotFound` everywhere.
#[tokio::test]
async fn a_segment_removed_before_it_is_opened_is_looked_for_anew() {
    let compact = Cleanup::Compact {
        tombstones: Duration::from_secs(60),
    };
    let few = Cleanup::Delete(Retention {
        bytes: Some(5_000),
        ..Retention::default()
    });
    for (cleanup, in_writer, by_time, end) in [
        (compact, true, false, ".segment"),
        (compact, true, true, ".segment"),
        (compact, true, true, ".index"),
        (compact, false, false, ".segment"),
        (compact, false, true, ".index"),
        (few, true, false, ".segment"),
        (few, true, true, ".index"),
        (few, false, false, ".segment"),
        (few, false, true, ".index"),
    ] {
        let what = format!("{cleanup:?}, in writer {in_writer}, by time {by_time}, {end}");
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("log");
        let disk = Meddled::new(RealDisk);
        let writer = about_to_be_cleaned(&path, &disk, cleanup).await;
        let options = FileOptions {
            disk: Arc::new(disk.clone()),
            ..FileOptions::default()
        };
        let reader = match in_writer {
            true => writer.clone(),
            false => FileBroker::open_reader(&path, options).await.unwrap(),
        };
        let cleaner = writer.clone();
        disk.lay(
            move |path, mode| mode == Some(Mode::Read) && path.to_string_lossy().ends_with(end),
            move || beside(async move { cleaner.clean().await }).unwrap(),
        );
        if by_time {
            let found = reader.offset_at(&at("t", 0), Timestamp(7)).await;
            let low = reader.watermarks(&at("t", 0)).await.unwrap().low;
            let first = match cleanup {
                // Of one key the newest stays.
                Cleanup::Compact { .. } => Offset(19),
                Cleanup::Delete(_) => low,
            };
            let found = found.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(found, first, "{what}");
        } else {
            match reader.read_to_end(&at("t", 0), Start::Earliest).await {
                Ok(batches) => {
                    let records = batches.iter().flat_map(|batch| batch.iter());
                    let offsets: Vec<_> = records.map(|record| record.offset.0).collect();
                    // Retention may have come before the reader did.
                    let is_right = match cleanup {
                        Cleanup::Compact { .. } => offsets == [19],
                        Cleanup::Delete(_) => offsets.ends_with(&[19]) && offsets.len() <= 10,
                    };
                    assert!(is_right, "{what}: {offsets:?}");
                }
                Err(Error::OutOfRange { .. }) if cleanup == few => {}
                Err(error) => panic!("{what}: {error}"),
            }
        }
        assert!(!disk.is_laid(), "{what}: nobody stepped into the trap");
    }
}

/// A segment of each partition stayed open for ever once it had been read.
#[tokio::test(start_paused = true)]
async fn no_segment_stays_open_that_nobody_reads() {
    const PARTITIONS: u32 = 300;
    let disk = SimDisk::new(1);
    let options = FileOptions {
        disk: Arc::new(disk.clone()),
        fsync: Fsync::Never,
        ..FileOptions::default()
    };
    let broker = FileBroker::open("/log", options).await.unwrap();
    create(&broker, "t", PARTITIONS).await;
    let sets = (0..PARTITIONS).map(|partition| set(at("t", partition), values(0..3)));
    broker.produce(sets.collect()).await.unwrap();
    broker.clean().await.unwrap();
    for partition in 0..PARTITIONS {
        let found = read(&broker, &at("t", partition), Start::Earliest).await;
        assert_eq!(found, numbered(0..3));
    }
    assert!(disk.open_files() < 10, "{} are open", disk.open_files());
}

/// What was not there at the first look, and is at the second, was once told as damage.
#[tokio::test]
async fn a_directory_that_another_process_is_making_is_not_called_damaged() {
    for reads in [true, false] {
        let disk = Meddled::new(SimDisk::new(1));
        let options = || FileOptions {
            disk: Arc::new(disk.clone()),
            fsync: Fsync::Never,
            ..FileOptions::default()
        };
        let made = Arc::new(Mutex::new(None));
        let (making, put) = (options(), Arc::clone(&made));
        disk.lay(
            |path, mode| mode.is_none() && path == Path::new("/log"),
            move || {
                let opening = FileBroker::open("/log", making);
                *put.lock().unwrap() = opening.now_or_never();
            },
        );
        if reads {
            // It is there in order that it can be listed.
            disk.create_dir(Path::new("/log")).unwrap();
            FileBroker::open_reader("/log", options()).await.unwrap();
        } else {
            let error = FileBroker::open("/log", options()).await.unwrap_err();
            assert!(matches!(error, Error::InUse { .. }), "{error}");
        }
        assert!(made.lock().unwrap().take().unwrap().is_ok());
    }
}

/// A disk that has no room left for one file.
#[derive(Debug)]
struct Full {
    file: Arc<dyn DiskFile>,
    full: Arc<AtomicBool>,
}

impl DiskFile for Full {
    fn read_at(&self, at: u64, len: usize, into: &mut Vec<u8>) -> io::Result<usize> {
        self.file.read_at(at, len, into)
    }
    fn write_at(&self, at: u64, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.full.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.file.write_at(at, parts),
        }
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

/// The split log was once kept, by its name and by its bytes, for as long as the writer ran.
#[tokio::test(start_paused = true)]
async fn where_readers_cannot_be_told_of_a_split_for_want_of_room_the_log_goes_all_the_same() {
    let sim = SimDisk::new(1);
    let disk = Meddled::new(sim.clone());
    let options = FileOptions {
        disk: Arc::new(disk.clone()),
        fsync: Fsync::Never,
        ..FileOptions::default()
    };
    let broker = FileBroker::open("/log", options.clone()).await.unwrap();
    create(&broker, "t", 1).await;
    broker
        .produce(vec![set(at("t", 0), values(0..5))])
        .await
        .unwrap();
    disk.full.store(true, Ordering::Relaxed);
    broker.clean().await.unwrap();
    let logs = sim
        .files()
        .into_iter()
        .filter(|path| path.starts_with("/log/log"));
    assert_eq!(logs.count(), 0);
    let beside = FileBroker::open_reader("/log", options).await.unwrap();
    for broker in [&broker, &beside] {
        let found = read(broker, &at("t", 0), Start::Earliest).await;
        assert_eq!(found, numbered(0..5));
    }
    disk.full.store(false, Ordering::Relaxed);
    broker
        .produce(vec![set(at("t", 0), values(5..6))])
        .await
        .unwrap();
    broker.sync().await.unwrap();
    let found = read(&beside, &at("t", 0), Start::Earliest).await;
    assert_eq!(found, numbered(0..6));
}

/// An index that is whole, but another segment's: by it records were passed over without a word.
#[tokio::test(start_paused = true)]
async fn an_index_of_another_segment_is_rebuilt() {
    let disk = SimDisk::new(1);
    let options = FileOptions {
        disk: Arc::new(disk.clone()),
        fsync: Fsync::Never,
        ..FileOptions::default()
    };
    let broker = FileBroker::open("/log", options.clone()).await.unwrap();
    for (name, large) in [("a", 90), ("b", 50)] {
        create(&broker, name, 1).await;
        for _ in 0..40 {
            let value = "x".repeat(large * 100);
            broker
                .produce(vec![set(at(name, 0), [value])])
                .await
                .unwrap();
        }
    }
    broker.close().await.unwrap();
    let indexes: Vec<_> = disk
        .files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "index"))
        .collect();
    let [a, b] = &indexes[..] else {
        panic!("{indexes:?}");
    };
    disk.set_bytes(b, disk.bytes(a).unwrap()).unwrap();
    let broker = FileBroker::open("/log", options).await.unwrap();
    for from in 0..40 {
        let found = read(&broker, &at("b", 0), Start::Offset(Offset(from))).await;
        assert_eq!((found.len() as u64, found[0].0), (40 - from, from));
    }
}

/// An index that is whole and names blocks that are there, and lies about their times: whoever looked for
/// a time was led past records.
#[tokio::test(start_paused = true)]
async fn an_index_that_is_not_the_one_of_the_manifest_is_rebuilt() {
    let disk = SimDisk::new(1);
    let options = FileOptions {
        disk: Arc::new(disk.clone()),
        fsync: Fsync::Never,
        ..FileOptions::default()
    };
    let broker = FileBroker::open("/log", options.clone()).await.unwrap();
    create(&broker, "t", 1).await;
    for _ in 0..40 {
        let value = "x".repeat(9_000);
        let records = vec![set(at("t", 0), [value])];
        broker.produce(records).await.unwrap();
    }
    broker.close().await.unwrap();
    let files = disk.files().into_iter();
    let mut indexes = files.filter(|path| path.extension().is_some_and(|end| end == "index"));
    let index = indexes.next().unwrap();
    let whole = disk.bytes(&index).unwrap();
    let mut lies = whole.clone();
    // Of the second mark, the latest timestamp before it: later than all there are becomes earlier.
    lies[32 + 24 + 16..32 + 48].copy_from_slice(&(-9_i64).to_le_bytes());
    let castagnoli = crc_fast::CrcAlgorithm::Crc32Iscsi;
    let crc = crc_fast::checksum(castagnoli, &lies[12..]) as u32;
    lies[8..12].copy_from_slice(&crc.to_le_bytes());
    assert_ne!(lies, whole);
    disk.set_bytes(&index, lies).unwrap();

    let broker = FileBroker::open("/log", options).await.unwrap();
    let found = broker.offset_at(&at("t", 0), Timestamp(7)).await.unwrap();
    assert_eq!(found, Offset(0));
    assert_eq!(
        disk.bytes(&index).unwrap(),
        whole,
        "it was stored as it was"
    );
}
