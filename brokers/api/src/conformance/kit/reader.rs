//! A consumer that checks what every delivery must keep.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use tokio::time::timeout;

use super::{Read, group, read_of, stale, topic};
use crate::conformance::Subject;
use crate::{
    Broker, Consumer, ConsumerOptions, Delivery, Error, Generation, Offset, Permit, Result, Start,
    TopicPartition,
};

/// What must come within the subject's patience.
pub(in crate::conformance) async fn soon<T>(
    subject: &Subject,
    what: &str,
    future: impl Future<Output = T>,
) -> T {
    match timeout(subject.patient(), future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// A consumer and what it has been told.
pub(in crate::conformance) struct Reader<'a> {
    pub(in crate::conformance) subject: &'a Subject,
    pub(in crate::conformance) consumer: Box<dyn Consumer>,
    /// The whole present assignment.
    pub(in crate::conformance) owned: BTreeSet<TopicPartition>,
    pub(in crate::conformance) generation: Option<Generation>,
    /// Every record delivered.
    pub(in crate::conformance) reads: Vec<Read>,
    pub(in crate::conformance) revoked: Vec<TopicPartition>,
    pub(in crate::conformance) lost: Vec<TopicPartition>,
    pub(in crate::conformance) ends: Vec<(TopicPartition, Offset)>,
    /// How often each partition was assigned anew.
    next: BTreeMap<TopicPartition, Offset>,
}

/// What came of waiting once.
#[derive(Debug)]
pub(in crate::conformance) enum Came {
    Assigned,
    /// So many of them.
    Records(usize),
    Revoked(Permit),
    Lost,
    End,
    Error(Error),
}

impl<'a> Reader<'a> {
    pub(in crate::conformance) async fn open(
        subject: &'a Subject,
        broker: &dyn Broker,
        options: ConsumerOptions,
    ) -> Self {
        let consumer = soon(subject, "a consumer", broker.consumer(options))
            .await
            .expect("a consumer is opened");
        Self {
            subject,
            consumer,
            owned: BTreeSet::new(),
            generation: None,
            reads: Vec::new(),
            revoked: Vec::new(),
            lost: Vec::new(),
            ends: Vec::new(),
            next: BTreeMap::new(),
        }
    }

    /// Reads partitions by hand.
    pub(in crate::conformance) async fn by_hand(
        subject: &'a Subject,
        broker: &dyn Broker,
        partitions: Vec<(TopicPartition, Start)>,
    ) -> Self {
        Self::open(subject, broker, ConsumerOptions::partitions(partitions)).await
    }

    /// Joins a group, from the beginning where nothing is committed.
    pub(in crate::conformance) async fn join(
        subject: &'a Subject,
        broker: &dyn Broker,
        name: &str,
        topics: &[&str],
    ) -> Self {
        let topics = topics.iter().map(|name| topic(name)).collect();
        let options = ConsumerOptions::group(group(name), topics, Start::Earliest);
        Self::open(subject, broker, options).await
    }

    /// Takes in a delivery and checks what every delivery must keep.
    pub(in crate::conformance) fn take(&mut self, delivery: Result<Delivery>) -> Came {
        match delivery {
            Ok(Delivery::Records(batch)) => {
                assert!(
                    self.owned.contains(batch.at()),
                    "records of {} come only while it is assigned",
                    batch.at()
                );
                let reads = read_of(&batch);
                if let (Some(first), Some(next)) = (reads.first(), self.next.get(batch.at())) {
                    assert!(first.offset >= *next, "{} goes on where it was", batch.at());
                }
                self.next.insert(batch.at().clone(), batch.next());
                let count = reads.len();
                self.reads.extend(reads);
                Came::Records(count)
            }
            Ok(Delivery::Assigned {
                generation,
                partitions,
            }) => {
                let owned: BTreeSet<_> = partitions.iter().cloned().collect();
                assert_eq!(owned.len(), partitions.len(), "each partition once");
                self.next.retain(|at, _| owned.contains(at));
                self.owned = owned;
                self.generation = generation;
                Came::Assigned
            }
            Ok(Delivery::Revoked { partitions, permit }) => {
                for at in &partitions {
                    assert!(self.owned.remove(at), "{at} was assigned before it goes");
                    self.next.remove(at);
                }
                self.revoked.extend(partitions);
                Came::Revoked(permit)
            }
            Ok(Delivery::Lost { partitions }) => {
                for at in &partitions {
                    self.owned.remove(at);
                    self.next.remove(at);
                }
                self.lost.extend(partitions);
                Came::Lost
            }
            Ok(Delivery::End { partition, offset }) => {
                assert!(
                    self.owned.contains(&partition),
                    "an end comes only while its partition is assigned"
                );
                self.ends.push((partition, offset));
                Came::End
            }
            Err(error) => Came::Error(error),
        }
    }

    /// What comes next; it must come.
    pub(in crate::conformance) async fn next(&mut self) -> Came {
        let delivery = soon(self.subject, "a delivery", self.consumer.next()).await;
        self.take(delivery)
    }

    /// What comes while it is quiet, if anything does.
    pub(in crate::conformance) async fn next_if_any(&mut self) -> Option<Came> {
        let delivery = timeout(self.subject.calm(), self.consumer.next())
            .await
            .ok()?;
        Some(self.take(delivery))
    }

    /// Waits until `count` more records were delivered; gives permits back at once.
    pub(in crate::conformance) async fn read(&mut self, count: usize) -> Vec<Read> {
        let from = self.reads.len();
        while self.reads.len() < from + count {
            match self.next().await {
                Came::Error(error) if error.is_transient() => {}
                Came::Error(error) => panic!("reading failed: {error}"),
                _ => {}
            }
        }
        assert_eq!(self.reads.len(), from + count, "no more than expected");
        self.reads[from..].to_vec()
    }

    /// Waits for the next end of any partition.
    pub(in crate::conformance) async fn read_to_end(&mut self) -> Vec<Read> {
        let from = self.reads.len();
        loop {
            match self.next().await {
                Came::End => return self.reads[from..].to_vec(),
                Came::Error(error) if error.is_transient() => {}
                Came::Error(error) => panic!("reading failed: {error}"),
                _ => {}
            }
        }
    }

    /// Waits for the next assignment; gives permits back at once.
    pub(in crate::conformance) async fn assigned(&mut self) -> Generation {
        loop {
            match self.next().await {
                Came::Assigned => return self.generation.clone().expect("a generation"),
                Came::Error(error) if error.is_transient() => {}
                Came::Error(error) => panic!("waiting for an assignment failed: {error}"),
                _ => {}
            }
        }
    }

    /// Waits for the next revocation.
    pub(in crate::conformance) async fn revocation(&mut self) -> Permit {
        loop {
            match self.next().await {
                Came::Revoked(permit) => return permit,
                Came::Error(error) if error.is_transient() => {}
                Came::Error(error) => panic!("waiting for a revocation failed: {error}"),
                _ => {}
            }
        }
    }

    /// Waits for an error that is not transient.
    pub(in crate::conformance) async fn error(&mut self) -> Error {
        loop {
            match self.next().await {
                Came::Error(error) if error.is_transient() => {}
                Came::Error(error) => return error,
                _ => {}
            }
        }
    }

    /// Commits under the present generation.
    pub(in crate::conformance) async fn commit(
        &mut self,
        at: &TopicPartition,
        offset: u64,
    ) -> Result<()> {
        let generation = self.generation.clone();
        self.consumer
            .commit(generation.as_ref(), &[(at.clone(), Offset(offset))])
            .await
    }

    /// Checks that offsets of these partitions are refused because of this very generation.
    pub(in crate::conformance) async fn cannot_commit(
        &mut self,
        generation: Option<&Generation>,
        partitions: &[&TopicPartition],
    ) {
        let offsets = partitions.iter().map(|at| ((*at).clone(), Offset(1)));
        let offsets: Vec<_> = offsets.collect();
        stale(self.consumer.commit(generation, &offsets).await, generation);
    }

    /// Checks that neither a record nor an error comes.
    pub(in crate::conformance) async fn stays_quiet(&mut self) {
        // An end may be due, of each partition once.
        for _ in 0..=self.owned.len() {
            match self.next_if_any().await {
                None => return,
                Some(Came::End) => {}
                Some(other) => panic!("came {other:?} where nothing was to come"),
            }
        }
        panic!("ends came without end");
    }
}
