//! Running a pipeline: its parts, in the order in which they start and stop.

use std::sync::Arc;

use tidemill_broker::{Broker, ConsumerOptions, Start, Topic, TopicPartition, TransactionalId};
use tokio::sync::{mpsc, watch};
use tracing::info;

use super::bounds::Bounds;
use super::committer::{Committer, Cut, Terms};
use super::error::Doing;
use super::intake::Intake;
use super::open::{Shared, Stores};
use super::recovery::retrying;
use super::topics::Topics;
use super::topology::sub_topologies;
use super::{Attempt, Error, Progress, Result, accept, capable, home, keys, missing, version};
use crate::config::Plan;

/// Closed epochs on their way to the committer: one for each task of a large process.
const COMMITTER_INBOX: usize = 256;

/// How to run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The instance's name: part of its markers, and of its transactional id where a group shares
    /// out the partitions. Stable across restarts.
    pub instance: String,
    /// The run's number, best drawn by chance: after a commit of unknown outcome it helps to tell its
    /// markers from those of other runs. With equal numbers nothing is lost or doubled, but of two that
    /// overlap one may halt that need not.
    pub run: u64,
    /// How transactions are cut from epochs.
    pub cut: Cut,
    /// Once true: fire what is open, commit and end as soon as every input has ended.
    pub until_end: watch::Receiver<bool>,
    /// Whether to go on with state that another version of the file wrote.
    pub accept_new_version: bool,
    /// A topic of control records on the broker of the inputs, as a run of this pipeline wrote it:
    /// each task takes its inputs in the order written there as far as it goes, and finds them idle
    /// and ended where that run did, so that what comes out is the same.
    pub follow: Option<Topic>,
    /// How much may wait.
    pub bounds: Bounds,
}

impl RunOptions {
    /// Runs until told to stop, live.
    pub fn new(instance: impl Into<String>, run: u64) -> Self {
        Self {
            instance: instance.into(),
            run,
            cut: Cut::Live,
            until_end: watch::channel(false).1,
            accept_new_version: false,
            follow: None,
            bounds: Bounds::default(),
        }
    }
}

/// Whether a group hands out the partitions of a pipeline that reads from `input`: its offsets ride
/// along in the pipeline's transactions, so inputs and outputs must share the broker.
pub(super) fn is_in_group(plan: &Plan, input: &dyn Broker) -> bool {
    let mut sources = plan.sources.iter().filter(|source| !source.broadcast);
    input.capabilities().groups && sources.all(|source| source.topic.broker == plan.home())
}

/// The transactional id of `member` of a pipeline's group, or of the whole pipeline.
///
/// Members of a group own different tasks, and their generations fence them: each has an id of its
/// own. Without a group every process would run every task, and only the id tells who is the last:
/// it is the pipeline's, whatever the processes are called, so that a second one shuts out the first.
pub(super) fn transactional_id(plan: &Plan, member: Option<&String>) -> Result<TransactionalId> {
    let id = match member {
        Some(instance) => TransactionalId::new(format!("{}.{instance}", plan.name)),
        None => TransactionalId::new(plan.name.to_string()),
    };
    id.map_err(|error| Error::Plan {
        what: error.to_string(),
    })
}

/// A checked pipeline with its brokers and stores, ready to run.
#[derive(Debug)]
pub struct Pipeline {
    plan: Arc<Plan>,
    brokers: Vec<Arc<dyn Broker>>,
    stores: Arc<dyn Stores>,
    progress: Arc<Progress>,
}

impl Pipeline {
    /// A pipeline over `brokers`, each under its name in the file.
    ///
    /// # Errors
    ///
    /// If one of the plan's brokers is not among them, or one that it does not know is.
    pub fn new(
        plan: Plan,
        brokers: &[(&str, Arc<dyn Broker>)],
        stores: Arc<dyn Stores>,
    ) -> Result<Self> {
        let refused = |what: String| Err(Error::Plan { what });
        for (given, (name, _)) in brokers.iter().enumerate() {
            if plan.brokers.iter().all(|broker| *broker.name != **name) {
                return refused(format!("the pipeline has no broker `{name}`"));
            }
            if brokers[..given].iter().any(|(other, _)| other == name) {
                return refused(format!("broker `{name}` was handed over twice"));
            }
        }
        let mut in_order = Vec::with_capacity(plan.brokers.len());
        for broker in &plan.brokers {
            match brokers.iter().find(|(name, _)| **name == *broker.name) {
                Some((_, given)) => in_order.push(given.clone()),
                None => return refused(format!("broker `{}` was not handed over", broker.name)),
            }
        }
        Ok(Self::in_order(plan, in_order, stores))
    }

    /// A pipeline over `brokers`, one for each of the plan's, in its order.
    pub(crate) fn in_order(
        plan: Plan,
        brokers: Vec<Arc<dyn Broker>>,
        stores: Arc<dyn Stores>,
    ) -> Self {
        Self {
            plan: Arc::new(plan),
            brokers,
            stores,
            progress: Arc::default(),
        }
    }

