//! Memory and disk stay bounded.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tidemill_state::{
    Change, DequeTable, Digest, Epoch, Kind, MapTable, MemoryDisk, MemoryStore, SledStore, State,
    StateOptions, StateStore, Stateful, Table, UNWATCHED,
};

use crate::model::{identity, spec};
use crate::sled::options;

/// Megabytes of memory this process holds.
fn resident_mb() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4_096 / (1 << 20)
}

/// Whether this process runs the test `name` alone. Otherwise it is run so, in a process of its own: what
/// others beside it take is no part of what is measured.
fn is_alone(name: &str) -> bool {
    const ALONE: &str = "TIDEMILL_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut test = std::process::Command::new(std::env::current_exe().unwrap());
    let ended = test.args(["--exact", name]).env(ALONE, "1").output();
    let ended = ended.unwrap();
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success() && told.contains("1 passed"),
        "{told}"
    );
    false
}

/// A new store on disk, and the state over it, with nothing to redo.
async fn on_disk(dir: &Path) -> (Arc<SledStore>, State) {
    let store = Arc::new(SledStore::open(options(dir)).await.unwrap());
    let (state, _) = State::open(store.clone(), StateOptions::default())
        .await
        .unwrap();
    state
        .finish_redo(Epoch::NONE, 0, Digest::EMPTY)
        .await
        .unwrap();
    (store, state)
}

/// sled frees nothing while its collector is starved: 300 checkpoints in large batches once took 4.1 GB of memory
/// and 543 MB of disk for 1.2 MB of data.
#[tokio::test]
async fn three_hundred_passes_of_ten_thousand_keys_leave_little_behind() {
    if !is_alone("bounds::three_hundred_passes_of_ten_thousand_keys_leave_little_behind") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, state) = on_disk(dir.path()).await;
    let ids = state.declare(&[spec("values", Kind::Value)]).unwrap();
    let mut table = Table::<Vec<u8>>::new(ids[0], usize::MAX);
    state.load_all(&mut table).await.unwrap();
    assert!(table.is_complete());
    let before = resident_mb();
    for pass in 1..=300_u64 {
        for key in 0..10_000_u64 {
            let key = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes();
            let value = table.get_or_insert_with(&key, || vec![0; 100]).unwrap();
            value[..8].copy_from_slice(&pass.to_be_bytes());
        }
        state.close_epoch(Epoch(pass), &mut [&mut table]).unwrap();
        state.committed(Epoch(pass), pass).unwrap();
        let pass = state
            .write_behind()
            .pass(async |_| Ok::<_, Infallible>(()))
            .await
            .unwrap();
        assert!(pass.elements >= 10_000);
        assert_eq!(state.dirty_bytes(), 0);
    }
    assert_eq!(
        state.write_behind().verify(UNWATCHED).await.unwrap(),
        10_001
    );
    let grown = resident_mb().saturating_sub(before);
    assert!(grown <= 100, "memory grew by {grown} MB");
    let disk = store.size().await.unwrap() >> 20;
    assert!(disk <= 40, "{disk} MB on disk");
    state.close().await.unwrap();
}

/// Two thousand keys of each pass, with a value, elements and a deque of each, all of which the next pass removes.
#[tokio::test]
async fn sixty_passes_of_keys_that_come_and_go_leave_little_behind() {
    if !is_alone("bounds::sixty_passes_of_keys_that_come_and_go_leave_little_behind") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, state) = on_disk(dir.path()).await;
    let specs = [
        spec("values", Kind::Value),
        spec("maps", Kind::Map),
        spec("deques", Kind::Deque),
    ];
    let ids = state.declare(&specs).unwrap();
    let mut values = Table::<Vec<u8>>::new(ids[0], usize::MAX);
    let mut maps = MapTable::<Vec<u8>>::new(ids[1], usize::MAX);
    let mut deques = DequeTable::<Vec<u8>>::new(ids[2], usize::MAX);
    let mut tables: [&mut dyn Stateful; 3] = [&mut values, &mut maps, &mut deques];
    for table in &mut tables {
        state.load_all(*table).await.unwrap();
    }
    let (mut before, mut after_first) = (0, [0; 3]);
    for pass in 1..=60_u64 {
        for key in 0..2_000_u64 {
            let key = |pass: u64| ((pass << 32) | key).to_be_bytes();
            let (old, new) = (key(pass - 1), key(pass));
            values.remove(&old).unwrap();
            maps.remove(&old, b"element").unwrap();
            deques.pop_front(&old).unwrap();
            values.insert(&new, vec![1; 100]).unwrap();
            maps.insert(&new, b"element", vec![2; 100]).unwrap();
            deques.push_back(&new, vec![3; 100]).unwrap();
        }
        let mut tables: [&mut dyn Stateful; 3] = [&mut values, &mut maps, &mut deques];
        state.close_epoch(Epoch(pass), &mut tables).unwrap();
        state.committed(Epoch(pass), pass).unwrap();
        state
            .write_behind()
            .pass(async |_| Ok::<_, Infallible>(()))
            .await
            .unwrap();
        let bytes = [values.bytes(), maps.bytes(), deques.bytes()];
        if pass == 1 {
            (before, after_first) = (resident_mb(), bytes);
        }
        assert_eq!(bytes, after_first);
    }
    let elements = state.write_behind().verify(UNWATCHED).await.unwrap();
    assert_eq!(elements, 3 * 2_000 + 3);
    let grown = resident_mb().saturating_sub(before);
    assert!(grown <= 100, "memory grew by {grown} MB");
    let disk = store.size().await.unwrap() >> 20;
    assert!(disk <= 40, "{disk} MB on disk");
    state.close().await.unwrap();
}

