//! The topics of a pipeline: made where missing, checked where they are.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::{
    Broker, Cleanup, Error as BrokerError, Topic, TopicDescription, TopicIdentity, TopicSpec,
};
use tracing::info;

use super::error::Doing;
use super::recovery::{own_topic, retrying};
use super::topology::SubTopology;
use super::{Error, Result, missing};
use crate::config::Plan;
use crate::config::plan::{SourcePlan, TopicPlan};

/// How long the changelog's tombstones stay: a store that has not followed those that are gone is rebuilt from the
/// whole changelog.
const TOMBSTONES: Duration = Duration::from_secs(7 * 24 * 3600);

/// What was found of a source.
#[derive(Debug, Clone)]
pub(crate) struct SourceTopic {
    pub(crate) partitions: u32,
    pub(crate) identity: Option<TopicIdentity>,
}

/// All topics of a pipeline, there and fit.
#[derive(Debug, Clone)]
pub(crate) struct Topics {
    /// By source.
    pub(crate) sources: Vec<SourceTopic>,
    /// Partitions by sink.
    pub(crate) sinks: Vec<u32>,
    pub(crate) dead_letter_partitions: u32,
    pub(crate) changelog: Topic,
    pub(crate) control: Topic,
    /// Tasks of each sub-topology.
    pub(crate) tasks: Vec<u32>,
    // Those that are missing, and how many partitions they are to have.
    unmade: Vec<(TopicPlan, NonZeroU32)>,
}

impl Topics {
    /// What they will be once those that are missing are [made](Self::make), all of it checked. Makes none,
    /// so that a run that is refused leaves none behind.
    pub(crate) async fn look(
        plan: &Plan,
        topologies: &[SubTopology],
        brokers: &[Arc<dyn Broker>],
    ) -> Result<Self> {
        let mut unmade = Vec::new();
        let mut found_or_unmade = async |topic: &TopicPlan, partitions: NonZeroU32| {
            if let Some(found) = describe(&*brokers[topic.broker], &topic.topic).await? {
                return Ok::<_, Error>(found);
            }
            unmade.push((topic.clone(), partitions));
            Ok(TopicDescription {
                name: topic.topic.clone(),
                partitions: partitions.get(),
                cleanup: topic.cleanup,
                identity: None,
            })
        };
        let mut sources = Vec::with_capacity(plan.sources.len());
        for source in &plan.sources {
            let broker = &*brokers[source.topic.broker];
            let found = match source.topic.partitions {
                Some(partitions) => found_or_unmade(&source.topic, partitions).await?,
                None => match describe(broker, &source.topic.topic).await? {
                    Some(found) => found,
                    None => return Err(missing::input(plan, brokers, source).await?),
                },
            };
            sources.push(SourceTopic {
                partitions: found.partitions,
                identity: found.identity,
            });
        }
        let partitions: Vec<u32> = sources.iter().map(|source| source.partitions).collect();
        let tasks = tasks_of(plan, topologies, &partitions)?;
        let count = NonZeroU32::new(tasks.iter().sum()).unwrap_or(NonZeroU32::MIN);
        // Any task may set records aside.
        let widest = tasks.iter().copied().max().and_then(NonZeroU32::new);
        let widest = widest.unwrap_or(NonZeroU32::MIN);
        let mut sinks = Vec::with_capacity(plan.sinks.len());
        for (index, sink) in plan.sinks.iter().enumerate() {
            // As many as the widest of the tasks that write it have partitions to read.
            let writers = topologies.iter().zip(&tasks);
            let writers = writers.filter(|(topology, _)| topology.sinks.contains(&index));
            let read = writers.map(|(_, &tasks)| tasks).max();
            let read = read.and_then(NonZeroU32::new).unwrap_or(widest);
            let partitions = sink.topic.partitions.unwrap_or(read);
            let found = found_or_unmade(&sink.topic, partitions).await?.partitions;
            as_stated(&sink.topic, found)?;
            sinks.push(found);
        }
        let partitions = plan.dead_letter.partitions.unwrap_or(widest);
        let dead_letter_partitions = found_or_unmade(&plan.dead_letter, partitions)
            .await?
            .partitions;
        as_stated(&plan.dead_letter, dead_letter_partitions)?;

        let changelog = own_topic(&plan.name, "changelog")?;
        let control = own_topic(&plan.name, "control")?;
        let own = |topic: &Topic, cleanup| TopicPlan {
            broker: plan.home(),
            topic: topic.clone(),
            partitions: None,
            cleanup,
        };
        let compacted = Cleanup::Compact {
            tombstones: TOMBSTONES,
        };
        let found = found_or_unmade(&own(&changelog, compacted), count).await?;
        if !matches!(found.cleanup, Cleanup::Compact { .. }) {
            return Err(Error::Plan {
                what: format!(
                    "topic `{changelog}` is not compacted, so state could not be rebuilt from it; delete it with `tidemill topics delete {changelog}`, and it is made as it must be"
                ),
            });
        }
        if found.partitions != count.get() {
            return Err(Error::PartitionCount {
                topic: changelog,
                found: found.partitions,
                expected: count.get(),
                why: "the pipeline's inputs have another number of partitions than when its state was written; `tidemill offsets reset` makes it start anew".into(),
            });
        }
        let found = found_or_unmade(&own(&control, Cleanup::default()), count).await?;
        if found.partitions < count.get() {
            return Err(Error::PartitionCount {
                topic: control,
                found: found.partitions,
                expected: count.get(),
                why: format!(
                    "one for each task; delete it, and create it with `--partitions {count}`"
                ),
            });
        }
        Ok(Self {
            sources,
            sinks,
            dead_letter_partitions,
            changelog,
            control,
            tasks,
            unmade,
        })
    }

