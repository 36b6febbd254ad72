//! Setting a pipeline back or forward: new input offsets, and what becomes of its state.
//!
//! A reset is one transaction in the pipeline's own name: for each task a new marker with the inputs
//! as they are now, the group's offsets, and, if the state is dropped, a tombstone for each of its
//! elements. Stores follow it as they follow any other epoch. Only if the inputs have another number
//! of partitions are changelog and control topic made anew, and the stores set aside.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_broker::{
    Broker, Error as BrokerError, GroupOffsets, Headers, Offset, Outcome, RecordSet, Timestamp,
    TopicIdentity, TopicPartition, Transaction, TransactionalId, Watermarks,
};
use tidemill_state::{Digest, Epoch};
use tracing::{info, warn};

use super::error::Doing;
use super::recovery::{content, own_topic, retrying};
use super::run::transactional_id;
use super::topics::{Topics, describe, tasks_of};
use super::topology::{SubTopology, sub_topologies};
use super::{Attempt, Error, InputPosition, MARKER_KEY, Marker, Result, TaskId, version};
use crate::config::Plan;
use crate::config::plan::StartAt;

/// Where inputs are to be read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetTo {
    /// The first record still there.
    Earliest,
    /// The end.
    Latest,
    /// The first record not before this instant.
    Time(Timestamp),
    /// This offset.
    Offset(Offset),
}

/// What to reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResetOptions {
    /// Where to.
    pub to: ResetTo,
    /// Only this source, by its name in the file.
    pub source: Option<String>,
    /// Only this partition.
    pub partition: Option<u32>,
    /// Whether the state of the tasks concerned is dropped, and event time with it.
    pub drop_state: bool,
}

/// What a reset does, or has done.
#[derive(Debug, Clone)]
pub struct Reset {
    /// The tasks concerned, in order.
    pub tasks: Vec<TaskReset>,
    /// If changelog and control topic are made anew: the partitions they have, and will have.
    pub rebuilt: Option<(u32, u32)>,
}

/// What becomes of one task.
#[derive(Debug, Clone)]
pub struct TaskReset {
    /// The task.
    pub task: TaskId,
    /// Its last epoch; none if it has never committed one.
    pub was: Option<Epoch>,
    /// The epoch that the reset is.
    pub epoch: Epoch,
    /// Elements of its state.
    pub elements: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// The digest after the reset.
    pub digest: Digest,
    /// Its inputs.
    pub inputs: Vec<InputReset>,
    sequences: Vec<(String, u32, u64)>,
    keys: Vec<bytes::Bytes>,
}

/// What becomes of one input of a task.
#[derive(Debug, Clone)]
pub struct InputReset {
    /// Name of the source in the file.
    pub source: String,
    /// The partition.
    pub at: TopicPartition,
    /// What was to be read next, as the marker says; none if it was never read.
    pub was: Option<Offset>,
    /// What is to be read next.
    pub next: Offset,
    /// The first offset still there.
    pub low: Offset,
    /// Where it ends.
    pub end: Offset,
    /// Whether this is another topic than the one that was read: it was deleted and created again.
    pub recreated: bool,
    /// Whether the group's offset is set too.
    pub in_group: bool,
    identity: Option<TopicIdentity>,
}

/// A look at a pipeline that is to be reset. Reading only.
#[derive(Debug)]
pub struct Resetting {
    plan: Plan,
    topologies: Vec<SubTopology>,
    brokers: Vec<Arc<dyn Broker>>,
    options: ResetOptions,
    reset: Reset,
}

