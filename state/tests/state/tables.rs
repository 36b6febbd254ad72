//! What tables promise beside holding values: loading, time to live, equal deltas.

use std::sync::Arc;

use proptest::prelude::*;
use tidemill_state::{
    Delta, DequeTable, Digest, Epoch, Error, Expired, ExpiredElement, KEY_MAX, KeyError, Kind,
    MapTable, MemoryDisk, MemoryStore, State, StateOptions, StateStore, Stateful, Table, TableId,
    TableSpec,
};

use crate::model::{identity, spec};

async fn state(disk: &MemoryDisk, epoch: Epoch, digest: Digest) -> State {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::open(disk, &identity()).unwrap());
    let (state, _) = State::open(store, StateOptions::default()).await.unwrap();
    state.finish_redo(epoch, 0, digest).await.unwrap();
    state
}

async fn empty_state() -> State {
    state(&MemoryDisk::new(), Epoch::NONE, Digest::EMPTY).await
}

fn timed() -> TableSpec {
    TableSpec {
        ttl_ms: Some(100),
        ..spec("timed", Kind::Value)
    }
}

#[tokio::test]
async fn a_key_that_was_not_loaded_is_an_error_and_not_an_absence() {
    let state = empty_state().await;
    let id = state.declare(&[spec("values", Kind::Value)]).unwrap()[0];
    let mut table = Table::<u64>::new(id, 0);
    assert_eq!(table.get(b"k"), Err(KeyError::NotLoaded { table: 1 }));
    assert!(table.insert(b"k", 1).is_err() && table.remove(b"k").is_err());
    state.load(&mut table, [b"k"]).await.unwrap();
    assert_eq!(table.insert(b"k", 1), Ok(None));
    // Changed entries stay whatever the bound is; the epoch's close lets them go.
    table.trim();
    assert_eq!(table.get(b"k"), Ok(Some(&1)));
    state.close_epoch(Epoch(1), &mut [&mut table]).unwrap();
    assert!(table.get(b"k").is_err());
    // Read back while it is in flight.
    state.load(&mut table, [b"k"]).await.unwrap();
    assert_eq!(table.get(b"k"), Ok(Some(&1)));
}

#[tokio::test]
async fn what_is_made_and_removed_within_an_epoch_takes_no_room_and_is_no_change() {
    let state = empty_state().await;
    let id = state.declare(&[spec("values", Kind::Value)]).unwrap()[0];
    let mut table = Table::<u64>::new(id, usize::MAX);
    state.load_all(&mut table).await.unwrap();
    table.insert(b"stays", 0).unwrap();
    table.insert(b"first", 1).unwrap();
    let room = table.bytes();
    for key in 0..1_000_u64 {
        assert_eq!(table.remove(b"first"), Ok(Some(1)));
        table.insert(&key.to_be_bytes(), key).unwrap();
        assert_eq!(table.remove(&key.to_be_bytes()), Ok(Some(key)));
        table.insert(b"first", 1).unwrap();
        assert!(table.bytes() <= room);
    }
    assert_eq!(table.remove(b"first"), Ok(Some(1)));
    assert_eq!(table.get(b"first"), Ok(None));
    let delta = state.close_epoch(Epoch(1), &mut [&mut table]).unwrap();
    let elements = delta.changes().iter().filter(|change| change.key[1] == 1);
    assert_eq!(elements.count(), 1);
    // What an epoch has closed with is told, also before that is committed.
    table.remove(b"stays").unwrap();
    let delta = state.close_epoch(Epoch(2), &mut [&mut table]).unwrap();
    assert_eq!(delta.changes().len(), 1);
    assert_eq!(delta.changes()[0].value, None);
}

#[tokio::test]
async fn what_is_absent_as_before_can_be_let_go_of_within_the_epoch_and_nothing_else() {
    let state = empty_state().await;
    let id = state.declare(&[spec("values", Kind::Value)]).unwrap()[0];
    let mut table = Table::<u64>::new(id, 0);
    state.load(&mut table, [b"k"]).await.unwrap();
    table.insert(b"k", 1).unwrap();
    table.release(b"k");
    assert_eq!(table.remove(b"k"), Ok(Some(1)));
    assert_eq!(table.get(b"k"), Ok(None));
    table.release(b"k");
    assert!(table.get(b"k").is_err());
    assert_eq!(table.bytes(), 0);
    // What is stored and removed is still to be told.
    state.load(&mut table, [b"k"]).await.unwrap();
    table.insert(b"k", 1).unwrap();
    state.close_epoch(Epoch(1), &mut [&mut table]).unwrap();
    state.load(&mut table, [b"k"]).await.unwrap();
    table.remove(b"k").unwrap();
    table.release(b"k");
    assert_eq!(table.get(b"k"), Ok(None));
    let delta = state.close_epoch(Epoch(2), &mut [&mut table]).unwrap();
    assert_eq!(delta.changes().len(), 1);
    assert_eq!(delta.changes()[0].value, None);
}

