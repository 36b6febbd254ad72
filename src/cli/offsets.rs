//! `tidemill offsets`: how far a group has read, and where it is to go on.

use std::sync::Arc;

use serde_json::json;
use tidemill_broker::{Broker, Group, Offset, SystemClock, Topic, TopicPartition};

use super::load::load;
use super::target::{Access, Target, TargetArgs};
use super::{Console, Exit, Failure, World};
use crate::config::Plan;
use crate::config::plan::{BrokerUrl, SourcePlan};
use crate::pipeline::{InputOffset, OpenBroker, input_offsets};

/// Show how far a consumer group has read, or set a pipeline back or forward
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidemill offsets show pipelines/bars.toml                  the group of a pipeline
  tidemill offsets show --group bars --broker file://data    any group, over all topics
  tidemill offsets reset pipelines/bars.toml --to earliest --drop-state")]
pub(super) struct OffsetsArgs {
    #[command(subcommand)]
    verb: OffsetsVerb,
}

#[derive(Debug, clap::Subcommand)]
enum OffsetsVerb {
    /// Show what a group has committed, and how many records lie beyond
    #[command(after_help = "\
Examples:
  tidemill offsets show pipelines/bars.toml
  tidemill offsets show --group bars --broker file://data --json")]
    Show {
        #[command(flatten)]
        target: TargetArgs,
        /// The group [default: that of FILE]
        #[arg(long)]
        group: Option<String>,
        /// Only these topics [default: all that the group has read]
        #[arg(long = "topic", value_name = "TOPIC")]
        topics: Vec<String>,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    Reset(super::reset::ResetArgs),
}

pub(super) async fn run(
    args: OffsetsArgs,
    console: &mut Console<'_>,
    world: &World<'_>,
) -> Result<Exit, Failure> {
    let (target, group, topics, json) = match args.verb {
        OffsetsVerb::Show {
            target,
            group,
            topics,
            json,
        } => (target, group, topics, json),
        OffsetsVerb::Reset(args) => return super::reset::run(args, console, world).await,
    };
    if target.broker.is_none() && topics.is_empty() && group.is_none() && !target.files.is_empty() {
        let plan = load(&target.files, world)?.plan;
        let rows = of_pipeline(&plan).await?;
        show(&plan.group, &rows, json, console)?;
        return match rows.iter().find(|row| row.is_former) {
            Some(row) => Err(former(row)),
            None => Ok(Exit::Ok),
        };
    }
    let resolved = target.resolve(topics.first().map(String::as_str), world)?;
    let group = match (group, resolved.plan.as_ref()) {
        (Some(group), _) => {
            Group::new(&group).map_err(|error| Failure::usage(error.to_string()))?
        }
        (None, Some(plan)) => plan.group.clone(),
        (None, None) => {
            return Err(Failure::usage("which group?")
                .help("give `--group GROUP`, or the pipeline file whose group is meant"));
        }
    };
    let broker = resolved.open(Access::Read).await?;
    let named: Vec<Topic> = topics
        .iter()
        .map(|topic| Topic::new(topic).map_err(|error| Failure::usage(error.to_string())))
        .collect::<Result<_, _>>()?;
    let rows = committed(&*broker.broker(), &group, &named).await?;
    show(&group, &rows, json, console)?;
    Ok(Exit::Ok)
}

/// How far a pipeline has read: what its group has committed on the brokers of its inputs, and what
/// its markers say where no group keeps it, as with inputs on another broker than the outputs.
async fn of_pipeline(plan: &Plan) -> Result<Vec<Row>, Failure> {
    let keeps = |index: usize| plan.outlives_process(index);
    let is_read = |index: usize| plan.sources.iter().any(|one| one.topic.broker == index);
    if !plan.sources.iter().any(|source| keeps(source.topic.broker)) {
        return Err(Failure::usage(
            "the inputs of this pipeline do not outlive a run: no offsets are kept",
        )
        .help(
            "read from `file://DIRECTORY`, or name another group with `--group` and `--broker`",
        ));
    }
    let home = plan.home();
    let has_run = keeps(home) && !OpenBroker::is_new(&plan.brokers[home].url);
    let mut open = Vec::with_capacity(plan.brokers.len());
    for (index, broker) in plan.brokers.iter().enumerate() {
        let is_wanted = keeps(index) && (is_read(index) || index == home && has_run);
        let target = Target {
            url: broker.url.clone(),
            topic: None,
            plan: None,
        };
        open.push(match is_wanted {
            true => target.open(Access::Read).await?,
            // In the place of one that is not looked at.
            false => OpenBroker::open_reader(&BrokerUrl::Memory, Arc::new(SystemClock)).await?,
        });
    }
    let brokers: Vec<Arc<dyn Broker>> = open.iter().map(OpenBroker::broker).collect();
    let mut rows = Vec::new();
    for (index, broker) in brokers.iter().enumerate() {
        if keeps(index) && is_read(index) {
            rows.extend(committed(&**broker, &plan.group, &[]).await?);
        }
    }
    // What a group has committed goes with its topic: where it has nothing, markers tell why.
    let of_group = |source: &SourcePlan, rows: &[Row]| {
        let topic = &source.topic.topic;
        let mut of_topic = rows.iter().filter(|row| row.at.topic == *topic);
        let has_committed = of_topic.any(|row| row.is_of_group && row.committed.is_some());
        !source.broadcast && source.topic.broker == home && has_committed
    };
    if !has_run || plan.sources.iter().all(|source| of_group(source, &rows)) {
        return Ok(rows);
    }
    for ((source, at), InputOffset { next, is_former }) in input_offsets(plan, &brokers).await? {
        let source = &plan.sources[source];
        if of_group(source, &rows) || !keeps(source.topic.broker) {
            continue;
        }
        let marks = brokers[source.topic.broker].watermarks(&at).await?;
        rows.push(Row {
            at,
            committed: Some(next),
            is_of_group: false,
            is_former,
            low: marks.low,
            end: marks.last_stable,
        });
    }
    Ok(rows)
}

/// A run refuses to go on, and so is this told.
fn former(row: &Row) -> Failure {
    let message = format!(
        "{} is not the log this pipeline has read: it was deleted and created again",
        row.at
    );
    Failure::new(Exit::Integrity, message).help("`tidemill offsets reset` makes it start anew")
}

/// One partition: what is committed and where it ends.
struct Row {
    at: TopicPartition,
    committed: Option<Offset>,
    /// Whether the group has committed it; else the pipeline's markers say so.
    is_of_group: bool,
    /// Whether it was committed of a topic that was deleted, and this is another of its name.
    is_former: bool,
    low: Offset,
    end: Offset,
}

impl Row {
    /// Records that are still to be read, at most: offsets may have gaps.
    fn lag(&self) -> Option<u64> {
        if self.is_former {
            return Some(self.end.0.saturating_sub(self.low.0));
        }
        let committed = self.committed?.0.max(self.low.0);
        Some(self.end.0.saturating_sub(committed))
    }
}

async fn committed(
    broker: &dyn Broker,
    group: &Group,
    named: &[Topic],
) -> Result<Vec<Row>, Failure> {
    let topics = if named.is_empty() {
        broker.list_topics().await?
    } else {
        named.to_vec()
    };
    let mut rows = Vec::new();
    for topic in topics {
        let partitions = broker.describe_topic(&topic).await?.partitions;
        let at: Vec<TopicPartition> = (0..partitions)
            .map(|partition| TopicPartition::new(topic.clone(), partition))
            .collect();
        let offsets = broker.committed(group, &at).await?;
        if named.is_empty() && offsets.iter().all(Option::is_none) {
            continue;
        }
        for (at, committed) in at.into_iter().zip(offsets) {
            let marks = broker.watermarks(&at).await?;
            rows.push(Row {
                at,
                committed,
                is_of_group: true,
                is_former: false,
                low: marks.low,
                end: marks.last_stable,
            });
        }
    }
    Ok(rows)
}

fn kept_by(row: &Row) -> &'static str {
    match row.is_of_group {
        true => "group",
        false => "markers",
    }
}

