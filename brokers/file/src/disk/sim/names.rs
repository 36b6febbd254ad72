//! The names in directories, as they are and as they are durable.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rand::rngs::SmallRng;

use super::inode::Inode;
use crate::shared::lock;

/// What has a name.
#[derive(Clone)]
pub(super) enum Node {
    File(Arc<Mutex<Inode>>),
    Dir,
}

/// One directory.
#[derive(Default)]
pub(super) struct Dir {
    pub(super) now: BTreeMap<String, Node>,
    pub(super) durable: BTreeMap<String, Node>,
    pub(super) pending: Vec<DirChange>,
}

impl Dir {
    /// The bytes of the file that has a name; none if nothing has it.
    pub(super) fn room_of(&self, name: &str) -> u64 {
        match self.now.get(name) {
            Some(Node::File(inode)) => lock(inode).bytes().len() as u64,
            _ => 0,
        }
    }
}

#[derive(Clone)]
pub(super) enum DirChange {
    Link(String, Node),
    Unlink(String),
    Rename(String, String),
}

impl DirChange {
    pub(super) fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            Self::Link(name, node) => {
                names.insert(name.clone(), node.clone());
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

/// Copies of files as the next process finds them, one for each however many directories or changes
/// name it.
pub(super) struct Copies {
    rng: SmallRng,
    made: BTreeMap<*const Mutex<Inode>, Node>,
}

impl Copies {
    pub(super) fn new(rng: SmallRng) -> Self {
        Self {
            rng,
            made: BTreeMap::new(),
        }
    }

    fn of_node(&mut self, node: &Node) -> Node {
        let Node::File(inode) = node else {
            return Node::Dir;
        };
        let copy = self.made.entry(Arc::as_ptr(inode)).or_insert_with(|| {
            let mut inode = lock(inode).clone();
            inode.evict(&mut self.rng);
            Node::File(Arc::new(Mutex::new(inode)))
        });
        copy.clone()
    }

    fn of_names(&mut self, names: &BTreeMap<String, Node>) -> BTreeMap<String, Node> {
        let names = names.iter();
        names
            .map(|(name, node)| (name.clone(), self.of_node(node)))
            .collect()
    }

    pub(super) fn of_dir(&mut self, dir: &Dir) -> Dir {
        let pending = dir.pending.iter().map(|change| match change {
            DirChange::Link(name, node) => DirChange::Link(name.clone(), self.of_node(node)),
            other => other.clone(),
        });
        let pending = pending.collect();
        Dir {
            now: self.of_names(&dir.now),
            durable: self.of_names(&dir.durable),
            pending,
        }
    }
}