impl Resetting {
    /// Looks at the log and works out what a reset would do. Changes nothing.
    ///
    /// `newest` is the newest epoch that any store of the pipeline has seen: markers go on after it.
    /// `brokers` are those of the plan, in its order; reading is enough.
    ///
    /// # Errors
    ///
    /// If a source's topic is missing, an offset lies outside its partition, or what is asked for
    /// would leave a pipeline that cannot run.
    pub async fn look(
        plan: Plan,
        brokers: Vec<Arc<dyn Broker>>,
        options: ResetOptions,
        newest: Option<Epoch>,
    ) -> Result<Self> {
        let topologies = sub_topologies(&plan);
        let reset = look(&plan, &topologies, &brokers, &options, newest).await?;
        Ok(Self {
            plan,
            topologies,
            brokers,
            options,
            reset,
        })
    }

    /// What it would do.
    pub fn reset(&self) -> &Reset {
        &self.reset
    }

    /// Does it, in the name of the pipeline and of every one of `instances`, which are shut out first. `run` is drawn
    /// once: it tells this reset from every other.
    ///
    /// # Errors
    ///
    /// If a broker refuses: then nothing has changed, unless the changelog was made anew; resetting
    /// again ends that. If the group has members.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the pipeline as it was or reset; or, where the changelog is made
    /// anew, to be reset again.
    pub async fn apply(self, instances: &[String], run: u64) -> Result<Reset> {
        let plan = &self.plan;
        let outputs = self.brokers[plan.home()].clone();
        // Whether they ran in a group or not, which may have changed with the file.
        for instance in instances {
            open(&*outputs, &transactional_id(plan, Some(instance))?).await?;
        }
        let own = transactional_id(plan, None)?;
        let mut transactor = open(&*outputs, &own).await?;
        let changelog = own_topic(&plan.name, "changelog")?;
        if self.reset.rebuilt.is_some() {
            let control = own_topic(&plan.name, "control")?;
            for topic in [&control, &changelog] {
                match retrying(|| outputs.delete_topic(topic)).await {
                    Ok(()) | Err(BrokerError::UnknownTopic { .. }) => {}
                    Err(error) => {
                        return Err(error).doing(|| format!("cannot delete topic `{topic}`"));
                    }
                }
            }
        }
        let topics = Topics::prepare(plan, &self.topologies, &self.brokers, &*outputs).await?;
        let attempt = Attempt {
            instance: "reset".into(),
            run,
            transaction: 1,
        };
        let transaction = self.compose(&topics, &attempt);
        let mut tries = 0;
        loop {
            match transactor.commit(transaction.clone()).await {
                Outcome::Committed(_) => break,
                Outcome::Unknown(error) => {
                    warn!(%error, "the outcome of the reset is unknown: reading the markers");
                    transactor = open(&*outputs, &own).await?;
                    if self.happened(&topics, &attempt).await? {
                        break;
                    }
                }
                Outcome::NotCommitted(rejection) if rejection.error.is_transient() => {
                    warn!(error = %rejection.error, tries, "the reset failed: trying again");
                    tokio::time::sleep(super::epoch::pause_before_retry(tries)).await;
                    tries += 1;
                }
                Outcome::NotCommitted(rejection) => {
                    return Err(rejection.error).doing(|| "the reset was refused".into());
                }
            }
        }
        retrying(|| outputs.sync())
            .await
            .doing(|| "cannot make the reset durable".into())?;
        info!(pipeline = %plan.name, tasks = self.reset.tasks.len(), "reset");
        Ok(self.reset)
    }

    fn compose(&self, topics: &Topics, attempt: &Attempt) -> Transaction {
        let mut transaction = Transaction::default();
        let none = Headers::new();
        let headers = version::headers(&self.plan);
        let mut offsets = BTreeMap::new();
        for task in &self.reset.tasks {
            let at = TopicPartition::new(topics.changelog.clone(), topics.ordinal(task.task));
            let mut set = RecordSet::new(at);
            // In a new changelog there is nothing to remove.
            if self.options.drop_state && self.reset.rebuilt.is_none() {
                for key in &task.keys {
                    set.push(None, Some(key), None, &none);
                }
            }
            let marker = self.marker(task, topics, attempt);
            set.push(None, Some(MARKER_KEY), Some(&marker.encode()), &headers);
            transaction.records.push(set);
            for input in task.inputs.iter().filter(|input| input.in_group) {
                offsets.insert(input.at.clone(), input.next);
            }
        }
        if !offsets.is_empty() {
            transaction.offsets.push(GroupOffsets {
                group: self.plan.group.clone(),
                generation: None,
                offsets: offsets.into_iter().collect(),
            });
        }
        transaction
    }