#[tokio::test]
async fn a_key_that_is_too_long_is_refused() {
    let state = empty_state().await;
    let id = state.declare(&[spec("values", Kind::Value)]).unwrap()[0];
    let mut table = Table::<u64>::new(id, 0);
    let long = vec![0; KEY_MAX + 1];
    let error = state.load(&mut table, [&long]).await.unwrap_err();
    assert!(
        matches!(error, Error::Key(KeyError::TooLong { bytes: 1_025, .. })),
        "{error}"
    );
    state.load_all(&mut table).await.unwrap();
    assert!(matches!(
        table.insert(&long, 1),
        Err(KeyError::TooLong { .. })
    ));
    assert_eq!(table.insert(&long[1..], 1), Ok(None));
}

#[tokio::test]
async fn an_entry_dies_when_the_watermark_passes_its_last_write_by_the_time_to_live() {
    let disk = MemoryDisk::new();
    let state = state(&disk, Epoch::NONE, Digest::EMPTY).await;
    let id = state.declare(&[timed()]).unwrap()[0];
    let mut table = Table::<u64>::with_ttl(id, usize::MAX, 100);
    state.load_all(&mut table).await.unwrap();
    for (time, key) in [(10, "a"), (0, "b"), (20, "c"), (0, "d")] {
        table.set_time(time);
        table.insert(key.as_bytes(), 1).unwrap();
    }
    // Written again, later and then with an earlier event time: the newest counts.
    for time in [50, 5] {
        table.set_time(time);
        *table.get_mut(b"b").unwrap().unwrap() += 1;
    }
    table.remove(b"d").unwrap();
    assert!(table.expire(99, usize::MAX).unwrap().is_empty());
    let names = |expired: Vec<(Box<[u8]>, u64)>| -> Vec<String> {
        expired
            .iter()
            .map(|(key, _)| String::from_utf8_lossy(key).into_owned())
            .collect()
    };
    assert_eq!(names(table.expire(120, usize::MAX).unwrap()), ["a", "c"]);
    state.close_epoch(Epoch(1), &mut [&mut table]).unwrap();
    state.committed(Epoch(1), 1).unwrap();
    // A restart rebuilds what is due, also for entries that stay out of memory.
    let mut small = Table::<u64>::with_ttl(id, 0, 100);
    state.load_all(&mut small).await.unwrap();
    assert!(!small.is_complete());
    assert!(small.due(149, usize::MAX).is_empty());
    assert_eq!(
        small.expire(150, usize::MAX).unwrap_err(),
        KeyError::NotLoaded { table: 1 }
    );
    let due = small.due(150, usize::MAX);
    state.load(&mut small, &due).await.unwrap();
    assert_eq!(names(small.expire(150, usize::MAX).unwrap()), ["b"]);
    let delta = state.close_epoch(Epoch(2), &mut [&mut small]).unwrap();
    assert_eq!(delta.changes().len(), 1);
    assert_eq!(delta.changes()[0].value, None);
}

#[tokio::test]
async fn a_renamed_or_changed_table_is_noticed() {
    let disk = MemoryDisk::new();
    let first = state(&disk, Epoch::NONE, Digest::EMPTY).await;
    first
        .declare(&[timed(), spec("values", Kind::Value)])
        .unwrap();
    let delta = first.close_epoch(Epoch(1), &mut []).unwrap();
    first.committed(Epoch(1), 1).unwrap();
    first
        .write_behind()
        .pass(async |_| Ok::<_, Error>(()))
        .await
        .unwrap();
    first.close().await.unwrap();

    let again = state(&disk, Epoch(1), delta.digest()).await;
    let changed = TableSpec {
        ttl_ms: None,
        ..timed()
    };
    assert!(matches!(
        again.declare(&[changed]),
        Err(Error::TableChanged { .. })
    ));
    again
        .declare(&[timed(), spec("renamed", Kind::Value)])
        .unwrap();
    let names: Vec<_> = again
        .tables()
        .into_iter()
        .map(|(id, t)| (id.get(), t.name))
        .collect();
    let expected = [(3, "renamed"), (1, "timed"), (2, "values")];
    assert_eq!(names, expected.map(|(id, name)| (id, name.to_owned())));
}

