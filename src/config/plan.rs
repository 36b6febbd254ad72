//! A pipeline as checked: what [`file`](super) wrote down, with every name resolved and every value
//! in range. Past this point nobody checks again.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::{Cleanup, Group, Topic};

use crate::events::{Field, Schema, Type};

/// Decimals of a volume-weighted average price.
const VWAP_SCALE: u8 = 8;

/// What a pipeline promises about each input record, across crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Guarantee {
    /// May lose, never doubles.
    AtMostOnce,
    /// Never loses; outputs may repeat, with the same ids. State is exact. On another broker than the
    /// pipeline's [home](Plan::home), where inputs may come in another order after a crash, what was sent
    /// and not committed may have been other outputs.
    AtLeastOnce,
    /// Neither loses nor doubles.
    ExactlyOnce,
}

impl Guarantee {
    /// As written in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AtMostOnce => "at_most_once",
            Self::AtLeastOnce => "at_least_once",
            Self::ExactlyOnce => "exactly_once",
        }
    }
}

/// Where instances keep their state unless the file says otherwise: below it, by pipeline and number.
pub(crate) const STATE_ROOT: &str = ".tidemill";

/// A checked pipeline.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name: a valid topic name, from which those of its own topics and its group are made.
    pub name: Topic,
    /// Its major version: state and ids of another one are not ours.
    pub version: u32,
    /// Hash of what decides about results: sources, events, stages, states, sinks. Comments, order
    /// of sections and resources do not count.
    pub config_hash: u64,
    /// What it promises.
    pub guarantee: Guarantee,
    /// When an epoch closes.
    pub commit: CommitPolicy,
    /// Where state lives; `.tidemill/PIPELINE/INSTANCE` when absent.
    pub state_dir: Option<PathBuf>,
    /// Threads to run tasks on.
    pub threads: NonZeroUsize,
    /// Bound on state kept in memory, in bytes, for each task.
    pub memory: usize,
    /// The consumer group: the pipeline's name unless the file says otherwise.
    pub group: Group,
    /// Brokers.
    pub brokers: Vec<BrokerPlan>,
    /// Topics that are read.
    pub sources: Vec<SourcePlan>,
    /// Stages, each after those it reads from.
    pub stages: Vec<StagePlan>,
    /// Topics that are written.
    pub sinks: Vec<SinkPlan>,
    /// Declared states.
    pub states: Vec<StatePlan>,
    /// Where dead letters go: `PIPELINE.dead-letter` on the pipeline's home unless the file says
    /// otherwise.
    pub dead_letter: TopicPlan,
    pub(super) home: usize,
}

impl Plan {
    /// The broker of the pipeline's transactions, which keeps its changelog, markers and control
    /// records: the one that the file names, else that of the first sink in the order of the file that
    /// keeps topics, else that of the dead letters. An index into [`Plan::brokers`].
    pub fn home(&self) -> usize {
        self.home
    }

    /// Whether a run writes to a broker: results, dead letters, or records of its own. From others it only
    /// reads. An index into [`Plan::brokers`].
    pub fn writes_to(&self, broker: usize) -> bool {
        let sinks = self.sinks.iter().map(|sink| sink.topic.broker);
        let mut written = sinks.chain([self.dead_letter.broker, self.home()]);
        written.any(|written| written == broker)
    }

    /// The type of the events of an input.
    pub(crate) fn schema_of(&self, input: Input) -> &Arc<Schema> {
        match input {
            Input::Source(source) => &self.sources[source].schema,
            Input::Stage { stage, port } => &self.stages[stage].ports[port].1,
        }
    }

    /// The fields by which the events of an input are keyed.
    pub(crate) fn key_of(&self, input: Input) -> Vec<&Field> {
        let stage = match input {
            Input::Source(source) => {
                let source = &self.sources[source];
                return source.schema.at(&source.key);
            }
            Input::Stage { stage, .. } => &self.stages[stage],
        };
        match &stage.op {
            OpPlan::KeyBy { key } | OpPlan::TumblingWindow { key, .. } => {
                self.schema_of(stage.inputs[0]).at(key)
            }
            OpPlan::Dedupe { .. } | OpPlan::Route { .. } | OpPlan::Merge => {
                self.key_of(stage.inputs[0])
            }
        }
    }

    /// The sources that an input comes from, each as often as there are ways.
    pub(crate) fn sources_of(&self, input: Input) -> Vec<usize> {
        match input {
            Input::Source(source) => vec![source],
            Input::Stage { stage, .. } => {
                let inputs = self.stages[stage].inputs.iter();
                inputs.flat_map(|input| self.sources_of(*input)).collect()
            }
        }
    }

    /// Whether what lies on a broker outlives the process that put it there. An index into
    /// [`Plan::brokers`].
    pub fn outlives_process(&self, broker: usize) -> bool {
        matches!(self.brokers[broker].url, BrokerUrl::File { .. })
    }
}

