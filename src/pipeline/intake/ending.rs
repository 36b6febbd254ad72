//! How tasks end: told to, by themselves, or because something broke in one of them.

use std::collections::BTreeSet;

use tidemill_broker::{Delivery, Permit, Topic, TopicPartition};
use tidemill_state::{chain, crash_point, planted};
use tokio::task::JoinError;
use tracing::{debug, error, info, warn};

use super::Intake;
use crate::pipeline::directives::End;
use crate::pipeline::open::Stores;
use crate::pipeline::reading;
use crate::pipeline::task::TaskEnd;
use crate::pipeline::{Error, Result, TaskId};

impl Intake {
    pub(super) async fn revoke(&mut self, partitions: &[TopicPartition], permit: Permit) {
        crash_point!("intake.revoked");
        planted!(P6, {
            self.forget(partitions);
            return;
        });
        let tasks = self.tasks_of(partitions);
        for &id in &tasks {
            self.end(id, End::Stop);
        }
        self.forget(partitions);
        if !tasks.is_empty() {
            // The permit drops once each of them has ended, so that nobody redoes what is not settled, or
            // finds their stores in use.
            self.leaving.push((tasks, permit));
        }
    }

    /// Partitions went without being asked for: what is open of their tasks can no longer be committed.
    pub(super) fn lose(&mut self, partitions: &[TopicPartition]) {
        warn!(?partitions, "lost partitions without being asked");
        for id in self.tasks_of(partitions) {
            self.end(id, End::Abandon);
        }
        self.forget(partitions);
    }

    /// A topic is gone: the tasks that read it halt, and no other.
    pub(super) async fn lose_topic(&mut self, topic: Topic) {
        error!(%topic, "an input was deleted: the tasks that read it halt");
        let of = |(at, id): (&TopicPartition, &TaskId)| (at.topic == topic).then_some(*id);
        let readers: BTreeSet<TaskId> = self.task_of.iter().filter_map(of).collect();
        for id in readers {
            self.end(id, End::Abandon);
            self.done.insert(id);
        }
        self.first_error.get_or_insert(Error::LostInput { topic });
        // What else they read is read for nobody.
        self.start_missing().await;
    }

    /// Tells a task to end.
    pub(super) fn end(&mut self, id: TaskId, end: End) {
        if let Some(handle) = self.tasks.get_mut(&id) {
            handle.is_leaving = true;
            handle.stalled.clear();
            handle.directives.end(end);
        }
    }

    pub(super) async fn note_ended(
        &mut self,
        ended: std::result::Result<(TaskId, u64, Result<TaskEnd>), JoinError>,
    ) -> Result<()> {
        let (id, run, end) = ended.map_err(|_| Error::Gone { part: "a task" })?;
        let mut was_told = false;
        if let Some(handle) = self.tasks.get(&id).filter(|handle| handle.run == run) {
            was_told = handle.is_leaving;
            self.tasks.remove(&id);
        }
        for (tasks, _) in &mut self.leaving {
            tasks.remove(&id);
        }
        self.leaving.retain(|(tasks, _)| !tasks.is_empty());
        match end {
            Ok(TaskEnd::Committed) => debug!(task = %id, "a task has ended"),
            Ok(TaskEnd::Finished) => {
                debug!(task = %id, "a task has finished");
                // If it was to leave, it begins anew should its partitions be ours again.
                if !was_told
                    && self
                        .assigned
                        .iter()
                        .any(|at| self.task_of.get(at) == Some(&id))
                {
                    self.done.insert(id);
                }
            }
            Ok(TaskEnd::Dropped) => {
                info!(task = %id, "a task dropped what was not committed");
            }
            Err(error @ (Error::Fenced { .. } | Error::Gone { .. })) => return Err(error),
            Ok(TaskEnd::Damaged(error)) | Err(error) if self.may_rebuild(id, &error) => {
                set_aside(&*self.shared.stores, id, &error).await?
            }
            Ok(TaskEnd::Damaged(error)) | Err(error) => {
                // Told now if others go on without it, or if it is not what the run ends with.
                if !self.tasks.is_empty() || self.first_error.is_some() {
                    error!(task = %id, error = &error as &dyn std::error::Error, "a task halted");
                }
                self.done.insert(id);
                self.first_error.get_or_insert(error);
            }
        }
        self.start_missing().await;
        Ok(())
    }

