//! Consumer groups. Members live in the writer's process; the offsets they commit lie in the log.

use std::collections::BTreeMap;
use std::sync::MutexGuard;

use tidemill_broker::coordinator::{Coordinator, MemberId, World};
use tidemill_broker::{Group, Offset, Result, Topic, TopicPartition};
use tokio::time::Instant;

use crate::format::frame::OffsetEntry;
use crate::live::Live;
use crate::shared::{Shared, lock};

/// The groups somebody has named.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Tells their members from those of the same directory when it was open before.
    life: u64,
    named: BTreeMap<Group, Coordinator>,
}

impl Groups {
    pub(crate) fn in_life(life: u64) -> Self {
        Self {
            life,
            named: BTreeMap::new(),
        }
    }

    /// A group, made if nobody has named it before.
    pub(crate) fn entry(&mut self, name: &Group) -> &mut Coordinator {
        self.named
            .entry(name.clone())
            .or_insert_with(|| Coordinator::new(name.clone(), self.life))
    }

    pub(crate) fn get_mut(&mut self, name: &Group) -> Option<&mut Coordinator> {
        self.named.get_mut(name)
    }

    /// When the next permit runs out.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.named
            .values()
            .filter_map(Coordinator::next_deadline)
            .min()
    }
}

/// Gives `act` what a group needs to know of the topics.
pub(crate) fn with_world<R>(live: &Live, now: Instant, act: impl FnOnce(&World<'_>) -> R) -> R {
    let partitions = |topic: &Topic| {
        live.catalog
            .topic(topic)
            .map(|(_, topic)| topic.next.len() as u32)
    };
    act(&World {
        now,
        eager: false,
        partitions: &partitions,
    })
}

impl Shared {
    /// Group offsets as the log keeps them.
    pub(crate) fn offset_entries(
        &self,
        group: &Group,
        offsets: &[(TopicPartition, Offset)],
    ) -> Result<Vec<OffsetEntry>> {
        let live = self.live();
        offsets
            .iter()
            .map(|(at, offset)| {
                let (topic, ..) = live.partition(at)?;
                Ok(OffsetEntry {
                    group: group.clone(),
                    topic,
                    partition: at.partition,
                    offset: offset.0,
                })
            })
            .collect()
    }

    /// The groups after every permit that was due by now has run out. Taken before
    /// [`live`](Self::live).
    pub(crate) fn groups_at(&self, now: Instant) -> MutexGuard<'_, Groups> {
        let mut groups = lock(&self.groups);
        if groups.next_deadline().is_some_and(|at| at <= now) {
            let live = self.live();
            let mut changed = false;
            with_world(&live, now, |world| {
                for group in groups.named.values_mut() {
                    changed |= group.pass_deadlines(world);
                }
            });
            drop(live);
            if changed {
                self.changed.notify_waiters();
            }
        }
        groups
    }

    /// Shares out the partitions of a new topic.
    pub(crate) fn topic_created(&self, name: &Topic) {
        let mut groups = lock(&self.groups);
        let live = self.live();
        with_world(&live, Instant::now(), |world| {
            for group in groups.named.values_mut().filter(|group| group.reads(name)) {
                group.rebalance(world, false);
            }
        });
        drop(live);
        drop(groups);
        self.changed.notify_waiters();
    }

    /// Tells members that a topic is gone.
    pub(crate) fn topic_deleted(&self, name: &Topic) {
        let mut groups = lock(&self.groups);
        let live = self.live();
        with_world(&live, Instant::now(), |world| {
            for group in groups.named.values_mut() {
                group.forget(name, world);
            }
        });
        drop(live);
        drop(groups);
        self.changed.notify_waiters();
    }

    /// Notes that a member no longer waits for news.
    pub(crate) fn waits_no_more(&self, group: &Group, member: &MemberId) {
        let mut groups = lock(&self.groups);
        let members = groups.get_mut(group);
        let wake = members.is_some_and(|members| members.waits_no_more(member, Instant::now()));
        drop(groups);
        if wake {
            self.changed.notify_waiters();
        }
    }

    /// Takes partitions back from a member that dropped its permit.
    pub(crate) fn release(&self, group: &Group, member: &MemberId, partitions: &[TopicPartition]) {
        let mut groups = lock(&self.groups);
        if let Some(group) = groups.get_mut(group) {
            group.release(member, partitions);
        }
        drop(groups);
        self.changed.notify_waiters();
    }
}
