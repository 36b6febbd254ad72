//! Pipeline files of any graph, drawn from a seed.

mod conserved;

use std::fmt::Write as _;

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::config::Pipeline;
use crate::config::plan::{Input, SinkPlan};
use crate::pipeline::build::targets;
use crate::pipeline::graph::Target;
use crate::pipeline::topology::sub_topologies;

/// A pipeline file as it grows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Drawn {
    pub(crate) sources: Vec<String>,
    pub(crate) broadcast: bool,
    stages: String,
    sinks: String,
    pub(crate) topics: Vec<String>,
    /// What a stage or sink may read, with the type of its events.
    streams: Vec<(String, Kind)>,
    /// Streams that are written to a topic of their own, and the topics.
    taps: Vec<(String, String)>,
    /// Whether a source that is silent for a second holds nobody back.
    pub(crate) idle: bool,
    out_of_order_ms: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Move,
    Window,
}

impl Drawn {
    /// A file with so many sources and stages that can be read.
    pub(crate) fn draw(rng: &mut SmallRng, sources: usize) -> Self {
        let mut drawn = Self {
            sources: (0..sources)
                .map(|source| format!("moves{source}"))
                .collect(),
            broadcast: sources > 1 && rng.random_bool(0.5),
            idle: rng.random_bool(0.3),
            out_of_order_ms: *[0, 0, 300, 2_000].choose(rng).unwrap(),
            ..Self::default()
        };
        drawn.streams = drawn
            .sources
            .iter()
            .map(|source| (source.clone(), Kind::Move))
            .collect();
        if sources > 1 {
            // One sub-topology: a task must read them all.
            let all = names(&drawn.sources);
            let op = *["merge", "key_by"].choose(rng).unwrap();
            let key = if op == "key_by" {
                "key = [\"account\"]\n"
            } else {
                ""
            };
            let _ = write!(
                drawn.stages,
                "[stages.all]\nfrom = {all}\nop = \"{op}\"\n{key}"
            );
            drawn.streams.push(("all".into(), Kind::Move));
        }
        let stages = rng.random_range(1..8);
        let mut made = 0;
        for number in 0..60 {
            if made == stages {
                break;
            }
            let mut with = drawn.clone();
            with.stage(number, rng);
            // What a file may not say is left out.
            if with.parse(100).is_ok() {
                drawn = with;
                made += 1;
            }
        }
        let sinks = rng.random_range(1..5);
        for number in 0.. {
            if drawn.topics.len() >= sinks {
                break;
            }
            assert!(number < 1_000, "no sink fits: {}", drawn.file(100));
            let mut with = drawn.clone();
            with.sink(number, rng);
            if with.parse(100).is_ok() {
                drawn = with;
            }
        }
        drawn
    }

    /// Some streams of one type; the newest are likelier.
    fn some(&self, rng: &mut SmallRng, most: usize) -> (Vec<String>, Kind) {
        let pick = |rng: &mut SmallRng| {
            let (a, b) = (
                rng.random_range(0..self.streams.len()),
                rng.random_range(0..self.streams.len()),
            );
            a.max(b)
        };
        let (first, kind) = self.streams[pick(rng)].clone();
        let mut from = vec![first];
        for _ in 1..rng.random_range(1..=most) {
            let (name, of) = &self.streams[pick(rng)];
            if *of == kind && !from.contains(name) {
                from.push(name.clone());
            }
        }
        (from, kind)
    }

