//! What a consumer holds: the partitions it reads in turn, and its place in its group.

use std::collections::VecDeque;

use super::{Event, Joining, MemberId};
use crate::{Delivery, Error, Generation, Group, Permit, Result, Topic, TopicPartition};

/// A partition being read.
#[derive(Debug)]
pub struct Part<P> {
    /// Which one.
    pub at: TopicPartition,
    /// Where the backend stands in it.
    pub place: P,
    /// Whether its end was told since it last moved.
    pub ended: bool,
    /// Whether it waits for a seek after an error was told.
    pub silent: bool,
    paused: bool,
}

impl<P> Part<P> {
    /// Whether nothing is to be read from it for now.
    pub fn rests(&self) -> bool {
        self.paused || self.silent
    }
}

/// The partitions of a consumer, and what it has to tell before it reads on.
#[derive(Debug)]
pub struct Held<P> {
    parts: Vec<Part<P>>,
    /// Whose turn it is.
    turn: usize,
    first: VecDeque<Result<Delivery>>,
}

impl<P> Default for Held<P> {
    fn default() -> Self {
        Self {
            parts: Vec::new(),
            turn: 0,
            first: VecDeque::new(),
        }
    }
}

impl<P> Held<P> {
    /// Is to be told before anything else.
    pub fn tell(&mut self, delivery: Result<Delivery>) {
        self.first.push_back(delivery);
    }

    /// What is to be told next.
    pub fn told(&mut self) -> Option<Result<Delivery>> {
        self.first.pop_front()
    }

    /// Whether anything is to be told.
    pub fn has_to_tell(&self) -> bool {
        !self.first.is_empty()
    }

    /// Begins to read a partition; one whose place could not be found waits for a seek once that is told.
    pub fn add(&mut self, at: TopicPartition, place: P, found: Result<()>) {
        let silent = found.is_err();
        if let Err(error) = found {
            self.tell(Err(error));
        }
        self.parts.push(Part {
            at,
            place,
            ended: false,
            silent,
            paused: false,
        });
    }

    /// The partitions in the order of their turns, by index.
    pub fn turns(&self) -> impl Iterator<Item = usize> + use<P> {
        let (turn, count) = (self.turn, self.parts.len());
        (0..count).map(move |step| (turn + step) % count)
    }

    /// One of them has had its turn.
    pub fn has_had_its_turn(&mut self, index: usize) {
        self.turn = (index + 1) % self.parts.len().max(1);
    }

    /// By index.
    pub fn part(&mut self, index: usize) -> &mut Part<P> {
        &mut self.parts[index]
    }

    /// By name.
    pub fn get(&self, at: &TopicPartition) -> Option<&Part<P>> {
        self.parts.iter().find(|part| part.at == *at)
    }

    /// A partition that is moved: it has an end to tell again, and wakes if it waited.
    ///
    /// # Errors
    ///
    /// If it is not held.
    pub fn seek(&mut self, at: &TopicPartition) -> Result<&mut P> {
        let part = self.parts.iter_mut().find(|part| part.at == *at);
        let Some(part) = part else {
            return Err(Error::NotAssigned { at: at.clone() });
        };
        part.ended = false;
        part.silent = false;
        Ok(&mut part.place)
    }

    /// Stops reading partitions for a while, or goes on; those not held are passed over.
    pub fn pause(&mut self, partitions: &[TopicPartition], paused: bool) {
        for part in &mut self.parts {
            if partitions.contains(&part.at) {
                part.paused = paused;
            }
        }
    }

    /// Gives up all but these; returns which of them are new, to be [added](Self::add).
    pub fn keep(&mut self, partitions: &[TopicPartition]) -> Vec<TopicPartition> {
        self.parts.retain(|part| partitions.contains(&part.at));
        let new = partitions.iter().filter(|at| self.get(at).is_none());
        new.cloned().collect()
    }

    /// Puts them in order, so that turns do not depend on when each came.
    pub fn sort(&mut self) {
        self.parts.sort_by(|a, b| a.at.cmp(&b.at));
    }

    /// Gives up the partitions of a topic that is gone, and tells so.
    pub fn lose_topic(&mut self, topic: &Topic) -> Option<Result<Delivery>> {
        let lost = self.parts.extract_if(.., |part| part.at.topic == *topic);
        let partitions: Vec<_> = lost.map(|part| part.at).collect();
        self.tell(Err(Error::UnknownTopic {
            topic: topic.clone(),
        }));
        if partitions.is_empty() {
            return self.told();
        }
        Some(Ok(Delivery::Lost { partitions }))
    }

