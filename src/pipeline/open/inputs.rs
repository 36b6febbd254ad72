//! The inputs of a task: where each goes on, and who reads it.

use tidemill_broker::{Consumer, ConsumerOptions, Offset, Start, TopicPartition};
use tokio::time::Instant;
use tracing::{info, warn};

use super::Shared;
use crate::config::plan::{BrokerUrl, StartAt};
use crate::events::{JsonDecoder, Limits};
use crate::operators::Decode;
use crate::pipeline::committer::Cut;
use crate::pipeline::dead_letter::DeadLetters;
use crate::pipeline::error::Doing;
use crate::pipeline::input::InputPartition;
use crate::pipeline::keys;
use crate::pipeline::ordered::{Followed, Ordered, Place};
use crate::pipeline::recovery::{resume, retrying};
use crate::pipeline::task::Task;
use crate::pipeline::topics::describe;
use crate::pipeline::topology::SubTopology;
use crate::pipeline::{Error, MarkedInput, Marker, Result, TaskId};

/// What the group has committed for the co-partitioned inputs of a task; nothing where its offsets
/// are not the group's.
pub(super) async fn group_offsets(
    shared: &Shared,
    topology: &SubTopology,
    id: TaskId,
) -> Result<Vec<(TopicPartition, Option<Offset>)>> {
    let mut offsets = Vec::with_capacity(topology.sources.len());
    for &source in &topology.sources {
        let broker = &*shared.brokers[shared.plan.sources[source].topic.broker];
        let asked = [shared.at(source, id.partition)];
        let offset = match &shared.group {
            Some(group) if shared.is_shared(source) => {
                let found = retrying(|| broker.committed(group, &asked)).await;
                let found =
                    found.doing(|| format!("cannot look up the offsets of group `{group}`"));
                found?.pop().flatten()
            }
            _ => None,
        };
        let [at] = asked;
        offsets.push((at, offset));
    }
    Ok(offsets)
}

/// Whether the group's offsets are those of the marker, where there are any.
pub(super) fn agree(group: &[(TopicPartition, Option<Offset>)], marker: Option<&Marker>) -> bool {
    group.iter().all(|(at, offset)| {
        let known = marker.and_then(|marker| marker.input(at));
        offset.is_none() || *offset == known.map(MarkedInput::next)
    })
}

