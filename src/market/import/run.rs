//! An import from its options to its report.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tidemill_broker::{
    Broker, Cleanup, Error as BrokerError, Timestamp, Topic, TopicDescription, TopicPartition,
    TopicSpec, partition,
};

use super::detect::{self, Detected};
use super::error::{Error, Result};
use super::item::Reason;
use super::layout::Kind;
use super::log::{ImportLog, hex};
use super::merge::Merge;
use super::options::{OnBadLine, OnImported, Options};
use super::reader::{Reader, Source};
use super::writer::{Target, Writer, transactional_id};

/// How long the log of imports keeps tombstones, which only a person would write.
const TOMBSTONES: Duration = Duration::from_secs(7 * 24 * 3600);

/// Lines checked between two chances for other tasks to run, and for the progress to be told.
const CHECK_LINES: u64 = 8_192;

/// What an import is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading all files; nothing is written yet. Counted in bytes.
    Checking,
    /// Writing. Counted in records.
    Writing,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// How much of it is done.
    pub done: u64,
    /// How much there is, as far as is known.
    pub total: u64,
}

/// What was found in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Lines, without empty ones and names of columns.
    pub lines: u64,
    /// Updates.
    pub records: u64,
    /// Updates that went to the side topic.
    pub suspicious: u64,
    /// Numbers that had more decimals than the scale.
    pub rounded: u64,
    /// Lines that were not what their layout says, and went to the side topic.
    pub bad_lines: u64,
    /// Updates earlier than the one before them in their file.
    pub backwards: u64,
    /// The earliest event time.
    #[serde(serialize_with = "instant")]
    pub first: Option<Timestamp>,
    /// The latest event time.
    #[serde(serialize_with = "instant")]
    pub last: Option<Timestamp>,
}

fn instant<S: serde::Serializer>(time: &Option<Timestamp>, out: S) -> Result<S::Ok, S::Error> {
    let time = time.and_then(|time| jiff::Timestamp::from_microsecond(time.0).ok());
    match time {
        Some(time) => out.collect_str(&format_args!("{time:.6}")),
        None => out.serialize_none(),
    }
}

impl Counts {
    fn add(&mut self, other: &Self) {
        let least = |a: Option<Timestamp>, b: Option<Timestamp>| a.into_iter().chain(b).min();
        self.lines += other.lines;
        self.records += other.records;
        self.suspicious += other.suspicious;
        self.rounded += other.rounded;
        self.bad_lines += other.bad_lines;
        self.backwards += other.backwards;
        self.first = least(self.first, other.first);
        self.last = self.last.max(other.last);
    }

    /// Items of all topics.
    fn items(&self) -> u64 {
        self.records + self.suspicious + self.bad_lines
    }
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Files that were imported.
    pub files: usize,
    /// Files that were in the topic already and left out.
    pub skipped_files: usize,
    /// What is in the topics from these files, whichever run wrote it.
    #[serde(flatten)]
    pub counts: Counts,
    /// Items that this run wrote; less than there are where an earlier run had begun, none where it
    /// had finished.
    pub written: u64,
    /// Lengths of bars that were told from the times in their files, as no option said them, in
    /// microseconds: the least first.
    pub guessed_bar_micros: Vec<u64>,
    /// Whether the topic held, where these updates went, later ones than the first of them: event time
    /// goes back there, and what reads the topic in its order takes them for late.
    pub goes_back: bool,
    /// Whether a run killed at any instant and repeated leaves no item out or in twice. Without
    /// transactions the last chunk may be in twice.
    pub exactly_once: bool,
}

/// Files that were read to their ends and found right.
#[derive(Debug)]
pub struct Checked(Vec<Source>);

