//! What a reset would do: from the log as it is, to the markers as they are to be.

use std::sync::Arc;

use tidemill_broker::{Broker, Offset, Timestamp, TopicIdentity, TopicPartition, Watermarks};
use tidemill_state::{Digest, Epoch};

use super::super::accept::others_topic;
use super::super::error::Doing;
use super::super::lost::lost_outputs;
use super::super::recovery::{content, own_topic, retrying};
use super::super::topics::{describe, outputs_as_stated, source_topic, tasks_of};
use super::super::topology::SubTopology;
use super::super::{Error, MarkedInput, Result, TaskId};
use super::{InputReset, Reset, ResetOptions, ResetTo, TaskReset};
use crate::config::Plan;
use crate::config::plan::StartAt;

/// What is there of a source.
struct Found {
    partitions: u32,
    log: Option<FoundLog>,
}

/// The log of a source that outlives a process.
struct FoundLog {
    identity: Option<TopicIdentity>,
    // By partition.
    ends: Vec<Watermarks>,
}

pub(super) async fn look(
    plan: &Plan,
    topologies: &[SubTopology],
    brokers: &[Arc<dyn Broker>],
    options: &ResetOptions,
    newest: Option<Epoch>,
) -> Result<Reset> {
    let sources = sources(plan, brokers).await?;
    choose(plan, &sources, options)?;
    let lost = lost_outputs(plan, brokers).await?;
    // Written anew from the beginning is the one way to have again what is gone.
    let anew = options.drop_state && options.to == ResetTo::Earliest && options.is_whole();
    if let Some(lost) = lost.iter().find(|_| !anew) {
        return Err(lost.clone().into());
    }
    let outputs = &*brokers[plan.home()];
    let changelog = own_topic(&plan.name, "changelog")?;
    let partitions: Vec<u32> = sources.iter().map(|source| source.partitions).collect();
    let tasks = tasks_of(plan, topologies, &partitions)?;
    outputs_as_stated(plan, brokers).await?;
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
    // What a task finds in its place was left by one that read what another reads now.
    let is_stranger = |task: TaskId| {
        let marker = of(task).and_then(|old| old.marker.as_ref());
        marker.is_some_and(|marker| others_topic(plan, topologies, task, marker).is_some())
    };
    let parted = has.is_some_and(|has| has != count) || all.clone().any(is_parted);
    let differs = match parted {
        true => Some("the inputs have another number of partitions"),
        false if all.clone().any(is_stranger) => {
            Some("the topics are divided among tasks otherwise")
        }
        false => None,
    };
    if let Some(differs) = differs.filter(|_| !options.drop_state) {
        return Err(Error::Plan {
            what: format!(
                "{differs} than when the state was written, so keys have moved: it cannot be kept; give `--drop-state`"
            ),
        });
    }
    if let Some(differs) = differs.filter(|_| !options.is_whole()) {
        return Err(Error::Plan {
            what: format!(
                "{differs} than when the state was written: reset all of them, without `--source` and `--partition`"
            ),
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
            // What no next run finds again has no place to go on from.
            let Some(log) = &sources[source].log else {
                continue;
            };
            let broker = &*brokers[plan.sources[source].topic.broker];
            let in_group =
                shared && !plan.sources[source].broadcast && broker.capabilities().groups;
            // Another task may have read it before.
            let at = TopicPartition::new(plan.sources[source].topic.topic.clone(), partition);
            let all = old.iter().filter_map(|old| old.marker.as_ref());
            let mut all = marker.into_iter().chain(all);
            let known = all.find_map(|marker| marker.input(&at));
            let mut input = input(plan, broker, options, (source, partition), log, known).await?;
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
    let begins_anew = (0..sources.len()).filter(|&source| {
        let mut partitions = 0..sources[source].partitions;
        sources[source].log.is_none() && partitions.any(|at| is_chosen(plan, options, source, at))
    });
    Ok(Reset {
        tasks: reset,
        rebuilt,
        begin_anew: begins_anew
            .map(|source| plan.sources[source].name.to_string())
            .collect(),
        lost,
    })
}

async fn sources(plan: &Plan, brokers: &[Arc<dyn Broker>]) -> Result<Vec<Found>> {
    let mut sources = Vec::with_capacity(plan.sources.len());
    for source in &plan.sources {
        let broker = &*brokers[source.topic.broker];
        let (partitions, found) = source_topic(plan, source, brokers).await?;
        let Some(found) = found else {
            sources.push(Found {
                partitions,
                log: None,
            });
            continue;
        };
        let mut ends = Vec::new();
        for partition in 0..partitions {
            let at = TopicPartition::new(source.topic.topic.clone(), partition);
            let marks = retrying(|| broker.watermarks(&at)).await;
            ends.push(marks.doing(|| format!("cannot look at {at}"))?);
        }
        sources.push(Found {
            partitions,
            log: Some(FoundLog {
                identity: found.identity,
                ends,
            }),
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
    let chosen: Vec<usize> = (0..sources.len())
        .flat_map(|source| (0..sources[source].partitions).map(move |at| (source, at)))
        .filter(|&(source, at)| is_chosen(plan, options, source, at))
        .map(|(source, _)| source)
        .collect();
    let Some(&first) = chosen.first() else {
        return wrong("no input has the partition asked for".into());
    };
    let kept = chosen
        .iter()
        .filter(|source| sources[**source].log.is_some());
    let chosen = kept.count();
    if chosen == 0 && options.to != ResetTo::Earliest {
        return wrong(format!(
            "source `{}` does not outlive a run: each reads its own from the beginning, so all that can be asked for is `--to earliest`",
            plan.sources[first].name
        ));
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
    found: &FoundLog,
    known: Option<&MarkedInput>,
) -> Result<InputReset> {
    let source_plan = &plan.sources[source];
    let at = TopicPartition::new(source_plan.topic.topic.clone(), partition);
    let ends = found.ends[partition as usize];
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
        was: known.map(MarkedInput::next),
        next,
        low: ends.low,
        end: ends.last_stable,
        recreated,
        in_group: false,
        identity: found.identity,
        incarnation: known.map_or(0, |known| known.incarnation + u64::from(recreated)),
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
