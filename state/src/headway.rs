//! How far long work has come, for whoever watches it.

/// How far long work has come. Of one kind of work, `done` never falls, and ends at `total` where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headway {
    /// What is being done.
    pub doing: Doing,
    /// How much of it is done.
    pub done: u64,
    /// How much there is, where that is known before the end.
    pub total: Option<u64>,
}

/// Work that takes long on much state. One thing may follow another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Redoing the changelog, in offsets of it.
    Redoing,
    /// Reading a store to compare it with its digest, in elements.
    Comparing,
    /// Writing a savepoint, in elements.
    Saving,
    /// Checking a savepoint, in bytes.
    Checking,
    /// Filling a store from a savepoint, in elements.
    Filling,
}

/// Told now and then how far work has come, on the thread that does it or waits for it: not to be held up.
pub type Watch<'a> = &'a (dyn Fn(Headway) + Sync);

/// Nobody watches.
pub const UNWATCHED: Watch<'static> = &|_| {};

/// Counts one kind of work for who watches it.
pub(crate) struct Counted<'a> {
    watch: Watch<'a>,
    headway: Headway,
}

impl<'a> Counted<'a> {
    pub(crate) fn begin(watch: Watch<'a>, doing: Doing, total: Option<u64>) -> Self {
        let headway = Headway {
            doing,
            done: 0,
            total,
        };
        watch(headway);
        Self { watch, headway }
    }

    pub(crate) fn add(&mut self, done: u64) {
        self.reach(self.headway.done + done);
    }

    pub(crate) fn reach(&mut self, done: u64) {
        self.headway.done = done;
        (self.watch)(self.headway);
    }
}
