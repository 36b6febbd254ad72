//! Members that come, go, fall silent and keep what they should give back, in any order.

use std::collections::{BTreeSet, btree_map::Entry};

use proptest::prelude::*;

use super::*;

/// What may happen to a group. Members are named by the order in which they came.
#[derive(Debug, Clone)]
enum Happens {
    Joins(Joining),
    Leaves(usize),
    IsExpelled(usize),
    /// Asks for news, and takes what there is.
    Asks(usize),
    Waits(usize),
    WaitsNoMore(usize),
    /// Gives back the oldest permit it holds.
    GivesBack(usize),
    Rebalance(bool),
    Deleted(usize),
    Created(usize, u32),
    Passes(Duration),
}

const TOPICS: [&str; 3] = ["a", "b", "c"];
const SECONDS_MAX: u64 = 20;

fn topic(index: usize) -> Topic {
    TOPICS[index].parse().unwrap()
}

fn joining() -> impl Strategy<Value = Joining> {
    let topics = proptest::sample::subsequence(vec![0, 1, 2], 1..=3);
    let name = proptest::option::weighted(0.3, 0..2_u8);
    let seconds = || (1..=SECONDS_MAX).prop_map(Duration::from_secs);
    (topics, name, seconds(), seconds()).prop_map(|(topics, name, revoke, session)| Joining {
        instance: name.map(|name| name.to_string()),
        topics: topics.into_iter().map(topic).collect(),
        revoke_deadline: revoke,
        session_timeout: session,
    })
}

fn happens() -> impl Strategy<Value = Happens> {
    let who = || 0..8_usize;
    prop_oneof![
        3 => joining().prop_map(Happens::Joins),
        1 => who().prop_map(Happens::Leaves),
        1 => who().prop_map(Happens::IsExpelled),
        9 => who().prop_map(Happens::Asks),
        2 => who().prop_map(Happens::Waits),
        1 => who().prop_map(Happens::WaitsNoMore),
        5 => who().prop_map(Happens::GivesBack),
        1 => any::<bool>().prop_map(Happens::Rebalance),
        1 => (0..3_usize).prop_map(Happens::Deleted),
        1 => (0..3_usize, 1..4_u32).prop_map(|(topic, count)| Happens::Created(topic, count)),
        2 => (1..SECONDS_MAX).prop_map(|seconds| Happens::Passes(Duration::from_secs(seconds))),
    ]
}

/// What somebody who once joined knows.
#[derive(Debug)]
struct Client {
    id: MemberId,
    told: Option<Generation>,
    owned: BTreeSet<TopicPartition>,
    permits: VecDeque<Vec<TopicPartition>>,
    is_out: bool,
}

struct Trial {
    group: Coordinator,
    topics: BTreeMap<Topic, u32>,
    now: Instant,
    eager: bool,
    clients: Vec<Client>,
    /// The group's latest round.
    round: u64,
}

impl Trial {
    fn new(eager: bool) -> Self {
        Self {
            group: Coordinator::new("g".parse().unwrap(), 7),
            topics: TOPICS
                .iter()
                .map(|name| (name.parse().unwrap(), 3))
                .collect(),
            now: Instant::now(),
            eager,
            clients: Vec::new(),
            round: 0,
        }
    }

