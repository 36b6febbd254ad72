//! Consumer groups for backends that keep them themselves: members, rounds, what each may commit for.
//!
//! Pure bookkeeping: it does no I/O and reads no clock. The backend asks it under a lock of its own,
//! keeps the offsets, and wakes whoever waits.
//!
//! A round ends when every partition that changes hands has been given back or its deadline has
//! passed; only then does the generation rise. Until a member gives a partition back it may commit
//! for it under the old generation.
//!
//! A member is heard of whenever it asks for its next event, and for as long as it
//! [waits](Coordinator::waits) for one. One that is not for longer than its session lasts is taken for
//! dead.

mod held;
#[cfg(test)]
mod tests;
mod wait;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use held::{Heard, Held, Membership, Part};
pub use wait::{Look, Waiting, next};

use crate::{Error, Generation, Group, Offset, Result, Topic, TopicPartition};

/// As good as never: some clocks cannot show what comes a century later.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Names a member within its group.
pub type MemberId = Arc<str>;

/// What a member is to be told, in order.
#[derive(Debug)]
pub enum Event {
    /// A round ended.
    Assigned {
        /// What its commits carry.
        generation: Generation,
        /// All partitions that are its own now.
        partitions: Vec<TopicPartition>,
    },
    /// A round began that takes partitions away.
    Revoked {
        /// What goes. Hand out a permit that [releases](Coordinator::release) them.
        partitions: Vec<TopicPartition>,
        /// When they go even if they are not given back.
        deadline: Instant,
    },
    /// A topic is gone, and its partitions with it.
    Deleted {
        /// The topic.
        topic: Topic,
    },
    /// The member is no longer one; it may join anew.
    Removed,
    /// Another took over this member's name.
    Replaced,
}

#[derive(Debug)]
struct Member {
    instance: Option<String>,
    topics: Vec<Topic>,
    revoke_deadline: Duration,
    session_timeout: Duration,
    /// When it last asked for news; what it is silent since, unless it waits for some.
    heard: Instant,
    /// Whether it waits for news: then it is there, however long there are none.
    waits: bool,
    /// When it looks again of its own accord, if it waits.
    looks: Option<Instant>,
    /// What it may commit for.
    owned: BTreeSet<TopicPartition>,
    /// What of that it was asked to give back, and until when.
    revoking: BTreeMap<TopicPartition, Instant>,
    target: BTreeSet<TopicPartition>,
    /// The round of its latest assignment; 0 before the first.
    generation: u64,
    events: VecDeque<Event>,
}

impl Member {
    /// When it is taken for dead unless it gives back what it must, and is heard of.
    fn deadline(&self) -> Option<Instant> {
        let permit = self.revoking.values().min().copied();
        // A session too long for the clock never ends.
        let session = self.heard.checked_add(self.session_timeout);
        let session = session.filter(|_| !self.waits);
        permit.into_iter().chain(session).min()
    }
}

/// How a member joins.
#[derive(Debug, Clone)]
pub struct Joining {
    /// Its stable name, if it has one.
    pub instance: Option<String>,
    /// What it subscribes to.
    pub topics: Vec<Topic>,
    /// How long it may keep a partition that is taken away.
    pub revoke_deadline: Duration,
    /// How long it may be silent.
    pub session_timeout: Duration,
}

/// The members of one group.
#[derive(Debug)]
pub struct Coordinator {
    group: Group,
    life: u64,
    /// By instance name, or by id: the order in which partitions are shared out.
    members: BTreeMap<MemberId, Member>,
    /// Members that are gone but have not been told.
    parting: BTreeMap<MemberId, Event>,
    generation: u64,
    /// Whether a round is under way.
    rebalancing: bool,
    /// Turns the order of members, so that a forced rebalance moves partitions.
    turn: usize,
    joined: u64,
}

impl Coordinator {
    /// A group without members.
    ///
    /// Rounds and members are counted anew in each life of a broker. `life` tells them from those of others
    /// that had the same offsets before: it is to be drawn whenever the broker is opened.
    pub fn new(group: Group, life: u64) -> Self {
        Self {
            group,
            life,
            members: BTreeMap::new(),
            parting: BTreeMap::new(),
            generation: 0,
            rebalancing: false,
            turn: 0,
            joined: 0,
        }
    }