    fn stage(&mut self, number: usize, rng: &mut SmallRng) {
        let name = format!("s{number}");
        let (mut from, kind) = self.some(rng, 3);
        let op = rng.random_range(0..10);
        if op < 3 && from.len() < 2 {
            let all = self.streams.iter();
            let same = all.filter(|(name, of)| *of == kind && !from.contains(name));
            let same: Vec<String> = same.map(|(name, _)| name.clone()).collect();
            from.extend(same.choose(rng).cloned());
        }
        let _ = writeln!(self.stages, "[stages.{name}]\nfrom = {}", names(&from));
        let leftover = |rng: &mut SmallRng| match rng.random_range(0..3) {
            0 => None,
            1 => Some(("{ port = \"rest\" }", true)),
            _ => Some(("{ drop = \"not wanted\" }", false)),
        };
        let mut rest = false;
        match op {
            0..3 => {
                self.stages += "op = \"merge\"\n";
                self.streams.push((name.clone(), kind));
            }
            3..6 => {
                let field = match kind {
                    Kind::Move => "amount",
                    Kind::Window => "sum",
                };
                let (size, lateness) =
                    (rng.random_range(1..6) * 500, rng.random_range(0..3) * 1_000);
                let count = match kind {
                    Kind::Move => "count()",
                    Kind::Window => "sum(count)",
                };
                let _ = write!(
                    self.stages,
                    "op = \"tumbling_window\"\nkey = [\"account\"]\nsize = \"{size}ms\"\nlateness = \"{lateness}ms\"\naggregate = {{ count = \"{count}\", sum = \"sum({field})\" }}\n",
                );
                if let Some((late, port)) = leftover(rng) {
                    let _ = writeln!(self.stages, "late = {late}");
                    rest = port;
                }
                self.streams.push((name.clone(), Kind::Window));
            }
            6..8 => {
                let (field, cases) = match kind {
                    Kind::Move => ("side", r#"{ buy = "buy", sell = "sell" }"#),
                    Kind::Window => ("account", r#"{ buy = "a1", sell = ["a2", "a3"] }"#),
                };
                let _ = writeln!(
                    self.stages,
                    "op = \"route\"\nfield = \"{field}\"\ncases = {cases}"
                );
                if let Some((otherwise, port)) = leftover(rng) {
                    let _ = writeln!(self.stages, "otherwise = {otherwise}");
                    rest = port;
                }
                self.streams.push((format!("{name}.buy"), kind));
                self.streams.push((format!("{name}.sell"), kind));
            }
            8 => {
                let id = match kind {
                    Kind::Move => "id",
                    Kind::Window => "windowEnd",
                };
                let (window, count) = (rng.random_range(1..5), rng.random_range(2..20));
                let _ = writeln!(
                    self.stages,
                    "op = \"dedupe\"\nid = [\"{id}\"]\nwindow = \"{window}s\"\ncount_max = {count}"
                );
                self.streams.push((name.clone(), kind));
            }
            _ => {
                self.stages += "op = \"key_by\"\nkey = [\"account\"]\n";
                self.streams.push((name.clone(), kind));
            }
        }
        if rest {
            self.streams.push((format!("{name}.rest"), kind));
        }
    }

    fn sink(&mut self, number: usize, rng: &mut SmallRng) {
        let (from, _) = self.some(rng, 4);
        let topic = format!("out{number}");
        let _ = write!(
            self.sinks,
            "[sinks.{topic}]\nfrom = {}\ntopic = {{ topic = \"{topic}\" }}\n",
            names(&from)
        );
        self.topics.push(topic);
    }

    /// The same with a sink for each stream beside the others.
    fn tapped(mut self) -> Self {
        for (number, (stream, _)) in self.streams.clone().into_iter().enumerate() {
            let topic = format!("tap{number}");
            let _ = write!(
                self.sinks,
                "[sinks.{topic}]\nfrom = \"{stream}\"\ntopic = {{ topic = \"{topic}\" }}\n"
            );
            self.topics.push(topic.clone());
            self.taps.push((stream, topic));
        }
        self
    }

    pub(crate) fn file(&self, records: u64) -> String {
        let mut file = format!(
            r#"
[pipeline]
format = 1
name = "any"
commit = {{ interval = "1s", records = {records} }}
[brokers.main]
url = "mem://"
[events.Move]
fields = {{ id = "int", account = "text", side = "text", amount = "int", at = "time" }}
time = "at"
"#
        );
        for (index, source) in self.sources.iter().enumerate() {
            let _ = write!(
                file,
                "[topics.{source}]\nbroker = \"main\"\nevent = \"Move\"\nkey = \"account\"\nout_of_order = \"{}ms\"\n",
                self.out_of_order_ms
            );
            if self.idle {
                file += "idle = \"1s\"\n";
            }
            if self.broadcast && index > 0 {
                file += "broadcast = true\n";
            }
        }
        file + &self.stages + &self.sinks
    }

    pub(crate) fn parse(&self, records: u64) -> Result<Pipeline, String> {
        Pipeline::parse("any.toml", &self.file(records), &|_| None)
            .map_err(|problems| problems.to_string())
    }
}

fn names(of: &[String]) -> String {
    let quoted: Vec<String> = of.iter().map(|name| format!("\"{name}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Nothing that a file says is to be written is read by nobody, or by two tasks.
    #[test]
    fn each_input_of_a_sink_is_written_by_one_sub_topology(seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let sources = rng.random_range(1..4);
        let drawn = Drawn::draw(&mut rng, sources);
        let plan = drawn.parse(100).unwrap().plan;
        let topologies = sub_topologies(&plan);
        let mut written = Vec::new();
        for topology in &topologies {
            let sources = topology.sources.iter().chain(&topology.broadcast);
            let mut streams: Vec<Input> = sources.map(|&source| Input::Source(source)).collect();
            for &stage in &topology.stages {
                let ports = 0..plan.stages[stage].ports.len();
                streams.extend(ports.map(|port| Input::Stage { stage, port }));
            }
            for stream in streams {
                for target in targets(&plan, topology, stream) {
                    if let Target::Sink { sink, edge } = target {
                        written.push((topology.sinks[sink], edge));
                    }
                }
            }
        }
        written.sort_unstable();
        let sinks = plan.sinks.iter().enumerate();
        let edges = |(sink, plan): (usize, &SinkPlan)| {
            (0..plan.inputs.len()).map(move |edge| (sink, edge)).collect::<Vec<_>>()
        };
        prop_assert_eq!(written, sinks.flat_map(edges).collect::<Vec<_>>(), "{}", drawn.file(100));
    }
}
