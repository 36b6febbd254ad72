//! `tidemill topics`: what is on a broker.

use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::json;
use tidemill_broker::{
    Broker, Cleanup, Retention, TopicDescription, TopicPartition, TopicSpec, Watermarks,
};

use super::number::whole;
use super::target::{Access, TargetArgs, described};
use super::{Console, Exit, Failure, World, counted};
use crate::config::{PARTITIONS_MAX, duration, show_duration, show_size, size};

/// List, describe, create and delete topics
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidemill topics list                                       what is on file://data
  tidemill topics list pipelines/bars.toml                   what is on the broker of a pipeline
  tidemill topics describe bars-1m --broker file://data
  tidemill topics create trades --partitions 4 --broker file://data
  tidemill topics delete trades --broker file://data --yes")]
pub(super) struct TopicsArgs {
    #[command(subcommand)]
    verb: TopicsVerb,
}

#[derive(Debug, clap::Subcommand)]
enum TopicsVerb {
    /// List all topics
    #[command(after_help = "\
Examples:
  tidemill topics list                          what is on file://data
  tidemill topics list pipelines/bars.toml      what is on the broker of a pipeline
  tidemill topics list --broker file://data --json")]
    List {
        #[command(flatten)]
        target: TargetArgs,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Describe a topic: its partitions, what they hold, how old records leave
    #[command(after_help = "\
Examples:
  tidemill topics describe bars-1m --broker file://data
  tidemill topics describe bars-1m pipelines/bars.toml --json")]
    Describe {
        /// The topic, as on the broker or as in FILE
        topic: String,
        #[command(flatten)]
        target: TargetArgs,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Create a topic
    #[command(after_help = "\
Examples:
  tidemill topics create trades --partitions 4 --broker file://data
  tidemill topics create ticks --retention-age 7d --broker file://data
  tidemill topics create positions --compact --broker file://data")]
    Create(Box<CreateArgs>),
    /// Delete a topic, its records, and what groups have committed for it
    #[command(after_help = "\
Examples:
  tidemill topics delete bars-5m --broker file://data --yes    without `--yes` it asks first")]
    Delete {
        /// The topic, as on the broker or as in FILE
        topic: String,
        #[command(flatten)]
        target: TargetArgs,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Print one JSON document: the topic as it was, as `describe --json` does
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// The topic
    topic: String,
    #[command(flatten)]
    target: TargetArgs,
    /// How many partitions
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = whole::<NonZeroU32>(1..=PARTITIONS_MAX))]
    partitions: NonZeroU32,
    /// Keep the newest record of each key, rather than all records for a time
    #[arg(long)]
    compact: bool,
    /// How long a tombstone stays readable, such as 1d
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "compact", default_value = "1d")]
    tombstones: Duration,
    /// Records older than this may go, such as 7d [default: they stay]
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "compact")]
    retention_age: Option<Duration>,
    /// Records may go while a partition is larger than this, such as 10GiB [default: they stay]
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "compact")]
    retention_bytes: Option<u64>,
    /// Print one JSON document: the topic, as `describe --json` does
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    args: TopicsArgs,
    console: &mut Console<'_>,
    world: &World<'_>,
) -> Result<Exit, Failure> {
    match args.verb {
        TopicsVerb::List { target, json } => {
            let target = target.resolve(None, world)?;
            let broker = target.open(Access::Read).await?;
            list(&*broker.broker(), json, console).await?;
        }
        TopicsVerb::Describe {
            topic,
            target,
            json,
        } => {
            let target = target.resolve(Some(&topic), world)?;
            let broker = target.open(Access::Read).await?;
            if let Some(topic) = &target.topic {
                describe(&*broker.broker(), topic, json, console).await?;
            }
        }
        TopicsVerb::Create(args) => {
            let target = args.target.resolve(Some(&args.topic), world)?;
            let broker = target.open(Access::Create).await?;
            if let Some(topic) = target.topic {
                let cleanup = if args.compact {
                    Cleanup::Compact {
                        tombstones: args.tombstones,
                    }
                } else {
                    Cleanup::Delete(Retention {
                        age: args.retention_age,
                        bytes: args.retention_bytes,
                    })
                };
                let spec = TopicSpec::new(topic, args.partitions).cleanup(cleanup);
                broker.broker().create_topic(&spec).await?;
                let (description, marks) = look(&*broker.broker(), &spec.name).await?;
                broker.close().await?;
                match args.json {
                    true => console.json(&as_json(&description, &marks))?,
                    false => console.line(format_args!(
                        "created {} with {}",
                        spec.name,
                        counted(spec.partitions.get().into(), "partition")
                    ))?,
                }
            }
        }
        TopicsVerb::Delete {
            topic,
            target,
            yes,
            json,
        } => {
            let target = target.resolve(Some(&topic), world)?;
            let broker = target.open(Access::Change).await?;
            if let Some(topic) = target.topic {
                let (description, marks) = look(&*broker.broker(), &topic).await?;
                if !yes {
                    let question = format!(
                        "delete `{topic}` with {} in {}? this cannot be undone",
                        counted(records(&marks), "record"),
                        counted(description.partitions.into(), "partition"),
                    );
                    console.confirm(&question, topic.as_str())?;
                }
                broker.broker().delete_topic(&topic).await?;
                broker.close().await?;
                match json {
                    true => console.json(&as_json(&description, &marks))?,
                    false => console.line(format_args!("deleted {topic}"))?,
                }
            }
        }
    }
    Ok(Exit::Ok)
}