    /// Adds a member and begins a round, unless it only takes over its own former place.
    pub fn join(&mut self, joining: Joining, world: &World<'_>) -> MemberId {
        self.joined += 1;
        let id: MemberId = match &joining.instance {
            Some(instance) => format!("{instance}#{}-{:016x}", self.joined, self.life).into(),
            None => format!("member-{:06}-{:016x}", self.joined, self.life).into(),
        };
        let mut member = Member {
            instance: joining.instance,
            topics: joining.topics,
            revoke_deadline: joining.revoke_deadline,
            session_timeout: joining.session_timeout,
            heard: world.now,
            waits: false,
            looks: None,
            owned: BTreeSet::new(),
            revoking: BTreeMap::new(),
            target: BTreeSet::new(),
            generation: 0,
            events: VecDeque::new(),
        };
        let former = self
            .members
            .iter()
            .find(|(_, other)| other.instance.is_some() && other.instance == member.instance)
            .map(|(id, _)| Arc::clone(id));
        if let Some(former) = former
            && let Some(old) = self.members.remove(&former)
        {
            self.parting.insert(former, Event::Replaced);
            if !self.rebalancing && old.topics == member.topics {
                // As with Kafka's static members: the others do not notice.
                member.owned.clone_from(&old.owned);
                member.target = old.target;
                member.generation = self.generation;
                member.events.push_back(Event::Assigned {
                    generation: Generation {
                        number: self.generation,
                        member: Arc::clone(&id),
                    },
                    partitions: member.owned.iter().cloned().collect(),
                });
                self.members.insert(Arc::clone(&id), member);
                return id;
            }
        }
        self.members.insert(Arc::clone(&id), member);
        self.rebalance(world, false);
        id
    }

    /// Removes a member that leaves of its own accord.
    pub fn leave(&mut self, id: &str, world: &World<'_>) {
        self.parting.remove(id);
        if self.members.remove(id).is_some() {
            self.rebalance(world, false);
        }
    }

    /// Removes a member as if its session had expired: it learns of it at its next call.
    pub fn expel(&mut self, id: &str, world: &World<'_>) {
        if let Some((id, _)) = self.members.remove_entry(id) {
            self.parting.insert(id, Event::Removed);
            self.rebalance(world, false);
        }
    }

    /// The present members, in the order in which partitions are shared out.
    pub fn members(&self) -> Vec<MemberId> {
        self.members.keys().cloned().collect()
    }

    /// Begins a round, or widens the one under way. `all` takes every partition from every member
    /// and turns the order of members.
    pub fn rebalance(&mut self, world: &World<'_>, all: bool) {
        self.turn += usize::from(all);
        self.rebalancing = true;
        self.share_out(world);
        for member in self.members.values_mut() {
            let deadline = world.now + member.revoke_deadline.min(FAR);
            let going: Vec<_> = member
                .owned
                .iter()
                .filter(|at| !member.revoking.contains_key(at))
                .filter(|at| all || world.eager || !member.target.contains(at))
                .cloned()
                .collect();
            if going.is_empty() {
                continue;
            }
            for at in &going {
                member.revoking.insert(at.clone(), deadline);
            }
            member.events.push_back(Event::Revoked {
                partitions: going,
                deadline,
            });
        }
        self.complete();
    }

    /// Range assignment by partition number over all topics, so that equal numbers of different
    /// topics come to one member.
    fn share_out(&mut self, world: &World<'_>) {
        for member in self.members.values_mut() {
            member.target.clear();
        }
        let mut order: Vec<MemberId> = self.members();
        if !order.is_empty() {
            let turn = self.turn % order.len();
            order.rotate_left(turn);
        }
        let topics: BTreeSet<Topic> = self
            .members
            .values()
            .flat_map(|member| member.topics.iter().cloned())
            .collect();
        let counts: Vec<(Topic, u32)> = topics
            .into_iter()
            .filter_map(|topic| (world.partitions)(&topic).map(|count| (topic, count)))
            .collect();
        let widest = counts.iter().map(|(_, count)| *count).max().unwrap_or(0) as usize;
        for (topic, count) in counts {
            let takers: Vec<&MemberId> = order
                .iter()
                .filter(|id| {
                    self.members
                        .get(*id)
                        .is_some_and(|member| member.topics.contains(&topic))
                })
                .collect();
            for partition in 0..count {
                let taker = takers[partition as usize * takers.len() / widest];
                if let Some(member) = self.members.get_mut(taker) {
                    member
                        .target
                        .insert(TopicPartition::new(topic.clone(), partition));
                }
            }
        }
    }

    /// Ends the round if nothing is left to give back.
    fn complete(&mut self) {
        if !self.rebalancing
            || self
                .members
                .values()
                .any(|member| !member.revoking.is_empty())
        {
            return;
        }
        self.rebalancing = false;
        self.generation += 1;
        for (id, member) in &mut self.members {
            member.owned.clone_from(&member.target);
            member.generation = self.generation;
            let assigned = Event::Assigned {
                generation: Generation {
                    number: self.generation,
                    member: Arc::clone(id),
                },
                partitions: member.owned.iter().cloned().collect(),
            };
            // Nobody has seen the former one: the newer says all.
            if let Some(Event::Assigned { .. }) = member.events.back() {
                member.events.pop_back();
            }
            member.events.push_back(assigned);
        }
    }