pub(super) async fn open_input(
    shared: &Shared,
    source: usize,
    index: usize,
    partition: u32,
    marker: Option<&Marker>,
    group_offset: Option<Offset>,
    dead: &mut DeadLetters,
) -> Result<InputPartition> {
    let source_plan = &shared.plan.sources[source];
    let broker = &*shared.brokers[source_plan.topic.broker];
    let at = shared.at(source, partition);
    let identity = shared.topics.sources[source].identity;
    // Since the run began it may have become another, of other partitions than were found.
    match describe(broker, &at.topic).await? {
        Some(now) if now.identity == identity => {}
        Some(_) => {
            let what = "it was deleted and created again".to_owned();
            return Err(Error::OtherLog { at, what });
        }
        None => return Err(Error::LostInput { topic: at.topic }),
    }
    let in_group = shared.is_shared(source) && shared.group.is_some();
    let known = marker.and_then(|marker| marker.input(&at));
    if let (Some(_), None, Some(offset)) = (marker, known, group_offset) {
        // It was there, and then a version of the file did not read it.
        return Err(Error::OtherLog {
            what: format!(
                "the group has committed offset {offset}, but the version of the file before did not read it; `tidemill offsets reset FILE --source {} --partition {partition} --to {offset} --keep-state` goes on there, and",
                source_plan.name
            ),
            at,
        });
    }
    let was = known.map(|known| known.source.clone());
    if let Some(known) = known.filter(|known| *known.source != *source_plan.name) {
        info!(%at, was = known.source, now = %source_plan.name, next = known.next, "the source was renamed and goes on where it was");
    }
    // What another run read from its standard input says nothing about ours.
    let is_stdin = shared.plan.brokers[source_plan.topic.broker].url == BrokerUrl::Stdio;
    let (known, start, incarnation) = if is_stdin {
        let ours = known.filter(|known| known.incarnation == shared.run);
        (ours, StartAt::Earliest, shared.run)
    } else {
        let incarnation = known.map_or(0, |known| known.incarnation);
        (known, source_plan.start, incarnation)
    };
    let found = resume(
        broker,
        &at,
        identity,
        known,
        group_offset,
        start,
        source_plan.on_gap,
    )
    .await?;
    if let Some(asked) = found.gap {
        warn!(%at, %asked, low = %found.next, "retention removed records before they were read");
        dead.gap(&at, asked.0, found.next.0, source_plan.broadcast);
    }
    let limits = Limits {
        record: source_plan.record_max,
        ..Limits::default()
    };
    let decoder = JsonDecoder::new(source_plan.schema.clone(), source_plan.needed, limits);
    let decoder = if source_plan.schema.is_system_event() {
        decoder.system_event()
    } else {
        decoder
    };
    let mut decode = Decode::new(decoder, source_plan.out_of_order)
        .keyed_by(source_plan.key.clone())
        .of_incarnation(incarnation);
    if keys::meets_broadcast(&shared.plan, source) {
        decode = decode.in_partition(partition, shared.topics.sources[source].partitions);
    }
    Ok(InputPartition {
        source: index,
        source_of_plan: source,
        name: source_plan.name.to_string(),
        was,
        at,
        broker: source_plan.topic.broker,
        in_group,
        identity,
        next: found.next,
        decode,
        sets_aside: !source_plan.broadcast || dead.is_of_first_task(),
        idle_after: source_plan.idle,
        last_taken: Instant::now(),
        is_idle: false,
        has_ended: false,
    })
}

/// Reads all inputs in order, where the order is not left to when their records arrive: control
/// records are followed, or there are several inputs and the outputs are to be equal in every run.
pub(super) async fn open_ordered(
    shared: &Shared,
    id: TaskId,
    inputs: &[InputPartition],
    followed: Option<Place>,
) -> Result<Option<Ordered>> {
    let is_choice = inputs.len() > 1 && shared.cut == Cut::Lockstep;
    let followed = match &shared.follow {
        Some((broker, topic)) => {
            let at = TopicPartition::new(topic.clone(), shared.topics.ordinal(id));
            Some(Followed::open(&**broker, at, id, followed).await?)
        }
        None if !is_choice => return Ok(None),
        None => None,
    };
    let input = |input: &InputPartition| {
        let broker = shared.brokers[input.broker].clone();
        (broker, input.at.clone(), input.next)
    };
    let inputs = inputs.iter().map(input).collect();
    Ordered::open(inputs, followed).await.map(Some)
}

pub(super) async fn open_broadcast(
    shared: &Shared,
    topology: &SubTopology,
    inputs: &[InputPartition],
) -> Result<Option<Box<dyn Consumer>>> {
    let Some(&source) = topology.broadcast.first() else {
        return Ok(None);
    };
    let broker = &shared.brokers[shared.plan.sources[source].topic.broker];
    let whole = inputs
        .iter()
        .filter(|input| input.source >= topology.sources.len());
    let partitions: Vec<(TopicPartition, Start)> = whole
        .map(|input| (input.at.clone(), Start::Offset(input.next)))
        .collect();
    let options = ConsumerOptions::partitions(partitions);
    let consumer = retrying(|| broker.consumer(options.clone())).await;
    consumer
        .map(Some)
        .doing(|| "cannot read a broadcast input".into())
}

/// Where the co-partitioned inputs of a task go on.
///
/// Nowhere if the task reads them itself.
pub(crate) fn next_offsets(task: &Task, topology: &SubTopology) -> Vec<(TopicPartition, Offset)> {
    if task.ordered.is_some() {
        return Vec::new();
    }
    let own = task
        .inputs
        .iter()
        .filter(|input| input.source < topology.sources.len());
    own.map(|input| (input.at.clone(), input.next)).collect()
}
