//! Dedupe over a state that is committed and opened again, against sorted lists.

use std::collections::{BTreeMap, BTreeSet};

use futures::executor::block_on;
use proptest::prelude::*;
use tidemill_state::{
    Digest, Epoch, Identity, Kind, MemoryDisk, MemoryStore, State, StateOptions, TableId, TableSpec,
};

use super::*;
use crate::events::{Field, Type};

/// A dedupe and the state it commits to.
struct World {
    state: State,
    table: TableId,
    epoch: Epoch,
    span: i64,
    count_max: usize,
    dedupe: Dedupe,
}

impl World {
    fn new(span: i64, count_max: usize) -> Self {
        block_on(async {
            let identity = Identity {
                pipeline: "model".into(),
                task: "0".into(),
            };
            let store = MemoryStore::open(&MemoryDisk::default(), &identity).unwrap();
            let store = Arc::new(store);
            let (state, _) = State::open(store, StateOptions::default()).await.unwrap();
            let redone = state.finish_redo(Epoch::NONE, 0, Digest::EMPTY).await;
            redone.unwrap();
            let spec = TableSpec {
                name: "seen".into(),
                kind: Kind::Value,
                codec: CODEC,
                ttl_ms: None,
            };
            let table = state.declare(&[spec]).unwrap()[0];
            let mut world = Self {
                dedupe: dedupe(table, span, count_max),
                epoch: Epoch::NONE,
                state,
                table,
                span,
                count_max,
            };
            world.open().await;
            world
        })
    }

    /// As a task is opened.
    async fn open(&mut self) {
        self.dedupe = dedupe(self.table, self.span, self.count_max);
        for table in self.dedupe.tables() {
            self.state.load_all(table).await.unwrap();
        }
        for (key, time) in self.stored().await {
            let mut value = Vec::new();
            time.encode(&mut value);
            self.dedupe.restore(0, &key, &value).unwrap();
        }
    }

    /// What is committed, sorted by key.
    async fn stored(&self) -> Vec<(Vec<u8>, i64)> {
        let prefix = self.table.prefix();
        let page = self.state.scan(prefix, None, 10_000).await.unwrap();
        let stored = page.iter().map(|(key, value)| {
            let (_, key) = TableId::split(key).unwrap();
            (key.to_vec(), i64::decode(value).unwrap())
        });
        stored.collect()
    }

    fn commit(&mut self) {
        self.epoch = self.epoch.next();
        let mut tables = self.dedupe.tables();
        self.state.close_epoch(self.epoch, &mut tables).unwrap();
        self.state.committed(self.epoch, 0).unwrap();
    }

    /// Whether the event went through, was dropped as a repeat (`None`), or set aside as late.
    ///
    /// No more than `most` ids that event time makes due are forgotten at once.
    fn push(&mut self, event: &Event, most: usize) -> Option<bool> {
        let mut rows = Rows::new(schema());
        let head = RowHead {
            present: 1,
            time: event.time,
            watermark: event.watermark,
            key: Some(rows.add_text(&event.key)),
            record: 0,
        };
        rows.push(head, &[event.id]);
        let mut context = Context::default().at_most(most);
        self.dedupe.process(0, Arc::new(rows), &mut context);
        if let Some(dead) = context.take_dead().pop() {
            assert_eq!(dead.class, "dedupe.late");
            return Some(false);
        }
        (!context.take_emitted().is_empty()).then_some(true)
    }
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema {
        name: "Trade".into(),
        fields: vec![Field {
            name: "id".into(),
            ty: Type::Int,
            required: true,
        }],
        time: None,
    })
}

fn dedupe(table: TableId, span: i64, count_max: usize) -> Dedupe {
    let window = Duration::from_micros(span as u64);
    Dedupe::new(vec![0], window, count_max, Table::new(table, 0))
}

#[derive(Debug, Clone)]
struct Event {
    key: Vec<u8>,
    id: i64,
    time: i64,
    watermark: i64,
}

impl Event {
    fn entry(&self) -> Vec<u8> {
        let mut entry = (self.key.len() as u32).to_be_bytes().to_vec();
        entry.extend_from_slice(&self.key);
        entry.push(1);
        entry.extend_from_slice(&self.id.to_be_bytes());
        entry
    }
}

