//! Writing items and how far they go, together.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tidemill_broker::{
    Broker, Headers, Outcome, RecordSet, Topic, TopicDescription, TopicPartition, Transaction,
    TransactionalId, Transactor, partition,
};

use super::error::{Error, Result};
use super::item::Item;
use super::log::ImportLog;
use super::reader::Source;

/// Items in one transaction.
///
/// Enough to make the cost of a commit small beside that of its records; small enough that progress
/// shows.
pub(super) const CHUNK_ITEMS: usize = 4_096;

/// Bytes in one transaction: the bound for files of long lines.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Times a chunk is tried while the broker is unavailable.
const ATTEMPTS_MAX: u32 = 6;

/// Waits this long before the second attempt, twice as long before each further one.
const WAIT_MIN: Duration = Duration::from_millis(100);

/// Where the items of an import go.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    broker: Arc<dyn Broker>,
    log_topic: Topic,
    topic: TopicDescription,
    suspects: TopicDescription,
    id: String,
    sources: &'a [Source],
    names: Vec<String>,
    transactor: Option<Box<dyn Transactor>>,
    // Without them what is set aside carries its reason in its payload.
    headers: bool,
    log: ImportLog,
    // Items that are in, and those of the chunk being filled.
    committed: u64,
    pending: Chunk,
}

#[derive(Debug, Default)]
struct Chunk {
    sets: Vec<RecordSet>,
    items: u64,
    bytes: usize,
}

/// What a writer writes to.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) topic: TopicDescription,
    pub(super) suspects: TopicDescription,
    pub(super) log_topic: Topic,
}

/// The id under which one import at a time writes to a topic.
pub(super) fn transactional_id(topic: &Topic) -> Result<TransactionalId> {
    let hash = xxhash_rust::xxh3::xxh3_128(topic.as_str().as_bytes());
    // The hash keeps a topic's name of full length from making a name that is too long.
    TransactionalId::new(format!("tidemill-import-{hash:032x}"))
        .map_err(|error| Error::Broker(error.into()))
}

impl<'a> Writer<'a> {
    /// Goes on after `committed` items.
    pub(super) fn new(
        target: Target,
        id: String,
        sources: &'a [Source],
        transactor: Option<Box<dyn Transactor>>,
        log: ImportLog,
        committed: u64,
    ) -> Self {
        Self {
            headers: target.broker.capabilities().headers,
            broker: target.broker,
            log_topic: target.log_topic,
            topic: target.topic,
            suspects: target.suspects,
            id,
            sources,
            names: sources
                .iter()
                .map(|source| source.path.display().to_string())
                .collect(),
            transactor,
            log,
            committed,
            pending: Chunk::default(),
        }
    }

    /// Adds an item of the file at `source`; answers whether the chunk is full.
    pub(super) fn push(&mut self, source: usize, item: &Item) -> bool {
        let topic = match item.suspect {
            None => &self.topic,
            Some(_) => &self.suspects,
        };
        let at = partition::for_key(item.pair.as_bytes(), topic.partitions);
        let chunk = &mut self.pending;
        let index = chunk
            .sets
            .iter()
            .position(|set| set.at.partition == at && set.at.topic == topic.name)
            .unwrap_or_else(|| {
                let at = TopicPartition::new(topic.name.clone(), at);
                chunk.sets.push(RecordSet::new(at));
                chunk.sets.len() - 1
            });
        let mut headers = Headers::new();
        let mut payload = Cow::Borrowed(item.payload.as_slice());
        if let Some(reason) = &item.suspect {
            let reason = reason.text();
            let origin = format!("{}:{}", self.names[source], item.line);
            if self.headers {
                headers.push("reason", reason.as_bytes());
                headers.push("origin", origin.as_bytes());
            } else {
                let text = String::from_utf8_lossy(&item.payload);
                let whole = serde_json::json!({
                    "reason": reason,
                    "origin": origin,
                    "payload": text,
                });
                payload = Cow::Owned(whole.to_string().into_bytes());
            }
        }
        chunk.sets[index].push(
            Some(item.time),
            Some(item.pair.as_bytes()),
            Some(&payload),
            &headers,
        );
        chunk.items += 1;
        chunk.bytes += item.payload.len();
        chunk.items >= CHUNK_ITEMS as u64 || chunk.bytes >= CHUNK_BYTES
    }

    /// Items that are in.
    pub(super) fn committed(&self) -> u64 {
        self.committed
    }

    /// Commits the chunk with its entry in the log.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the chunk in or out as a whole, and the log says which; without
    /// transactions some of its records may be in.
    pub(super) async fn commit(&mut self, done: bool) -> Result<()> {
        let chunk = std::mem::take(&mut self.pending);
        let first = self.committed == 0;
        let items = self.committed + chunk.items;
        let entry = self
            .log
            .records(&self.id, self.sources, items, done, first)?;
        let mut records = chunk.sets;
        if self.transactor.is_some() {
            records.push(entry);
            self.transact(records, items, done).await?;
        } else {
            self.produce(records).await?;
            self.produce(vec![entry]).await?;
        }
        metrics::counter!("tidemill_import_records_total").increment(chunk.items);
        self.committed = items;
        Ok(())
    }

    async fn transact(&mut self, records: Vec<RecordSet>, items: u64, done: bool) -> Result<()> {
        let mut wait = WAIT_MIN;
        let mut unknown = false;
        for attempt in 1.. {
            let error = match self.attempt(&records, items, done, &mut unknown).await {
                Ok(()) => return Ok(()),
                Err(Error::Broker(error))
                    if attempt < ATTEMPTS_MAX && (unknown || error.is_transient()) =>
                {
                    error
                }
                Err(error) => return Err(error),
            };
            tracing::warn!(topic = %self.topic.name, %error, attempt, "will try the chunk again");
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        Ok(())
    }

    /// Tries a chunk once; `unknown` says whether the attempt before may have succeeded.
    async fn attempt(
        &mut self,
        records: &[RecordSet],
        items: u64,
        done: bool,
        unknown: &mut bool,
    ) -> Result<()> {
        if *unknown {
            if self.settled(items, done).await? {
                return Ok(());
            }
            *unknown = false;
        }
        let Some(transactor) = &mut self.transactor else {
            return Ok(());
        };
        let transaction = Transaction {
            records: records.to_vec(),
            offsets: Vec::new(),
        };
        match transactor.commit(transaction).await {
            Outcome::Committed(_) => Ok(()),
            Outcome::NotCommitted(rejection) => Err(rejection.error.into()),
            Outcome::Unknown(error) => {
                *unknown = true;
                Err(error.into())
            }
        }
    }

    /// Whether the chunk whose outcome is unknown is in: after the id was opened again it is, or
    /// never will be, and the log tells.
    async fn settled(&mut self, items: u64, done: bool) -> Result<bool> {
        let id = transactional_id(&self.topic.name)?;
        self.transactor = Some(self.broker.transactor(&id).await?);
        self.log = ImportLog::read(self.broker.as_ref(), &self.log_topic, &self.topic).await?;
        Ok(self
            .log
            .import(&self.id)
            .is_some_and(|entry| entry.items >= items && (entry.done || !done)))
    }

    async fn produce(&self, records: Vec<RecordSet>) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        for acks in self.broker.produce(records).await? {
            acks.into_result()?;
        }
        Ok(())
    }
}
