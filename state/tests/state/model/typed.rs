//! The tables that are compared with the model.

use tidemill_state::{DequeTable, Error, MapTable, State, Table, TableId};

use super::naive::Entry;

/// A table of each kind.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) values: Table<Vec<u8>>,
    pub(crate) maps: MapTable<Vec<u8>>,
    pub(crate) deques: DequeTable<Vec<u8>>,
}

impl Tables {
    pub(crate) fn new(ids: &[TableId], bytes_max: usize, ttl: Option<u64>) -> Self {
        let &[values, maps, deques] = ids else {
            panic!("{} tables", ids.len());
        };
        match ttl {
            None => Self {
                values: Table::new(values, bytes_max),
                maps: MapTable::new(maps, bytes_max),
                deques: DequeTable::new(deques, bytes_max),
            },
            Some(ttl) => Self {
                values: Table::with_ttl(values, bytes_max, ttl),
                maps: MapTable::with_ttl(maps, bytes_max, ttl),
                deques: DequeTable::with_ttl(deques, bytes_max, ttl),
            },
        }
    }

    pub(crate) async fn load_all(&mut self, state: &State) -> Result<(), Error> {
        state.load_all(&mut self.values).await?;
        state.load_all(&mut self.maps).await?;
        state.load_all(&mut self.deques).await
    }

    pub(crate) fn set_time(&mut self, now: i64) {
        self.values.set_time(now);
        self.maps.set_time(now);
        self.deques.set_time(now);
    }

    /// What `expire` of each says, with what must be loaded for it loaded.
    pub(crate) async fn expire(
        &mut self,
        state: &State,
        watermark: i64,
        most: usize,
    ) -> [Vec<Entry>; 3] {
        macro_rules! expire {
            ($table:expr) => {{
                loop {
                    let due = $table.due(watermark, most);
                    assert!(due.len() <= most);
                    if due.is_empty() {
                        break;
                    }
                    state.load(&mut $table, &due).await.unwrap();
                }
                $table.expire(watermark, most).unwrap().into_iter()
            }};
        }
        let values = expire!(self.values).map(|(key, value)| (key.into(), Vec::new(), value));
        let maps = expire!(self.maps).map(|(key, of, value)| (key.into(), of.into(), value));
        let deques = expire!(self.deques).map(|(key, value)| (key.into(), Vec::new(), value));
        [values.collect(), maps.collect(), deques.collect()]
    }

    /// What is in memory.
    pub(crate) fn entries(&self) -> [Vec<Entry>; 3] {
        let entry =
            |key: &[u8], of: &[u8], value: &Vec<u8>| (key.to_vec(), of.to_vec(), value.clone());
        let values = self.values.sorted().into_iter();
        let values = values.map(|(key, value)| entry(key, &[], value));
        let maps = self.maps.keys().into_iter();
        let maps = maps.flat_map(|key| {
            let elements = self.maps.iter(key).unwrap();
            elements.map(move |(of, value)| entry(key, of, value))
        });
        let deques = self.deques.keys().into_iter();
        let deques = deques.flat_map(|key| {
            let elements = self.deques.iter(key).unwrap();
            elements.map(move |value| entry(key, &[], value))
        });
        [values.collect(), maps.collect(), deques.collect()]
    }
}
