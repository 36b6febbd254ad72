//! Savepoints: written whole, checked whole, restored whole.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tidemill_state::{
    Doing, Epoch, Error, Headway, Identity, SAVEPOINTS_MAX, SledOptions, SledStore, StateStore,
    UNWATCHED, check_savepoint, fsck, restore, savepoints,
};

use crate::model::{Log, Task, identity};
use crate::sled::options;

async fn task(dir: &Path, log: &Log) -> Task {
    let store = Arc::new(SledStore::open(options(dir)).await.unwrap());
    Task::recover(store, log, 0).await.unwrap()
}

/// Five savepoints of five epochs, of which some are kept.
async fn save(dir: &Path, log: &mut Log) {
    let mut task = task(&dir.join("store"), log).await;
    for round in 1..=5_u8 {
        for key in 0..40 {
            task.set(&[key], Some(&vec![round; usize::from(key) * 200]))
                .await;
        }
        task.push(b"d", &[round]).await;
        task.close();
        task.commit(log);
        let saved = task
            .state
            .write_behind()
            .savepoint(
                &dir.join("saved"),
                &identity(),
                |epoch| epoch.0.to_be_bytes().to_vec(),
                log.make_durable(),
                UNWATCHED,
            )
            .await
            .unwrap();
        assert_eq!(saved.epoch, Epoch(u64::from(round)));
        assert_eq!(saved.attached, u64::from(round).to_be_bytes());
    }
    task.state.close().await.unwrap();
}

#[tokio::test]
async fn a_savepoint_restores_the_state_of_its_epoch_into_an_empty_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::default();
    save(dir.path(), &mut log).await;
    let saved: Vec<_> = savepoints(&dir.path().join("saved"))
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(saved.len(), SAVEPOINTS_MAX);
    assert_eq!(
        saved.iter().map(|saved| saved.epoch.0).collect::<Vec<_>>(),
        [3, 4, 5]
    );
    assert_eq!(
        std::fs::read_dir(dir.path().join("saved")).unwrap().count(),
        SAVEPOINTS_MAX
    );

    let there = dir.path().join("restored");
    let restored = restore(&saved[0].path, options(&there), UNWATCHED)
        .await
        .unwrap();
    assert_eq!(restored, saved[0]);
    log.epochs.truncate(3);
    let task = task(&there, &log).await;
    assert_eq!(task.recovered.epoch, Some(Epoch(3)));
    assert!(task.state.is_verified());
    task.check().await;
    task.state.write_behind().verify(UNWATCHED).await.unwrap();
    drop(task);

    let error = restore(&saved[0].path, options(&there), UNWATCHED)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    let other = Identity {
        pipeline: "other".into(),
        task: "0".into(),
    };
    let other = SledOptions {
        identity: other,
        ..options(&dir.path().join("other"))
    };
    let error = restore(&saved[0].path, other, UNWATCHED).await.unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
    assert!(!dir.path().join("other").exists());
}

#[tokio::test]
async fn every_flipped_or_missing_byte_of_a_savepoint_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::default();
    save(dir.path(), &mut log).await;
    let path = dir.path().join("saved/savepoint-00000000000000000005.tms");
    let good = std::fs::read(&path).unwrap();
    assert!(check_savepoint(&path, UNWATCHED).await.is_ok());
    let places = (0..400)
        .chain((400..good.len()).step_by(97))
        .chain(good.len() - 40..good.len());
    for at in places {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bad).unwrap();
        assert!(
            check_savepoint(&path, UNWATCHED)
                .await
                .unwrap_err()
                .is_integrity(),
            "flipped at {at}"
        );
        std::fs::write(&path, &good[..at]).unwrap();
        assert!(
            check_savepoint(&path, UNWATCHED)
                .await
                .unwrap_err()
                .is_integrity(),
            "cut at {at}"
        );
    }
    let error = restore(&path, options(&dir.path().join("there")), UNWATCHED)
        .await
        .unwrap_err();
    assert!(
        error.is_integrity() && !dir.path().join("there").exists(),
        "{error}"
    );
    std::fs::write(&path, [&good[..], b"x"].concat()).unwrap();
    assert!(
        check_savepoint(&path, UNWATCHED)
            .await
            .unwrap_err()
            .is_integrity()
    );
}

#[tokio::test]
async fn an_interrupted_restore_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::default();
    save(dir.path(), &mut log).await;
    let there = dir.path().join("there");
    restore(
        &dir.path().join("saved/savepoint-00000000000000000004.tms"),
        options(&there),
        UNWATCHED,
    )
    .await
    .unwrap();
    std::fs::write(there.join("restoring"), "").unwrap();
    let store = SledStore::open(options(&there)).await.unwrap();
    assert!(store.opened().set_aside.unwrap().why.contains("not whole"));
    assert_eq!(store.stored().await.unwrap(), None);
    assert_eq!(store.note().await.unwrap().newest, Some(Epoch(4)));
}

/// How each kind of work that was told of ended: it began with nothing and only rose.
fn ends(told: &Mutex<Vec<Headway>>) -> Vec<(Doing, u64, Option<u64>)> {
    let told = std::mem::take(&mut *told.lock().unwrap());
    let kinds = told.chunk_by(|a, b| a.doing == b.doing).map(|told| {
        assert_eq!(told[0].done, 0);
        assert!(told.is_sorted_by_key(|headway| headway.done), "{told:?}");
        assert!(told.iter().all(|headway| headway.total == told[0].total));
        let last = told[told.len() - 1];
        (last.doing, last.done, last.total)
    });
    kinds.collect()
}

#[tokio::test]
async fn long_work_tells_how_far_it_has_come_up_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::default();
    save(dir.path(), &mut log).await;
    let path = dir.path().join("saved/savepoint-00000000000000000005.tms");
    let bytes = std::fs::metadata(&path).unwrap().len();
    let told = Mutex::new(Vec::new());
    let watch = |headway| told.lock().unwrap().push(headway);

    let (_, elements) = check_savepoint(&path, &watch).await.unwrap();
    assert!(elements > 40);
    let checked = (Doing::Checking, bytes, Some(bytes));
    assert_eq!(ends(&told), [checked]);
    let there = dir.path().join("there");
    restore(&path, options(&there), &watch).await.unwrap();
    let filled = (Doing::Filling, elements, Some(elements));
    assert_eq!(ends(&told), [checked, filled]);
    fsck(&there, "fsck", &watch).await.unwrap();
    assert_eq!(ends(&told), [(Doing::Comparing, elements, None)]);

    let task = task(&there, &log).await;
    let write_behind = task.state.write_behind();
    write_behind.verify(&watch).await.unwrap();
    assert_eq!(ends(&told), [(Doing::Comparing, elements, None)]);
    let (to, whose) = (dir.path().join("again"), identity());
    let nothing = |_| Vec::new();
    let durable = log.make_durable();
    let saved = write_behind.savepoint(&to, &whose, nothing, durable, &watch);
    saved.await.unwrap();
    assert_eq!(ends(&told), [(Doing::Saving, elements, None)]);
}
