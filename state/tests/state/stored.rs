//! What format 1 stored, kept in the tree: it is read as it was, and the same bytes are still written.
//!
//! A test that writes and reads with the same code holds no format still. Whoever changes one gives it a
//! new number, keeps these bytes as they are, and adds new ones.

use std::path::Path;
use std::sync::Arc;

use tidemill_state::{
    Epoch, Note, SledStore, StateStore, UNWATCHED, check_savepoint, read_identity, read_note,
    restore,
};

use crate::model::{Log, Task, identity};
use crate::sled::options;

/// `savepoint-00000000000000000002.tms`, of tables without and with a time to live.
const SAVEPOINTS: [(Option<u64>, &[u8]); 2] = [
    (None, include_bytes!("../stored/savepoint-format-1.tms")),
    (
        Some(60_000),
        include_bytes!("../stored/savepoint-format-1-ttl.tms"),
    ),
];

/// `identity.json`.
const IDENTITY: &str = include_str!("../stored/identity-format-1.json");

/// The slots of `note`: an epoch written and noted while the store was open, then closed.
const NOTE: [&str; 2] = [
    "0400000000000000020000000000000005000000e1bb4ea5",
    "0300000000000000020000000000000003000000a06fc0e5",
];

/// Two epochs, with something in a table of each kind.
async fn write(dir: &Path, ttl: Option<u64>, log: &mut Log) {
    let store = Arc::new(SledStore::open(options(dir)).await.unwrap());
    let mut task = Task::recover_with_ttl(store, log, 0, ttl).await.unwrap();
    for round in 1..=2_u8 {
        task.set_time(1_000 * i64::from(round));
        task.set(b"value", Some(&[round; 3])).await;
        task.set(&[round], Some(b"")).await;
        task.set_element(b"map", &[round], Some(b"element")).await;
        task.push(b"deque", &[round]).await;
        task.close();
        task.commit(log);
    }
    task.state
        .write_behind()
        .savepoint(
            &dir.join("saved"),
            &identity(),
            |_| b"attached".to_vec(),
            log.make_durable(),
            UNWATCHED,
        )
        .await
        .unwrap();
    task.state.close().await.unwrap();
}

#[tokio::test]
async fn what_is_written_is_byte_for_byte_what_format_1_wrote() {
    for (ttl, savepoint) in SAVEPOINTS {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), ttl, &mut Log::default()).await;
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let found = read("saved/savepoint-00000000000000000002.tms");
        assert_eq!(shown(&found), shown(savepoint));
        assert_eq!(String::from_utf8(read("identity.json")).unwrap(), IDENTITY);
        let note = read("note");
        let hex = |slot: &[u8]| -> String {
            let digits = slot.iter().map(|byte| format!("{byte:02x}"));
            digits.collect()
        };
        assert_eq!([hex(&note[..24]), hex(&note[4_096..])], NOTE);
    }
}

#[tokio::test]
async fn a_savepoint_of_format_1_is_restored() {
    for (ttl, savepoint) in SAVEPOINTS {
        let dir = tempfile::tempdir().unwrap();
        let saved = dir.path().join("savepoint-00000000000000000002.tms");
        std::fs::write(&saved, savepoint).unwrap();
        let (head, elements) = check_savepoint(&saved, UNWATCHED).await.unwrap();
        assert_eq!((head.epoch, head.changelog_offset), (Epoch(2), 2));
        assert_eq!((&head.pipeline[..], &head.task[..]), ("bars", "0"));
        assert_eq!(head.attached, b"attached");
        let there = dir.path().join("there");
        restore(&saved, options(&there), UNWATCHED).await.unwrap();

        // The model beside what is written now says what must be in it.
        let mut log = Log::default();
        write(&dir.path().join("again"), ttl, &mut log).await;
        let store = Arc::new(SledStore::open(options(&there)).await.unwrap());
        let task = Task::recover_with_ttl(store, &log, 0, ttl).await.unwrap();
        assert_eq!(task.recovered.epoch, Some(Epoch(2)));
        task.check().await;
        let held = task.state.write_behind().verify(UNWATCHED).await.unwrap();
        assert_eq!(held, elements);
    }
}

#[tokio::test]
async fn a_store_is_known_by_the_identity_and_note_of_format_1() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("identity.json"), IDENTITY).unwrap();
    let mut note = vec![0; 4_096 + 24];
    for (at, slot) in [0, 4_096].into_iter().zip(NOTE) {
        let pairs = slot.as_bytes().chunks(2);
        for (byte, pair) in note[at..].iter_mut().zip(pairs) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        }
    }
    std::fs::write(dir.path().join("note"), note).unwrap();
    assert_eq!(read_identity(dir.path()).unwrap(), Some(identity()));
    let expected = Note {
        newest: Some(Epoch(2)),
        open: false,
        has_stored: true,
    };
    assert_eq!(read_note(dir.path()).unwrap(), Some(expected));
    let store = SledStore::open(options(dir.path())).await.unwrap();
    assert_eq!(store.opened().id, 7);
    assert_eq!(store.note().await.unwrap().newest, Some(Epoch(2)));
}
