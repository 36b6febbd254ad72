//! Nothing gets lost on its way through a graph, and nothing comes twice: each stream is also written to a
//! topic of its own, and what a stage took is there again in what it gave, set aside or dropped.

use std::collections::{BTreeMap, BTreeSet};

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tidemill_broker::RecordSet;

use super::super::cutting::Cuts;
use super::super::fan_in::{How, Written, records, whole, written};
use super::Drawn;
use crate::config::plan::{Input, OpPlan, Plan, StagePlan, Unplaced};

/// Events as they were written, each with how often.
type Bag<'w> = BTreeMap<&'w str, usize>;

/// What a run has written, by what it is.
struct Seen<'w> {
    plan: &'w Plan,
    /// The events of each stream.
    streams: BTreeMap<&'w str, Vec<&'w str>>,
    /// The classes of what each stage has set aside.
    dead: BTreeMap<String, Vec<String>>,
}

impl<'w> Seen<'w> {
    fn of(plan: &'w Plan, drawn: &'w Drawn, written: &'w [Written]) -> Self {
        let tapped = drawn.taps.iter();
        let topics: BTreeMap<&str, &str> = tapped
            .map(|(stream, topic)| (topic.as_str(), stream.as_str()))
            .collect();
        let mut streams: BTreeMap<&str, Vec<&str>> = topics
            .values()
            .map(|stream| (*stream, Vec::new()))
            .collect();
        let mut dead: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for record in written {
            if let Some(stream) = topics.get(record.topic.as_str()) {
                let events = streams.get_mut(stream).unwrap();
                events.push(record.value.as_str());
            }
            if record.topic == "any.dead-letter" {
                let stage = record.header("dl-stage");
                dead.entry(stage)
                    .or_default()
                    .push(record.header("dl-class"));
            }
        }
        Self {
            plan,
            streams,
            dead,
        }
    }

    fn stream(&self, input: &Input) -> &[&'w str] {
        let name = match *input {
            Input::Source(source) => self.plan.sources[source].name.to_string(),
            Input::Stage { stage, port } => {
                let stage = &self.plan.stages[stage];
                match &*stage.ports[port].0 {
                    "" => stage.name.to_string(),
                    port => format!("{}.{port}", stage.name),
                }
            }
        };
        let found = self.streams.get(name.as_str());
        found.unwrap_or_else(|| panic!("stream `{name}` is not tapped"))
    }

    fn dead(&self, stage: &str) -> &[String] {
        self.dead.get(stage).map_or(&[], Vec::as_slice)
    }

    /// How many events a stage has dropped; `None` where that cannot be told. Fails if one is lost, or came
    /// twice.
    fn dropped(&self, index: usize) -> Result<Option<usize>, String> {
        let stage = &self.plan.stages[index];
        let inputs = stage.inputs.iter();
        let taken: Vec<&str> = inputs
            .flat_map(|input| self.stream(input))
            .copied()
            .collect();
        let port = |port: usize| self.stream(&Input::Stage { stage: index, port });
        let dead = self.dead(&format!("op:{}", stage.name));
        let ports = (0..stage.ports.len()).flat_map(port).copied();
        let (given, drops) = match &stage.op {
            OpPlan::KeyBy { .. } | OpPlan::Merge => (ports.collect::<Vec<_>>(), false),
            OpPlan::Route { otherwise, .. } => (ports.collect(), is_drop(otherwise)),
            OpPlan::Dedupe { id, .. } => {
                let given: Vec<&str> = ports.collect();
                // The id of late ones may be gone from memory, and comes to nobody.
                if dead.is_empty() {
                    let ids = |events: &[&str]| ids(stage, id, events);
                    let missed = &ids(&taken) - &ids(&given);
                    if !missed.is_empty() {
                        return Err(format!("no event of {missed:?} came out"));
                    }
                }
                (given, true)
            }
            OpPlan::TumblingWindow { late, .. } => {
                if dead.iter().any(|class| class == "window.overflow") {
                    return Ok(None);
                }
                let (given, late_port) = (
                    port(0),
                    match late {
                        Unplaced::Port(late) => port(*late),
                        _ => &[],
                    },
                );
                let taken_count: u64 = taken.iter().map(|event| count(event)).sum();
                let late_count: u64 = late_port.iter().map(|event| count(event)).sum();
                let counted = in_windows(given) + late_count;
                let left = taken_count.checked_sub(counted);
                let left = left.ok_or(format!("counts {counted} of {taken_count}"))?;
                let of_windows = taken.iter().any(|event| count(event) > 1);
                return match (is_drop(late), of_windows) {
                    (true, false) => Ok(Some(left as usize)),
                    (true, true) => Ok(None),
                    (false, false) if left == dead.len() as u64 => Ok(Some(0)),
                    (false, true) if (left > 0) != dead.is_empty() => Ok(Some(0)),
                    (false, _) => Err(format!(
                        "counts {counted} of {taken_count}, {} set aside",
                        dead.len()
                    )),
                };
            }
        };
        let (taken, given) = (bag(&taken), bag(&given));
        let of = |bag: &Bag<'_>, event: &str| bag.get(event).copied().unwrap_or_default();
        if let Some((event, times)) = given
            .iter()
            .find(|(event, times)| **times > of(&taken, event))
        {
            return Err(format!(
                "{times} of {event}, of which it took {}",
                of(&taken, event)
            ));
        }
        let missed: usize = taken.values().sum::<usize>() - given.values().sum::<usize>();
        match missed.checked_sub(dead.len()) {
            Some(0) => Ok(Some(0)),
            Some(dropped) if drops => Ok(Some(dropped)),
            _ => {
                let event = taken
                    .iter()
                    .find(|(event, times)| **times > of(&given, event));
                Err(format!(
                    "{missed} did not come out, {} were set aside; such as {event:?}",
                    dead.len()
                ))
            }
        }
    }
}