    /// Makes what is missing, and then looks at all again: somebody else may have been faster.
    pub(crate) async fn make(
        self,
        plan: &Plan,
        topologies: &[SubTopology],
        brokers: &[Arc<dyn Broker>],
    ) -> Result<Self> {
        if self.unmade.is_empty() {
            return Ok(self);
        }
        for (topic, partitions) in &self.unmade {
            create(&*brokers[topic.broker], topic, *partitions).await?;
        }
        let made = Self::look(plan, topologies, brokers).await?;
        match made.unmade.first() {
            None => Ok(made),
            Some((unmade, _)) => Err(Error::MissingTopic {
                topic: unmade.topic.clone(),
                source_name: unmade.topic.to_string(),
                create: missing::what_creates(plan, unmade),
            }),
        }
    }

    /// The changelog's and control topic's partition of a task.
    pub(crate) fn ordinal(&self, task: super::TaskId) -> u32 {
        self.tasks[..task.sub_topology].iter().sum::<u32>() + task.partition
    }

    /// All tasks, in the order of their changelogs.
    pub(crate) fn all_tasks(&self) -> impl Iterator<Item = super::TaskId> {
        let tasks = self.tasks.iter().enumerate();
        tasks.flat_map(|(sub_topology, &count)| {
            (0..count).map(move |partition| super::TaskId {
                sub_topology,
                partition,
            })
        })
    }
}

/// Topics that are read on one broker and that a run makes if they are missing.
fn made_if_missing(plan: &Plan, broker: usize) -> impl Iterator<Item = (&TopicPlan, NonZeroU32)> {
    let topics = plan.sources.iter().map(|source| &source.topic);
    topics
        .filter(move |topic| topic.broker == broker)
        .filter_map(|topic| Some((topic, topic.partitions?)))
}

