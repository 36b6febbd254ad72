//! What the intake tells a task, without ever waiting for it: only the newest word counts, so a task
//! that is stuck, or not open yet, holds nobody up.

use tidemill_broker::Generation;
use tokio::sync::{mpsc, watch};

use super::task::Command;
use super::{Error, Result};

/// How a task is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Commit what is open, settle it, and end.
    Stop,
    /// The partitions are gone: drop what is open, and end.
    Abandon,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    generation: Option<Generation>,
    end: Option<End>,
}

/// The intake's side.
#[derive(Debug)]
pub(crate) struct Directives(watch::Sender<Told>);

impl Directives {
    /// Directives to a task that is opened under a generation.
    pub(crate) fn new(generation: Option<Generation>) -> (Self, Listener) {
        let told = Told {
            generation: generation.clone(),
            end: None,
        };
        let (directives, told) = watch::channel(told);
        (Self(directives), Listener { told, generation })
    }

    /// The same partitions under another generation.
    pub(crate) fn restamp(&self, generation: Option<Generation>) {
        self.0.send_modify(|told| told.generation = generation);
    }

    pub(crate) fn end(&self, end: End) {
        self.0.send_modify(|told| told.end = Some(end));
    }
}

/// The task's side.
#[derive(Debug)]
pub(crate) struct Listener {
    told: watch::Receiver<Told>,
    // As the task knows it.
    generation: Option<Generation>,
}

impl Listener {
    /// Refuses to go on with a task that is being opened and is to end: it has nothing to commit.
    ///
    /// # Errors
    ///
    /// [`Error::Dropped`].
    pub(crate) fn go_on(&self) -> Result<()> {
        // Nobody is left to say so where the intake has gone.
        if self.told.has_changed().is_err() || self.told.borrow().end.is_some() {
            return Err(Error::Dropped);
        }
        Ok(())
    }

    /// Hands on what is told to a task at work, until the intake has gone.
    pub(crate) async fn forward(mut self, commands: mpsc::Sender<Command>) {
        let mut ending = None;
        loop {
            let Told { generation, end } = self.told.borrow_and_update().clone();
            if generation != self.generation {
                self.generation.clone_from(&generation);
                if commands.send(Command::Restamp(generation)).await.is_err() {
                    return;
                }
            }
            if end != ending {
                ending = end;
                let command = match end {
                    Some(End::Stop) => Command::Stop,
                    Some(End::Abandon) | None => Command::Abandon,
                };
                if commands.send(command).await.is_err() {
                    return;
                }
            }
            if self.told.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemill_broker::Generation;

    use super::*;

    fn generation(number: u64) -> Option<Generation> {
        Some(Generation {
            number,
            member: "m".into(),
        })
    }

    #[tokio::test]
    async fn of_many_generations_a_task_hears_of_the_last_and_then_of_its_end() {
        let (directives, listener) = Directives::new(generation(1));
        for number in 2..100 {
            directives.restamp(generation(number));
        }
        listener.go_on().unwrap();
        directives.end(End::Stop);
        assert!(matches!(listener.go_on(), Err(Error::Dropped)));
        let (commands, mut heard) = mpsc::channel(1);
        let forward = listener.forward(commands);
        let hear = async {
            let first = heard.recv().await;
            assert!(matches!(&first, Some(Command::Restamp(last)) if *last == generation(99)));
            assert!(matches!(heard.recv().await, Some(Command::Stop)));
            directives.end(End::Abandon);
            assert!(matches!(heard.recv().await, Some(Command::Abandon)));
            drop(directives);
            assert!(heard.recv().await.is_none());
        };
        tokio::join!(forward, hear);
    }

    #[test]
    fn a_task_is_not_opened_for_an_intake_that_has_gone() {
        let (directives, listener) = Directives::new(None);
        drop(directives);
        assert!(matches!(listener.go_on(), Err(Error::Dropped)));
    }
}
