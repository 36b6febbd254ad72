//! The ids of one key in the order in which they are forgotten: a treap, whose links lie with the
//! ids, so that a key costs nothing beside its root.

use std::cmp::Ordering;

use super::arena::{Arena, NONE};

const LESS: usize = 0;
const MORE: usize = 1;

/// Where a link is: below a node, or the root itself.
type Hole = Option<(u32, usize)>;

/// The oldest id of a tree that is not empty.
pub(super) fn first(arena: &Arena, root: u32) -> u32 {
    let mut at = root;
    loop {
        match arena.link(at, LESS) {
            NONE => return at,
            less => at = less,
        }
    }
}

/// Adds an id, and returns the root.
pub(super) fn insert(arena: &mut Arena, mut root: u32, new: u32) -> u32 {
    let mut hole: Hole = None;
    let mut at = root;
    while at != NONE && priority(arena, at) > priority(arena, new) {
        let side = side_of(arena, new, at);
        hole = Some((at, side));
        at = arena.link(at, side);
    }
    fill(arena, &mut root, hole, new);
    // What was there is split: what is less and what is more than the new one.
    let mut holes = [(new, LESS), (new, MORE)];
    while at != NONE {
        // Of a node below the new one, all on its other side goes with it.
        let side = side_of(arena, new, at);
        let (node, link) = holes[1 - side];
        arena.set_link(node, link, at);
        holes[1 - side] = (at, side);
        at = arena.link(at, side);
    }
    for (node, side) in holes {
        arena.set_link(node, side, NONE);
    }
    root
}

/// Takes out an id that is there, and returns the root.
pub(super) fn remove(arena: &mut Arena, mut root: u32, old: u32) -> u32 {
    let mut hole: Hole = None;
    let mut at = root;
    while at != old && at != NONE {
        let side = side_of(arena, old, at);
        hole = Some((at, side));
        at = arena.link(at, side);
    }
    let (mut less, mut more) = (arena.link(old, LESS), arena.link(old, MORE));
    while less != NONE && more != NONE {
        if priority(arena, less) > priority(arena, more) {
            fill(arena, &mut root, hole, less);
            hole = Some((less, MORE));
            less = arena.link(less, MORE);
        } else {
            fill(arena, &mut root, hole, more);
            hole = Some((more, LESS));
            more = arena.link(more, LESS);
        }
    }
    fill(
        arena,
        &mut root,
        hole,
        if less == NONE { more } else { less },
    );
    root
}

fn fill(arena: &mut Arena, root: &mut u32, hole: Hole, with: u32) {
    match hole {
        None => *root = with,
        Some((node, side)) => arena.set_link(node, side, with),
    }
}

/// On which side of `at` an id belongs.
fn side_of(arena: &Arena, id: u32, at: u32) -> usize {
    match arena.order(id, at) {
        Ordering::Less => LESS,
        Ordering::Equal | Ordering::Greater => MORE,
    }
}

/// As good as random, and different for each place and process: nobody who chooses ids or times makes
/// a tree deep.
fn priority(arena: &Arena, at: u32) -> u32 {
    let mut mixed = at.wrapping_add(arena.salt());
    mixed = (mixed ^ (mixed >> 16)).wrapping_mul(0x21f0_aaad);
    mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x735a_2d97);
    mixed ^ (mixed >> 15)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_oldest_is_that_of_a_sorted_list(
            steps in prop::collection::vec((0i64..20, any::<Option<prop::sample::Index>>()), 1..200),
        ) {
            let (mut arena, mut root, mut list) = (Arena::default(), NONE, Vec::new());
            for (number, (time, removed)) in steps.into_iter().enumerate() {
                match removed {
                    Some(index) if !list.is_empty() => {
                        let (_, _, at) = list.remove(index.index(list.len()));
                        root = remove(&mut arena, root, at);
                        arena.remove(at);
                    }
                    _ => {
                        // Later ids come before earlier ones at one time.
                        let entry = (200 - number as u64).to_be_bytes();
                        let at = arena.add(time, &entry);
                        root = insert(&mut arena, root, at);
                        list.push((time, entry, at));
                        list.sort_unstable();
                    }
                }
                match list.first() {
                    Some((_, _, oldest)) => prop_assert_eq!(first(&arena, root), *oldest),
                    None => prop_assert_eq!(root, NONE),
                }
            }
        }
    }

    #[test]
    fn a_tree_of_ids_that_came_in_order_is_not_deep() {
        let (mut arena, mut root) = (Arena::default(), NONE);
        for time in 0..10_000 {
            let at = arena.add(time, &[]);
            root = insert(&mut arena, root, at);
        }
        let (mut waiting, mut deepest) = (vec![(root, 1)], 0);
        while let Some((at, depth)) = waiting.pop() {
            if at != NONE {
                deepest = deepest.max(depth);
                waiting.extend([LESS, MORE].map(|side| (arena.link(at, side), depth + 1)));
            }
        }
        assert!(deepest < 60, "{deepest}");
    }
}
