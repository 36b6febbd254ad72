//! A task over a log, and the naive model that it is compared with.

mod naive;
mod typed;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tidemill_state::{
    Delta, Digest, Epoch, Error, Identity, Kind, Recovered, Share, State, StateOptions, StateStore,
    Stateful, TableId, TableSpec,
};

use self::naive::{Entry, Model, Timed};
use self::typed::Tables;

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
    ids: Vec<TableId>,
    tables: Tables,
    ttl: Option<u64>,
    now: i64,
    open: Model,
    pub(crate) in_flight: Option<Logged>,
}

impl Task {
    /// Recovers as the engine does.
    pub(crate) async fn recover(
        store: Arc<dyn StateStore>,
        log: &Log,
        table_bytes: usize,
    ) -> Result<Self, Error> {
        Self::recover_with_ttl(store, log, table_bytes, None).await
    }

    /// The same with a time to live of all tables, in milliseconds.
    pub(crate) async fn recover_with_ttl(
        store: Arc<dyn StateStore>,
        log: &Log,
        table_bytes: usize,
        ttl: Option<u64>,
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
        let timed = |name: &str, kind| TableSpec {
            ttl_ms: ttl,
            ..spec(name, kind)
        };
        let ids = state.declare(&[
            timed("values", Kind::Value),
            timed("maps", Kind::Map),
            timed("deques", Kind::Deque),
        ])?;
        let mut task = Self {
            state,
            recovered,
            tables: Tables::new(&ids, table_bytes, ttl),
            ids,
            ttl,
            now: 0,
            open: last.map(|logged| logged.model.clone()).unwrap_or_default(),
            in_flight: None,
        };
        task.tables.load_all(&task.state).await?;
        task.set_time(0);
        Ok(task)
    }

    /// Says the event time of what is written from here on.
    pub(crate) fn set_time(&mut self, now: i64) {
        self.now = now;
        self.tables.set_time(now);
    }

    /// The event time of a write to what was last written at `before`.
    fn stamp(&self, before: Option<i64>) -> i64 {
        before.map_or(self.now, |before| before.max(self.now))
    }

    /// Moves event time on.
    pub(crate) async fn expire(&mut self, watermark: i64, most: usize) {
        let expired = self.tables.expire(&self.state, watermark, most).await;
        assert_eq!(expired, self.expire_model(watermark, most));
    }

    fn expire_model(&mut self, watermark: i64, most: usize) -> [Vec<Entry>; 3] {
        match self.ttl {
            Some(ttl) => {
                let last = watermark.saturating_sub(i64::try_from(ttl).unwrap());
                self.open.expire(last, most)
            }
            None => Default::default(),
        }
    }

