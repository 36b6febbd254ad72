//! Setting a pipeline back or forward: new input offsets, and what becomes of its state.
//!
//! A reset is one transaction in the pipeline's own name: for each task a new marker with the inputs
//! as they are now, the group's offsets, and, if the state is dropped, a tombstone for each of its
//! elements. Stores follow it as they follow any other epoch. Only if the inputs have another number
//! of partitions are changelog and control topic made anew, and the stores set aside.

mod look;

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_broker::{
    Broker, Error as BrokerError, GroupOffsets, Headers, Offset, Outcome, RecordSet, Timestamp,
    TopicIdentity, TopicPartition, Transaction, TransactionalId,
};
use tidemill_state::{Digest, Epoch};
use tracing::{info, warn};

use super::error::Doing;
use super::recovery::{own_topic, retrying};
use super::run::transactional_id;
use super::topics::Topics;
use super::topology::{SubTopology, sub_topologies};
use super::{Attempt, LostOutput, MARKER_KEY, MarkedInput, Marker, Result, TaskId, version};
use crate::config::Plan;

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

impl ResetOptions {
    /// Whether all inputs are reset.
    fn is_whole(&self) -> bool {
        self.source.is_none() && self.partition.is_none()
    }
}

/// What a reset does, or has done.
#[derive(Debug, Clone)]
pub struct Reset {
    /// The tasks concerned, in order.
    pub tasks: Vec<TaskReset>,
    /// If changelog and control topic are made anew: the partitions they have, and will have.
    pub rebuilt: Option<(u32, u32)>,
    /// Sources that do not outlive a run, as standard input: each run reads its own from the beginning,
    /// whatever is reset.
    pub begin_anew: Vec<String>,
    /// Outputs that are gone: their topics are made anew, and are empty.
    pub lost: Vec<LostOutput>,
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
    /// Its inputs that outlive a run.
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
    incarnation: u64,
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
    /// If a source's topic is missing, a topic has other partitions than the file says, an offset lies
    /// outside its partition, what is asked for would leave a pipeline that cannot run, or an output is
    /// gone and not all of it is to be written anew.
    pub async fn look(
        plan: Plan,
        brokers: Vec<Arc<dyn Broker>>,
        options: ResetOptions,
        newest: Option<Epoch>,
    ) -> Result<Self> {
        let topologies = sub_topologies(&plan);
        let reset = look::look(&plan, &topologies, &brokers, &options, newest).await?;
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
        let topics = Topics::look(plan, &self.topologies, &self.brokers).await?;
        let topics = topics.make(plan, &self.topologies, &self.brokers).await?;
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
        let inputs = task.inputs.iter().map(|input| MarkedInput {
            source: input.source.clone(),
            topic: input.at.topic.to_string(),
            partition: input.at.partition,
            identity: input.identity.map(|identity| identity.0),
            incarnation: input.incarnation,
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