    fn marker(&self, task: &TaskReset, topics: &Topics, attempt: &Attempt) -> Marker {
        let inputs = task.inputs.iter().map(|input| InputPosition {
            source: input.source.clone(),
            topic: input.at.topic.to_string(),
            partition: input.at.partition,
            identity: input.identity.map(|identity| identity.0),
            next: input.next.0,
        });
        Marker {
            epoch: task.epoch,
            attempt: attempt.clone(),
            task: task.task.to_string(),
            partitions: topics.tasks[task.task.sub_topology],
            version: self.plan.version,
            config_hash: self.plan.config_hash,
            inputs: inputs.collect(),
            sequences: task.sequences.clone(),
            digest: task.digest,
        }
    }

    /// Whether the markers of this very reset are there.
    async fn happened(&self, topics: &Topics, attempt: &Attempt) -> Result<bool> {
        let Some(first) = self.reset.tasks.first() else {
            return Ok(false);
        };
        let at = TopicPartition::new(topics.changelog.clone(), topics.ordinal(first.task));
        let outputs = &*self.brokers[self.plan.home()];
        let last = super::recovery::last_marker(outputs, &at, Offset::START).await?;
        // All of a transaction is there, or nothing.
        Ok(last.is_some_and(|(marker, _)| marker.attempt == *attempt))
    }
}

async fn open(
    broker: &dyn Broker,
    id: &TransactionalId,
) -> Result<Box<dyn tidemill_broker::Transactor>> {
    let opened = retrying(|| broker.transactor(id)).await;
    opened.doing(|| format!("cannot open transactional id `{id}`"))
}

/// What is there of a source.
struct Found {
    partitions: u32,
    identity: Option<TopicIdentity>,
    // By partition.
    ends: Vec<Watermarks>,
}

