//! The store on disk: what it keeps, refuses and sets aside.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tidemill_state::{Change, Error, SledOptions, SledStore, StateStore, UNWATCHED};

use crate::model::{Log, Task, identity};

pub(crate) fn options(path: &Path) -> SledOptions {
    SledOptions {
        path: path.to_path_buf(),
        identity: identity(),
        owner: "a test".into(),
        new_id: 7,
        cache_bytes: 1 << 20,
    }
}

fn set(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Change {
    Change {
        key: key.into(),
        value: Some(value.into()),
    }
}

async fn open(path: &Path) -> SledStore {
    SledStore::open(options(path)).await.unwrap()
}

#[tokio::test]
async fn a_task_finds_its_state_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::default();
    let mut task = Task::recover(Arc::new(open(dir.path()).await), &log, 0)
        .await
        .unwrap();
    for round in 0..20_u8 {
        task.set(&[round], Some(&[round; 40])).await;
        task.set(&[round / 2], None).await;
        task.push(b"d", &[round]).await;
        if round % 3 == 0 {
            task.pop(b"d").await;
        }
        task.set_element(b"m", &[round % 7], Some(&[round])).await;
        task.close();
        task.commit(&mut log);
        if round % 5 == 0 {
            task.state
                .write_behind()
                .pass(log.make_durable())
                .await
                .unwrap();
            assert!(task.state.write_behind().verify(UNWATCHED).await.unwrap() > 0);
        }
    }
    drop(task);
    let task = Task::recover(Arc::new(open(dir.path()).await), &log, 0)
        .await
        .unwrap();
    assert_eq!(task.recovered.epoch.unwrap().0, 16);
    assert!(!task.state.is_verified());
    task.check().await;
    task.state
        .write_behind()
        .pass(log.make_durable())
        .await
        .unwrap();
    assert!(!task.state.is_verified());
    task.state.close().await.unwrap();
    // Closed, but never compared with its digest since the unclean end: that is still to be done.
    let task = Task::recover(Arc::new(open(dir.path()).await), &log, 0)
        .await
        .unwrap();
    assert!(!task.state.is_verified());
    task.state.write_behind().verify(UNWATCHED).await.unwrap();
    assert!(task.state.is_verified());
    task.state.close().await.unwrap();
    let task = Task::recover(Arc::new(open(dir.path()).await), &log, 0)
        .await
        .unwrap();
    assert!(task.state.is_verified());
    assert_eq!(task.recovered.epoch.unwrap().0, 20);
    assert_eq!(task.recovered.store.id, 7);
    task.check().await;
}

#[tokio::test]
async fn long_values_are_cut_and_no_blob_is_ever_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let long = |bytes: usize| Bytes::from((0..bytes).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    for bytes in [0, 3_072, 3_073, 4_096, 20_000, 1 << 20, 200, 20_000, 0] {
        store
            .write(vec![set("k", long(bytes)), set("kk", long(bytes / 2))])
            .await
            .unwrap();
        let read = store.get_many(vec!["k".into(), "kk".into()]).await.unwrap();
        assert_eq!(read, [Some(long(bytes)), Some(long(bytes / 2))]);
        assert_eq!(
            store.scan(Bytes::new(), None, 1).await.unwrap()[0].1,
            long(bytes)
        );
    }
    store.write(vec![set("k", long(1 << 20))]).await.unwrap();
    for key in 0..200_u8 {
        store
            .write(vec![set(vec![key; 2_000], long(3_072))])
            .await
            .unwrap();
    }
    store.sync().await.unwrap();
    store.close().await.unwrap();
    let store = open(dir.path()).await;
    assert_eq!(
        store.get_many(vec!["k".into()]).await.unwrap(),
        [Some(long(1 << 20))]
    );
    let blobs = dir.path().join("sled/blobs");
    assert_eq!(std::fs::read_dir(blobs).map_or(0, Iterator::count), 0);
    store
        .write(vec![Change {
            key: "k".into(),
            value: None,
        }])
        .await
        .unwrap();
    store.clear().await.unwrap();
    assert!(store.scan(Bytes::new(), None, 9).await.unwrap().is_empty());
}

/// A process killed before it had written into the note it made left a store that the next set aside.
#[tokio::test]
async fn a_store_whose_making_was_cut_short_is_taken_for_new() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.close().await.unwrap();
    std::fs::remove_dir_all(dir.path().join("sled")).unwrap();
    std::fs::write(dir.path().join("note"), "").unwrap();
    let store = open(dir.path()).await;
    assert_eq!(store.opened().set_aside, None);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_directory_in_use_is_refused_and_free_again_once_closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let error = SledStore::open(options(dir.path())).await.unwrap_err();
    assert!(matches!(error, Error::InUse { .. }) && error.to_string().contains("a test, pid"));
    store.close().await.unwrap();
    assert!(matches!(store.sync().await, Err(Error::Closed)));
    open(dir.path()).await;
}

/// How many threads of this process have a name.
#[cfg(target_os = "linux")]
fn threads(name: &str) -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    names.filter(|found| found.trim() == name).count()
}

/// The engine's flusher only logs an fsync that failed, and goes on as if what was to be synced were safe.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_engine_flushes_when_told_to_and_never_by_itself() {
    const OPENER: &str = "opens sled";
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("ours")).await;
    let other = dir.path().join("other");
    let opening = move || {
        // One that does, to see that it would be seen.
        let config = sled::Config::new().path(other);
        let _db = config.flush_every_ms(Some(3_600_000)).open().unwrap();
        // A thread is called like the one that began it until it has taken its own name.
        while threads(OPENER) > 1 {
            std::thread::yield_now();
        }
        threads("log flusher")
    };
    let opener = std::thread::Builder::new().name(OPENER.to_owned());
    assert_eq!(opener.spawn(opening).unwrap().join().unwrap(), 1);
    store.close().await.unwrap();
}
