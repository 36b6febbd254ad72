//! Which windows event time makes due, and when.

use std::collections::BTreeMap;

use super::key_list::KeyList;

/// The keys of windows, by what is due of them next.
#[derive(Debug)]
pub(super) struct WindowDue {
    /// How long after its end a window still takes late events.
    lateness: i64,
    // Windows that have not fired, by their end: they are due to fire.
    open: BTreeMap<i64, KeyList>,
    // Windows that have fired and still take late events, by their end: they are due to be let go.
    fired: BTreeMap<i64, KeyList>,
    // When the first of all is due: what a watermark is compared with on each row.
    next: Option<i64>,
}

/// Windows that are due.
#[derive(Debug)]
pub(super) enum Due {
    /// To fire, all of one end.
    Fire { end: i64, keys: KeyList },
    /// To be let go.
    LetGo(KeyList),
}

impl WindowDue {
    pub(super) fn new(lateness: i64) -> Self {
        Self {
            lateness,
            open: BTreeMap::new(),
            fired: BTreeMap::new(),
            next: None,
        }
    }

    /// When a window takes no more late events.
    pub(super) fn closes_at(&self, end: i64) -> i64 {
        end.saturating_add(self.lateness)
    }

    /// Adds a window that has not fired.
    pub(super) fn add_open(&mut self, end: i64, key: &[u8]) {
        self.open.entry(end).or_default().push(key);
        self.note(end);
    }

    /// Adds a window that has fired.
    pub(super) fn add_fired(&mut self, end: i64, key: &[u8]) {
        self.fired.entry(end).or_default().push(key);
        self.note(self.closes_at(end));
    }

    /// Adds windows that have fired.
    pub(super) fn append_fired(&mut self, end: i64, keys: KeyList) {
        self.fired.entry(end).or_default().append(keys);
        self.note(self.closes_at(end));
    }

    pub(super) fn clear(&mut self) {
        self.open.clear();
        self.fired.clear();
        self.next = None;
    }

    /// Whether anything is due.
    pub(super) fn is_any(&self, watermark: i64) -> bool {
        self.next.is_some_and(|next| next <= watermark)
    }

    /// How many are due, counted to `most` + 1 at most.
    pub(super) fn count(&self, watermark: i64, most: usize) -> usize {
        if !self.is_any(watermark) {
            return 0;
        }
        let mut count = 0;
        for (_, keys) in self.due_to_fire(watermark).chain(self.due_to_go(watermark)) {
            count += keys.len();
            if count > most {
                return most.saturating_add(1);
            }
        }
        count
    }

    /// The keys of what is due: of windows to fire, and of windows to let go, each of the first ends
    /// that are no more than `most` together.
    pub(super) fn keys(&self, watermark: i64, most: usize) -> impl Iterator<Item = &[u8]> {
        let few = || {
            let mut count = 0_usize;
            move |(_, keys): &(&i64, &KeyList)| {
                count = count.saturating_add(keys.len());
                count <= most
            }
        };
        let open = self.due_to_fire(watermark).take_while(few());
        let closed = self.due_to_go(watermark).take_while(few());
        open.chain(closed).flat_map(|(_, keys)| keys.iter())
    }

    /// Calls `with` with the keys of the first `most` that are due.
    pub(super) fn first(&mut self, watermark: i64, most: usize, mut with: impl FnMut(&[u8])) {
        let mut left = most;
        let closed = self.last_closed(watermark);
        let open = self.open.range_mut(..=watermark);
        let fired = closed.map(|closed| self.fired.range_mut(..=closed));
        for (_, keys) in open.chain(fired.into_iter().flatten()) {
            if left == 0 {
                return;
            }
            keys.first(left).for_each(&mut with);
            left -= keys.len().min(left);
        }
    }

    /// Takes the first of what is due, `most` at most.
    pub(super) fn take(&mut self, watermark: i64, most: usize) -> Option<Due> {
        if !self.is_any(watermark) || most == 0 {
            return None;
        }
        let due = if let Some((end, keys)) = take_first(&mut self.open, watermark, most) {
            Due::Fire { end, keys }
        } else {
            let closed = self.last_closed(watermark)?;
            let (_, keys) = take_first(&mut self.fired, closed, most)?;
            Due::LetGo(keys)
        };
        let open = self.open.keys().next().copied();
        let fired = self.fired.keys().next().map(|end| self.closes_at(*end));
        self.next = open.into_iter().chain(fired).min();
        Some(due)
    }

    /// The end of the first window that has not fired.
    pub(super) fn first_end(&self) -> Option<i64> {
        self.open.keys().next().copied()
    }

    /// The end of the last window that has not fired.
    pub(super) fn last_end(&self) -> Option<i64> {
        self.open.keys().next_back().copied()
    }

    /// How many windows have not fired.
    pub(super) fn open(&self) -> u64 {
        self.open.values().map(|keys| keys.len() as u64).sum()
    }

    fn due_to_fire(&self, watermark: i64) -> impl Iterator<Item = (&i64, &KeyList)> {
        self.open.range(..=watermark)
    }

    fn due_to_go(&self, watermark: i64) -> impl Iterator<Item = (&i64, &KeyList)> {
        let closed = self.last_closed(watermark);
        let closed = closed.map(|closed| self.fired.range(..=closed));
        closed.into_iter().flatten()
    }

    /// The last end of which a window takes no more late events: where [`closes_at`](Self::closes_at) is
    /// within reach of the watermark, as the end of time is of itself.
    pub(super) fn last_closed(&self, watermark: i64) -> Option<i64> {
        match watermark {
            i64::MAX => Some(i64::MAX),
            watermark => watermark.checked_sub(self.lateness),
        }
    }

    fn note(&mut self, at: i64) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

/// Takes the least `most` keys of the first list, if that is of `last` at most.
fn take_first(
    lists: &mut BTreeMap<i64, KeyList>,
    last: i64,
    most: usize,
) -> Option<(i64, KeyList)> {
    let mut first = lists.first_entry().filter(|first| *first.key() <= last)?;
    let end = *first.key();
    let keys = if first.get().len() <= most {
        first.remove()
    } else {
        first.get_mut().take_first(most)
    };
    Some((end, keys))
}
