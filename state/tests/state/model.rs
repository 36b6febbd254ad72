//! A task over a log, and the naive model that it is compared with.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tidemill_state::{
    Delta, DequeTable, Digest, Epoch, Error, Identity, Kind, MapTable, Recovered, Share, State,
    StateOptions, StateStore, Stateful, Table, TableSpec,
};

pub(crate) fn identity() -> Identity {
    Identity {
        pipeline: "bars".into(),
        task: "0".into(),
    }
}

pub(crate) fn spec(name: &str, kind: Kind) -> TableSpec {
    TableSpec {
        name: name.into(),
        kind,
        codec: 1,
        ttl_ms: None,
    }
}

/// Small chunks, so that a pass has many instants.
pub(crate) fn options() -> StateOptions {
    StateOptions {
        chunk_elements: 3,
        ..StateOptions::default()
    }
}

/// What the tables must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) values: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) maps: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>,
    pub(crate) deques: BTreeMap<Vec<u8>, VecDeque<Vec<u8>>>,
}

/// One epoch in the log.
#[derive(Debug, Clone)]
pub(crate) struct Logged {
    pub(crate) delta: Delta,
    pub(crate) model: Model,
}

/// A changelog: what is committed, and how much of it is durable.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) epochs: Vec<Logged>,
    durable: Arc<AtomicUsize>,
}

impl Log {
    /// What a pass calls to make it durable. Epochs are numbered from 1 without gaps here.
    pub(crate) fn make_durable(
        &self,
    ) -> impl FnOnce(Epoch) -> std::future::Ready<Result<(), Infallible>> + Send + 'static {
        let durable = self.durable.clone();
        move |epoch| {
            durable.fetch_max(usize::try_from(epoch.0).unwrap(), Ordering::Relaxed);
            std::future::ready(Ok(()))
        }
    }

    /// Loses power: what is not durable goes, but for the `kept` oldest of it.
    pub(crate) fn crash(&mut self, kept: usize) {
        self.epochs
            .truncate(self.durable.load(Ordering::Relaxed) + kept);
        self.durable.store(self.epochs.len(), Ordering::Relaxed);
    }
}

/// A task's state with a table of each kind, and its model.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) state: State,
    pub(crate) recovered: Recovered,
    pub(crate) values: Table<Vec<u8>>,
    pub(crate) maps: MapTable<Vec<u8>>,
    pub(crate) deques: DequeTable<Vec<u8>>,
    pub(crate) open: Model,
    pub(crate) in_flight: Option<Logged>,
}

impl Task {
    /// Recovers as the engine does.
    pub(crate) async fn recover(
        store: Arc<dyn StateStore>,
        log: &Log,
        table_bytes: usize,
    ) -> Result<Self, Error> {
        let (state, recovered) = State::open(store, options()).await?;
        let from = usize::try_from(recovered.changelog_offset).unwrap();
        for logged in log.epochs.iter().skip(from) {
            for change in logged.delta.changes() {
                state.redo(change.key.clone(), change.value.clone());
            }
        }
        let last = log.epochs.last();
        let (epoch, digest) = last.map_or((Epoch::NONE, Digest::EMPTY), |logged| {
            (logged.delta.epoch(), logged.delta.digest())
        });
        state
            .finish_redo(epoch, log.epochs.len() as u64, digest)
            .await?;
        let ids = state.declare(&[
            spec("values", Kind::Value),
            spec("maps", Kind::Map),
            spec("deques", Kind::Deque),
        ])?;
        let mut task = Self {
            state,
            recovered,
            values: Table::new(ids[0], table_bytes),
            maps: MapTable::new(ids[1], table_bytes),
            deques: DequeTable::new(ids[2], table_bytes),
            open: last.map(|logged| logged.model.clone()).unwrap_or_default(),
            in_flight: None,
        };
        task.load_all().await?;
        Ok(task)
    }

    async fn load_all(&mut self) -> Result<(), Error> {
        self.state.load_all(&mut self.values).await?;
        self.state.load_all(&mut self.maps).await?;
        self.state.load_all(&mut self.deques).await
    }