/// When an epoch closes: whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitPolicy {
    /// After this long with anything in it.
    pub interval: Duration,
    /// After this many input records.
    pub records: u64,
    /// After this many bytes of output and of what stages begin to remember.
    pub bytes: usize,
}

/// A broker of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerPlan {
    /// Its name in the file.
    pub name: Arc<str>,
    /// Where it is.
    pub url: BrokerUrl,
}

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerUrl {
    /// In this process.
    Memory,
    /// A directory.
    File {
        /// The directory, relative to the working directory.
        path: PathBuf,
        /// When appended records are made durable.
        fsync: FsyncPolicy,
        /// A log file is split into the topics' own files at this many bytes.
        split: u64,
    },
    /// JSON lines on standard input (topic `stdin`) and output (topic `stdout`).
    Stdio,
}

impl BrokerUrl {
    /// How large a log file grows unless the URL says otherwise.
    pub const SPLIT_DEFAULT: u64 = 64 << 20;
}

/// When the embedded log makes appended records durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsyncPolicy {
    /// Before each commit returns.
    Commit,
    /// This often.
    Every(Duration),
    /// When the system pleases.
    Never,
}

/// A topic on a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPlan {
    /// Index into [`Plan::brokers`].
    pub broker: usize,
    /// Its name there.
    pub topic: Topic,
    /// Partitions to create it with if it is missing; `None` leaves a missing topic an error, except
    /// for topics that the pipeline writes, which get as many as its first source has. Standard input
    /// and output have one.
    pub partitions: Option<NonZeroU32>,
    /// How it is cleaned up when created.
    pub cleanup: Cleanup,
}

/// Where a source begins for which nothing is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// The first record still there.
    Earliest,
    /// What comes after the start.
    Latest,
    /// The first record not before this instant, microseconds since 1970.
    Time(i64),
}

/// What to do when retention has overtaken the committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGap {
    /// Stop, and say so.
    Halt,
    /// Go on at the first record still there; a dead letter notes the gap.
    Skip,
}

/// How far event times may be off: behind each other, and ahead of their records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disorder {
    /// How far event time may run backwards before an event is late.
    pub behind: Duration,
    /// How far an event may be dated ahead of its record's own timestamp; `None` bounds nothing.
    pub ahead_max: Option<Duration>,
}

impl From<Duration> for Disorder {
    /// Event time may run backwards by so much, and be as far ahead as it likes.
    fn from(behind: Duration) -> Self {
        Self {
            behind,
            ahead_max: None,
        }
    }
}

/// A topic that is read.
#[derive(Debug, Clone)]
pub struct SourcePlan {
    /// Its name in the file.
    pub name: Arc<str>,
    /// The topic.
    pub topic: TopicPlan,
    /// The type of its events.
    pub schema: Arc<Schema>,
    /// Bit per field that some stage or sink reads: the rest is skipped, not decoded.
    pub needed: u64,
    /// The slots whose text is the record's key, in order, where the file declares it.
    pub key: Vec<usize>,
    /// Where to begin for the first time.
    pub start: StartAt,
    /// What to do when retention overtook us.
    pub on_gap: OnGap,
    /// How far event times may be off.
    pub out_of_order: Disorder,
    /// After this long without a record a partition no longer holds back the watermark.
    pub idle: Option<Duration>,
    /// Whether every task reads all its partitions.
    pub broadcast: bool,
    /// The largest payload that is decoded, in bytes; larger records go to the dead letters.
    pub record_max: usize,
}

/// Where a stage or sink reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Index into [`Plan::sources`].
    Source(usize),
    /// A port of an earlier stage.
    Stage {
        /// Index into [`Plan::stages`].
        stage: usize,
        /// Index into its [`StagePlan::ports`].
        port: usize,
    },
}

/// A stage.
#[derive(Debug, Clone)]
pub struct StagePlan {
    /// Its name in the file.
    pub name: Arc<str>,
    /// What it reads.
    pub inputs: Vec<Input>,
    /// What it does.
    pub op: OpPlan,
    /// Its outputs: name (empty for the main one) and schema. A route has no main one.
    pub ports: Vec<(Arc<str>, Arc<Schema>)>,
}

