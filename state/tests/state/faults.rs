//! A medium that fails: the store stops, and what was committed is still recovered.

use std::sync::Arc;

use tidemill_state::{Call, Error, Fault, MemoryDisk, MemoryStore, StateStore, Survivors};

use crate::model::{Log, Task, identity};

fn open(disk: &MemoryDisk) -> Arc<dyn StateStore> {
    Arc::new(MemoryStore::open(disk, &identity()).unwrap())
}

#[tokio::test]
async fn a_failed_call_poisons_the_store_and_recovery_finds_what_was_committed() {
    for call in [Call::Write, Call::Sync, Call::Note] {
        for nth in 1..5 {
            for fault in [Fault::Medium, Fault::Full] {
                let disk = MemoryDisk::new();
                let mut log = Log::default();
                let mut task = Task::recover(open(&disk), &log, 0).await.unwrap();
                disk.fail(call, nth, fault);
                let mut failed = None;
                for round in 0..6_u8 {
                    for key in 0..7 {
                        task.set(&[key], Some(&[round])).await;
                    }
                    task.close();
                    task.commit(&mut log);
                    if let Err(error) = task.state.write_behind().pass(log.make_durable()).await {
                        failed = Some(error);
                        break;
                    }
                }
                let error = failed.unwrap();
                assert_eq!(error.is_full(), fault == Fault::Full, "{error}");
                assert!(!error.is_integrity(), "{error}");
                // Never tried again, and reads do not go on as if nothing had been.
                let again = task.state.write_behind().pass(log.make_durable()).await;
                assert!(matches!(again, Err(Error::Poisoned { .. })));
                drop(task);
                disk.crash(Survivors::Prefix(Box::new(|count| count / 2)));
                let task = Task::recover(open(&disk), &log, 0).await.unwrap();
                task.check().await;
            }
        }
    }
}

#[tokio::test]
async fn dirty_bytes_are_relieved_by_a_pass() {
    let disk = MemoryDisk::new();
    let mut log = Log::default();
    let mut task = Task::recover(open(&disk), &log, usize::MAX).await.unwrap();
    let value = vec![0; 60 << 20];
    task.set(b"a", Some(&value)).await;
    task.set(b"b", Some(&value)).await;
    task.close();
    task.commit(&mut log);
    assert!(task.state.dirty_bytes() > 100 << 20 && task.state.is_full());
    let behind = task.state.write_behind();
    let pass = behind.pass(log.make_durable()).await.unwrap();
    assert_eq!(pass.elements, 5);
    assert!(task.state.dirty_bytes() == 0 && !task.state.is_full());
}