/// What a task does to a table of each kind.
#[derive(Debug, Clone)]
enum Step {
    Write {
        key: u8,
        element: u8,
        value: u64,
        time: i64,
    },
    Remove {
        key: u8,
        element: u8,
    },
    Expire {
        watermark: i64,
        most: usize,
    },
    Close,
    /// All that is in memory goes and is read again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6_u8, 0..4_u8, 0..3_u64, 0..40_i64)
            .prop_map(|(key, element, value, time)| Step::Write { key, element, value, time }),
        2 => (0..6_u8, 0..4_u8).prop_map(|(key, element)| Step::Remove { key, element }),
        2 => (0..60_i64, 0..5_usize)
            .prop_map(|(watermark, most)| Step::Expire { watermark, most }),
        2 => Just(Step::Close),
        1 => Just(Step::Restart),
    ]
}

/// Runs with tables of such a bound. With `restarts`, what is in memory is also lost.
async fn deltas(steps: &[Step], bytes_max: usize, ttl: u64, restarts: bool) -> Vec<Delta> {
    let state = empty_state().await;
    let spec = |name: &str, kind| TableSpec {
        ttl_ms: Some(ttl),
        ..spec(name, kind)
    };
    let specs = [
        spec("values", Kind::Value),
        spec("maps", Kind::Map),
        spec("deques", Kind::Deque),
    ];
    let ids = state.declare(&specs).unwrap();
    let mut values = Table::<u64>::with_ttl(ids[0], bytes_max, ttl);
    let mut maps = MapTable::<u64>::with_ttl(ids[1], bytes_max, ttl);
    let mut deques = DequeTable::<u64>::with_ttl(ids[2], bytes_max, ttl);
    let mut deltas = Vec::new();
    for step in steps {
        match *step {
            Step::Write {
                key,
                element,
                value,
                time,
            } => {
                let key = [key];
                state.load(&mut values, [key]).await.unwrap();
                state.load(&mut maps, [key]).await.unwrap();
                state.load(&mut deques, [key]).await.unwrap();
                values.set_time(time);
                maps.set_time(time);
                deques.set_time(time);
                values.insert(&key, value).unwrap();
                maps.insert(&key, &[element], value).unwrap();
                deques.push_back(&key, value).unwrap();
            }
            Step::Remove { key, element } => {
                let key = [key];
                state.load(&mut values, [key]).await.unwrap();
                state.load(&mut maps, [key]).await.unwrap();
                state.load(&mut deques, [key]).await.unwrap();
                values.remove(&key).unwrap();
                maps.remove(&key, &[element]).unwrap();
                deques.pop_front(&key).unwrap();
            }
            Step::Expire { watermark, most } => {
                macro_rules! expire {
                    ($table:expr) => {
                        loop {
                            let due = $table.due(watermark, most);
                            if due.is_empty() {
                                $table.expire(watermark, most).unwrap();
                                break;
                            }
                            state.load(&mut $table, &due).await.unwrap();
                        }
                    };
                }
                expire!(values);
                expire!(maps);
                expire!(deques);
            }
            Step::Close | Step::Restart => {
                let epoch = state.last_committed().epoch.next();
                let tables: &mut [&mut dyn Stateful] = &mut [&mut values, &mut maps, &mut deques];
                deltas.push(state.close_epoch(epoch, tables).unwrap());
                state.committed(epoch, 0).unwrap();
                if restarts && matches!(step, Step::Restart) {
                    for table in tables {
                        table.forget();
                        state.load_all(*table).await.unwrap();
                    }
                }
            }
        }
    }
    deltas
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Replays are compared by their deltas.
    #[test]
    fn equal_input_makes_equal_deltas_whatever_stays_in_memory(
        steps in prop::collection::vec(step(), 1..80), ttl in 1..30_u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let run = |bytes_max, restarts| runtime.block_on(deltas(&steps, bytes_max, ttl, restarts));
        let all = run(usize::MAX, false);
        prop_assert_eq!(&run(0, false), &all);
        prop_assert_eq!(&run(600, true), &all);
        prop_assert_eq!(&run(usize::MAX, true), &all);
    }
}

