//! Outputs that are gone: topics that a pipeline has written to, its dead letters and control records
//! among them, and that are not there any more. Made anew in silence they would begin in the middle, as
//! if nothing had been before.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use tidemill_broker::{Broker, Cleanup, Offset, Topic, TopicPartition};
use tracing::warn;

use super::dead_letter::DEAD_LETTERS;
use super::missing::what_creates;
use super::recovery::{last_marker, own_topic};
use super::topics::describe;
use super::{Error, Result, version};
use crate::config::Plan;
use crate::config::parts::{Parts, Wrote};
use crate::config::plan::{SinkPlan, TopicPlan};

/// An output that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostOutput {
    /// What wrote there.
    pub writer: Writer,
    /// Its topic.
    pub topic: Topic,
    /// What creates it where it was: a command, or a call.
    pub create: String,
}

/// What writes to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writer {
    /// A sink, by its name in the file.
    Sink(String),
    /// The dead letters.
    DeadLetters,
    /// The control records: what was taken in which order.
    Control,
}

impl LostOutput {
    /// The sink that wrote there, if one did.
    pub fn sink(&self) -> Option<&str> {
        match &self.writer {
            Writer::Sink(sink) => Some(sink),
            Writer::DeadLetters | Writer::Control => None,
        }
    }

    /// What wrote there, in words.
    pub fn writer(&self) -> String {
        self.writer.to_string()
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sink(sink) => write!(f, "sink `{sink}`"),
            Self::DeadLetters => f.write_str("the dead letters"),
            Self::Control => f.write_str("the control records"),
        }
    }
}

impl From<LostOutput> for Error {
    fn from(lost: LostOutput) -> Self {
        Self::LostOutput {
            writer: lost.writer(),
            topic: lost.topic,
            create: lost.create,
        }
    }
}

/// What is written to a topic that is missing.
struct Missing<'a> {
    // None for the dead letters.
    sink: Option<&'a SinkPlan>,
    topic: &'a TopicPlan,
    // Whether it was written to.
    is_lost: bool,
    // As many partitions as it had, as far as markers tell.
    width: u32,
}

impl<'a> Missing<'a> {
    fn new(sink: Option<&'a SinkPlan>, topic: &'a TopicPlan) -> Self {
        Self {
            sink,
            topic,
            is_lost: false,
            width: 0,
        }
    }

    /// What it is counted under in a marker.
    fn name(&self) -> &str {
        self.sink.map_or(DEAD_LETTERS, |sink| &sink.name)
    }

    fn writer(&self) -> Writer {
        let sink = self.sink.map(|sink| Writer::Sink(sink.name.to_string()));
        sink.unwrap_or(Writer::DeadLetters)
    }
}

/// The outputs that are gone, in the order of the file, as the markers tell of what was written: also
/// those of another version of the file.
pub(crate) async fn lost_outputs(
    plan: &Plan,
    brokers: &[Arc<dyn Broker>],
) -> Result<Vec<LostOutput>> {
    let mut missing = Vec::new();
    let sinks = plan.sinks.iter();
    let sinks = sinks.map(|sink| Missing::new(Some(sink), &sink.topic));
    let dead_letters = Missing::new(None, &plan.dead_letter);
    for one in sinks.chain([dead_letters]) {
        let topic = one.topic;
        // What does not outlive a process is missing in each that is started.
        let outlives = topic.broker == plan.home() || plan.outlives_process(topic.broker);
        let broker = &*brokers[topic.broker];
        if outlives && describe(broker, &topic.topic).await?.is_none() {
            missing.push(one);
        }
    }
    let outputs = &*brokers[plan.home()];
    let control = own_topic(&plan.name, "control")?;
    let has_control = describe(outputs, &control).await?.is_some();
    if missing.is_empty() && has_control {
        return Ok(Vec::new());
    }
    let changelog = own_topic(&plan.name, "changelog")?;
    let Some(found) = describe(outputs, &changelog).await? else {
        return Ok(Vec::new());
    };
    let mut widest = 0;
    // It is made before the first marker is written.
    let mut control_is_lost = false;
    for partition in 0..found.partitions {
        let at = TopicPartition::new(changelog.clone(), partition);
        let Some((marker, _)) = last_marker(outputs, &at, Offset::START).await? else {
            continue;
        };
        control_is_lost |= !has_control;
        widest = widest.max(marker.partitions);
        let written = marker.sequences.iter().filter(|(_, _, count)| *count > 0);
        let written: Vec<&str> = written.map(|(name, ..)| name.as_str()).collect();
        let is_same = marker.config_hash == plan.config_hash;
        let before = match is_same {
            true => None,
            false => version::parts(outputs, &at, marker.config_hash).await?,
        };
        for one in &mut missing {
            let same_name = written.contains(&one.name());
            // As many as the widest of the tasks that wrote it had, or as are known to have been written.
            let known = marker
                .sequences
                .iter()
                .filter(|(name, ..)| *name == one.name());
            let known =
                known.map(|(_, partition, _)| marker.partitions.max(partition.saturating_add(1)));
            one.width = known.fold(one.width, u32::max);
            one.is_lost |= match (is_same, &before) {
                (true, _) => same_name,
                (false, Some(before)) => decided(wrote(before, &written, plan, one), one),
                (false, None) => decided(same_name.then_some(Wrote::Unknown), one),
            };
        }
    }
    let lost = missing.iter().filter(|one| one.is_lost);
    let lost = lost.map(|one| (one.topic.clone(), one.writer(), one.width));
    let control = TopicPlan {
        broker: plan.home(),
        topic: control,
        partitions: None,
        cleanup: Cleanup::default(),
    };
    // One for each task, as the changelog has.
    let control = control_is_lost.then_some((control, Writer::Control, found.partitions));
    let mut still_lost = Vec::new();
    for (mut topic, writer, width) in lost.chain(control) {
        // Another process may have begun meanwhile: it made the topic, and then the marker.
        if describe(&*brokers[topic.broker], &topic.topic)
            .await?
            .is_none()
        {
            let width = NonZeroU32::new(width).or(NonZeroU32::new(widest));
            topic.partitions = topic.partitions.or(width);
            still_lost.push(LostOutput {
                writer,
                create: what_creates(plan, &topic),
                topic: topic.topic,
            });
        }
    }
    Ok(still_lost)
}

/// Whether a version that has `written` under these names wrote to a topic that is missing.
fn wrote(before: &Parts, written: &[&str], plan: &Plan, one: &Missing<'_>) -> Option<Wrote> {
    match one.sink {
        Some(sink) => {
            let sinks = written.iter().filter(|name| **name != DEAD_LETTERS);
            sinks.map(|name| before.wrote(name, plan, sink)).max()
        }
        None => {
            let some = written.contains(&DEAD_LETTERS);
            some.then(|| before.set_aside(plan))
        }
    }
}

/// Whether the version before wrote to a topic; where that is not known, it is not refused but told.
fn decided(wrote: Option<Wrote>, one: &Missing<'_>) -> bool {
    if wrote == Some(Wrote::Unknown) {
        let writer = one.writer();
        warn!(topic = %one.topic.topic, %writer, "this topic is not there and begins empty; whether the version of the file before wrote to it was not noted down");
    }
    wrote == Some(Wrote::There)
}
