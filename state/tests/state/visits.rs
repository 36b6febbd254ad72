//! How often the store is visited: a visit is a way to another thread and back, and costs more than what
//! it fetches.

use std::sync::Arc;

use tidemill_state::{
    DequeTable, Digest, Epoch, Kind, MapTable, MemoryDisk, MemoryStore, State, StateOptions,
    Stateful, Table,
};

use crate::model::{identity, spec};

#[tokio::test]
async fn all_that_is_missing_of_a_table_is_fetched_with_one_visit() {
    let disk = MemoryDisk::new();
    let store = Arc::new(MemoryStore::open(&disk, &identity()).unwrap());
    let (state, _) = State::open(store, StateOptions::default()).await.unwrap();
    let redone = state.finish_redo(Epoch::NONE, 0, Digest::EMPTY).await;
    redone.unwrap();
    let kinds = [Kind::Value, Kind::Map, Kind::Deque];
    let specs = kinds.map(|kind| spec(&format!("{kind:?}"), kind));
    let ids = state.declare(&specs).unwrap();
    // Nothing unchanged stays in memory.
    let mut values = Table::<u64>::new(ids[0], 0);
    let mut maps = MapTable::<u64>::new(ids[1], 0);
    let mut deques = DequeTable::<u64>::new(ids[2], 0);
    let keys: Vec<[u8; 2]> = (0..1_000_u16).map(u16::to_be_bytes).collect();

    for round in 0..3_u64 {
        let tables: [&mut dyn Stateful; 3] = [&mut values, &mut maps, &mut deques];
        for table in tables {
            let before = disk.reads();
            state.load(table, &keys).await.unwrap();
            assert_eq!(disk.reads() - before, 1, "{:?}", table.kind());
            // What is there already is not asked for.
            state.load(table, &keys).await.unwrap();
            assert_eq!(disk.reads() - before, 1, "{:?}", table.kind());
        }
        for (number, key) in keys.iter().enumerate() {
            let value = round * 1_000 + number as u64;
            let before = round
                .checked_sub(1)
                .map(|round| round * 1_000 + number as u64);
            assert_eq!(values.insert(key, value), Ok(before));
            assert_eq!(maps.insert(key, b"e", value), Ok(before));
            assert_eq!(deques.len(key), Ok(round as usize));
            deques.push_back(key, value).unwrap();
        }
        let mut tables: [&mut dyn Stateful; 3] = [&mut values, &mut maps, &mut deques];
        let epoch = Epoch(round + 1);
        state.close_epoch(epoch, &mut tables).unwrap();
        state.committed(epoch, 0).unwrap();
        let behind = state.write_behind();
        let pass = behind.pass(async |_| Ok::<(), std::io::Error>(()));
        pass.await.unwrap();
    }
}