/// For each key a list of what is remembered, sorted by time and bytes.
#[derive(Default)]
struct Model {
    ids: BTreeMap<Vec<u8>, BTreeSet<(i64, Vec<u8>)>>,
}

impl Model {
    /// How many ids a dedupe of other bounds would have too many.
    fn surplus(&self, span: i64, count_max: usize, watermark: i64) -> usize {
        let mut other = Self {
            ids: self.ids.clone(),
        };
        other.narrow(span, count_max, watermark);
        self.len() - other.len()
    }

    fn narrow(&mut self, span: i64, count_max: usize, watermark: i64) {
        for ids in self.ids.values_mut() {
            ids.retain(|(time, _)| time + span > watermark);
            while ids.len() > count_max {
                ids.pop_first();
            }
        }
    }

    fn len(&self) -> usize {
        self.ids.values().map(BTreeSet::len).sum()
    }

    fn due(&self, span: i64, watermark: i64) -> usize {
        let all = self.ids.values().flatten();
        all.filter(|(time, _)| time + span <= watermark).count()
    }

    fn push(&mut self, event: &Event, span: i64, count_max: usize) -> Option<bool> {
        for ids in self.ids.values_mut() {
            ids.retain(|(time, _)| time + span > event.watermark);
        }
        if event.time + span <= event.watermark {
            return Some(false);
        }
        let ids = self.ids.entry(event.key.clone()).or_default();
        let entry = event.entry();
        if ids.iter().any(|(_, id)| *id == entry) {
            return None;
        }
        let new = (event.time, entry);
        if ids.len() >= count_max && ids.first().is_some_and(|oldest| new < *oldest) {
            return Some(false);
        }
        ids.insert(new);
        if ids.len() > count_max {
            ids.pop_first();
        }
        Some(true)
    }

    fn stored(&self) -> Vec<(Vec<u8>, i64)> {
        let all = self.ids.values().flatten();
        let mut stored: Vec<_> = all.map(|(time, id)| (id.clone(), *time)).collect();
        stored.sort_unstable();
        stored
    }
}

/// What happens before an event.
#[derive(Debug, Clone, Copy)]
enum Before {
    Nothing,
    Commit,
    /// Everything in memory is gone and read again.
    Restart,
    /// The same by a version with other bounds, that does so many pieces of so much at once, if there is
    /// so much to do.
    Change {
        span: i64,
        count_max: usize,
        pieces: usize,
        most: usize,
    },
    /// Event time moves on, and only so many of the ids that are due go.
    WorkOff(usize),
}

