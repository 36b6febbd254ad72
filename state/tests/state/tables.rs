//! What tables promise beside holding values: loading, time to live, equal deltas.

use std::sync::Arc;

use proptest::prelude::*;
use tidemill_state::{
    DequeTable, Digest, Epoch, Error, KEY_MAX, KeyError, Kind, MemoryDisk, MemoryStore, State,
    StateOptions, StateStore, Stateful, Table, TableId, TableSpec,
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
    assert!(table.expire(99).unwrap().is_empty());
    let names = |expired: Vec<(Box<[u8]>, u64)>| -> Vec<String> {
        expired
            .iter()
            .map(|(key, _)| String::from_utf8_lossy(key).into_owned())
            .collect()
    };
    assert_eq!(names(table.expire(120).unwrap()), ["a", "c"]);
    state.close_epoch(Epoch(1), &mut [&mut table]).unwrap();
    state.committed(Epoch(1), 1).unwrap();
    // A restart rebuilds what is due, also for entries that stay out of memory.
    let mut small = Table::<u64>::with_ttl(id, 0, 100);
    state.load_all(&mut small).await.unwrap();
    assert!(!small.is_complete());
    assert!(small.due(149).is_empty());
    assert_eq!(
        small.expire(150).unwrap_err(),
        KeyError::NotLoaded { table: 1 }
    );
    let due = small.due(150);
    state.load(&mut small, &due).await.unwrap();
    assert_eq!(names(small.expire(150).unwrap()), ["b"]);
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Replays are compared by their deltas.
    #[test]
    fn equal_input_makes_equal_deltas_whatever_stays_in_memory(
        writes in prop::collection::vec((0..30_u8, prop::option::weighted(0.6, 0..3_u64), any::<bool>()), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let run = |bytes_max: usize| runtime.block_on(async {
            let state = empty_state().await;
            let id = state.declare(&[spec("values", Kind::Value)]).unwrap()[0];
            let mut table = Table::<u64>::new(id, bytes_max);
            let mut deltas = Vec::new();
            for (key, value, closes) in &writes {
                state.load(&mut table, [[*key]]).await.unwrap();
                match value {
                    Some(value) => {
                        table.insert(&[*key], *value).unwrap();
                    }
                    None => {
                        table.remove(&[*key]).unwrap();
                    }
                }
                if *closes {
                    let epoch = state.last_committed().epoch.next();
                    deltas.push(state.close_epoch(epoch, &mut [&mut table]).unwrap());
                    state.committed(epoch, 0).unwrap();
                }
            }
            deltas
        });
        prop_assert_eq!(run(0), run(usize::MAX));
    }
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