/// A state over an empty store in memory, that may leave so much unwritten.
async fn empty(dirty_bytes_max: usize) -> State {
    let store = MemoryStore::open(&MemoryDisk::new(), &identity()).unwrap();
    let options = StateOptions {
        dirty_bytes_max,
        ..StateOptions::default()
    };
    State::open(Arc::new(store), options).await.unwrap().0
}

/// Twenty epochs of a thousand new keys with values of a hundred bytes, in a table bounded at
/// `bytes_max`: what they changed, and the digest at the end. `look` sees the table after each.
async fn twenty_epochs(
    bytes_max: usize,
    mut look: impl FnMut(&Table<Vec<u8>>),
) -> (Vec<Change>, Digest) {
    let state = empty(usize::MAX).await;
    state
        .finish_redo(Epoch::NONE, 0, Digest::EMPTY)
        .await
        .unwrap();
    let ids = state.declare(&[spec("values", Kind::Value)]).unwrap();
    let mut table = Table::<Vec<u8>>::new(ids[0], bytes_max);
    state.load_all(&mut table).await.unwrap();
    let (mut log, mut digest) = (Vec::new(), Digest::EMPTY);
    for epoch in 1..=20_u64 {
        let keys: Vec<_> = (0..1000)
            .map(|key| (epoch * 1000 + key).to_be_bytes())
            .collect();
        state.load(&mut table, &keys).await.unwrap();
        for key in &keys {
            table.insert(key, vec![7; 100]).unwrap();
        }
        let delta = state.close_epoch(Epoch(epoch), &mut [&mut table]).unwrap();
        log.extend(delta.changes().iter().cloned());
        digest = delta.digest();
        state.committed(Epoch(epoch), epoch).unwrap();
        look(&table);
    }
    (log, digest)
}

#[tokio::test]
async fn a_table_keeps_to_its_bound_once_its_changes_are_handed_over() {
    let bound = 256 << 10;
    let mut most = 0;
    twenty_epochs(bound, |table| {
        most = most.max(table.bytes());
        // Each entry counts with more than its key and value alone.
        assert!(table.sorted().len() * 108 < table.bytes());
    })
    .await;
    assert!(
        (bound / 2..=bound).contains(&most),
        "{most} bytes of {bound}"
    );
}

/// Redoing a changelog of a million keys once held all of it in memory: 724 MiB.
#[tokio::test]
async fn a_changelog_is_redone_within_the_bound_on_what_is_unwritten() {
    let (log, digest) = twenty_epochs(usize::MAX, |_| {}).await;
    let bound = 128 << 10;
    let state = empty(bound).await;
    let (mut most, mut batch_bytes) = (0, 0);
    for batch in log.chunks(256) {
        let before = state.dirty_bytes();
        for Change { key, value } in batch {
            state.redo(key.clone(), value.clone());
        }
        most = most.max(state.dirty_bytes());
        batch_bytes = batch_bytes.max(state.dirty_bytes() - before);
        state.write_behind().spill(Epoch(20)).await.unwrap();
        assert!(state.dirty_bytes() <= bound);
    }
    assert!(most <= bound + batch_bytes, "{most} bytes of {bound}");
    // What is kept beside keys and values counts too.
    assert!(
        batch_bytes > 256 * 150,
        "{batch_bytes} bytes of 256 changes"
    );
    state.finish_redo(Epoch(20), 20, digest).await.unwrap();
    state
        .write_behind()
        .pass(async |_| Ok::<_, Infallible>(()))
        .await
        .unwrap();
    // The list of tables is an element too.
    assert_eq!(
        state.write_behind().verify(UNWATCHED).await.unwrap(),
        20_001
    );
}

/// It was set after a chunk was written only, by each state over what the others had said: while nothing got
/// written, it stood still.
#[test]
fn what_waits_to_be_written_is_seen_of_all_states_together() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    // What came and went since the look before.
    let waiting = || {
        let seen = snapshotter.snapshot().into_vec();
        let mut seen = seen.into_iter();
        let found = seen.find(|(key, ..)| key.key().name() == "tidemill_state_dirty_bytes");
        match found {
            Some((.., DebugValue::Gauge(bytes))) => bytes.0 as i64,
            found => panic!("{found:?}"),
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let mut states = Vec::new();
            for _ in 0..2 {
                let state = empty(usize::MAX).await;
                let done = state.finish_redo(Epoch::NONE, 0, Digest::EMPTY);
                done.await.unwrap();
                let ids = state.declare(&[spec("values", Kind::Value)]).unwrap();
                let mut table = Table::<Vec<u8>>::new(ids[0], usize::MAX);
                state.load_all(&mut table).await.unwrap();
                table.insert(b"key", vec![7; 1000]).unwrap();
                state.close_epoch(Epoch(1), &mut [&mut table]).unwrap();
                state.committed(Epoch(1), 1).unwrap();
                states.push(state);
            }
            let of_one = states[0].dirty_bytes() as i64;
            assert!(of_one >= 1000);
            assert_eq!(waiting(), 2 * of_one);
            let pass = states[0].write_behind();
            pass.pass(async |_| Ok::<_, Infallible>(())).await.unwrap();
            assert_eq!(waiting(), -of_one);
            drop(states);
            assert_eq!(waiting(), -of_one);
        });
    });
}