async fn look(
    plan: &Plan,
    topologies: &[SubTopology],
    brokers: &[Arc<dyn Broker>],
    options: &ResetOptions,
    newest: Option<Epoch>,
) -> Result<Reset> {
    let sources = sources(plan, brokers).await?;
    choose(plan, &sources, options)?;
    let outputs = &*brokers[plan.home()];
    let changelog = own_topic(&plan.name, "changelog")?;
    let partitions: Vec<u32> = sources.iter().map(|source| source.partitions).collect();
    let tasks = tasks_of(plan, topologies, &partitions)?;
    let count: u32 = tasks.iter().sum();
    let has = describe(outputs, &changelog)
        .await?
        .map(|found| found.partitions);
    let mut old = Vec::new();
    for partition in 0..has.unwrap_or(0) {
        let at = TopicPartition::new(changelog.clone(), partition);
        old.push(content(outputs, &at).await?);
    }
    let of = |task: TaskId| {
        let ordinal = tasks[..task.sub_topology].iter().sum::<u32>() + task.partition;
        old.get(ordinal as usize)
    };
    let all = tasks.iter().enumerate().flat_map(|(sub_topology, &count)| {
        (0..count).map(move |partition| TaskId {
            sub_topology,
            partition,
        })
    });
    let is_parted = |task: TaskId| {
        let marker = of(task).and_then(|old| old.marker.as_ref());
        marker.is_some_and(|marker| {
            marker.partitions != tasks[task.sub_topology] || marker.task != task.to_string()
        })
    };
    let parted = has.is_some_and(|has| has != count) || all.clone().any(is_parted);
    if parted && !options.drop_state {
        return Err(Error::Plan {
            what: "the inputs have another number of partitions than when the state was written, so keys have moved: it cannot be kept; give `--drop-state`".into(),
        });
    }
    if parted && (options.source.is_some() || options.partition.is_some()) {
        return Err(Error::Plan {
            what: "the inputs have another number of partitions than when the state was written: reset all of them, without `--source` and `--partition`".into(),
        });
    }
    // Where the changelog is made anew, epochs go on after all that any store may have seen.
    let first = match parted {
        true => old
            .iter()
            .filter_map(|old| old.marker.as_ref().map(|marker| marker.epoch))
            .max(),
        false => None,
    };
    let shared = plan
        .sources
        .iter()
        .filter(|source| !source.broadcast)
        .all(|source| source.topic.broker == plan.home());
    let mut reset = Vec::new();
    for task in all {
        let topology = &topologies[task.sub_topology];
        let own = topology
            .sources
            .iter()
            .map(|&source| (source, task.partition));
        let broadcast = topology.broadcast.iter().flat_map(|&source| {
            (0..sources[source].partitions).map(move |partition| (source, partition))
        });
        let read: Vec<(usize, u32)> = own.chain(broadcast).collect();
        if !read
            .iter()
            .any(|&(source, partition)| is_chosen(plan, options, source, partition))
        {
            continue;
        }
        let found = of(task);
        let marker = found.and_then(|found| found.marker.as_ref());
        let mut inputs = Vec::new();
        for (source, partition) in read {
            let broker = &*brokers[plan.sources[source].topic.broker];
            let in_group =
                shared && !plan.sources[source].broadcast && broker.capabilities().groups;
            let mut input = input(
                plan,
                broker,
                options,
                (source, partition),
                &sources[source],
                marker,
            )
            .await?;
            input.in_group = in_group;
            inputs.push(input);
        }
        let was = marker.map(|marker| marker.epoch);
        let last = was.max(first).max(newest).unwrap_or(Epoch::NONE);
        reset.push(TaskReset {
            task,
            was,
            epoch: last.next(),
            elements: found.map_or(0, |found| found.elements()),
            bytes: found.map_or(0, |found| found.bytes()),
            digest: match marker {
                Some(marker) if !options.drop_state => marker.digest,
                _ => Digest::EMPTY,
            },
            inputs,
            sequences: marker.map_or_else(Vec::new, |marker| marker.sequences.clone()),
            keys: found.map_or_else(Vec::new, |found| found.live.keys().cloned().collect()),
        });
    }
    if reset.is_empty() {
        return Err(Error::Plan {
            what: match options.partition {
                Some(partition) => format!("no source has a partition {partition}"),
                None => "the pipeline reads nothing".into(),
            },
        });
    }
    let rebuilt = if parted {
        Some((has.unwrap_or(0), count))
    } else {
        None
    };
    Ok(Reset {
        tasks: reset,
        rebuilt,
    })
}

async fn sources(plan: &Plan, brokers: &[Arc<dyn Broker>]) -> Result<Vec<Found>> {
    let mut sources = Vec::with_capacity(plan.sources.len());
    for source in &plan.sources {
        let broker = &*brokers[source.topic.broker];
        let topic = &source.topic.topic;
        let missing = || Error::MissingTopic {
            topic: topic.clone(),
            source_name: source.name.to_string(),
        };
        let found = describe(broker, topic).await?.ok_or_else(missing)?;
        let mut ends = Vec::new();
        for partition in 0..found.partitions {
            let at = TopicPartition::new(topic.clone(), partition);
            let marks = retrying(|| broker.watermarks(&at)).await;
            ends.push(marks.doing(|| format!("cannot look at {at}"))?);
        }
        sources.push(Found {
            partitions: found.partitions,
            identity: found.identity,
            ends,
        });
    }
    Ok(sources)
}