async fn look(
    broker: &dyn Broker,
    topic: &tidemill_broker::Topic,
) -> Result<(TopicDescription, Vec<Watermarks>), Failure> {
    let description = described(broker, topic).await?;
    let mut marks = Vec::with_capacity(description.partitions as usize);
    for partition in 0..description.partitions {
        let at = TopicPartition::new(topic.clone(), partition);
        marks.push(broker.watermarks(&at).await?);
    }
    Ok((description, marks))
}

/// Offsets may have gaps, so this is the most there can be.
fn records(marks: &[Watermarks]) -> u64 {
    let spans = marks
        .iter()
        .map(|marks| marks.last_stable.0.saturating_sub(marks.low.0));
    spans.sum()
}

async fn list(broker: &dyn Broker, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let mut all = Vec::new();
    for topic in broker.list_topics().await? {
        all.push(look(broker, &topic).await?);
    }
    if json {
        let topics: Vec<_> = all
            .iter()
            .map(|(description, marks)| as_json(description, marks))
            .collect();
        console.json(&json!({ "topics": topics }))?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|(description, marks)| {
            vec![
                description.name.to_string(),
                description.partitions.to_string(),
                records(marks).to_string(),
                cleanup(&description.cleanup),
            ]
        })
        .collect();
    console.table(&["topic", "partitions", "records", "cleanup"], &rows)?;
    Ok(())
}

async fn describe(
    broker: &dyn Broker,
    topic: &tidemill_broker::Topic,
    json: bool,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let (description, marks) = look(broker, topic).await?;
    if json {
        console.json(&as_json(&description, &marks))?;
        return Ok(());
    }
    console.line(format_args!("topic {}", description.name))?;
    console.line(format_args!("  cleanup  {}", cleanup(&description.cleanup)))?;
    if let Some(identity) = description.identity {
        console.line(format_args!("  identity {identity}"))?;
    }
    let rows: Vec<Vec<String>> = marks
        .iter()
        .enumerate()
        .map(|(partition, marks)| {
            vec![
                partition.to_string(),
                marks.low.to_string(),
                marks.last_stable.to_string(),
                marks.high.to_string(),
            ]
        })
        .collect();
    console.table(&["partition", "first", "readable to", "end"], &rows)?;
    Ok(())
}

fn cleanup(cleanup: &Cleanup) -> String {
    match cleanup {
        Cleanup::Compact { tombstones } => {
            format!("compact, tombstones for {}", show_duration(*tombstones))
        }
        Cleanup::Delete(Retention {
            age: None,
            bytes: None,
        }) => "keeps everything".to_owned(),
        Cleanup::Delete(Retention { age, bytes }) => {
            let age = age.map(|age| format!("older than {}", show_duration(age)));
            let bytes = bytes.map(|bytes| format!("beyond {} a partition", show_size(bytes)));
            let both: Vec<String> = age.into_iter().chain(bytes).collect();
            format!("deletes {}", both.join(" or "))
        }
    }
}

fn as_json(description: &TopicDescription, marks: &[Watermarks]) -> serde_json::Value {
    let partitions: Vec<_> = marks
        .iter()
        .enumerate()
        .map(|(partition, marks)| {
            json!({
                "partition": partition,
                "low": marks.low.0,
                "lastStable": marks.last_stable.0,
                "high": marks.high.0,
            })
        })
        .collect();
    let cleanup = match &description.cleanup {
        Cleanup::Compact { tombstones } => json!({
            "policy": "compact",
            "tombstonesMs": tombstones.as_millis() as u64,
        }),
        Cleanup::Delete(retention) => json!({
            "policy": "delete",
            "ageMs": retention.age.map(|age| age.as_millis() as u64),
            "bytes": retention.bytes,
        }),
    };
    json!({
        "topic": description.name.as_str(),
        "identity": description.identity.map(|identity| identity.to_string()),
        "cleanup": cleanup,
        "partitions": partitions,
    })
}