fn is_drop(unplaced: &Unplaced) -> bool {
    matches!(unplaced, Unplaced::Drop { .. })
}

fn bag<'w>(events: &[&'w str]) -> Bag<'w> {
    let mut bag = Bag::new();
    for event in events {
        *bag.entry(event).or_default() += 1;
    }
    bag
}

fn field(event: &str, name: &str) -> Value {
    let event: Value = serde_json::from_str(event).unwrap();
    event.get(name).cloned().unwrap_or_default()
}

/// The ids that a dedupe goes by; its events have the key in a field.
fn ids(stage: &StagePlan, id: &[usize], events: &[&str]) -> BTreeSet<String> {
    let fields = &stage.ports[0].1.fields;
    let names: Vec<&str> = id.iter().map(|slot| &*fields[*slot].name).collect();
    let of = |event: &&str| {
        let values: Vec<Value> = names.iter().map(|name| field(event, name)).collect();
        format!("{} {values:?}", field(event, "account"))
    };
    events.iter().map(of).collect()
}

/// How many records an event stands for: a window says it.
fn count(event: &str) -> u64 {
    field(event, "count").as_u64().unwrap_or(1)
}

/// How many records are in windows, of which each fires again with each late one.
fn in_windows(fired: &[&str]) -> u64 {
    let mut windows: BTreeMap<String, u64> = BTreeMap::new();
    for event in fired {
        let window = format!(
            "{} {}",
            field(event, "account"),
            field(event, "windowStart")
        );
        let most = windows.entry(window).or_default();
        *most = (*most).max(count(event));
    }
    windows.values().sum()
}

/// What was counted as dropped while `run` ran.
fn dropped_in<R>(run: impl FnOnce() -> R) -> (R, u64) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let result = metrics::with_local_recorder(&recorder, run);
    let counted = snapshotter.snapshot().into_vec().into_iter();
    let dropped = counted.filter_map(|(key, _, _, value)| match value {
        DebugValue::Counter(count) if key.key().name() == "tidemill_records_dropped_total" => {
            Some(count)
        }
        _ => None,
    });
    (result, dropped.sum())
}

fn nothing_is_lost(seed: u64, sources: usize) -> Result<(), TestCaseError> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut drawn = Drawn::draw(&mut rng, sources);
    // Every task would write what comes of those alone.
    drawn.broadcast = false;
    let drawn = drawn.tapped();
    let each = 150;
    let topics = drawn.sources.iter();
    let input: Vec<RecordSet> = topics.map(|topic| records(topic, each, &mut rng)).collect();
    let how = How {
        cuts: Cuts {
            records_max: [1, 20, 200][rng.random_range(0..3)],
            seed: rng.random(),
            even: false,
            stop_after: rng.random_bool(0.3).then_some(60),
        },
        epoch: *[1, 7, 100_000].choose(&mut rng).unwrap(),
        memory: *[1 << 24, 2_000, 200].choose(&mut rng).unwrap(),
        due_at_once: *[whole().due_at_once, 3, 1].choose(&mut rng).unwrap(),
        follow: None,
    };
    let (found, counted) = dropped_in(|| written(&drawn, &input, &how));
    let plan = drawn.parse(how.epoch).unwrap().plan;
    let seen = Seen::of(&plan, &drawn, &found);
    let told = |what: String| format!("{what}\n{how:?}\n{}", drawn.file(1));

    let decoded: usize = (0..plan.sources.len())
        .map(|source| seen.stream(&Input::Source(source)).len())
        .sum();
    let refused = seen.dead("decode").len();
    prop_assert_eq!(
        decoded + refused,
        each * sources,
        "{}",
        told("sources".into())
    );
    let mut dropped = Some(0);
    for (index, stage) in plan.stages.iter().enumerate() {
        let of_stage = seen.dropped(index);
        let of_stage = of_stage
            .map_err(|why| TestCaseError::fail(told(format!("stage `{}`: {why}", stage.name))))?;
        dropped = dropped.zip(of_stage).map(|(all, one)| all + one);
    }
    // An epoch that was broken off counted what its repetition counts again.
    if let Some(dropped) = dropped.filter(|_| how.cuts.stop_after.is_none()) {
        prop_assert_eq!(dropped as u64, counted, "{}", told("dropped".into()));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Runs that lose the same records are equal to each other.
    #[test]
    fn what_goes_into_any_graph_comes_out_or_is_accounted_for(seed: u64, sources in 1_usize..4) {
        nothing_is_lost(seed, sources)?;
    }
}