#[tokio::test]
async fn elements_of_maps_and_deques_die_each_by_its_own_last_write() {
    let state = empty_state().await;
    let spec = |kind| TableSpec {
        kind,
        name: kind.to_string(),
        ..timed()
    };
    let ids = state
        .declare(&[spec(Kind::Map), spec(Kind::Deque)])
        .unwrap();
    let mut maps = MapTable::<u64>::with_ttl(ids[0], usize::MAX, 100);
    let mut deques = DequeTable::<u64>::with_ttl(ids[1], usize::MAX, 100);
    state.load_all(&mut maps).await.unwrap();
    state.load_all(&mut deques).await.unwrap();
    for (time, element) in [(10, "a"), (0, "b"), (20, "c"), (30, "b")] {
        maps.set_time(time);
        maps.insert(b"k", element.as_bytes(), 1).unwrap();
    }
    // Event time goes back for one: it lives as long as the one before it.
    for (time, value) in [(10, 1), (30, 2), (20, 3), (40, 4)] {
        deques.set_time(time);
        deques.push_back(b"k", value).unwrap();
    }
    assert!(maps.expire(109, usize::MAX).unwrap().is_empty());
    assert!(deques.expire(109, usize::MAX).unwrap().is_empty());
    let elements = |expired: Vec<ExpiredElement<u64>>| -> Vec<u8> {
        expired.iter().map(|(_, element, _)| element[0]).collect()
    };
    assert_eq!(elements(maps.expire(130, 2).unwrap()), b"ac");
    assert_eq!(elements(maps.expire(130, 2).unwrap()), b"b");
    assert!(maps.is_empty(b"k").unwrap());
    let popped = |expired: Vec<Expired<u64>>| -> Vec<u64> {
        expired.into_iter().map(|(_, value)| value).collect()
    };
    assert_eq!(popped(deques.expire(129, usize::MAX).unwrap()), [1]);
    // Written again, the last one lives on.
    deques.set_time(60);
    *deques.back_mut(b"k").unwrap().unwrap() += 1;
    assert_eq!(popped(deques.expire(150, usize::MAX).unwrap()), [2, 3]);
    assert_eq!(popped(deques.expire(160, usize::MAX).unwrap()), [5]);
    let delta = state
        .close_epoch(Epoch(1), &mut [&mut maps, &mut deques])
        .unwrap();
    // The list of tables, and nothing of what came and went within the epoch.
    assert_eq!(delta.changes().len(), 2);
}

/// The numbers of a deque's elements are part of the digest, so they may not depend on what was evicted when.
#[tokio::test]
async fn a_deque_that_ran_empty_counts_from_the_start_whether_it_was_evicted_or_not() {
    let mut digests = Vec::new();
    for bytes_max in [0, usize::MAX] {
        let state = empty_state().await;
        let id = state.declare(&[spec("queues", Kind::Deque)]).unwrap()[0];
        let mut queues = DequeTable::<u64>::new(id, bytes_max);
        for (epoch, pushes) in [(1, 3), (2, 0), (3, 2), (4, 1)] {
            state.load(&mut queues, [b"q"]).await.unwrap();
            for value in 0..pushes {
                queues.push_back(b"q", value).unwrap();
            }
            if epoch == 2 {
                while queues.pop_front(b"q").unwrap().is_some() {}
            }
            if epoch == 4 {
                *queues.back_mut(b"q").unwrap().unwrap() += 10;
                queues.pop_front(b"q").unwrap();
            }
            state.close_epoch(Epoch(epoch), &mut [&mut queues]).unwrap();
            state.committed(Epoch(epoch), epoch).unwrap();
        }
        state.load(&mut queues, [b"q"]).await.unwrap();
        assert_eq!(
            queues.iter(b"q").unwrap().copied().collect::<Vec<_>>(),
            [1, 10]
        );
        assert_eq!(queues.back(b"q").unwrap(), Some(&10));
        digests.push(state.last_committed().digest);
    }
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn a_stored_key_tells_its_table() {
    let (id, rest) = TableId::split(&[0, 7, b'k']).unwrap();
    assert_eq!((id.get(), rest), (7, &b"k"[..]));
}
