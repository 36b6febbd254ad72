//! The committer against the memory broker and what may go wrong with it.

use std::num::NonZeroU32;
use std::time::Duration;

use tidemill_broker::{BrokerExt, Offset, RecordSet, Start, Topic, TopicPartition, TopicSpec};
use tidemill_broker_memory::MemoryBroker;
use tidemill_state::{Digest, Epoch, Identity, MemoryDisk, MemoryStore, State, StateOptions};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::*;

const TASKS: [TaskId; 2] = [
    TaskId {
        sub_topology: 0,
        partition: 0,
    },
    TaskId {
        sub_topology: 0,
        partition: 1,
    },
];

fn changelog(task: TaskId) -> TopicPartition {
    TopicPartition::new(Topic::new("p.changelog").unwrap(), task.partition)
}

/// A process under the one transactional id, as far as commits go.
struct Process {
    inbox: mpsc::Sender<ToCommitter>,
    running: tokio::task::JoinHandle<Result<()>>,
}

impl Process {
    async fn start(broker: &MemoryBroker, run: u64) -> Self {
        let (inbox, mail) = mpsc::channel(8);
        let committer = Committer::open(
            Arc::new(broker.clone()),
            Arc::default(),
            Terms {
                id: TransactionalId::new("p.0").unwrap(),
                cut: Cut::Live,
                transaction_bytes: usize::MAX,
                attempt: Attempt {
                    instance: "0".into(),
                    run,
                    transaction: 0,
                },
                marker_headers: Headers::new(),
            },
            mail,
        );
        let running = tokio::spawn(committer.await.unwrap().run());
        Self { inbox, running }
    }

    /// Hands over a task's epoch, in which it read up to offset `next`.
    async fn close(&self, task: TaskId, epoch: u64, next: u64) -> oneshot::Receiver<Settled> {
        let (submission, settled) = submission(task, epoch, next).await;
        let closed = ToCommitter::Closed(Box::new(submission));
        self.inbox.send(closed).await.unwrap();
        settled
    }
}

/// A task's epoch, in which it read up to offset `next`.
async fn submission(
    task: TaskId,
    epoch: u64,
    next: u64,
) -> (Submission, oneshot::Receiver<Settled>) {
    let epoch = Epoch(epoch);
    let identity = Identity {
        pipeline: "p".into(),
        task: task.to_string(),
    };
    let store = MemoryStore::open(&MemoryDisk::default(), &identity).unwrap();
    let (state, _) = State::open(Arc::new(store), StateOptions::default())
        .await
        .unwrap();
    state
        .finish_redo(Epoch::NONE, 0, Digest::EMPTY)
        .await
        .unwrap();
    let (answer, settled) = oneshot::channel();
    let submission = Submission {
        epoch: ClosedEpoch {
            task,
            records: Vec::new(),
            delta: state.close_epoch(epoch, &mut []).unwrap(),
            control: None,
            marker: Marker {
                epoch,
                attempt: Attempt {
                    instance: String::new(),
                    run: 0,
                    transaction: 0,
                },
                task: task.to_string(),
                partitions: 2,
                version: 1,
                config_hash: 0,
                inputs: vec![super::super::MarkedInput {
                    incarnation: 0,
                    source: "in".into(),
                    topic: "in".into(),
                    partition: task.partition,
                    identity: None,
                    next,
                }],
                sequences: Vec::new(),
                digest: Digest::EMPTY,
            },
            changelog: changelog(task),
            offsets: None,
            opened: Instant::now(),
        },
        settled: answer,
    };
    (submission, settled)
}

async fn broker() -> MemoryBroker {
    let broker = MemoryBroker::default();
    let topic = changelog(TASKS[0]).topic;
    let spec = TopicSpec::new(topic, NonZeroU32::new(2).unwrap());
    broker.create_topic(&spec).await.unwrap();
    broker
}