prop_compose! {
    /// Events of which many share their time, some come late, and a few keys have most ids.
    fn events()(
        raw in prop::collection::vec(
            (0u8..5, -8i64..8, -3i64..4, prop_oneof![
                4 => Just(Before::Nothing),
                1 => Just(Before::Commit),
                1 => Just(Before::Restart),
                1 => (1i64..12, 1usize..6, 0usize..4, 1usize..3).prop_map(
                    |(span, count_max, pieces, most)| Before::Change {
                        span,
                        count_max,
                        pieces,
                        most,
                    }
                ),
                1 => (0usize..3).prop_map(Before::WorkOff),
            ]),
            1..120,
        ),
        slack in 0i64..8,
    ) -> Vec<(Event, Before)> {
        let (mut now, mut watermark) = (0, i64::MIN);
        let events = raw.into_iter().map(|(key, id, step, before)| {
            let time = now + step.max(0) - i64::from(step < 0) * 4;
            now = now.max(time);
            watermark = watermark.max(now - slack);
            // A key that others begin with, and one that is empty.
            let key = b"aab"[..usize::from(key.min(3))].to_vec();
            (Event { key, id, time, watermark }, before)
        });
        events.collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_dedupe_agrees_with_sorted_lists_whenever_it_is_opened_anew(
        events in events(), span in 1i64..12, count_max in 1usize..6, most in 0usize..4,
    ) {
        let (mut world, mut model) = (World::new(span, count_max), Model::default());
        let (mut span, mut count_max, mut reached) = (span, count_max, i64::MIN);
        for (event, before) in &events {
            match *before {
                Before::Nothing => {}
                Before::Commit => world.commit(),
                Before::Restart => {
                    world.commit();
                    block_on(world.open());
                }
                Before::Change { span: to, count_max: keep, pieces, most } => {
                    // What the former version had yet to forget a longer window would keep.
                    while world.dedupe.has_backlog() {
                        world.dedupe.work_off(&mut Context::default().at_most(1));
                    }
                    world.commit();
                    (world.span, world.count_max) = (to, keep);
                    block_on(world.open());
                    // As the engine does: event time goes on where it was, and nothing is done at once.
                    let at_most = |most| Context::default().at_most(most);
                    world.dedupe.advance(Timestamp(reached), &mut at_most(0));
                    let surplus = model.surplus(to, keep, reached);
                    for piece in 0..pieces {
                        let left = surplus.saturating_sub(piece * most);
                        prop_assert_eq!(world.dedupe.has_backlog(), left > 0);
                        prop_assert_eq!(world.dedupe.remembered(), model.len() - surplus + left);
                        world.dedupe.work_off(&mut at_most(most));
                    }
                    model.narrow(to, keep, reached);
                    (span, count_max) = (to, keep);
                }
                Before::WorkOff(count) => {
                    let watermark = Timestamp(event.watermark);
                    while world.dedupe.has_backlog() {
                        world.dedupe.work_off(&mut Context::default().at_most(1));
                    }
                    let due = world.dedupe.due(watermark, usize::MAX - 1);
                    prop_assert_eq!(world.dedupe.due(watermark, 1), due.min(2));
                    world.dedupe.advance(watermark, &mut Context::default().at_most(0));
                    prop_assert_eq!(world.dedupe.has_backlog(), due > 0);
                    world.dedupe.work_off(&mut Context::default().at_most(count));
                    let left = world.dedupe.due(watermark, usize::MAX - 1);
                    prop_assert_eq!(left, due - due.min(count));
                }
            }
            let expected = model.push(event, span, count_max);
            prop_assert_eq!(world.push(event, most), expected);
            reached = event.watermark;
        }
        let last = events.last().map_or(0, |(event, _)| event.watermark);
        world.dedupe.advance(Timestamp(last), &mut Context::default().at_most(most));
        while world.dedupe.has_backlog() {
            world.dedupe.work_off(&mut Context::default().at_most(most.max(1)));
        }
        world.commit();
        prop_assert_eq!(block_on(world.stored()), model.stored());
        for ahead in 0..span + 8 {
            let due = world.dedupe.due(Timestamp(last + ahead), usize::MAX - 1);
            prop_assert_eq!(due, model.due(span, last + ahead));
        }
        prop_assert_eq!(world.dedupe.remembered(), model.stored().len());
    }
}

proptest! {
    #[test]
    fn no_event_passes_twice_however_little_is_remembered(
        events in events(), span in 1i64..12, count_max in 1usize..6, most in 0usize..4,
    ) {
        let mut world = World::new(span, count_max);
        let (mut passed, mut reached) = (BTreeSet::new(), i64::MIN);
        for (event, before) in &events {
            match *before {
                Before::Nothing => {}
                Before::Commit => world.commit(),
                Before::Restart | Before::Change { .. } => {
                    world.commit();
                    if let Before::Change { span, count_max, .. } = *before {
                        world.span = world.span.min(span);
                        world.count_max = world.count_max.min(count_max);
                    }
                    block_on(world.open());
                    world.dedupe.advance(Timestamp(reached), &mut Context::default().at_most(0));
                }
                Before::WorkOff(count) => {
                    world.dedupe.work_off(&mut Context::default().at_most(count));
                }
            }
            reached = event.watermark;
            if world.push(event, most) == Some(true) {
                prop_assert!(passed.insert((event.time, event.entry())), "{event:?} again");
            }
        }
    }
}

fn event(key: &[u8], id: i64, time: i64) -> Event {
    Event {
        key: key.to_vec(),
        id,
        time,
        watermark: 0,
    }
}

#[test]
fn of_ids_of_one_time_the_one_with_the_least_bytes_goes_first() {
    let mut world = World::new(1_000, 2);
    for id in [7, 5, 6] {
        assert_eq!(world.push(&event(b"k", id, 1), usize::MAX), Some(true));
    }
    // 5 went, whatever came when; and nobody can tell any more whether it was there.
    assert_eq!(world.push(&event(b"k", 7, 1), usize::MAX), None);
    assert_eq!(world.push(&event(b"k", 6, 1), usize::MAX), None);
    assert_eq!(world.push(&event(b"k", 5, 1), usize::MAX), Some(false));
    assert_eq!(world.push(&event(b"k", 4, 1), usize::MAX), Some(false));
    assert_eq!(world.push(&event(b"k", 8, 1), usize::MAX), Some(true));
    assert_eq!(world.push(&event(b"k", 6, 1), usize::MAX), Some(false));
}

/// Once a full key took what it had forgotten for new: of A, B, A, A with room for one, all four went
/// through.
#[test]
fn what_a_full_key_has_forgotten_is_set_aside_as_late_when_it_comes_again() {
    let mut world = World::new(1_000, 1);
    let (a, b) = (event(b"k", 1, 10), event(b"k", 2, 20));
    let outcomes = [&a, &b, &a, &a].map(|event| world.push(event, usize::MAX));
    assert_eq!(outcomes, [Some(true), Some(true), Some(false), Some(false)]);
    // Of another key nothing is forgotten.
    assert_eq!(world.push(&event(b"l", 1, 10), usize::MAX), Some(true));
}

#[test]
fn many_keys_at_their_bound_forget_each_its_own() {
    let (keys, count_max) = (50_i64, 20_i64);
    let mut world = World::new(i64::from(u32::MAX), count_max as usize);
    for id in 0..100 {
        for key in 0..keys {
            assert_eq!(
                world.push(&event(&key.to_be_bytes(), id, id * keys + key), usize::MAX),
                Some(true)
            );
        }
        if id % 30 == 0 {
            world.commit();
            block_on(world.open());
        }
    }
    assert_eq!(world.dedupe.remembered() as i64, keys * count_max);
    for key in 0..keys {
        let key = key.to_be_bytes();
        assert_eq!(
            world.push(&event(&key, 100 - count_max, 9_999), usize::MAX),
            None
        );
        assert_eq!(
            world.push(&event(&key, 99 - count_max, 9_999), usize::MAX),
            Some(true)
        );
    }
}

#[test]
fn what_went_gives_its_memory_back() {
    let mut world = World::new(i64::from(u32::MAX), usize::MAX);
    let mut key = [b'k'; 32];
    // In no order of time, so that what goes leaves holes everywhere.
    for id in 0..60_000_i64 {
        key[..8].copy_from_slice(&(id % 1_000).to_be_bytes());
        world.push(&event(&key, id, id * 7_919 % 60_000), usize::MAX);
    }
    let full = world.dedupe.bytes();
    assert!(full / 60_000 < 45 + 90, "{} bytes an id", full / 60_000);
    let span = i64::from(u32::MAX);
    assert_eq!(world.dedupe.due(Timestamp(span + 49_999), 1 << 20), 50_000);
    // What is left takes no more than a few times what it would alone.
    for (gone, part) in [(50_000, 2), (58_000, 6), (59_900, 12)] {
        world
            .dedupe
            .advance(Timestamp(span + gone - 1), &mut Context::default());
        assert_eq!(world.dedupe.remembered() as i64, 60_000 - gone);
        let bytes = world.dedupe.bytes();
        assert!(bytes < full / part, "{bytes} of {full} after {gone}");
    }
    // And is what it was, wherever it has moved.
    for time in 59_900..60_000 {
        let id = (0..60_000_i64).find(|id| id * 7_919 % 60_000 == time);
        let id = id.unwrap();
        key[..8].copy_from_slice(&(id % 1_000).to_be_bytes());
        assert_eq!(world.push(&event(&key, id, time), usize::MAX), None);
    }
    world
        .dedupe
        .advance(Timestamp::MAX, &mut Context::default());
    assert_eq!(world.dedupe.remembered(), 0);
    assert!(world.dedupe.bytes() < full / 12);
}

#[test]
fn an_id_too_long_for_a_key_of_state_is_set_aside() {
    let mut world = World::new(10, 10);
    let mut rows = Rows::new(schema());
    let head = RowHead {
        present: 1,
        time: 0,
        watermark: 0,
        key: Some(rows.add_text(&[b'k'; KEY_MAX])),
        record: 0,
    };
    rows.push(head, &[1]);
    let mut context = Context::default();
    world.dedupe.process(0, Arc::new(rows), &mut context);
    assert_eq!(context.take_dead()[0].class, "dedupe.key");
    assert_eq!(world.dedupe.remembered(), 0);
}
