//! The broker itself.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tidemill_broker::{
    Acks, Broker, Capabilities, Consumer, ConsumerOptions, Error, Group, Offset, RecordSet, Result,
    Timestamp, Topic, TopicDescription, TopicIdentity, TopicPartition, TopicSpec, TransactionalId,
    Transactor, Watermarks,
};
use tidemill_crash_point::crash_point;

use crate::append::{Failure, unknown};
use crate::catalog::{TopicEntry, TopicId};
use crate::consumer::FileConsumer;
use crate::cursor::offset_at;
use crate::format::frame::Head;
use crate::layout::Layout;
use crate::maintain::Effort;
use crate::options::FileOptions;
use crate::scan::Torn;
use crate::shared::{Shared, lock};
use crate::transactor::FileTransactor;
use crate::worker::Workers;
use crate::{follow, open};

/// The most partitions of a topic.
const PARTITIONS_MAX: u32 = 4_096;

/// An append-only log in a directory.
///
/// A clone is another handle of the same open directory. One process at a time opens it to write;
/// any number open it [to read](Self::open_reader) beside it. Calls write and read the page cache
/// on the caller's thread; what waits for the disk runs on threads that [`close`](Self::close)
/// joins, or that end when the last handle drops.
///
/// # Delivery
///
/// A transaction is one append: after a crash it is there or it is not. What is acknowledged
/// survives the kill of this process; what was acknowledged before [`Broker::sync`] returned
/// survives a loss of power, and so does everything under [`Fsync::Commit`](crate::Fsync::Commit),
/// where readers see nothing sooner.
/// After any failed write or sync the handle answers [`Error::Poisoned`]; open the directory again
/// to learn what it holds. A full disk alone is survived: nothing of the commit is kept.
#[derive(Clone)]
pub struct FileBroker {
    handle: Arc<Handle>,
}

/// Ends the background work when the last handle drops.
struct Handle {
    shared: Arc<Shared>,
    torn: Option<Torn>,
    workers: Workers,
}

impl FileBroker {
    /// Opens a directory to write, making it if need be.
    ///
    /// What a crash left half-written is cut off and [told](Self::torn).
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] naming the process that has it, [`Error::NewerFormat`],
    /// [`Error::Damaged`] naming file and byte, [`Error::Io`].
    pub async fn open(path: impl AsRef<Path>, options: FileOptions) -> Result<Self> {
        let (shared, torn) = open::open(Layout::new(path.as_ref()), options)?;
        let shared = Arc::new(shared);
        let workers = Workers::start(&shared)?;
        Ok(Self {
            handle: Arc::new(Handle {
                shared,
                torn,
                workers,
            }),
        })
    }

    /// Opens a directory to read what is durable, also while another process writes to it.
    ///
    /// Takes no lock and writes nothing. Consumers follow the writer, looking for news every
    /// [`FileOptions::poll`].
    ///
    /// # Errors
    ///
    /// [`Error::NewerFormat`], [`Error::Damaged`], [`Error::Io`]; [`Error::Invalid`] if it is no
    /// tidemill log.
    pub async fn open_reader(path: impl AsRef<Path>, options: FileOptions) -> Result<Self> {
        let shared = follow::open(Layout::new(path.as_ref()), options)?;
        Ok(Self {
            handle: Arc::new(Handle {
                shared: Arc::new(shared),
                torn: None,
                workers: Workers::none(),
            }),
        })
    }

    /// What was cut from the end of the log when it was opened.
    pub fn torn(&self) -> Option<&Torn> {
        self.handle.torn.as_ref()
    }

    /// Splits everything that was appended into segments, applies retention and compaction, and
    /// waits until that is durable. Otherwise this happens in the background, a log file at a time.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] if it failed, or something had failed before.
    ///
    /// # Cancel safety
    ///
    /// It goes on in the background.
    pub async fn clean(&self) -> Result<()> {
        self.handle.shared.clean(Effort::Clean).await
    }

    /// Splits everything into segments, stops the background work and gives up the directory, which
    /// is then a recording: plain partition files, and a manifest with their checksums.
    ///
    /// Other handles answer [`Error::Poisoned`] from then on.
    ///
    /// # Errors
    ///
    /// If the log could not be split; the directory is given up all the same, and nothing that was
    /// committed is lost.
    pub async fn close(self) -> Result<()> {
        let shared = &self.handle.shared;
        let cleaned = match &shared.writing {
            Some(_) => shared.clean(Effort::Split).await,
            None => Ok(()),
        };
        crash_point!("close.split");
        self.handle.workers.stop();
        self.handle.workers.join().await;
        // What failed since, on its way out, is told too.
        let closed = cleaned.and_then(|()| match &shared.writing {
            Some(_) => shared.alive(),
            None => Ok(()),
        });
        shared.shut();
        shared.unlock();
        closed
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.shut();
        self.workers.stop();
        self.workers.abandon();
        self.shared.unlock();
    }
}

impl fmt::Debug for FileBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileBroker")
            .field("directory", &self.shared().layout.root)
            .field("writes", &self.shared().writing.is_some())
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn identity(&self, topic: TopicId) -> TopicIdentity {
        let mut bytes = self.uuid;
        for (byte, id) in bytes[8..].iter_mut().zip(topic.to_be_bytes()) {
            *byte ^= id;
        }
        TopicIdentity(bytes)
    }

    fn produce(&self, records: Vec<RecordSet>) -> Result<(Vec<Acks>, u64)> {
        let counts: Vec<usize> = records.iter().map(RecordSet::len).collect();
        let drafts = self.draft(records).map_err(|culprit| culprit.error)?;
        match self.append(drafts, Vec::new(), |_| Ok(())) {
            Ok((firsts, end)) => {
                let acks = counts
                    .into_iter()
                    .zip(firsts)
                    .map(|(count, first)| Acks::contiguous(first.unwrap_or_default(), count))
                    .collect();
                Ok((acks, end))
            }
            Err(Failure::Refused(error)) => Err(error),
            Err(Failure::Unknown(error)) => Ok((unknown_acks(&counts, &error), 0)),
        }
    }
}