    /// Takes partitions back from a member that dropped its permit.
    pub fn release(&mut self, id: &str, partitions: &[TopicPartition]) {
        if let Some(member) = self.members.get_mut(id) {
            for at in partitions {
                if member.revoking.remove(at).is_some() {
                    member.owned.remove(at);
                }
            }
            self.complete();
        }
    }

    /// Removes members that kept a partition beyond the deadline or were silent beyond their
    /// session. Says whether there were any.
    pub fn pass_deadlines(&mut self, world: &World<'_>) -> bool {
        let late: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| member.deadline().is_some_and(|at| at <= world.now))
            .map(|(id, _)| Arc::clone(id))
            .collect();
        for id in &late {
            self.expel(id, world);
        }
        !late.is_empty()
    }

    /// When the next permit or session runs out.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.members.values().filter_map(Member::deadline).min()
    }

    /// What a member, which asks at `now`, is to be told next.
    pub fn next_event(&mut self, id: &str, now: Instant) -> Option<Event> {
        if let Some(event) = self.parting.remove(id) {
            return Some(event);
        }
        let member = self.members.get_mut(id)?;
        member.heard = now;
        member.events.pop_front()
    }

    /// Notes that a member waits for its next event, and when it looks again of its own accord.
    pub fn waits(&mut self, id: &str, looks: Option<Instant>, now: Instant) {
        if let Some(member) = self.members.get_mut(id) {
            (member.waits, member.looks, member.heard) = (true, looks, now);
        }
    }

    /// Notes that a member no longer waits. Says whether any that does must look again: it would
    /// not see in time that this one fell silent.
    #[must_use = "somebody may have to be woken"]
    pub fn waits_no_more(&mut self, id: &str, now: Instant) -> bool {
        let Some(member) = self.members.get_mut(id) else {
            return false;
        };
        (member.waits, member.heard) = (false, now);
        let Some(deadline) = member.deadline() else {
            return false;
        };
        let mut waiting = self.members.values().filter(|member| member.waits);
        waiting.any(|member| member.looks.is_none_or(|looks| looks > deadline))
    }

    /// Whether a member reads any of these topics.
    pub fn reads(&self, topic: &Topic) -> bool {
        self.members
            .values()
            .any(|member| member.topics.contains(topic))
    }

    /// Forgets a deleted topic.
    pub fn forget(&mut self, topic: &Topic, world: &World<'_>) {
        let mut any = false;
        for member in self.members.values_mut() {
            if !member.topics.contains(topic) {
                continue;
            }
            any = true;
            member.owned.retain(|at| at.topic != *topic);
            member.revoking.retain(|at, _| at.topic != *topic);
            for event in &mut member.events {
                if let Event::Assigned { partitions, .. } | Event::Revoked { partitions, .. } =
                    event
                {
                    partitions.retain(|at| at.topic != *topic);
                }
            }
            member.events.push_back(Event::Deleted {
                topic: topic.clone(),
            });
        }
        if any {
            self.rebalance(world, false);
        }
    }

    /// Whether offsets may be committed under this generation.
    ///
    /// # Errors
    ///
    /// [`Error::StaleGeneration`] if not.
    pub fn check(
        &self,
        generation: Option<&Generation>,
        offsets: &[(TopicPartition, Offset)],
    ) -> Result<()> {
        let fenced = |what: String| {
            Err(Error::StaleGeneration {
                group: self.group.clone(),
                generation: generation.cloned(),
                what,
            })
        };
        let Some(generation) = generation else {
            if self.members.is_empty() {
                return Ok(());
            }
            return fenced(format!(
                "the group has {} members, so offsets need a generation",
                self.members.len()
            ));
        };
        let Some(member) = self.members.get(&generation.member) else {
            return fenced(format!("`{}` is not a member", generation.member));
        };
        if generation.number != self.generation || member.generation != self.generation {
            return fenced(format!(
                "generation {generation} is stale: the group is at {}",
                self.generation
            ));
        }
        match offsets.iter().find(|(at, _)| !member.owned.contains(at)) {
            Some((at, _)) => fenced(format!(
                "{at} is not assigned to `{}` in generation {}",
                generation.member, generation.number
            )),
            None => Ok(()),
        }
    }
}

/// What a group needs to know of the rest.
pub struct World<'a> {
    /// Now.
    pub now: Instant,
    /// Whether every round takes all partitions from all members.
    pub eager: bool,
    /// How many partitions a topic has; none if it is not there.
    pub partitions: &'a dyn Fn(&Topic) -> Option<u32>,
}