    pub(crate) async fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        let values = &mut self.tables.values;
        self.state.load(values, [key]).await.unwrap();
        let before = self.open.values.get(key).cloned();
        let (time, before) = before.unzip();
        assert_eq!(values.get(key).unwrap(), before.as_ref());
        let was = match value {
            Some(value) => {
                let was = values.insert(key, value.to_vec()).unwrap();
                let timed = (self.stamp(time), value.to_vec());
                self.open.values.insert(key.to_vec(), timed);
                was
            }
            None => {
                self.open.values.remove(key);
                values.remove(key).unwrap()
            }
        };
        assert_eq!(was, before);
    }

    /// Adds to what is there, if anything is.
    pub(crate) async fn extend(&mut self, key: &[u8], element: &[u8]) {
        let time = self.now;
        let touch = |timed: &mut Timed| {
            timed.0 = timed.0.max(time);
            timed.1.push(1);
        };
        let Tables {
            values,
            maps,
            deques,
        } = &mut self.tables;
        self.state.load(values, [key]).await.unwrap();
        self.state.load(maps, [key]).await.unwrap();
        self.state.load(deques, [key]).await.unwrap();
        if let Some(value) = values.get_mut(key).unwrap() {
            value.push(1);
        }
        if let Some(timed) = self.open.values.get_mut(key) {
            touch(timed);
        }
        if let Some(value) = maps.get_mut(key, element).unwrap() {
            value.push(1);
        }
        let map = self.open.maps.get_mut(key);
        if let Some(timed) = map.and_then(|map| map.get_mut(element)) {
            touch(timed);
        }
        if let Some(value) = deques.back_mut(key).unwrap() {
            value.push(1);
        }
        let deque = self.open.deques.get_mut(key);
        if let Some(timed) = deque.and_then(|deque| deque.back_mut()) {
            touch(timed);
        }
    }

    pub(crate) async fn set_element(&mut self, key: &[u8], element: &[u8], value: Option<&[u8]>) {
        let maps = &mut self.tables.maps;
        self.state.load(maps, [key]).await.unwrap();
        let model = self.open.maps.entry(key.to_vec()).or_default();
        let (time, before) = model.get(element).cloned().unzip();
        let was = match value {
            Some(value) => {
                let time = time.map_or(self.now, |time| time.max(self.now));
                model.insert(element.to_vec(), (time, value.to_vec()));
                maps.insert(key, element, value.to_vec()).unwrap()
            }
            None => {
                model.remove(element);
                maps.remove(key, element).unwrap()
            }
        };
        assert_eq!(was, before);
        let elements: Vec<_> = maps.iter(key).unwrap().collect();
        let expected: Vec<_> = model
            .iter()
            .map(|(of, value)| (&of[..], &value.1))
            .collect();
        assert_eq!(elements, expected);
        assert_eq!(maps.len(key).unwrap(), model.len());
        if model.is_empty() {
            self.open.maps.remove(key);
        }
    }

    pub(crate) async fn push(&mut self, key: &[u8], value: &[u8]) {
        let deques = &mut self.tables.deques;
        self.state.load(deques, [key]).await.unwrap();
        deques.push_back(key, value.to_vec()).unwrap();
        let deque = self.open.deques.entry(key.to_vec()).or_default();
        // What lies behind lives as long as what lies before it.
        let time = deque.back().map_or(self.now, |back| back.0.max(self.now));
        deque.push_back((time, value.to_vec()));
    }

    pub(crate) async fn pop(&mut self, key: &[u8]) {
        let deques = &mut self.tables.deques;
        self.state.load(deques, [key]).await.unwrap();
        let model = self.open.deques.entry(key.to_vec()).or_default();
        let expected = model.pop_front().map(|(_, value)| value);
        assert_eq!(deques.pop_front(key).unwrap(), expected);
        let expected = model.iter().map(|(_, value)| value);
        assert!(deques.iter(key).unwrap().eq(expected));
        if model.is_empty() {
            self.open.deques.remove(key);
        }
    }

    pub(crate) fn close(&mut self) {
        assert!(self.in_flight.is_none());
        let committed = self.state.last_committed().epoch;
        let Tables {
            values,
            maps,
            deques,
        } = &mut self.tables;
        let delta = self
            .state
            .close_epoch(committed.next(), &mut [deques, values, maps])
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
        self.tables.values.forget();
        self.tables.maps.forget();
        self.tables.deques.forget();
        self.open = log
            .epochs
            .last()
            .map(|logged| logged.model.clone())
            .unwrap_or_default();
        self.tables.load_all(&self.state).await.unwrap();
    }

    /// Compares everything with the model: through unbounded tables, what would expire when, and the digest by its
    /// definition.
    pub(crate) async fn check(&self) {
        let mut tables = Tables::new(&self.ids, usize::MAX, self.ttl);
        tables.load_all(&self.state).await.unwrap();
        let Tables {
            values,
            maps,
            deques,
        } = &tables;
        assert!(values.is_complete() && maps.is_complete() && deques.is_complete());
        assert_eq!(tables.entries(), self.open.entries());
        if self.ttl.is_some() {
            let expired = tables.expire(&self.state, i64::MAX, usize::MAX).await;
            assert_eq!(
                expired,
                self.open.clone().expire(i64::MAX, usize::MAX),
                "what is stored expires in another order"
            );
        }

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

    /// Whether anything of a table is stored or about to be.
    pub(crate) async fn is_empty(&self) -> bool {
        for id in &self.ids {
            let page = self.state.scan(id.prefix(), None, 1).await.unwrap();
            if !page.is_empty() {
                return false;
            }
        }
        true
    }
}