    fn act<R>(&mut self, act: impl FnOnce(&mut Coordinator, &World<'_>) -> R) -> R {
        let topics = &self.topics;
        let world = World {
            now: self.now,
            eager: self.eager,
            partitions: &|topic| topics.get(topic).copied(),
        };
        act(&mut self.group, &world)
    }

    fn step(&mut self, happens: Happens) {
        // Those who came last are most likely still there.
        let count = self.clients.len();
        let of = |who: usize| count.checked_sub(1 + who % count.max(1));
        match happens {
            Happens::Joins(joining) => {
                let id = self.act(|group, world| group.join(joining, world));
                self.clients.push(Client {
                    id,
                    told: None,
                    owned: BTreeSet::new(),
                    permits: VecDeque::new(),
                    is_out: false,
                });
            }
            Happens::Leaves(who) => {
                if let Some(who) = of(who) {
                    let id = Arc::clone(&self.clients[who].id);
                    self.act(|group, world| group.leave(&id, world));
                    self.clients[who].is_out = true;
                }
            }
            Happens::IsExpelled(who) => {
                if let Some(who) = of(who) {
                    let id = Arc::clone(&self.clients[who].id);
                    self.act(|group, world| group.expel(&id, world));
                }
            }
            Happens::Asks(who) => {
                if let Some(who) = of(who) {
                    self.ask(who);
                }
            }
            Happens::Waits(who) => {
                if let Some(who) = of(who) {
                    self.group.waits(&self.clients[who].id, None, self.now);
                }
            }
            Happens::WaitsNoMore(who) => {
                if let Some(who) = of(who) {
                    let _ = self.group.waits_no_more(&self.clients[who].id, self.now);
                }
            }
            Happens::GivesBack(who) => {
                if let Some(who) = of(who) {
                    self.give_back(who);
                }
            }
            Happens::Rebalance(all) => self.act(|group, world| group.rebalance(world, all)),
            Happens::Deleted(index) => {
                let topic = topic(index);
                if self.topics.remove(&topic).is_some() {
                    self.act(|group, world| group.forget(&topic, world));
                }
            }
            Happens::Created(index, count) => {
                let topic = topic(index);
                if let Entry::Vacant(free) = self.topics.entry(topic) {
                    free.insert(count);
                    self.act(|group, world| group.rebalance(world, false));
                }
            }
            Happens::Passes(time) => {
                self.now += time;
                self.act(|group, world| group.pass_deadlines(world));
            }
        }
        self.check();
    }

    /// Takes one event. Says whether there was any.
    fn ask(&mut self, who: usize) -> bool {
        let client = &mut self.clients[who];
        match self.group.next_event(&client.id, self.now) {
            None => return false,
            Some(Event::Assigned {
                generation,
                partitions,
            }) => {
                let former = client.told.replace(generation.clone());
                let former = former.map_or(0, |former| former.number);
                assert!(generation.number > former, "a member's generations rise");
                assert_eq!(generation.member, client.id);
                client.owned = partitions.into_iter().collect();
            }
            Some(Event::Revoked { partitions, .. }) => {
                for at in &partitions {
                    assert!(client.owned.remove(at), "{at} was assigned before it goes");
                }
                client.permits.push_back(partitions);
            }
            Some(Event::Deleted { topic }) => client.owned.retain(|at| at.topic != topic),
            Some(Event::Removed | Event::Replaced) => {
                client.owned.clear();
                client.is_out = true;
            }
        }
        true
    }

    fn give_back(&mut self, who: usize) {
        let client = &mut self.clients[who];
        if let Some(partitions) = client.permits.pop_front() {
            self.group.release(&client.id, &partitions);
        }
    }

    /// Whether somebody may commit for a partition under any generation that he was or may be told.
    fn may_commit(&self, client: &Client, at: &TopicPartition) -> bool {
        let offsets = [(at.clone(), Offset(1))];
        (0..=self.group.generation + 1).any(|number| {
            let generation = Generation {
                number,
                member: Arc::clone(&client.id),
            };
            self.group.check(Some(&generation), &offsets).is_ok()
        })
    }

    fn partitions(&self) -> Vec<TopicPartition> {
        let each = |(topic, count): (&Topic, &u32)| -> Vec<TopicPartition> {
            let at = |partition| TopicPartition::new(topic.clone(), partition);
            (0..*count).map(at).collect()
        };
        self.topics.iter().flat_map(each).collect()
    }

    /// What holds at any time.
    fn check(&mut self) {
        assert!(self.group.generation >= self.round, "rounds are counted up");
        self.round = self.group.generation;
        for at in self.partitions() {
            let mut may = self
                .clients
                .iter()
                .filter(|client| self.may_commit(client, &at));
            if let (Some(one), Some(other)) = (may.next(), may.next()) {
                panic!("{} and {} may both commit for {at}", one.id, other.id);
            }
        }
    }

    /// Everybody takes all news and gives back what he has to: the group comes to rest.
    fn settle(&mut self) {
        for _ in 0..100 {
            let mut any = false;
            for who in 0..self.clients.len() {
                while self.ask(who) {
                    any = true;
                    self.check();
                }
                while !self.clients[who].permits.is_empty() {
                    self.give_back(who);
                    self.check();
                    any = true;
                }
            }
            if !any {
                return;
            }
        }
        panic!("the group does not come to rest");
    }

    /// What holds once nobody has anything to be told or to give back.
    fn check_rest(&self) {
        assert!(!self.group.rebalancing, "a round does not end");
        let present: Vec<&Client> = self
            .clients
            .iter()
            .filter(|client| !client.is_out)
            .collect();
        let ids: BTreeSet<&MemberId> = present.iter().map(|client| &client.id).collect();
        assert_eq!(ids, self.group.members.keys().collect());
        for at in self.partitions() {
            let reads =
                |client: &&&Client| self.group.members[&client.id].topics.contains(&at.topic);
            let owners: Vec<_> = present.iter().filter(|it| it.owned.contains(&at)).collect();
            let is_read = present.iter().any(|client| reads(&client));
            assert_eq!(owners.len(), usize::from(is_read), "owners of {at}");
            for owner in owners {
                assert!(reads(&owner), "{} has not asked for {at}", owner.id);
                let offsets = [(at.clone(), Offset(1))];
                self.group.check(owner.told.as_ref(), &offsets).unwrap();
            }
        }
    }
}

proptest! {
    #[test]
    fn no_two_commit_for_one_partition_and_at_rest_each_has_an_owner(
        eager in any::<bool>(),
        happens in proptest::collection::vec(happens(), 1..60),
    ) {
        let mut trial = Trial::new(eager);
        for happens in happens {
            trial.step(happens);
        }
        trial.settle();
        trial.check_rest();
    }

    /// Whoever is late is expelled, so that a round waits for nobody longer than he asked for.
    #[test]
    fn a_round_ends_though_nobody_gives_anything_back(
        eager in any::<bool>(),
        happens in proptest::collection::vec(happens(), 1..60),
    ) {
        let mut trial = Trial::new(eager);
        for happens in happens {
            trial.step(happens);
        }
        while trial.group.rebalancing {
            let next = trial.group.next_deadline();
            trial.now = trial.now.max(next.expect("a round that goes on has an end"));
            prop_assert!(trial.act(|group, world| group.pass_deadlines(world)));
            trial.check();
        }
        trial.settle();
        trial.check_rest();
    }
}

#[test]
fn a_member_without_deadlines_is_waited_for() {
    let mut trial = Trial::new(true);
    for _ in 0..2 {
        trial.step(Happens::Joins(Joining {
            instance: None,
            topics: vec![topic(0)],
            revoke_deadline: Duration::MAX,
            session_timeout: Duration::MAX,
        }));
        while trial.ask(0) {}
    }
    trial.step(Happens::Passes(Duration::from_secs(365 * 24 * 60 * 60)));
    assert!(trial.group.rebalancing);
    trial.give_back(0);
    trial.settle();
    trial.check_rest();
}
