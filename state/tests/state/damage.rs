//! Bad files: set aside or refused, never a panic, never trusted.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tidemill_state::{
    Change, Digest, Epoch, Error, Identity, Note, Page, SledOptions, SledStore, StateStore, Stored,
    UNWATCHED, fsck,
};

use crate::model::{Log, Task};
use crate::sled::options;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// A store of 300 elements at epoch 3.
async fn filled(dir: &Path) -> Page {
    let store = SledStore::open(options(dir)).await.unwrap();
    let page: Page = (0..300_u32)
        .map(|n| {
            let value = vec![n as u8; if n % 50 == 0 { 7_000 } else { 100 }];
            (Bytes::copy_from_slice(&n.to_be_bytes()), value.into())
        })
        .collect();
    store
        .set_note(Note {
            newest: Some(Epoch(3)),
            open: false,
            has_stored: true,
        })
        .await
        .unwrap();
    let changes = page.iter().map(|(key, value)| Change {
        key: key.clone(),
        value: Some(value.clone()),
    });
    store.write(changes.collect()).await.unwrap();
    store.sync().await.unwrap();
    let stored = Stored {
        epoch: Epoch(3),
        changelog_offset: 9,
        digest: Digest(1),
    };
    store.set_stored(stored).await.unwrap();
    store.sync().await.unwrap();
    store.close().await.unwrap();
    page
}

async fn read_all(store: &dyn StateStore) -> Result<Page, Error> {
    let mut all = Page::new();
    loop {
        let after = all.last().map(|(key, _)| key.clone());
        let page = store.scan(Bytes::new(), after, 1_000).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// Opens what was damaged and says whether it was set aside.
async fn open_damaged(dir: &Path, what: &str, whole: &Page) -> bool {
    let store = SledStore::open(options(dir)).await.unwrap_or_else(|error| {
        panic!("{what}: {error}");
    });
    if let Some(aside) = store.opened().set_aside {
        assert!(
            aside.path.join("sled").exists() && aside.path.join("why").exists(),
            "{what}"
        );
        assert_eq!(store.stored().await.unwrap(), None, "{what}");
        assert!(read_all(&store).await.unwrap().is_empty(), "{what}");
        // What the store had seen is still known.
        assert_eq!(store.note().await.unwrap().newest, Some(Epoch(3)), "{what}");
        return true;
    }
    match (store.stored().await, read_all(&store).await) {
        // Damage where nothing lies.
        (Ok(Some(_)), Ok(all)) => assert!(all == *whole, "{what}: wrong elements, unnoticed"),
        // Came back older: redone from the changelog.
        (Ok(None), _) => {}
        (stored, all) => {
            let error = stored.err().or(all.err()).unwrap();
            assert!(
                error.is_integrity() || matches!(error, Error::Poisoned { .. }),
                "{what}"
            );
            // Poisoned from here on, and not by chance.
            assert!(
                matches!(store.sync().await, Err(Error::Poisoned { .. })),
                "{what}"
            );
        }
    }
    false
}

/// One way to damage a file of the engine.
#[derive(Debug, Clone)]
struct Damage {
    name: std::ffi::OsString,
    at: u64,
    is_cut: bool,
}

impl Damage {
    /// Damages a copy and opens it; whether it was set aside.
    async fn is_set_aside(&self, good: &Path, whole: &Page) -> bool {
        let dir = tempfile::tempdir().unwrap();
        copy(good, dir.path());
        let bad = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(dir.path().join("sled").join(&self.name))
            .unwrap();
        if self.is_cut {
            bad.set_len(self.at).unwrap();
        } else {
            let mut byte = [0];
            bad.read_exact_at(&mut byte, self.at).unwrap();
            bad.write_all_at(&[byte[0] ^ 0x10], self.at).unwrap();
        }
        open_damaged(dir.path(), &format!("{self:?}"), whole).await
    }
}

/// Stores that are damaged at the same time: opening one is mostly waiting.
const THREADS: usize = 4;

#[tokio::test]
async fn a_flipped_bit_or_a_cut_file_is_set_aside_or_reported_and_never_trusted() {
    let good = tempfile::tempdir().unwrap();
    let whole = filled(good.path()).await;
    let mut damages = Vec::new();
    for file in files(&good.path().join("sled")) {
        let size = file.metadata().unwrap().len();
        for at in (0..size).step_by(4 << 10).chain([size - 1, size / 3]) {
            let name = file.file_name().unwrap().to_owned();
            damages.extend([false, true].map(|is_cut| Damage {
                name: name.clone(),
                at,
                is_cut,
            }));
        }
    }
    let (next, aside) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                while let Some(damage) = damages.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let is_aside = runtime.block_on(damage.is_set_aside(good.path(), &whole));
                    aside.fetch_add(usize::from(is_aside), Ordering::Relaxed);
                }
            });
        }
    });
    let aside = aside.into_inner();
    assert!(aside > 0, "none of {} was set aside", damages.len());
}

