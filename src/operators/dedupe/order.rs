//! All ids in the order in which they are forgotten, in stretches of event time.

use std::cmp::Ordering;
use std::collections::VecDeque;

use super::arena::Arena;

/// Ids of a stretch: few enough that one more in the middle moves little.
const STRETCH_MAX: usize = 4_096;

/// Ids from one on, up to where the next stretch begins, in order.
#[derive(Debug)]
struct Stretch {
    time: i64,
    // Breaks ties of time; kept apart, for the id itself may be gone before.
    entry: Box<[u8]>,
    ids: VecDeque<u32>,
}

/// Ids by event time, then by their bytes.
#[derive(Debug, Default)]
pub(super) struct Order {
    // None is empty. The first also takes what is older than its beginning.
    stretches: VecDeque<Stretch>,
}

impl Order {
    pub(super) fn insert(&mut self, arena: &Arena, at: u32) {
        let Some(index) = self.stretch_of(arena, at) else {
            let ids = VecDeque::from([at]);
            self.stretches.push_back(begin(arena, ids));
            return;
        };
        let is_last = index + 1 == self.stretches.len();
        let ids = &mut self.stretches[index].ids;
        let is_after = |id: &u32| arena.order(*id, at) == Ordering::Less;
        // Mostly it is the newest of all.
        let place = match ids.back() {
            Some(newest) if !is_after(newest) => ids.partition_point(is_after),
            _ => ids.len(),
        };
        if ids.len() < STRETCH_MAX {
            ids.insert(place, at);
            return;
        }
        let mut behind = if is_last && place == ids.len() {
            // Where ids come in order, stretches stay full.
            VecDeque::new()
        } else {
            ids.split_off(STRETCH_MAX / 2)
        };
        match place.checked_sub(ids.len()) {
            Some(place) => behind.insert(place, at),
            None => ids.insert(place, at),
        }
        ids.shrink_to_fit();
        self.stretches.insert(index + 1, begin(arena, behind));
    }

    /// Takes out an id that is there.
    pub(super) fn remove(&mut self, arena: &Arena, at: u32) {
        let Some(index) = self.stretch_of(arena, at) else {
            return;
        };
        let ids = &mut self.stretches[index].ids;
        let place = ids.partition_point(|id| arena.order(*id, at) == Ordering::Less);
        if ids.get(place) == Some(&at) {
            ids.remove(place);
        }
        if ids.is_empty() {
            self.stretches.remove(index);
        } else if ids.len() < STRETCH_MAX / 4 {
            self.tighten(index);
        }
    }

    /// Says that an id that is there lies elsewhere from now on.
    pub(super) fn relocate(&mut self, arena: &Arena, from: u32, to: u32) {
        let Some(index) = self.stretch_of(arena, from) else {
            return;
        };
        let ids = &mut self.stretches[index].ids;
        let place = ids.partition_point(|id| arena.order(*id, from) == Ordering::Less);
        if let Some(id) = ids.get_mut(place).filter(|id| **id == from) {
            *id = to;
        }
    }

    /// Joins a stretch that has become short with one beside it, or gives back what it has too much.
    fn tighten(&mut self, index: usize) {
        for first in [Some(index), index.checked_sub(1)].into_iter().flatten() {
            let len = |index: usize| self.stretches.get(index).map(|one| one.ids.len());
            if let (Some(one), Some(next)) = (len(first), len(first + 1))
                && one + next <= STRETCH_MAX / 2
                && let Some(next) = self.stretches.remove(first + 1)
            {
                self.stretches[first].ids.extend(next.ids);
                return;
            }
        }
        let ids = &mut self.stretches[index].ids;
        if ids.capacity() > 4 * ids.len().max(16) {
            ids.shrink_to(2 * ids.len());
        }
    }

    /// The oldest of all.
    pub(super) fn first(&self) -> Option<u32> {
        self.stretches.front()?.ids.front().copied()
    }

    /// How many ids are not newer than `time`: looks at each stretch, and into one.
    pub(super) fn count_until(&self, arena: &Arena, time: i64) -> usize {
        let mut count = 0;
        for stretch in &self.stretches {
            let within = |id: &u32| arena.time(*id) <= time;
            if stretch.ids.back().is_none_or(within) {
                count += stretch.ids.len();
                continue;
            }
            return count + stretch.ids.partition_point(within);
        }
        count
    }

    /// Bytes it has taken.
    pub(super) fn bytes(&self) -> usize {
        let ids = self
            .stretches
            .iter()
            .map(|stretch| stretch.ids.capacity() * size_of::<u32>() + stretch.entry.len());
        ids.sum::<usize>() + self.stretches.capacity() * size_of::<Stretch>()
    }

    /// The stretch that an id belongs to; none if there is none.
    fn stretch_of(&self, arena: &Arena, at: u32) -> Option<usize> {
        let (time, entry) = (arena.time(at), arena.entry(at));
        let behind = self
            .stretches
            .partition_point(|stretch| (stretch.time, &*stretch.entry) <= (time, entry));
        (!self.stretches.is_empty()).then(|| behind.saturating_sub(1))
    }
}

/// A stretch of ids in order; they are never none.
fn begin(arena: &Arena, ids: VecDeque<u32>) -> Stretch {
    let (time, entry) = match ids.front() {
        Some(first) => (arena.time(*first), arena.entry(*first).into()),
        None => (i64::MIN, Box::default()),
    };
    Stretch { time, entry, ids }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_few_that_stay_do_not_hold_the_memory_of_the_many_that_go() {
        let (mut arena, mut order, mut ids) = (Arena::default(), Order::default(), Vec::new());
        for time in 0..100_000 {
            // Each time has three, and what comes later is not always newer.
            let time = (time ^ 1_023) / 3;
            let entry = ids.len().to_be_bytes();
            ids.push(arena.add(time, &entry));
            order.insert(&arena, ids[ids.len() - 1]);
        }
        let full = order.bytes();
        assert!(full < 100_000 * 10, "{full}");
        let (stay, go): (Vec<_>, Vec<_>) = ids.iter().partition(|id| **id % 100 == 0);
        for id in go {
            order.remove(&arena, id);
            arena.remove(id);
        }
        assert!(order.bytes() < full / 20, "{} of {full}", order.bytes());
        let mut sorted = stay.clone();
        sorted.sort_unstable_by(|a, b| arena.order(*a, *b));
        assert_eq!(order.count_until(&arena, i64::MAX), stay.len());
        for id in sorted {
            assert_eq!(order.first(), Some(id));
            order.remove(&arena, id);
        }
        assert_eq!(order.first(), None);
    }
}