/// An operator with its options.
#[derive(Debug, Clone)]
pub enum OpPlan {
    /// Sets the key from fields.
    KeyBy {
        /// The slots, in order.
        key: Vec<usize>,
    },
    /// Drops events whose id was seen before.
    Dedupe {
        /// The slots that make the id; within one key.
        id: Vec<usize>,
        /// How long, in event time, an id is remembered.
        window: Duration,
        /// Most ids remembered for one key.
        count_max: usize,
        /// Index into [`Plan::states`].
        state: usize,
    },
    /// Aggregates per key and window of event time.
    TumblingWindow {
        /// The slots of the key.
        key: Vec<usize>,
        /// Length of a window.
        size: Duration,
        /// How long after its end a window still takes late events; each fires it again.
        lateness: Duration,
        /// What becomes of later ones.
        late: Unplaced,
        /// The aggregates, in the order of the output's fields after key, start and end.
        aggregates: Vec<Aggregate>,
        /// Index into [`Plan::states`].
        state: usize,
    },
    /// Sends each event to one of several ports by the value of a field.
    Route {
        /// The slot.
        field: usize,
        /// Values and the port each goes to.
        cases: Vec<(RouteValue, usize)>,
        /// Where the rest goes.
        otherwise: Unplaced,
    },
    /// Merges its inputs in order of event time.
    Merge,
}

/// What becomes of events that an operator cannot place: of one that comes too late for its window, of
/// one that no case of a route names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unplaced {
    /// To the dead letters.
    DeadLetter,
    /// Out through this port of the stage, unchanged.
    Port(usize),
    /// Nowhere, counted; the file gives the reason.
    Drop {
        /// The reason given.
        reason: Arc<str>,
    },
}

/// A value to compare a field with, already in the field's type and scale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteValue {
    /// Text.
    Text(Arc<str>),
    /// An integer, a decimal at the field's scale, a truth (0 or 1), an instant.
    Number(i64),
}

/// One aggregate of a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    /// The output field.
    pub output: usize,
    /// What is computed.
    pub function: AggregateFunction,
}

/// What an aggregate computes over the events of a window, ties by (event time, arrival order).
/// Events in which a field it reads is absent do not count for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AggregateFunction {
    /// How many events.
    Count,
    /// The sum of a slot.
    Sum(usize),
    /// The least value of a slot.
    Min(usize),
    /// The greatest value of a slot.
    Max(usize),
    /// The value of the earliest event.
    First(usize),
    /// The value of the latest event.
    Last(usize),
    /// Σ price·quantity / Σ quantity, half-even at the output field's scale; absent where the
    /// quantity is 0.
    Vwap {
        /// The price's slot.
        price: usize,
        /// The quantity's slot.
        quantity: usize,
    },
}

impl AggregateFunction {
    /// The field that its result makes, for events of `input`.
    ///
    /// # Panics
    ///
    /// If `input` has no such slot.
    pub fn field(self, name: &str, input: &Schema) -> Field {
        let (ty, required) = match self {
            Self::Count => (Type::Int, true),
            Self::Vwap { .. } => (Type::Decimal(VWAP_SCALE), false),
            Self::Sum(slot)
            | Self::Min(slot)
            | Self::Max(slot)
            | Self::First(slot)
            | Self::Last(slot) => (input.fields[slot].ty, input.fields[slot].required),
        };
        Field {
            name: name.into(),
            ty,
            required,
        }
    }

    /// The slots that it reads.
    pub(crate) fn reads(self) -> Vec<usize> {
        match self {
            Self::Count => Vec::new(),
            Self::Sum(slot)
            | Self::Min(slot)
            | Self::Max(slot)
            | Self::First(slot)
            | Self::Last(slot) => vec![slot],
            Self::Vwap { price, quantity } => vec![price, quantity],
        }
    }
}

/// The fields that what a window makes begins with, by events of `input` under a key of these slots: the
/// key's, then the window's start, then its end, which is the event time.
///
/// # Panics
///
/// If `input` has no such slot.
pub fn window_fields(input: &Schema, key: &[usize]) -> Vec<Field> {
    let times = ["windowStart", "windowEnd"].map(|name| Field {
        name: name.into(),
        ty: Type::Time,
        required: true,
    });
    let key = key.iter().map(|slot| input.fields[*slot].clone());
    key.chain(times).collect()
}

/// A declared state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePlan {
    /// Its name: unique in the pipeline; renaming it loses what it holds.
    pub name: Arc<str>,
    /// How long, in event time, an untouched entry is kept; `None` leaves it to the operator.
    pub ttl: Option<Duration>,
}

impl StatePlan {
    /// How long an entry is kept that its operator would keep for `window`.
    pub fn keeps(&self, window: Duration) -> Duration {
        self.ttl.map_or(window, |ttl| ttl.min(window))
    }
}

/// A topic that is written.
#[derive(Debug, Clone)]
pub struct SinkPlan {
    /// Its name in the file.
    pub name: Arc<str>,
    /// What it writes.
    pub inputs: Vec<Input>,
    /// The topic.
    pub topic: TopicPlan,
    /// The type of its events.
    pub schema: Arc<Schema>,
    /// The slots whose text becomes the record's key; empty keeps the key of the row.
    pub key: Vec<usize>,
}