    /// Whether the log is to rebuild the store of a task: not a second time.
    fn may_rebuild(&mut self, id: TaskId, error: &Error) -> bool {
        error.is_store_damage() && self.rebuilt.insert(id)
    }

    pub(super) async fn stop_all(&mut self) {
        for handle in self.tasks.values() {
            handle.directives.end(End::Stop);
        }
        let assigned: Vec<TopicPartition> = self.assigned.iter().cloned().collect();
        self.consumer.pause(&assigned);
        let mut hears = true;
        loop {
            let ended = tokio::select! {
                biased;
                ended = self.running.join_next() => ended,
                // Its answer is not needed any more, but it waits for room to give it.
                Some(_) = self.from_tasks.recv() => continue,
                // A member that says nothing for long is taken for gone, and what it commits is refused.
                delivery = self.consumer.next(), if hears => {
                    hears = self.hear(delivery).await;
                    continue;
                }
            };
            let Some(ended) = ended else { break };
            let failed = match ended {
                Ok((id, _, end)) => self.note_stopped(id, end).await.err(),
                Err(_) => Some(Error::Gone { part: "a task" }),
            };
            if let Some(error) = failed {
                if self.first_error.is_some() {
                    error!(
                        error = &error as &dyn std::error::Error,
                        "a task failed while it stopped"
                    );
                }
                self.first_error.get_or_insert(error);
            }
        }
        self.leaving.clear();
    }

    /// Takes note of what concerns tasks that are about to end. Whether more is to be heard.
    async fn hear(&mut self, delivery: tidemill_broker::Result<Delivery>) -> bool {
        match delivery {
            // The next run reads it.
            Ok(Delivery::Records(_) | Delivery::End { .. }) => {}
            Ok(Delivery::Assigned {
                generation,
                partitions,
            }) => {
                self.consumer.pause(&partitions);
                self.stamp(generation, partitions);
            }
            Ok(Delivery::Revoked { partitions, permit }) => self.revoke(&partitions, permit).await,
            Ok(Delivery::Lost { partitions }) => self.lose(&partitions),
            // What that asks for is the next run's.
            Err(error) => return reading::after(error).await.is_ok(),
        }
        true
    }

    /// A task that was told to stop has ended. A store that is damaged is rebuilt by the next run; where
    /// something was not committed because of it, the run does not end as if it had been.
    async fn note_stopped(&mut self, id: TaskId, end: Result<TaskEnd>) -> Result<()> {
        let (damage, is_whole) = match end {
            Ok(TaskEnd::Committed | TaskEnd::Dropped) => return Ok(()),
            Ok(TaskEnd::Finished) => {
                self.done.insert(id);
                return Ok(());
            }
            Ok(TaskEnd::Damaged(damage)) => (damage, true),
            Err(error) => (error, false),
        };
        if !self.may_rebuild(id, &damage) {
            return Err(damage);
        }
        set_aside(&*self.shared.stores, id, &damage).await?;
        match is_whole {
            true => Ok(()),
            false => Err(damage),
        }
    }
}

/// Moves a damaged store out of the way.
async fn set_aside(stores: &dyn Stores, task: TaskId, error: &Error) -> Result<()> {
    warn!(%task, error = error as &dyn std::error::Error, "the store is damaged: rebuilding it from the log");
    let aside = stores.set_aside(&task.to_string(), &chain(error)).await;
    aside.map_err(|source| Error::State { task, source })
}