/// What each marker of a task says: its run, and how far it read.
async fn markers(broker: &MemoryBroker, task: TaskId) -> Vec<(u64, u64)> {
    let batches = broker.read_to_end(&changelog(task), Start::Earliest).await;
    let batches = batches.unwrap();
    let records = batches.iter().flat_map(|batch| batch.iter());
    let markers = records.map(|record| Marker::decode(record.value.unwrap()).unwrap());
    markers
        .map(|marker| (marker.attempt.run, marker.inputs[0].next))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn an_unknown_commit_that_happened_is_not_sent_again() {
    let broker = broker().await;
    let process = Process::start(&broker, 1).await;
    broker.faults().lose_commit_reply();
    let settled = process.close(TASKS[0], 1, 10).await.await;
    assert!(matches!(settled, Ok(Settled::Committed { .. })));
    assert_eq!(markers(&broker, TASKS[0]).await, [(1, 10)]);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_commit_that_did_not_happen_is_sent_again() {
    let broker = broker().await;
    let process = Process::start(&broker, 1).await;
    broker.faults().forget_commit();
    let settled = process.close(TASKS[0], 1, 10).await.await;
    assert!(matches!(settled, Ok(Settled::Committed { .. })));
    assert_eq!(markers(&broker, TASKS[0]).await, [(1, 10)]);
}

/// An embedding program may give every run the same number.
#[tokio::test(start_paused = true)]
async fn the_marker_of_an_earlier_run_of_the_same_number_is_not_taken_for_ours() {
    let broker = broker().await;
    for (epoch, next) in [(1, 10), (2, 20)] {
        let process = Process::start(&broker, 1).await;
        broker.faults().forget_commit();
        let settled = process.close(TASKS[0], epoch, next).await.await;
        assert!(matches!(settled, Ok(Settled::Committed { .. })));
    }
    assert_eq!(markers(&broker, TASKS[0]).await, [(1, 10), (1, 20)]);
}

/// The elder takes the id back after an unknown outcome, while the younger has gone on with a task
/// that the unknown commit was not about.
#[tokio::test(start_paused = true)]
async fn a_process_that_took_its_id_back_commits_nothing_over_a_later_run() {
    let broker = broker().await;
    let elder = Process::start(&broker, 1).await;
    let faults = broker.faults();
    faults.forget_commit();
    // Nothing holds the commit up; what settles it waits.
    faults.delay(Duration::ZERO);
    faults.delay(Duration::from_secs(10));
    let first = elder.close(TASKS[0], 1, 10).await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let younger = Process::start(&broker, 2).await;
    let settled = younger.close(TASKS[1], 1, 30).await.await;
    assert!(matches!(settled, Ok(Settled::Committed { .. })));
    assert!(matches!(first.await, Ok(Settled::Committed { .. })));

    let refused = elder.close(TASKS[1], 1, 20).await.await;
    assert!(refused.is_err(), "{refused:?}");
    let end = elder.running.await.unwrap();
    assert!(matches!(end, Err(Error::Fenced { .. })), "{end:?}");
    assert_eq!(markers(&broker, TASKS[0]).await, [(1, 10)]);
    assert_eq!(markers(&broker, TASKS[1]).await, [(2, 30)]);
}

/// Both began with the same epoch in their first transaction; the younger had read further. The elder took
/// the younger's marker for its own, went on from where it had read to itself, and so doubled the rest.
#[tokio::test(start_paused = true)]
async fn the_marker_of_a_later_run_of_the_same_number_is_not_taken_for_ours() {
    let broker = broker().await;
    let elder = Process::start(&broker, 1).await;
    let faults = broker.faults();
    faults.forget_commit();
    // Nothing holds the commit up; what settles it waits.
    faults.delay(Duration::ZERO);
    faults.delay(Duration::from_secs(10));
    let first = elder.close(TASKS[0], 1, 10).await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let younger = Process::start(&broker, 1).await;
    let settled = younger.close(TASKS[0], 1, 30).await.await;
    assert!(matches!(settled, Ok(Settled::Committed { .. })));

    let refused = first.await;
    assert!(refused.is_err(), "{refused:?}");
    let end = elder.running.await.unwrap();
    assert!(matches!(end, Err(Error::Fenced { .. })), "{end:?}");
    assert_eq!(markers(&broker, TASKS[0]).await, [(1, 30)]);
}

/// A task that ends without waiting for its epoch is opened again before that is committed, and
/// takes the same records: both were committed, one after the other.
#[tokio::test(start_paused = true)]
async fn an_epoch_that_is_committed_already_is_not_committed_again() {
    let broker = broker().await;
    let process = Process::start(&broker, 1).await;
    let settled = process.close(TASKS[0], 1, 10).await.await;
    assert!(matches!(settled, Ok(Settled::Committed { .. })));

    let settled = process.close(TASKS[0], 1, 10).await.await;
    assert!(matches!(settled, Ok(Settled::Dropped)), "{settled:?}");
    assert_eq!(markers(&broker, TASKS[0]).await, [(1, 10)]);

    let settled = process.close(TASKS[0], 2, 20).await.await;
    assert!(matches!(settled, Ok(Settled::Committed { .. })));
    let settled = process.close(TASKS[1], 1, 5).await.await;
    assert!(matches!(settled, Ok(Settled::Committed { .. })));
    assert_eq!(markers(&broker, TASKS[0]).await, [(1, 10), (1, 20)]);
    assert_eq!(markers(&broker, TASKS[1]).await, [(1, 5)]);
}

/// A broker refuses what it is told under two generations at once.
#[tokio::test]
async fn epochs_of_two_generations_go_into_two_transactions() {
    let generation = |number| {
        Some(tidemill_broker::Generation {
            number,
            member: "m".into(),
        })
    };
    let mut epochs = Vec::new();
    for (partition, of) in [Some(1), Some(2), None, Some(2), Some(1)]
        .into_iter()
        .enumerate()
    {
        let task = TaskId {
            sub_topology: 0,
            partition: partition as u32,
        };
        let (mut one, _) = submission(task, 1, 10).await;
        one.epoch.offsets = of.map(|number| super::super::epoch::EpochOffsets {
            group: tidemill_broker::Group::new("g").unwrap(),
            generation: generation(number),
            next: Vec::new(),
        });
        epochs.push(one);
    }
    let parts = by_generation(epochs);
    let tasks = |part: &Vec<Submission>| -> Vec<u32> {
        part.iter().map(|one| one.epoch.task.partition).collect()
    };
    let parts: Vec<Vec<u32>> = parts.iter().map(tasks).collect();
    // One without offsets goes with any.
    assert_eq!(parts, [vec![0, 2, 4], vec![1, 3]]);
}

#[tokio::test]
async fn a_transaction_takes_what_fits_and_an_epoch_that_never_does_by_itself() {
    let mut epochs = Vec::new();
    for task in [TASKS[0], TASKS[1], TASKS[0]] {
        let (mut one, _) = submission(task, 1, 10).await;
        let mut set = RecordSet::new(changelog(task));
        set.push(None, None, Some(&[0; 100]), &Headers::new());
        one.epoch.records = vec![set];
        epochs.push(one);
    }
    let bytes = epochs[0].epoch.bytes();
    assert!(bytes >= 100);
    for (most, count) in [(0, 1), (bytes, 1), (2 * bytes, 2), (usize::MAX, 3)] {
        assert_eq!(fitting(epochs.iter(), most), count, "{most} bytes");
    }
    assert_eq!(fitting([].iter(), usize::MAX), 0);
}

/// A broker is told the offsets of a group once in a transaction.
#[tokio::test]
async fn offsets_of_a_group_go_together() {
    let mut epochs = Vec::new();
    for task in TASKS {
        let (mut one, _) = submission(task, 1, 10).await;
        one.epoch.offsets = Some(super::super::epoch::EpochOffsets {
            group: tidemill_broker::Group::new("g").unwrap(),
            generation: None,
            next: vec![(changelog(task), Offset(10))],
        });
        epochs.push(one.epoch);
    }
    let (transaction, owners) = compose(epochs.iter(), &Headers::new());
    assert_eq!(owners, [0, 1], "the changelog of each");
    let [offsets] = &transaction.offsets[..] else {
        panic!("{:?}", transaction.offsets);
    };
    let next = TASKS.map(|task| (changelog(task), Offset(10)));
    assert_eq!(offsets.offsets, next);
}
