//! Stores in memory that do what a test says when they are written to.

use std::fmt;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use tidemill_state::{
    Change, Identity, MemoryStore, Note, OpenedStore, Page, Result, StateStore, Stored,
};

use super::*;

/// Asked before each write to the store of the task of this name.
type OnWrite = Arc<dyn Fn(&str) -> Result<()> + Send + Sync>;

pub(super) struct Hooked {
    pub(super) inner: MemoryStores,
    on_write: OnWrite,
    /// The tasks whose stores were set aside.
    pub(super) set_aside: Mutex<Vec<String>>,
}

impl Hooked {
    pub(super) fn on_write(say: impl Fn(&str) -> Result<()> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStores::default(),
            on_write: Arc::new(say),
            set_aside: Mutex::default(),
        })
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooked").finish_non_exhaustive()
    }
}

#[async_trait]
impl Stores for Hooked {
    async fn open(&self, pipeline: &str, task: &str) -> Result<Arc<dyn StateStore>> {
        let identity = Identity {
            pipeline: pipeline.to_owned(),
            task: task.to_owned(),
        };
        Ok(Arc::new(Store {
            inner: MemoryStore::open(&self.inner.disk(task), &identity)?,
            task: task.to_owned(),
            on_write: self.on_write.clone(),
        }))
    }

    async fn set_aside(&self, task: &str, why: &str) -> Result<()> {
        self.set_aside.lock().unwrap().push(why.to_owned());
        self.inner.set_aside(task, why).await
    }
}

struct Store {
    inner: MemoryStore,
    task: String,
    on_write: OnWrite,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl StateStore for Store {
    fn opened(&self) -> OpenedStore {
        self.inner.opened()
    }

    async fn get_many(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>> {
        self.inner.get_many(keys).await
    }

    async fn scan(&self, prefix: Bytes, after: Option<Bytes>, limit: usize) -> Result<Page> {
        self.inner.scan(prefix, after, limit).await
    }

    async fn get_prefixes(&self, prefixes: Vec<Bytes>) -> Result<Vec<Page>> {
        self.inner.get_prefixes(prefixes).await
    }

    async fn write(&self, changes: Vec<Change>) -> Result<()> {
        (self.on_write)(&self.task)?;
        self.inner.write(changes).await
    }

    async fn sync(&self) -> Result<()> {
        self.inner.sync().await
    }

    async fn stored(&self) -> Result<Option<Stored>> {
        self.inner.stored().await
    }

    async fn set_stored(&self, stored: Stored) -> Result<()> {
        self.inner.set_stored(stored).await
    }

    async fn note(&self) -> Result<Note> {
        self.inner.note().await
    }

    async fn set_note(&self, note: Note) -> Result<()> {
        self.inner.set_note(note).await
    }

    async fn clear(&self) -> Result<()> {
        self.inner.clear().await
    }

    async fn size(&self) -> Result<u64> {
        self.inner.size().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