/// Whether a topic is missing on one broker that [`make_sources`] would make.
pub(crate) async fn lacks_sources(plan: &Plan, index: usize, broker: &dyn Broker) -> Result<bool> {
    for (topic, _) in made_if_missing(plan, index) {
        if describe(broker, &topic.topic).await?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes topics that are read on one broker, where they are missing and the plan says their partitions.
pub(crate) async fn make_sources(plan: &Plan, index: usize, broker: &dyn Broker) -> Result<()> {
    for (topic, partitions) in made_if_missing(plan, index) {
        if describe(broker, &topic.topic).await?.is_none() {
            create(broker, topic, partitions).await?;
        }
    }
    Ok(())
}

/// Tasks of each sub-topology, from the partitions that each source has.
///
/// # Errors
///
/// If a source has another number than the file says, or than those it is read together with.
pub(crate) fn tasks_of(
    plan: &Plan,
    topologies: &[SubTopology],
    partitions: &[u32],
) -> Result<Vec<u32>> {
    let check = |source: usize, expected: u32, why: String| {
        if partitions[source] == expected {
            return Ok(());
        }
        Err(Error::PartitionCount {
            topic: plan.sources[source].topic.topic.clone(),
            found: partitions[source],
            expected,
            why,
        })
    };
    for (source, found) in plan.sources.iter().zip(partitions) {
        as_stated(&source.topic, *found)?;
    }
    let mut tasks = Vec::with_capacity(topologies.len());
    for topology in topologies {
        let first = topology.sources[0];
        for &other in &topology.sources[1..] {
            let with = &plan.sources[first].topic.topic;
            let why = format!("it is read together with `{with}`");
            check(other, partitions[first], why)?;
        }
        tasks.push(partitions[first]);
    }
    Ok(tasks)
}

/// Refuses topics that are written to and have another number of partitions than the file says.
pub(crate) async fn outputs_as_stated(plan: &Plan, brokers: &[Arc<dyn Broker>]) -> Result<()> {
    let sinks = plan.sinks.iter().map(|sink| &sink.topic);
    for topic in sinks.chain([&plan.dead_letter]) {
        if let Some(found) = describe(&*brokers[topic.broker], &topic.topic).await? {
            as_stated(topic, found.partitions)?;
        }
    }
    Ok(())
}

/// Refuses a topic that has another number of partitions than the file says: its keys would lie elsewhere
/// than whoever wrote the file counts on.
fn as_stated(topic: &TopicPlan, found: u32) -> Result<()> {
    match topic.partitions {
        Some(expected) if expected.get() != found => Err(Error::PartitionCount {
            topic: topic.topic.clone(),
            found,
            expected: expected.get(),
            why: "the file says so; without `partitions` there, the topic is taken as it is".into(),
        }),
        _ => Ok(()),
    }
}

/// What is there of a source: its partitions, and the topic itself where it outlives a process. What
/// does not is made by each run for itself, as the file says.
pub(crate) async fn source_topic(
    plan: &Plan,
    source: &SourcePlan,
    brokers: &[Arc<dyn Broker>],
) -> Result<(u32, Option<TopicDescription>)> {
    let broker = &*brokers[source.topic.broker];
    if let Some(found) = describe(broker, &source.topic.topic).await? {
        return Ok((found.partitions, Some(found)));
    }
    match source.topic.partitions {
        Some(partitions) if !plan.outlives_process(source.topic.broker) => {
            Ok((partitions.get(), None))
        }
        _ => Err(missing::input(plan, brokers, source).await?),
    }
}

/// What a topic is made of; none if it is not there.
pub(crate) async fn describe(
    broker: &dyn Broker,
    topic: &Topic,
) -> Result<Option<TopicDescription>> {
    match retrying(|| broker.describe_topic(topic)).await {
        Ok(found) => Ok(Some(found)),
        Err(BrokerError::UnknownTopic { .. }) => Ok(None),
        Err(error) => Err(error).doing(|| format!("cannot look at topic `{topic}`")),
    }
}

/// Makes a topic, unless somebody else is faster.
async fn create(broker: &dyn Broker, plan: &TopicPlan, partitions: NonZeroU32) -> Result<()> {
    let spec = TopicSpec::new(plan.topic.clone(), partitions).cleanup(plan.cleanup);
    match retrying(|| broker.create_topic(&spec)).await {
        Ok(()) => info!(topic = %plan.topic, partitions, "created a topic"),
        Err(BrokerError::TopicExists { .. }) => {}
        Err(error) => {
            return Err(error).doing(|| format!("cannot create topic `{}`", plan.topic));
        }
    }
    // Another broker's log may become durable first, with markers that speak of this topic.
    retrying(|| broker.sync())
        .await
        .doing(|| format!("cannot make topic `{}` durable", plan.topic))
}
