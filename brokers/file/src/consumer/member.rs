//! A consumer as a member of its group.

use std::sync::Arc;

use tidemill_broker::coordinator::{Heard, MemberId, Membership};
use tidemill_broker::{Delivery, Generation, Group, Offset, Result, TopicPartition};
use tokio::time::Instant;

use super::FileConsumer;
use crate::append::{Drafts, Failure};
use crate::group::with_world;
use crate::shared::{Shared, lock};

impl FileConsumer {
    /// What the group has to say.
    pub(super) fn news(&mut self) -> Option<Result<Delivery>> {
        let membership = self.membership.as_mut()?;
        if let Err(error) = membership.check() {
            return Some(Err(error));
        }
        let member = match &membership.member {
            Some(member) => Arc::clone(member),
            None => join(membership, &self.shared),
        };
        loop {
            let membership = self.membership.as_mut()?;
            let event = self
                .shared
                .groups_at(Instant::now())
                .get_mut(&membership.group)?
                .next_event(&member, Instant::now())?;
            let shared = Arc::clone(&self.shared);
            let release = move |group: Group, member: MemberId, partitions: Vec<_>| {
                shared.release(&group, &member, &partitions);
            };
            match self.held.hear(event, membership, release) {
                Heard::Tell(delivery) => return Some(delivery),
                Heard::Assigned(generation, partitions) => {
                    return Some(Ok(self.assign(generation, partitions)));
                }
                Heard::Nothing => {}
                Heard::Out => return self.news(),
            }
        }
    }

    /// Takes the whole of a new assignment; what stays keeps its place.
    fn assign(&mut self, generation: Generation, partitions: Vec<TopicPartition>) -> Delivery {
        for at in self.held.keep(&partitions) {
            self.add(at, self.start);
        }
        self.held.sort();
        Delivery::Assigned {
            generation: Some(generation),
            partitions,
        }
    }

    /// Appends the offsets, checked against the group while nothing else moves it.
    pub(super) fn append_offsets(
        &self,
        group: &Group,
        generation: Option<&Generation>,
        offsets: &[(TopicPartition, Offset)],
    ) -> Result<u64> {
        let entries = self.shared.offset_entries(group, offsets)?;
        let mut groups = self.shared.groups_at(Instant::now());
        groups.entry(group).check(generation, offsets)?;
        self.shared
            .append(Drafts::default(), entries, |_| Ok(()))
            .map(|(_, end)| end)
            .map_err(Failure::into_error)
    }

    /// Leaves the group, if it is in one.
    pub(super) fn leave(&self) {
        let Some(membership) = &self.membership else {
            return;
        };
        if let Some(member) = &membership.member {
            let mut groups = lock(&self.shared.groups);
            let live = self.shared.live();
            with_world(&live, Instant::now(), |world| {
                if let Some(group) = groups.get_mut(&membership.group) {
                    group.leave(member, world);
                }
            });
            drop(live);
            drop(groups);
            self.shared.changed.notify_waiters();
        }
    }
}

/// Joins the group and wakes whoever waits for news of it.
pub(super) fn join(membership: &mut Membership, shared: &Shared) -> MemberId {
    let now = Instant::now();
    let mut groups = shared.groups_at(now);
    let live = shared.live();
    let member = with_world(&live, now, |world| {
        let group = groups.entry(&membership.group);
        group.join(membership.joining.clone(), world)
    });
    drop(live);
    drop(groups);
    membership.member = Some(Arc::clone(&member));
    shared.changed.notify_waiters();
    member
}