fn unknown_acks(counts: &[usize], error: &Error) -> Vec<Acks> {
    counts
        .iter()
        .map(|count| Acks::each((0..*count).map(|_| Err(unknown(error))).collect()))
        .collect()
}

#[async_trait]
impl Broker for FileBroker {
    fn capabilities(&self) -> Capabilities {
        self.shared().options.capabilities()
    }

    async fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        let shared = self.shared();
        if topic.partitions.get() > PARTITIONS_MAX {
            return Err(Error::Invalid {
                what: format!(
                    "topic `{}` with {} partitions; the limit is {PARTITIONS_MAX}",
                    topic.name, topic.partitions
                ),
            });
        }
        shared.room().await?;
        let end = shared
            .append_head(|live| {
                if live.catalog.id(&topic.name).is_some() {
                    return Err(Error::TopicExists {
                        topic: topic.name.clone(),
                    });
                }
                Ok(Head::CreateTopic {
                    id: live.catalog.next_topic,
                    topic: TopicEntry {
                        name: topic.name.clone(),
                        cleanup: topic.cleanup,
                        next: vec![0; topic.partitions.get() as usize],
                    },
                })
            })
            .map_err(Failure::into_error)?;
        crash_point!("topic.created");
        shared.topic_created(&topic.name);
        shared.settle_change(end).await
    }

    async fn describe_topic(&self, name: &Topic) -> Result<TopicDescription> {
        let shared = self.shared();
        shared.alive()?;
        shared.refresh()?;
        let live = shared.live();
        let (id, topic) = live.topic(name)?;
        Ok(TopicDescription {
            name: name.clone(),
            partitions: topic.next.len() as u32,
            cleanup: topic.cleanup,
            identity: Some(shared.identity(id)),
        })
    }

    async fn list_topics(&self) -> Result<Vec<Topic>> {
        self.shared().alive()?;
        self.shared().refresh()?;
        Ok(self.shared().live().catalog.names.keys().cloned().collect())
    }

    async fn delete_topic(&self, name: &Topic) -> Result<()> {
        let shared = self.shared();
        shared.room().await?;
        let end = shared
            .append_head(|live| {
                let (id, _) = live.topic(name)?;
                Ok(Head::DeleteTopic { id })
            })
            .map_err(Failure::into_error)?;
        crash_point!("topic.deleted");
        shared.topic_deleted(name);
        shared.settle_change(end).await
    }

    async fn watermarks(&self, at: &TopicPartition) -> Result<Watermarks> {
        self.shared().alive()?;
        self.shared().refresh()?;
        let readable = self.shared().readable();
        self.shared().live().watermarks(at, readable)
    }

    async fn offset_at(&self, at: &TopicPartition, time: Timestamp) -> Result<Offset> {
        self.shared().alive()?;
        self.shared().refresh()?;
        offset_at(self.shared(), at, time)
    }

    async fn committed(&self, group: &Group, at: &[TopicPartition]) -> Result<Vec<Option<Offset>>> {
        let shared = self.shared();
        shared.alive()?;
        shared.refresh()?;
        let (committed, end) = {
            let live = shared.live();
            let committed = at.iter().map(|at| live.committed(group, at)).collect();
            (committed, live.end())
        };
        // The records of their transaction are not seen sooner. Nor may what was committed before be told
        // meanwhile: who went on there would do again what is about to last.
        shared.settle(end.unwrap_or_default()).await?;
        Ok(committed)
    }

    async fn produce(&self, records: Vec<RecordSet>) -> Result<Vec<Acks>> {
        let shared = self.shared();
        // A producer that never waits would keep a single-threaded runtime to itself.
        tokio::task::consume_budget().await;
        shared.room().await?;
        let counts: Vec<usize> = records.iter().map(RecordSet::len).collect();
        let (acks, end) = shared.produce(records)?;
        match shared.settle(end).await {
            Ok(()) => Ok(acks),
            // They are in the log, but may be lost with the power.
            Err(error) => Ok(unknown_acks(&counts, &error)),
        }
    }

    async fn transactor(&self, id: &TransactionalId) -> Result<Box<dyn Transactor>> {
        let shared = self.shared();
        let writing = shared.writing("transactions")?;
        let owner = {
            let mut appender = lock(&writing.appender);
            let owner = appender.owners.entry(id.clone()).or_default();
            *owner += 1;
            *owner
        };
        // What the former owner left hanging is in the log or never will be; readers are to see it.
        shared.settle(shared.end()).await?;
        Ok(Box::new(FileTransactor::new(
            Arc::clone(shared),
            id.clone(),
            owner,
        )))
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>> {
        let shared = Arc::clone(self.shared());
        shared.alive()?;
        shared.refresh()?;
        Ok(Box::new(FileConsumer::open(shared, options)?))
    }

    async fn sync(&self) -> Result<()> {
        let shared = self.shared();
        shared.alive()?;
        let Some(writing) = &shared.writing else {
            // A reader sees nothing but what is durable.
            return Ok(());
        };
        let end = shared.end();
        if shared.durable.get() < end {
            writing.syncer.ring(crate::bell::Ring::Urgent);
        }
        shared.durable_to(end).await
    }
}
