//! Which broker a verb means: that of a pipeline file, or one given by its URL.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemill_broker::{Broker, SystemClock, Topic, TopicDescription};

use super::load::load;
use super::{Exit, Failure, World};
use crate::config::plan::{BrokerUrl, Plan};
use crate::config::{broker_url, nearest};
use crate::pipeline::OpenBroker;

/// Which broker.
#[derive(Debug, clap::Args)]
pub(super) struct TargetArgs {
    /// Pipeline files whose broker is meant; names of their topics may then be used
    #[arg(value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// The broker [default: that of FILE, else $TIDEMILL_BROKER, else file://data]
    #[arg(long, value_name = "URL")]
    pub(super) broker: Option<String>,
}

/// Where to look when nothing is said: where the shipped pipelines keep their topics.
const BROKER_DEFAULT: &str = "file://data";

/// A broker, and the topic on it that was named.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) url: BrokerUrl,
    pub(super) topic: Option<Topic>,
    pub(super) plan: Option<Plan>,
}

impl TargetArgs {
    /// Resolves what is meant. A topic may be named as in the file or as on the broker.
    pub(super) fn resolve(
        &self,
        topic: Option<&str>,
        world: &World<'_>,
    ) -> Result<Target, Failure> {
        let plan = if self.files.is_empty() {
            None
        } else {
            Some(load(&self.files, world)?.plan)
        };
        let found = plan
            .as_ref()
            .zip(topic)
            .and_then(|(plan, name)| in_plan(plan, name));
        let named = match (&found, topic) {
            (Some((_, topic)), _) => Some(topic.clone()),
            (None, Some(name)) => {
                Some(Topic::new(name).map_err(|error| Failure::usage(error.to_string()))?)
            }
            (None, None) => None,
        };
        let url = match (&self.broker, &plan) {
            (Some(url), _) => parse(url)?,
            (None, Some(plan)) => of_plan(plan, found.map(|(broker, _)| broker))?,
            (None, None) => {
                let given = (world.env)("TIDEMILL_BROKER").filter(|url| !url.is_empty());
                parse(given.as_deref().unwrap_or(BROKER_DEFAULT))?
            }
        };
        Ok(Target {
            url,
            topic: named,
            plan,
        })
    }
}

fn parse(url: &str) -> Result<BrokerUrl, Failure> {
    broker_url(url).map_err(|message| Failure::usage(format!("broker `{url}`: {message}")))
}

/// The topic of a plan that is called so there or on its broker.
fn in_plan(plan: &Plan, name: &str) -> Option<(usize, Topic)> {
    let sources = plan
        .sources
        .iter()
        .map(|source| (&*source.name, &source.topic));
    let sinks = plan.sinks.iter().map(|sink| (&*sink.name, &sink.topic));
    let dead = std::iter::once(("dead_letter", &plan.dead_letter));
    let mut all = sources.chain(sinks).chain(dead);
    let (_, topic) = all.find(|(called, topic)| *called == name || topic.topic.as_str() == name)?;
    Some((topic.broker, topic.topic.clone()))
}

fn of_plan(plan: &Plan, broker: Option<usize>) -> Result<BrokerUrl, Failure> {
    let keeps: Vec<usize> = (0..plan.brokers.len())
        .filter(|index| plan.outlives_process(*index))
        .collect();
    match (broker, keeps.as_slice()) {
        (Some(broker), _) => Ok(plan.brokers[broker].url.clone()),
        (None, [only]) => Ok(plan.brokers[*only].url.clone()),
        (None, []) => Ok(plan.brokers[plan.home()].url.clone()),
        (None, _) => {
            let names: Vec<&str> = plan.brokers.iter().map(|broker| &*broker.name).collect();
            Err(Failure::usage(format!(
                "the file has several brokers ({}): say which with `--broker URL`",
                names.join(", ")
            )))
        }
    }
}

/// What is going to be done with a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Looked at, also while a pipeline writes to it.
    Read,
    /// Changed.
    Change,
    /// Changed, and made if it is not there.
    Create,
}

impl Target {
    /// Opens the broker.
    pub(super) async fn open(&self, access: Access) -> Result<OpenBroker, Failure> {
        let path = match &self.url {
            BrokerUrl::File { path, .. } => path,
            BrokerUrl::Memory => {
                return Err(Failure::usage(
                    "`mem://` lives inside a running pipeline: from outside there is nothing to see",
                ));
            }
            BrokerUrl::Stdio => {
                return Err(Failure::usage("`stdio:` keeps no topics")
                    .help("name the broker that keeps them with `--broker URL`"));
            }
        };
        is_directory(path)?;
        // One that cannot be read is told of by whoever opens it.
        let is_empty = || std::fs::read_dir(path).is_ok_and(|mut found| found.next().is_none());
        if access != Access::Create && path.exists() && is_empty() {
            let message = format!(
                "there is no log in `{}`: the directory is empty",
                path.display()
            );
            return Err(Failure::new(Exit::Io, message)
                .help("name another with `--broker file://DIRECTORY`; `tidemill import` and `tidemill topics create` make one"));
        }
        // Opening would make the directory; a misspelt name must not leave an empty log behind.
        if access != Access::Create && !path.exists() {
            let message = format!("there is no directory `{}`", path.display());
            return Err(Failure::new(Exit::Io, message)
                .help("name the broker with `--broker file://DIRECTORY`, or a pipeline file"));
        }
        let clock = Arc::new(SystemClock);
        Ok(match access {
            Access::Read => OpenBroker::open_reader(&self.url, clock).await?,
            Access::Change | Access::Create => OpenBroker::open(&self.url, clock).await?,
        })
    }
}

/// Refuses what stands in the way of a directory.
pub(super) fn is_directory(path: &Path) -> Result<(), Failure> {
    // Of a link that leads nowhere, the link is there.
    if path.symlink_metadata().is_ok() && !path.is_dir() {
        let message = format!("`{}` is not a directory", path.display());
        return Err(Failure::new(Exit::Io, message).help("a log is a directory: name another"));
    }
    Ok(())
}

/// Describes a topic; of one that is not there, tells what may have been meant.
pub(super) async fn described(
    broker: &dyn Broker,
    topic: &Topic,
) -> Result<TopicDescription, Failure> {
    let error = match broker.describe_topic(topic).await {
        Err(error @ tidemill_broker::Error::UnknownTopic { .. }) => error,
        other => return Ok(other?),
    };
    // The error is told in any case.
    let topics = broker.list_topics().await.unwrap_or_default();
    let near = nearest(topic.as_str(), topics.iter().map(Topic::as_str));
    Err(Failure::from(error).help(match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`tidemill topics list` lists those there are".to_owned(),
    }))
}