/// Checks that what is asked for names something, and one thing where only one will do.
fn choose(plan: &Plan, sources: &[Found], options: &ResetOptions) -> Result<()> {
    let wrong = |what: String| Err(Error::Plan { what });
    if let Some(name) = &options.source
        && !plan.sources.iter().any(|source| *source.name == **name)
    {
        let known: Vec<&str> = plan.sources.iter().map(|source| &*source.name).collect();
        return wrong(format!(
            "the file has no source `{name}`; its sources are {}",
            known.join(", ")
        ));
    }
    let chosen: u32 = (0..sources.len())
        .flat_map(|source| (0..sources[source].partitions).map(move |at| (source, at)))
        .filter(|&(source, at)| is_chosen(plan, options, source, at))
        .map(|_| 1)
        .sum();
    if chosen == 0 {
        return wrong("no input has the partition asked for".into());
    }
    if matches!(options.to, ResetTo::Offset(_)) && chosen > 1 {
        return wrong(format!(
            "an offset means one partition, but {chosen} are to be reset; say which with `--source` and `--partition`"
        ));
    }
    Ok(())
}

fn is_chosen(plan: &Plan, options: &ResetOptions, source: usize, partition: u32) -> bool {
    let name = &plan.sources[source].name;
    options
        .source
        .as_ref()
        .is_none_or(|asked| **name == **asked)
        && options.partition.is_none_or(|asked| asked == partition)
}

async fn input(
    plan: &Plan,
    broker: &dyn Broker,
    options: &ResetOptions,
    (source, partition): (usize, u32),
    found: &Found,
    marker: Option<&Marker>,
) -> Result<InputReset> {
    let source_plan = &plan.sources[source];
    let at = TopicPartition::new(source_plan.topic.topic.clone(), partition);
    let ends = found.ends[partition as usize];
    let known = marker.and_then(|marker| {
        let mut inputs = marker.inputs.iter();
        inputs.find(|input| input.is(&source_plan.name, &at))
    });
    let recreated = known.is_some_and(|known| known.identity() != found.identity);
    let next = if is_chosen(plan, options, source, partition) {
        offset_of(broker, &at, ends, options.to).await?
    } else {
        // What is left alone must still be readable from where it is.
        match known {
            Some(known) if !recreated && known.next() <= ends.high => known.next(),
            Some(_) => {
                return Err(Error::OtherLog {
                    at,
                    what: "it is not part of this reset, but is another log than was read, or shorter: reset it as well".into(),
                });
            }
            None => offset_of(broker, &at, ends, start(source_plan.start)).await?,
        }
    };
    Ok(InputReset {
        source: source_plan.name.to_string(),
        at,
        was: known.map(InputPosition::next),
        next,
        low: ends.low,
        end: ends.last_stable,
        recreated,
        in_group: false,
        identity: found.identity,
    })
}

/// Where a source begins that was never read.
fn start(start: StartAt) -> ResetTo {
    match start {
        StartAt::Earliest => ResetTo::Earliest,
        StartAt::Latest => ResetTo::Latest,
        StartAt::Time(time) => ResetTo::Time(Timestamp(time)),
    }
}

async fn offset_of(
    broker: &dyn Broker,
    at: &TopicPartition,
    ends: Watermarks,
    to: ResetTo,
) -> Result<Offset> {
    match to {
        ResetTo::Earliest => Ok(ends.low),
        ResetTo::Latest => Ok(ends.last_stable),
        ResetTo::Time(time) => {
            let found = retrying(|| broker.offset_at(at, time)).await;
            found.doing(|| format!("cannot look up a time in {at}"))
        }
        ResetTo::Offset(offset) if offset < ends.low || offset > ends.last_stable => {
            Err(Error::Plan {
                what: format!(
                    "{at} goes from offset {} to {}: it cannot be read from {offset}",
                    ends.low, ends.last_stable
                ),
            })
        }
        ResetTo::Offset(offset) => Ok(offset),
    }
}
