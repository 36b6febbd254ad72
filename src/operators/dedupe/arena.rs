//! Where ids lie: a place of fixed size for each, and their bytes one after the other in pages.

use std::cmp::Ordering;
use std::hash::{BuildHasher, Hasher, RandomState};

/// No place.
pub(super) const NONE: u32 = u32::MAX;

/// Bytes of a page: offsets in it fit into 16 bits.
const PAGE_BYTES: usize = 1 << 16;

/// Bytes of dead ids that are not worth the way to get them back.
const DEAD_MIN: usize = 8 * PAGE_BYTES;

/// Places that are not worth the way to give them back. Few in tests, so that their properties see it.
const PLACES_MIN: usize = if cfg!(test) { 8 } else { 1 << 12 };

/// One place of so many is in use, or some are given back.
const USED_MIN: usize = 4;

/// An id: 24 bytes beside its own.
#[derive(Debug, Clone, Copy)]
struct Slot {
    time: i64,
    // `NONE` while nobody lies here.
    page: u32,
    offset: u16,
    len: u16,
    // Its children in the tree of its key; of a free slot, the free ones after and before it.
    links: [u32; 2],
}

const NEXT: usize = 0;
const BEFORE: usize = 1;

#[derive(Debug, Default)]
struct Page {
    bytes: Vec<u8>,
    // Bytes of ids that are still remembered.
    live: usize,
}

/// Ids with their event times, each at a place of its own.
#[derive(Debug)]
pub(super) struct Arena {
    slots: Vec<Slot>,
    free: u32,
    // Places in use.
    used: usize,
    pages: Vec<Page>,
    empty: Vec<u32>,
    current: u32,
    live: usize,
    dead: usize,
    // Drawn for each process. It decides how trees are balanced, and about no result.
    salt: u32,
}

impl Default for Arena {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: NONE,
            used: 0,
            pages: Vec::new(),
            empty: Vec::new(),
            current: NONE,
            live: 0,
            dead: 0,
            salt: RandomState::new().build_hasher().finish() as u32,
        }
    }
}

impl Arena {
    /// The longest id: what a page's offsets can tell, and far more than a key of state may have.
    pub(super) const ENTRY_MAX: usize = u16::MAX as usize;

    /// Adds an id of at most [`ENTRY_MAX`](Self::ENTRY_MAX) bytes.
    pub(super) fn add(&mut self, time: i64, entry: &[u8]) -> u32 {
        debug_assert!(entry.len() <= Self::ENTRY_MAX);
        let (page, offset) = self.write(entry);
        let slot = Slot {
            time,
            page,
            offset,
            len: entry.len() as u16,
            links: [NONE; 2],
        };
        self.live += entry.len();
        self.put(slot)
    }

    fn put(&mut self, slot: Slot) -> u32 {
        self.used += 1;
        let at = self.free;
        if at == NONE {
            // Four billion ids do not fit into memory.
            self.slots.push(slot);
            return self.slots.len() as u32 - 1;
        }
        self.unlink(at);
        self.slots[at as usize] = slot;
        at
    }

    /// Takes a place out of the free ones.
    fn unlink(&mut self, at: u32) {
        let [next, before] = self.slots[at as usize].links;
        match before {
            NONE => self.free = next,
            before => self.slots[before as usize].links[NEXT] = next,
        }
        if next != NONE {
            self.slots[next as usize].links[BEFORE] = before;
        }
    }

    /// Gives the place of an id back.
    pub(super) fn remove(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        let (page, len) = (slot.page, usize::from(slot.len));
        slot.page = NONE;
        slot.links = [self.free, NONE];
        if self.free != NONE {
            self.slots[self.free as usize].links[BEFORE] = at;
        }
        self.free = at;
        self.used -= 1;
        self.live -= len;
        self.dead += len;
        self.pages[page as usize].live -= len;
        if self.pages[page as usize].live == 0 && page != self.current {
            self.drop_page(page);
        }
        if self.dead > self.live.max(DEAD_MIN) {
            self.compact();
        }
    }