#[tokio::test]
async fn a_store_whose_snapshot_was_interrupted_opens() {
    let dir = tempfile::tempdir().unwrap();
    let whole = filled(dir.path()).await;
    let half = dir.path().join("sled/snap.FFFFFFFFFFFFFFF0.generating");
    std::fs::write(&half, b"half").unwrap();
    assert!(!open_damaged(dir.path(), "interrupted snapshot", &whole).await);
    assert!(!half.exists());
}

#[tokio::test]
async fn a_damaged_note_or_identity_is_set_aside() {
    for (name, content) in [
        ("note", vec![0xff; 8_192]),
        ("identity.json", b"{".to_vec()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path()).await;
        std::fs::write(dir.path().join(name), content).unwrap();
        let error = SledStore::open_strict(options(dir.path()))
            .await
            .unwrap_err();
        assert!(
            error.is_integrity() && error.to_string().contains(name),
            "{error}"
        );
        for number in 1..3 {
            let store = SledStore::open(options(dir.path())).await.unwrap();
            let aside = store.opened().set_aside.unwrap();
            assert_eq!(aside.path, dir.path().join(format!("aside-{number}")));
            assert!(aside.path.join(name).exists());
            store.close().await.unwrap();
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
    }
}

#[tokio::test]
async fn newer_and_foreign_stores_are_refused_and_left_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let whole = filled(dir.path()).await;
    let identity = Identity {
        pipeline: "bars".into(),
        task: "1".into(),
    };
    let foreign = SledOptions {
        identity,
        ..options(dir.path())
    };
    let error = SledStore::open(foreign).await.unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");

    let path = dir.path().join("identity.json");
    let known = std::fs::read_to_string(&path).unwrap();
    let newer = known.replace("\"format\": 1", "\"format\": 2, \"unheard_of\": true");
    std::fs::write(&path, newer).unwrap();
    let error = SledStore::open(options(dir.path())).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::NewerFormat {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
    assert!(matches!(
        fsck(dir.path(), "fsck", UNWATCHED).await,
        Err(Error::NewerFormat { .. })
    ));

    std::fs::write(&path, known).unwrap();
    assert!(!open_damaged(dir.path(), "put back", &whole).await);
}

#[tokio::test]
async fn fsck_tells_a_sound_store_from_one_with_a_wrong_value() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::default();
    let store = Arc::new(SledStore::open(options(dir.path())).await.unwrap());
    let mut task = Task::recover(store, &log, 0).await.unwrap();
    task.set(b"a", Some(b"1")).await;
    task.push(b"d", b"2").await;
    task.close();
    task.commit(&mut log);
    task.state
        .write_behind()
        .pass(log.make_durable())
        .await
        .unwrap();
    assert!(matches!(
        fsck(dir.path(), "fsck", UNWATCHED).await,
        Err(Error::InUse { .. })
    ));
    let ids = task.state.tables();
    task.state.close().await.unwrap();

    let report = fsck(dir.path(), "fsck", UNWATCHED).await.unwrap();
    assert!(
        report.compared && report.findings.is_empty(),
        "{:?}",
        report.findings
    );
    assert_eq!((report.elements, report.tables.len()), (5, 3));

    let store = SledStore::open(options(dir.path())).await.unwrap();
    let (id, spec) = ids.iter().find(|(_, spec)| spec.name == "values").unwrap();
    let key = id.key(spec.kind, b"a");
    store
        .write(vec![Change {
            key,
            value: Some("9".into()),
        }])
        .await
        .unwrap();
    store
        .write(vec![Change {
            key: "?".into(),
            value: Some("9".into()),
        }])
        .await
        .unwrap();
    store.close().await.unwrap();
    let report = fsck(dir.path(), "fsck", UNWATCHED).await.unwrap();
    assert_eq!(report.findings.len(), 2, "{:?}", report.findings);

    let store = Arc::new(SledStore::open(options(dir.path())).await.unwrap());
    let task = Task::recover(store, &log, 0).await.unwrap();
    let error = task
        .state
        .write_behind()
        .verify(UNWATCHED)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
}