/// Imports files: [`check`], then [`write()`].
///
/// `progress` is called every few thousand lines.
///
/// # Errors
///
/// See [`Error`]. What is wrong with a file is found before anything is written. A failure of the
/// broker leaves whole chunks in; run again with the same files and options to go on.
///
/// # Cancel safety
///
/// Dropping the future leaves whole chunks in, as a failure of the broker does.
///
/// # Delivery
///
/// Exactly once on a broker with transactions: see [`Report::exactly_once`].
pub async fn run(
    options: &Options,
    broker: Arc<dyn Broker>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report> {
    let checked = check(options, progress).await?;
    write(options, checked, broker, progress).await
}

/// Reads all files to their ends and writes nothing, so that no broker is needed yet.
///
/// # Errors
///
/// What is wrong with the options or a file.
///
/// # Cancel safety
///
/// Dropping the future leaves nothing behind.
pub async fn check(options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Checked> {
    for scale in [options.price_scale, options.quantity_scale] {
        if scale > crate::events::SCALE_MAX {
            return Err(Error::Invalid(format!(
                "a scale of {scale} decimals is too fine; the finest is {}",
                crate::events::SCALE_MAX
            )));
        }
    }
    for (other, option) in [
        (&options.suspect_topic, "--suspect-topic"),
        (&options.log_topic, "--topic"),
    ] {
        if options.topic == *other {
            let what = match option {
                "--topic" => "the log of imports",
                _ => "what is suspicious",
            };
            return Err(Error::Invalid(format!(
                "topic `{other}` is that of {what}: name another with {option}"
            )));
        }
    }
    read_all(options, progress).await.map(Checked)
}

/// Imports files that were checked with the same options.
///
/// # Errors
///
/// As for [`run`].
///
/// # Cancel safety
///
/// As for [`run`].
///
/// # Delivery
///
/// As for [`run`].
pub async fn write(
    options: &Options,
    Checked(sources): Checked,
    broker: Arc<dyn Broker>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report> {
    let topic = ensure(broker.as_ref(), &options.topic, options, Cleanup::default()).await?;
    let suspects = ensure(
        broker.as_ref(),
        &options.suspect_topic,
        options,
        Cleanup::default(),
    )
    .await?;
    let cleanup = if broker.capabilities().compaction {
        Cleanup::Compact {
            tombstones: TOMBSTONES,
        }
    } else {
        Cleanup::default()
    };
    ensure(broker.as_ref(), &options.log_topic, options, cleanup).await?;

    // Opened before the log is read: no other import can write to it from here on.
    let exactly_once = broker.capabilities().transactions;
    let transactor = if exactly_once {
        let id = transactional_id(&options.topic)?;
        Some(broker.transactor(&id).await?)
    } else {
        None
    };
    let log = ImportLog::read(broker.as_ref(), &options.log_topic, &topic).await?;
    let given = sources.len();
    let sources = not_imported(sources, options, &log)?;
    let mut report = Report {
        files: sources.len(),
        skipped_files: given - sources.len(),
        counts: Counts::default(),
        written: 0,
        guessed_bar_micros: guessed_bars(&sources),
        goes_back: false,
        exactly_once,
    };
    for source in &sources {
        report.counts.add(&source.counts);
    }
    if sources.is_empty() {
        return Ok(report);
    }

    let id = import_id(&sources, options);
    let (mut skip, done) = log
        .import(&id)
        .map_or((0, false), |entry| (entry.items, entry.done));
    if done {
        return Ok(report);
    }
    if skip == 0 {
        report.goes_back = goes_back(&*broker, &topic, &sources).await?;
    } else {
        tracing::info!(topic = %options.topic, items = skip, "goes on with an import begun earlier");
    }
    let before = skip;
    let target = Target {
        broker: broker.clone(),
        topic,
        suspects,
        log_topic: options.log_topic.clone(),
    };
    let mut writer = Writer::new(target, id, &sources, transactor, log, skip);
    let mut merge = Merge::new(&sources, options.on_bad_line);
    let total = report.counts.items();
    while let Some((source, item)) = merge.next()? {
        if skip > 0 {
            skip -= 1;
            continue;
        }
        if writer.push(source, &item) {
            writer.commit(false).await?;
            progress(Progress {
                phase: Phase::Writing,
                done: writer.committed(),
                total,
            });
            // A broker in this process may never have made us wait.
            tokio::task::yield_now().await;
        }
    }
    writer.commit(true).await?;
    progress(Progress {
        phase: Phase::Writing,
        done: writer.committed(),
        total,
    });
    broker.sync().await?;
    report.written = writer.committed() - before;
    Ok(report)
}

/// Reads all files to their ends.
async fn read_all(options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Vec<Source>> {
    // Told all at once: who mends the files does not want to come back for each.
    let mut errors = Vec::new();
    let files = detected(options, &mut errors)?;
    let total = files
        .iter()
        .filter_map(|(path, _)| std::fs::metadata(path).ok())
        .map(|metadata| metadata.len())
        .sum();
    let mut sources: Vec<Source> = Vec::with_capacity(files.len());
    let mut packed_before = 0;
    for (path, detected) in files {
        let packed = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        let mut tell = |part: f64| {
            progress(Progress {
                phase: Phase::Checking,
                done: packed_before + ((packed as f64 * part) as u64).min(packed),
                total,
            });
        };
        let source = read_one(path, detected, options, &mut tell).await;
        packed_before += packed;
        match source {
            Ok(source) => match sources.iter().find(|other| other.id == source.id) {
                Some(other) => errors.push(Error::Twice {
                    first: other.path.clone(),
                    second: source.path,
                }),
                None => sources.push(source),
            },
            Err(error) => errors.push(error),
        }
    }
    match errors.len() {
        0 => {}
        1 => return Err(errors.remove(0)),
        _ => return Err(Error::Files(errors)),
    }
    progress(Progress {
        phase: Phase::Checking,
        done: total,
        total,
    });
    date_the_bad(&mut sources);
    Ok(sources)
}

/// Gives the lines of files without a good one an event time: nothing in them tells one.
fn date_the_bad(sources: &mut [Source]) {
    let firsts = sources.iter().filter_map(|source| source.counts.first);
    let first = firsts.min();
    for source in sources.iter_mut().filter(|one| one.counts.first.is_none()) {
        let time = first.unwrap_or_else(|| changed(&source.path));
        (source.earliest, source.head) = (time, time);
    }
}

/// When a file was last changed: the same in each run over it, unlike a clock.
fn changed(path: &Path) -> Timestamp {
    let metadata = std::fs::metadata(path).ok();
    let modified = metadata.and_then(|metadata| metadata.modified().ok());
    let since = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let micros = since.and_then(|since| i64::try_from(since.as_micros()).ok());
    Timestamp(micros.unwrap_or(0))
}

/// Reads a file to its end; `tell` is told which part of it has been read, from time to time.
async fn read_one(
    path: PathBuf,
    detected: Detected,
    options: &Options,
    tell: &mut dyn FnMut(f64),
) -> Result<Source> {
    // Times of bad lines are given out once the head is known.
    let before_all = Timestamp::MIN;
    let mut reader = Reader::open(&path, &detected, options.on_bad_line, before_all)?;
    let mut head = None;
    let mut told = 0;
    while let Some(item) = reader.next()? {
        if !matches!(item.suspect, Some(Reason::Bad(_))) {
            head.get_or_insert(item.time);
        }
        if reader.counts().lines >= told + CHECK_LINES {
            told = reader.counts().lines;
            // Of a zip archive, as if it shrank evenly.
            tell(reader.bytes_read() as f64 / reader.bytes().max(1) as f64);
            tokio::task::yield_now().await;
        }
    }
    let (hash, counts) = (reader.hash(), reader.counts());
    if counts.items() == 0 {
        return Err(Error::Unclear {
            path,
            what: "is empty; leave it out".into(),
        });
    }
    Ok(Source {
        id: Source::identify(hash, &detected),
        path,
        detected,
        hash,
        counts,
        earliest: counts.first.unwrap_or(Timestamp::MAX),
        head: head.unwrap_or(Timestamp::MAX),
    })
}

/// The files to import with what they are; why others cannot be goes to `errors`.
fn detected(options: &Options, errors: &mut Vec<Error>) -> Result<Vec<(PathBuf, Detected)>> {
    let mut files = Vec::with_capacity(options.files.len());
    for path in &options.files {
        let detected = match detect::detect(path, options) {
            Ok(detected) => detected,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        if options
            .only
            .is_none_or(|kind| kind == detected.setting.layout.kind())
        {
            files.push((path.clone(), detected));
        }
    }
    let of = |kind: Kind| {
        files
            .iter()
            .find(|(_, detected)| detected.setting.layout.kind() == kind)
    };
    if let (Some((trades, _)), Some((quotes, _))) = (of(Kind::Trade), of(Kind::Quote)) {
        return Err(Error::Invalid(format!(
            "{} holds trades and {} quotes: import them into topics of their own, with --only",
            trades.display(),
            quotes.display()
        )));
    }
    if errors.is_empty() {
        if files.is_empty() {
            return Err(Error::Invalid("no files to import".into()));
        }
        let heeds = files.iter().map(|(_, detected)| detected.heeds);
        options.are_heeded(heeds.collect())?;
    }
    Ok(files)
}

/// Describes a topic, creating it if it is missing.
async fn ensure(
    broker: &dyn Broker,
    name: &Topic,
    options: &Options,
    cleanup: Cleanup,
) -> Result<TopicDescription> {
    match broker.describe_topic(name).await {
        Err(BrokerError::UnknownTopic { .. }) => {}
        described => return Ok(described?),
    }
    let partitions = if *name == options.log_topic {
        std::num::NonZeroU32::MIN
    } else {
        options.partitions
    };
    match broker
        .create_topic(&TopicSpec::new(name.clone(), partitions).cleanup(cleanup))
        .await
    {
        // Somebody else was faster.
        Ok(()) | Err(BrokerError::TopicExists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(broker.describe_topic(name).await?)
}

fn guessed_bars(sources: &[Source]) -> Vec<u64> {
    let guessed = sources
        .iter()
        .filter_map(|source| source.detected.guessed_bar);
    let micros = guessed.map(|bar| u64::try_from(bar.as_micros()).unwrap_or(u64::MAX));
    micros.collect::<BTreeSet<u64>>().into_iter().collect()
}

/// Whether a partition that updates of these files go to holds a later one than their first.
async fn goes_back(
    broker: &dyn Broker,
    topic: &TopicDescription,
    sources: &[Source],
) -> Result<bool> {
    let mut first: BTreeMap<u32, Timestamp> = BTreeMap::new();
    for source in sources {
        let Some(time) = source.counts.first else {
            continue;
        };
        let partitions = match &*source.detected.pair {
            // Each line has its own.
            "" => 0..topic.partitions,
            pair => {
                let at = partition::for_key(pair.as_bytes(), topic.partitions);
                at..at + 1
            }
        };
        for partition in partitions {
            let least = first.entry(partition).or_insert(time);
            *least = time.min(*least);
        }
    }
    for (partition, first) in first {
        let at = TopicPartition::new(topic.name.clone(), partition);
        let later = broker.offset_at(&at, Timestamp(first.0.saturating_add(1)));
        if later.await? < broker.watermarks(&at).await?.high {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The files that no other import has brought into the topic.
fn not_imported(
    mut sources: Vec<Source>,
    options: &Options,
    log: &ImportLog,
) -> Result<Vec<Source>> {
    loop {
        // Leaving a file out makes it another import.
        let id = import_id(&sources, options);
        let mut other = None;
        for (index, source) in sources.iter().enumerate() {
            let Some(file) = log.file(source.id).filter(|file| file.import != id) else {
                continue;
            };
            let entry = log.import(&file.import);
            if !entry.is_some_and(|entry| entry.done) {
                return Err(Error::Unfinished {
                    path: source.path.clone(),
                    topic: options.topic.clone(),
                    files: entry.map_or_else(String::new, |entry| entry.files.join(" ")),
                });
            }
            if options.on_imported == OnImported::Refuse {
                return Err(Error::AlreadyImported {
                    path: source.path.clone(),
                    earlier: file.path.clone(),
                    topic: options.topic.clone(),
                });
            }
            other = Some(index);
            break;
        }
        match other {
            Some(index) => drop(sources.remove(index)),
            None => return Ok(sources),
        }
    }
}

/// Identifies an import: the same files in the same order, to the same effect.
fn import_id(sources: &[Source], options: &Options) -> String {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(options.topic.as_str().as_bytes());
    hasher.update(b"\0");
    hasher.update(options.suspect_topic.as_str().as_bytes());
    hasher.update(&[0, u8::from(options.on_bad_line == OnBadLine::Skip)]);
    for source in sources {
        hasher.update(&source.id.to_be_bytes());
    }
    hex(hasher.digest128())
}