    /// Gives back the last places where most are free, `steps` of them at most. Says which id is in the
    /// way: it is to be [copied](Self::copy) and its old place to be [dropped](Self::drop_last) first.
    pub(super) fn give_back(&mut self, steps: &mut usize) -> Option<u32> {
        while *steps > 0 && self.slots.len() > (USED_MIN * self.used).max(PLACES_MIN) {
            *steps -= 1;
            let last = self.slots.len() as u32 - 1;
            if self.slots[last as usize].page != NONE {
                return Some(last);
            }
            self.unlink(last);
            self.slots.pop();
            self.shrink();
        }
        None
    }

    /// Puts an id also where a free place is, and says where. It has no links there.
    pub(super) fn copy(&mut self, at: u32) -> u32 {
        let slot = Slot {
            links: [NONE; 2],
            ..self.slots[at as usize]
        };
        self.put(slot)
    }

    /// Drops the last place, of an id that was copied from there.
    pub(super) fn drop_last(&mut self) {
        self.slots.pop();
        self.used -= 1;
        self.shrink();
    }

    /// Not at each place: what it takes to move the others is shared by many.
    fn shrink(&mut self) {
        let places = self.slots.len().max(PLACES_MIN);
        if self.slots.capacity() >= 2 * places {
            self.slots.shrink_to(places + places / 2);
        }
    }

    pub(super) fn entry(&self, at: u32) -> &[u8] {
        let slot = &self.slots[at as usize];
        let from = usize::from(slot.offset);
        &self.pages[slot.page as usize].bytes[from..from + usize::from(slot.len)]
    }

    pub(super) fn time(&self, at: u32) -> i64 {
        self.slots[at as usize].time
    }

    /// The order in which ids are forgotten: by event time, then by their bytes.
    pub(super) fn order(&self, a: u32, b: u32) -> Ordering {
        self.time(a)
            .cmp(&self.time(b))
            .then_with(|| self.entry(a).cmp(self.entry(b)))
    }

    /// What balances the trees of this process.
    pub(super) fn salt(&self) -> u32 {
        self.salt
    }

    pub(super) fn link(&self, at: u32, side: usize) -> u32 {
        self.slots[at as usize].links[side]
    }

    pub(super) fn set_link(&mut self, at: u32, side: usize, to: u32) {
        self.slots[at as usize].links[side] = to;
    }

    /// Bytes it has taken.
    pub(super) fn bytes(&self) -> usize {
        let pages = self.pages.len() - self.empty.len();
        self.slots.capacity() * size_of::<Slot>()
            + pages * PAGE_BYTES
            + self.pages.capacity() * size_of::<Page>()
    }

    fn write(&mut self, entry: &[u8]) -> (u32, u16) {
        let fits = self
            .pages
            .get(self.current as usize)
            .is_some_and(|page| page.bytes.len() + entry.len() <= PAGE_BYTES);
        if !fits {
            self.turn_page();
        }
        let page = &mut self.pages[self.current as usize];
        let offset = page.bytes.len() as u16;
        page.bytes.extend_from_slice(entry);
        page.live += entry.len();
        (self.current, offset)
    }

    fn turn_page(&mut self) {
        let before = self.current;
        self.current = self.empty.pop().unwrap_or_else(|| {
            self.pages.push(Page::default());
            self.pages.len() as u32 - 1
        });
        self.pages[self.current as usize].bytes = Vec::with_capacity(PAGE_BYTES);
        if self
            .pages
            .get(before as usize)
            .is_some_and(|page| page.live == 0)
        {
            self.drop_page(before);
        }
    }

    fn drop_page(&mut self, page: u32) {
        let bytes = std::mem::take(&mut self.pages[page as usize].bytes);
        self.dead -= bytes.len();
        self.empty.push(page);
    }

    /// Writes what is remembered anew, where more is not: ids that came in another order than they
    /// go leave holes.
    fn compact(&mut self) {
        let old = std::mem::take(&mut self.pages);
        self.empty.clear();
        self.current = NONE;
        self.dead = 0;
        for at in 0..self.slots.len() {
            let slot = self.slots[at];
            if slot.page == NONE {
                continue;
            }
            let from = usize::from(slot.offset);
            let entry = &old[slot.page as usize].bytes[from..from + usize::from(slot.len)];
            let (page, offset) = self.write(entry);
            self.slots[at].page = page;
            self.slots[at].offset = offset;
        }
    }
}
