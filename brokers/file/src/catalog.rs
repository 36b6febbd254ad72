//! What the frames of the log add up to: topics, their ends, and the offsets of groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_broker::{Cleanup, Group, Topic};

use crate::format::block;
use crate::format::frame::{Head, OffsetEntry};

/// A topic's number: never used twice in a directory.
pub(crate) type TopicId = u64;

/// A topic as the log knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicEntry {
    pub(crate) name: Topic,
    pub(crate) cleanup: Cleanup,
    /// The offset the next record of each partition gets.
    pub(crate) next: Vec<u64>,
}

/// Topics and group offsets at one place of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Catalog {
    pub(crate) next_topic: TopicId,
    pub(crate) topics: BTreeMap<TopicId, TopicEntry>,
    pub(crate) names: BTreeMap<Topic, TopicId>,
    pub(crate) offsets: BTreeMap<Group, BTreeMap<(TopicId, u32), u64>>,
}

impl Catalog {
    pub(crate) fn id(&self, name: &Topic) -> Option<TopicId> {
        self.names.get(name).copied()
    }

    pub(crate) fn topic(&self, name: &Topic) -> Option<(TopicId, &TopicEntry)> {
        let id = self.id(name)?;
        Some((id, self.topics.get(&id)?))
    }

    /// Takes in what a frame says in its head. Blocks are taken in one by one.
    pub(crate) fn apply(&mut self, head: &Head) {
        match head {
            Head::Commit { offsets, .. } => self.commit(offsets),
            Head::CreateTopic { id, topic } => self.add(*id, topic.clone()),
            Head::DeleteTopic { id } => self.remove(*id),
        }
    }

    pub(crate) fn add(&mut self, id: TopicId, topic: TopicEntry) {
        self.next_topic = self.next_topic.max(id + 1);
        self.names.insert(topic.name.clone(), id);
        self.topics.insert(id, topic);
    }

    fn remove(&mut self, id: TopicId) {
        if let Some(topic) = self.topics.remove(&id) {
            self.names.remove(&topic.name);
        }
        for offsets in self.offsets.values_mut() {
            offsets.retain(|(topic, _), _| *topic != id);
        }
        self.offsets.retain(|_, offsets| !offsets.is_empty());
    }

    fn commit(&mut self, offsets: &[OffsetEntry]) {
        for entry in offsets {
            if self.topics.contains_key(&entry.topic) {
                self.offsets
                    .entry(entry.group.clone())
                    .or_default()
                    .insert((entry.topic, entry.partition), entry.offset);
            }
        }
    }

    /// Takes in a block. `false` if it cannot follow what came before.
    pub(crate) fn append(&mut self, header: &block::Header) -> bool {
        let next = self
            .topics
            .get_mut(&header.topic)
            .and_then(|topic| topic.next.get_mut(header.partition as usize));
        match next {
            Some(next) if *next == header.base => {
                *next = header.next;
                true
            }
            _ => false,
        }
    }
}

/// A catalog that is not changed any more.
pub(crate) type SharedCatalog = Arc<Catalog>;