fn show(group: &Group, rows: &[Row], json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    if json {
        let partitions: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({
                    "topic": row.at.topic.as_str(),
                    "partition": row.at.partition,
                    "committed": row.committed.map(|offset| offset.0),
                    "keptBy": kept_by(row),
                    "ofFormerTopic": row.is_former,
                    "low": row.low.0,
                    "end": row.end.0,
                    "lag": row.lag(),
                })
            })
            .collect();
        console.json(&json!({ "group": group.as_str(), "partitions": partitions }))?;
        return Ok(());
    }
    if rows.is_empty() {
        console.line(format_args!("group {group} has committed nothing"))?;
        return Ok(());
    }
    let or_dash = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    let next = |row: &Row| or_dash(row.committed.map(|offset| offset.0));
    let table: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.at.topic.to_string(),
                row.at.partition.to_string(),
                match row.is_former {
                    true => format!("{} of a former topic", next(row)),
                    false => next(row),
                },
                row.end.to_string(),
                or_dash(row.lag()),
                kept_by(row).to_owned(),
            ]
        })
        .collect();
    console.line(format_args!("group {group}"))?;
    console.table(
        &[
            "topic",
            "partition",
            "next to read",
            "end",
            "lag",
            "kept by",
        ],
        &table,
    )?;
    Ok(())
}
