//! The stores of a simulated machine, and what is written to them.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tidemill::pipeline::Stores;
use tidemill_state::{
    Change, Identity, MemoryStore, Note, OpenedStore, Page, Result, StateStore, Stored,
};

use crate::checker::Checker;
use crate::world::World;

/// The stores of one machine.
#[derive(Debug)]
pub(crate) struct Disks {
    pub(crate) world: Arc<World>,
    pub(crate) machine: usize,
}

#[async_trait]
impl Stores for Disks {
    async fn open(&self, pipeline: &str, task: &str) -> Result<Arc<dyn StateStore>> {
        let identity = Identity {
            pipeline: pipeline.into(),
            task: task.into(),
        };
        let disk = self.world.disk(self.machine, task);
        let store = MemoryStore::open(&disk, &identity)?;
        self.world.load.opened(self.machine, task);
        Ok(Arc::new(Watched {
            store,
            world: self.world.clone(),
            machine: self.machine,
            task: task.to_owned(),
        }))
    }

    async fn set_aside(&self, task: &str, why: &str) -> Result<()> {
        // No disk of the simulation damages what it keeps.
        self.world
            .wrong(format!("the store of task {task} was set aside: {why}"));
        self.world.lose_disks(self.machine);
        Ok(())
    }
}

/// A store that tells what is written to it.
#[derive(Debug)]
struct Watched {
    store: MemoryStore,
    world: Arc<World>,
    machine: usize,
    task: String,
}

#[async_trait]
impl StateStore for Watched {
    fn opened(&self) -> OpenedStore {
        self.store.opened()
    }

    async fn get_many(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>> {
        self.store.get_many(keys).await
    }

    async fn scan(&self, prefix: Bytes, after: Option<Bytes>, limit: usize) -> Result<Page> {
        self.store.scan(prefix, after, limit).await
    }

    async fn get_prefixes(&self, prefixes: Vec<Bytes>) -> Result<Vec<Page>> {
        self.store.get_prefixes(prefixes).await
    }

    async fn write(&self, changes: Vec<Change>) -> Result<()> {
        self.store.write(changes.clone()).await?;
        self.world.load.wrote(self.machine, &self.task, &changes);
        Ok(())
    }

    async fn sync(&self) -> Result<()> {
        self.store.sync().await
    }

    async fn stored(&self) -> Result<Option<Stored>> {
        self.store.stored().await
    }

    async fn set_stored(&self, stored: Stored) -> Result<()> {
        // Each pass leaves the state of its epoch and nothing beside it: no store outgrows the state.
        let found = self.world.disk(self.machine, &self.task).digest();
        if found != stored.digest {
            let what = format!(
                "the store of task {} holds {found}, and is to say {stored:?}",
                self.task
            );
            self.world.caught(Checker::Digests, what);
        }
        self.store.set_stored(stored).await
    }

    async fn note(&self) -> Result<Note> {
        self.store.note().await
    }

    async fn set_note(&self, note: Note) -> Result<()> {
        self.store.set_note(note).await
    }

    async fn clear(&self) -> Result<()> {
        self.store.clear().await
    }

    async fn size(&self) -> Result<u64> {
        self.store.size().await
    }

    async fn close(&self) -> Result<()> {
        self.store.close().await
    }
}