    /// What its runs have done so far.
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Runs until `stop` becomes true, until every input has ended if so asked, or until something
    /// breaks. When it returns everything is settled: what was committed is, what was not is
    /// dropped, and running again goes on from there.
    ///
    /// # Errors
    ///
    /// The first error that concerns the whole, else the first of a task.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is as a crash: nothing is lost, and the next run recovers.
    pub async fn run(&self, options: RunOptions, stop: watch::Receiver<bool>) -> Result<()> {
        let plan = &self.plan;
        let topologies = sub_topologies(plan);
        if topologies.is_empty() {
            return Err(Error::Plan {
                what: "the pipeline has no source that is not broadcast".into(),
            });
        }
        // Followed is a recording of this pipeline, changelog and all.
        if options.follow.is_none() {
            home::refuse_moved(plan, &self.brokers).await?;
        }
        let outputs = self.brokers[plan.home()].clone();
        let input = self.input_broker()?;
        let in_group = is_in_group(plan, &*input);
        capable::check(plan, &self.brokers, in_group)?;
        missing::refuse(plan, &self.brokers).await?;
        // All that is refused is refused before anything is made.
        let topics = Topics::look(plan, &topologies, &self.brokers).await?;
        keys::check(plan, &topics)?;
        if options.accept_new_version {
            accept::refuse(plan, &topologies, &topics, &*outputs).await?;
        }
        let follow = self.follow(&options, &topics, &input)?;
        let topics = topics.make(plan, &topologies, &self.brokers).await?;
        let shared = Arc::new(Shared {
            plan: plan.clone(),
            topologies,
            topics,
            brokers: self.brokers.clone(),
            outputs: outputs.clone(),
            stores: self.stores.clone(),
            group: in_group.then(|| plan.group.clone()),
            cut: options.cut,
            run: options.run,
            drain: options.until_end.clone(),
            progress: self.progress.clone(),
            accept_new_version: options.accept_new_version,
            follow,
            bounds: options.bounds.clone(),
        });

        let id = transactional_id(plan, in_group.then_some(&options.instance))?;
        let (to_committer, inbox) = mpsc::channel(COMMITTER_INBOX);
        let committer = Committer::open(
            outputs.clone(),
            self.progress.clone(),
            Terms {
                id,
                cut: options.cut,
                transaction_bytes: options.bounds.transaction_bytes,
                attempt: Attempt {
                    instance: options.instance.clone(),
                    run: options.run,
                    transaction: 0,
                },
                marker_headers: version::headers(plan),
            },
            inbox,
        )
        .await?;
        let consumer = retrying(|| input.consumer(self.consumer_options(&shared, &options)))
            .await
            .doing(|| "cannot read the inputs".into())?;
        info!(pipeline = %plan.name, guarantee = plan.guarantee.as_str(), "running");
        let intake = Intake::new(shared.clone(), consumer, to_committer);
        // Both to their end: the committer ends once the intake and its tasks are gone. If the
        // committer stops on an error, the tasks find it gone.
        let (committed, taken) = tokio::join!(committer.run(), intake.run(stop));
        if let Err(error) = committed.and(taken) {
            let error = version::named(error, plan, &shared.topics, &*outputs).await;
            return Err(missing::named(error, plan, &self.brokers).await);
        }
        retrying(|| outputs.sync())
            .await
            .doing(|| "cannot make the outputs durable".into())
    }

    /// Runs over everything there is, then ends, as with [`RunOptions::until_end`].
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    ///
    /// # Cancel safety
    ///
    /// As for [`run`](Self::run).
    pub async fn run_to_end(&self, options: RunOptions) -> Result<()> {
        let until_end = watch::channel(true).1;
        let (_stop, stopped) = watch::channel(false);
        let options = RunOptions {
            until_end,
            ..options
        };
        self.run(options, stopped).await
    }

    /// The one broker of all co-partitioned sources.
    fn input_broker(&self) -> Result<Arc<dyn Broker>> {
        let mut brokers = self
            .plan
            .sources
            .iter()
            .filter(|source| !source.broadcast)
            .map(|source| source.topic.broker);
        let first = brokers.next().unwrap_or(0);
        if brokers.any(|broker| broker != first) {
            return Err(Error::Plan {
                what: "the sources lie on more than one broker; only broadcast sources may".into(),
            });
        }
        let whole = self.plan.sources.iter().filter(|source| source.broadcast);
        let mut whole = whole.map(|source| source.topic.broker);
        let first_whole = whole.next();
        if whole.any(|broker| Some(broker) != first_whole) {
            return Err(Error::Plan {
                what: "the broadcast sources lie on more than one broker".into(),
            });
        }
        Ok(self.brokers[first].clone())
    }

    /// The control records to follow: not those that this run is about to write.
    fn follow(
        &self,
        options: &RunOptions,
        topics: &Topics,
        input: &Arc<dyn Broker>,
    ) -> Result<Option<(Arc<dyn Broker>, Topic)>> {
        let Some(topic) = &options.follow else {
            return Ok(None);
        };
        if *topic == topics.control && Arc::ptr_eq(input, &self.brokers[self.plan.home()]) {
            return Err(Error::Plan {
                what: format!("`{topic}` cannot be followed: this run writes it"),
            });
        }
        Ok(Some((input.clone(), topic.clone())))
    }

    fn consumer_options(&self, shared: &Shared, options: &RunOptions) -> ConsumerOptions {
        let sources = || {
            self.plan
                .sources
                .iter()
                .enumerate()
                .filter(|(_, source)| !source.broadcast)
        };
        match &shared.group {
            Some(group) => {
                let topics: Vec<Topic> = sources()
                    .map(|(_, source)| source.topic.topic.clone())
                    .collect();
                let mut consumer = ConsumerOptions::group(group.clone(), topics, Start::Earliest);
                consumer.instance = Some(options.instance.clone());
                consumer
            }
            None => {
                let partitions = sources().flat_map(|(index, source)| {
                    let at = |partition| TopicPartition::new(source.topic.topic.clone(), partition);
                    (0..shared.topics.sources[index].partitions)
                        .map(move |partition| (at(partition), Start::Earliest))
                });
                ConsumerOptions::partitions(partitions.collect())
            }
        }
    }
}