    /// Takes in what the group says to this member. `release` gives partitions back.
    pub fn hear(
        &mut self,
        event: Event,
        membership: &mut Membership,
        release: impl FnOnce(Group, MemberId, Vec<TopicPartition>) + Send + 'static,
    ) -> Heard {
        match event {
            Event::Assigned {
                generation,
                partitions,
            } => Heard::Assigned(generation, partitions),
            Event::Revoked {
                partitions,
                deadline,
            } => {
                self.parts.retain(|part| !partitions.contains(&part.at));
                let member = membership.member.clone();
                let (Some(member), false) = (member, partitions.is_empty()) else {
                    return Heard::Nothing;
                };
                let (group, released) = (membership.group.clone(), partitions.clone());
                let permit = Permit::new(deadline, move || release(group, member, released));
                Heard::Tell(Ok(Delivery::Revoked { partitions, permit }))
            }
            Event::Deleted { topic } => match self.lose_topic(&topic) {
                Some(lost) => Heard::Tell(lost),
                None => Heard::Nothing,
            },
            Event::Removed | Event::Replaced => {
                membership.member = None;
                membership.replaced = matches!(event, Event::Replaced);
                let partitions: Vec<_> = self.parts.drain(..).map(|part| part.at).collect();
                if partitions.is_empty() {
                    return Heard::Out;
                }
                Heard::Tell(Ok(Delivery::Lost { partitions }))
            }
        }
    }
}

/// What came of an event.
#[derive(Debug)]
pub enum Heard {
    /// It is to be told.
    Tell(Result<Delivery>),
    /// A new assignment: [keep](Held::keep) what stays, add what is new.
    Assigned(Generation, Vec<TopicPartition>),
    /// Nothing is to be told; there may be another event.
    Nothing,
    /// It is no member any more, and held nothing.
    Out,
}

/// The place of a consumer in its group.
#[derive(Debug)]
pub struct Membership {
    /// The group.
    pub group: Group,
    /// How it joins.
    pub joining: Joining,
    /// `None` after the group removed it: it joins anew.
    pub member: Option<MemberId>,
    /// Another took over its name.
    replaced: bool,
}

impl Membership {
    /// In a group that it has not joined yet.
    pub fn new(group: Group, joining: Joining) -> Self {
        Self {
            group,
            joining,
            member: None,
            replaced: false,
        }
    }

    /// Refuses one whose name another has taken over: it would take it back, and so for ever.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`].
    pub fn check(&self) -> Result<()> {
        if !self.replaced {
            return Ok(());
        }
        Err(Error::Fenced {
            what: format!(
                "another member of group `{}` took over the instance name",
                self.group
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Offset;

    fn at(partition: u32) -> TopicPartition {
        TopicPartition::new("t".parse().unwrap(), partition)
    }

    fn held(partitions: std::ops::Range<u32>) -> Held<Offset> {
        let mut held = Held::default();
        for partition in partitions {
            held.add(at(partition), Offset::START, Ok(()));
        }
        held
    }

    #[test]
    fn partitions_take_turns() {
        let mut held = held(0..3);
        assert_eq!(held.turns().collect::<Vec<_>>(), [0, 1, 2]);
        held.has_had_its_turn(1);
        assert_eq!(held.turns().collect::<Vec<_>>(), [2, 0, 1]);
        assert!(Held::<Offset>::default().turns().next().is_none());
    }

    #[test]
    fn what_stays_keeps_its_place_and_what_is_new_is_named() {
        let mut held = held(0..3);
        *held.seek(&at(1)).unwrap() = Offset(7);
        assert_eq!(held.keep(&[at(1), at(5)]), [at(5)]);
        assert_eq!(held.get(&at(1)).unwrap().place, Offset(7));
        assert!(held.get(&at(0)).is_none());
        assert!(matches!(
            held.seek(&at(0)),
            Err(Error::NotAssigned { at: named }) if named == at(0)
        ));
    }

    #[test]
    fn a_partition_rests_while_it_is_paused_or_waits_for_a_seek() {
        let mut held = held(0..1);
        assert!(!held.part(0).rests());
        held.pause(&[at(0), at(9)], true);
        assert!(held.part(0).rests());
        held.pause(&[at(0)], false);
        assert!(!held.part(0).rests());
        held.part(0).silent = true;
        assert!(held.part(0).rests());
        held.seek(&at(0)).unwrap();
        assert!(!held.part(0).rests());
    }

    #[test]
    fn a_topic_that_is_gone_is_told_after_its_partitions_are_lost() {
        let mut held = held(0..2);
        let topic = at(0).topic;
        let lost = held.lose_topic(&topic);
        assert!(matches!(
            lost,
            Some(Ok(Delivery::Lost { partitions })) if partitions == [at(0), at(1)]
        ));
        assert!(matches!(held.told(), Some(Err(Error::UnknownTopic { .. }))));
        assert!(!held.has_to_tell());
        // Nobody reads it: only the error is left to tell.
        assert!(matches!(
            held.lose_topic(&topic),
            Some(Err(Error::UnknownTopic { .. }))
        ));
    }
}
