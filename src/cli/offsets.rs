//! `tidemill offsets`: how far a group has read, and where it is to go on.

use serde_json::json;
use tidemill_broker::{Broker, Group, Offset, Topic, TopicPartition};

use super::target::{Access, TargetArgs};
use super::{Console, Exit, Failure, World};

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
    // The file's inputs may lie on another broker than its outputs.
    let first = topics.first().map(String::as_str);
    let mut resolved = target.resolve(first, world)?;
    let of_plan = resolved.plan.as_ref();
    if target.broker.is_none()
        && topics.is_empty()
        && let Some(source) = of_plan.and_then(|plan| plan.sources.first())
    {
        resolved = target.resolve(Some(source.topic.topic.as_str()), world)?;
    }
    let of_plan = resolved.plan.as_ref();
    let group = match (group, of_plan) {
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

/// One partition: what is committed and where it ends.
struct Row {
    at: TopicPartition,
    committed: Option<Offset>,
    low: Offset,
    end: Offset,
}

impl Row {
    /// Records that are still to be read, at most: offsets may have gaps.
    fn lag(&self) -> Option<u64> {
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
                low: marks.low,
                end: marks.last_stable,
            });
        }
    }
    Ok(rows)
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
    let table: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.at.topic.to_string(),
                row.at.partition.to_string(),
                or_dash(row.committed.map(|offset| offset.0)),
                row.end.to_string(),
                or_dash(row.lag()),
            ]
        })
        .collect();
    console.line(format_args!("group {group}"))?;
    console.table(
        &["topic", "partition", "next to read", "end", "lag"],
        &table,
    )?;
    Ok(())
}
