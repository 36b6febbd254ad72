//! What tables must hold, kept as plainly as can be.

use std::collections::{BTreeMap, VecDeque};

/// A value, and the event time of its last write.
pub(crate) type Timed = (i64, Vec<u8>);

/// A key, the key of an element if it has one, and a value.
pub(crate) type Entry = (Vec<u8>, Vec<u8>, Vec<u8>);

/// What the tables must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) values: BTreeMap<Vec<u8>, Timed>,
    pub(crate) maps: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Timed>>,
    pub(crate) deques: BTreeMap<Vec<u8>, VecDeque<Timed>>,
}

impl Model {
    /// The first `most` of what is older than `last`, of each kind, in the order in which it goes.
    pub(crate) fn expire(&mut self, last: i64, most: usize) -> [Vec<Entry>; 3] {
        let values = self.values.iter();
        let mut old: Vec<_> = values
            .filter(|(_, (time, _))| *time <= last)
            .map(|(key, (time, _))| (*time, key.clone()))
            .collect();
        old.sort();
        old.truncate(most);
        let values = old.into_iter().map(|(_, key)| {
            let (_, value) = self.values.remove(&key).unwrap();
            (key, Vec::new(), value)
        });
        let values = values.collect();

        let maps = self.maps.iter();
        let mut old: Vec<_> = maps
            .flat_map(|(key, map)| map.iter().map(move |(of, (time, _))| (*time, key, of)))
            .filter(|(time, _, _)| *time <= last)
            .map(|(time, key, of)| (time, key.len(), key.clone(), of.clone()))
            .collect();
        old.sort();
        old.truncate(most);
        let maps = old.into_iter().map(|(_, _, key, of)| {
            let (_, value) = self.maps.get_mut(&key).unwrap().remove(&of).unwrap();
            (key, of, value)
        });
        let maps = maps.collect();
        self.maps.retain(|_, map| !map.is_empty());

        let mut deques = Vec::new();
        while deques.len() < most {
            let fronts = self.deques.iter();
            let fronts = fronts.filter_map(|(key, deque)| Some((deque.front()?.0, key)));
            let Some((_, key)) = fronts.filter(|(time, _)| *time <= last).min() else {
                break;
            };
            let key = key.clone();
            let (_, value) = self.deques.get_mut(&key).unwrap().pop_front().unwrap();
            deques.push((key, Vec::new(), value));
        }
        self.deques.retain(|_, deque| !deque.is_empty());
        [values, maps, deques]
    }

    /// What it holds, without times.
    pub(crate) fn entries(&self) -> [Vec<Entry>; 3] {
        let entry =
            |key: &[u8], of: &[u8], value: &Timed| (key.to_vec(), of.to_vec(), value.1.clone());
        let values = self.values.iter();
        let values = values.map(|(key, value)| entry(key, &[], value));
        let maps = self.maps.iter();
        let maps = maps.flat_map(|(key, map)| map.iter().map(move |(of, v)| entry(key, of, v)));
        let deques = self.deques.iter();
        let deques = deques.flat_map(|(key, all)| all.iter().map(move |v| entry(key, &[], v)));
        [values.collect(), maps.collect(), deques.collect()]
    }
}