    pub(crate) async fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.state.load(&mut self.values, [key]).await.unwrap();
        assert_eq!(self.values.get(key).unwrap(), self.open.values.get(key));
        let (was, should) = match value {
            Some(value) => (
                self.values.insert(key, value.to_vec()).unwrap(),
                self.open.values.insert(key.to_vec(), value.to_vec()),
            ),
            None => (
                self.values.remove(key).unwrap(),
                self.open.values.remove(key),
            ),
        };
        assert_eq!(was, should);
    }

    pub(crate) async fn set_element(&mut self, key: &[u8], element: &[u8], value: Option<&[u8]>) {
        self.state.load(&mut self.maps, [key]).await.unwrap();
        let model = self.open.maps.entry(key.to_vec()).or_default();
        let (was, should) = match value {
            Some(value) => (
                self.maps.insert(key, element, value.to_vec()).unwrap(),
                model.insert(element.to_vec(), value.to_vec()),
            ),
            None => (
                self.maps.remove(key, element).unwrap(),
                model.remove(element),
            ),
        };
        assert_eq!(was, should);
        let elements: Vec<_> = self.maps.iter(key).unwrap().collect();
        let expected: Vec<_> = model.iter().map(|(key, value)| (&key[..], value)).collect();
        assert_eq!(elements, expected);
        assert_eq!(self.maps.len(key).unwrap(), model.len());
        if model.is_empty() {
            self.open.maps.remove(key);
        }
    }

    pub(crate) async fn push(&mut self, key: &[u8], value: &[u8]) {
        self.state.load(&mut self.deques, [key]).await.unwrap();
        self.deques.push_back(key, value.to_vec()).unwrap();
        self.open
            .deques
            .entry(key.to_vec())
            .or_default()
            .push_back(value.to_vec());
    }

    pub(crate) async fn pop(&mut self, key: &[u8]) {
        self.state.load(&mut self.deques, [key]).await.unwrap();
        let model = self.open.deques.entry(key.to_vec()).or_default();
        assert_eq!(self.deques.pop_front(key).unwrap(), model.pop_front());
        assert!(self.deques.iter(key).unwrap().eq(model.iter()));
        if model.is_empty() {
            self.open.deques.remove(key);
        }
    }

    pub(crate) fn close(&mut self) {
        assert!(self.in_flight.is_none());
        let committed = self.state.last_committed().epoch;
        let delta = self
            .state
            .close_epoch(
                committed.next(),
                &mut [&mut self.deques, &mut self.values, &mut self.maps],
            )
            .unwrap();
        self.in_flight = Some(Logged {
            delta,
            model: self.open.clone(),
        });
    }

    pub(crate) fn commit(&mut self, log: &mut Log) {
        if let Some(logged) = self.in_flight.take() {
            let epoch = logged.delta.epoch();
            log.epochs.push(logged);
            self.state
                .committed(epoch, log.epochs.len() as u64)
                .unwrap();
        }
    }

    pub(crate) async fn roll_back(&mut self, log: &Log) {
        self.state.rollback();
        self.in_flight = None;
        self.values.forget();
        self.maps.forget();
        self.deques.forget();
        self.open = log
            .epochs
            .last()
            .map(|logged| logged.model.clone())
            .unwrap_or_default();
        self.load_all().await.unwrap();
    }

    /// Compares everything with the model: through unbounded tables, and the digest by its definition.
    pub(crate) async fn check(&self) {
        let id = |name: &str| {
            let tables = self.state.tables();
            tables.iter().find(|(_, spec)| spec.name == name).unwrap().0
        };
        let mut values = Table::<Vec<u8>>::new(id("values"), usize::MAX);
        let mut maps = MapTable::<Vec<u8>>::new(id("maps"), usize::MAX);
        let mut deques = DequeTable::<Vec<u8>>::new(id("deques"), usize::MAX);
        self.state.load_all(&mut values).await.unwrap();
        self.state.load_all(&mut maps).await.unwrap();
        self.state.load_all(&mut deques).await.unwrap();
        assert!(values.is_complete() && maps.is_complete() && deques.is_complete());
        let read = Model {
            values: values
                .sorted()
                .into_iter()
                .map(|(key, value)| (key.to_vec(), value.clone()))
                .collect(),
            maps: maps
                .keys()
                .into_iter()
                .map(|key| {
                    let elements = maps.iter(key).unwrap();
                    (
                        key.to_vec(),
                        elements.map(|(e, v)| (e.to_vec(), v.clone())).collect(),
                    )
                })
                .collect(),
            deques: deques
                .keys()
                .into_iter()
                .map(|key| (key.to_vec(), deques.iter(key).unwrap().cloned().collect()))
                .collect(),
        };
        assert_eq!(read, self.open);

        let mut digest = Digest::EMPTY;
        let mut after: Option<Bytes> = None;
        loop {
            let page = self
                .state
                .scan(Bytes::new(), after.clone(), 2)
                .await
                .unwrap();
            let Some((last, _)) = page.last() else { break };
            assert!(after.is_none_or(|after| after < page[0].0));
            after = Some(last.clone());
            for (key, value) in &page {
                digest.add(Share::of(key, value));
            }
        }
        assert_eq!(digest, self.state.last_committed().digest);
    }
}
