//! How two plans differ, told by name, and what that means for state and outputs.

use std::collections::BTreeMap;

use super::of::{of_dead_letters, of_sink};
use super::{AGGREGATE, GIVES, HOLDS, Kind, Part, Parts, Settings, TOPIC};
use crate::config::Plan;
use crate::config::plan::SinkPlan;
use crate::config::value::short;

/// Most parts that are named where a plan differs.
const NAMED_MAX: usize = 12;

/// How a plan differs from the one that wrote the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// What differs, a part each: `stage "minute": size 1m -> 5m`.
    pub parts: Vec<String>,
    /// State that goes on with what it holds.
    pub kept: Vec<String>,
    /// State of which what it holds means something else now: the run refuses to go on with it, unless
    /// it holds nothing.
    pub unfit: Vec<String>,
    /// State that nothing uses any more.
    pub unused: Vec<String>,
    /// State that begins empty.
    pub empty: Vec<String>,
}

/// Whether a former version of a file wrote to a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wrote {
    Elsewhere,
    /// It was not noted down.
    Unknown,
    There,
}

impl Parts {
    /// How `now` differs.
    pub(crate) fn changes(&self, now: &Self) -> Changes {
        let by_name = |parts: &Self| -> BTreeMap<(Kind, String), Part> {
            let parts = parts.0.iter();
            parts
                .map(|part| ((part.kind, part.name.clone()), part.clone()))
                .collect()
        };
        let (old, new) = (by_name(self), by_name(now));
        let mut parts = Vec::new();
        let mut follows = Vec::new();
        for (id, part) in &new {
            let Some(before) = old.get(id) else {
                parts.push(format!("{} is new", part.title()));
                continue;
            };
            match before.compare(part) {
                Some(Difference::Of(what)) => parts.push(format!("{}: {what}", part.title())),
                Some(Difference::Follows) => {
                    follows.push(format!("{}: what comes out of it", part.title()));
                }
                None => {}
            }
        }
        for (id, part) in &old {
            if !new.contains_key(id) {
                // Unless a source of another name goes on there.
                let is_read = |other: &Part| {
                    other.kind == Kind::Source && other.value(TOPIC) == part.value(TOPIC)
                };
                let forgets = match part.kind == Kind::Source && !now.0.iter().any(is_read) {
                    true => ", and how far it was read is forgotten",
                    false => "",
                };
                parts.push(format!("{} is gone{forgets}", part.title()));
            }
        }
        if parts.is_empty() {
            parts = follows;
        }
        if parts.is_empty() {
            parts.push("something that was not noted down".to_owned());
        }
        if parts.len() > NAMED_MAX {
            let more = parts.len() - NAMED_MAX;
            parts.truncate(NAMED_MAX);
            parts.push(format!("and {more} more"));
        }
        let states = |parts: &Self| -> Vec<String> {
            parts
                .0
                .iter()
                .filter_map(|part| part.state.clone())
                .collect()
        };
        let (old, new) = (states(self), states(now));
        let split = |of: &[String], by: &[String]| -> (Vec<String>, Vec<String>) {
            of.iter().cloned().partition(|name| by.contains(name))
        };
        let (both, unused) = split(&old, &new);
        let unfit = self.unfit(now);
        let (unfit, kept) = both.into_iter().partition(|name| unfit.contains(name));
        let (_, empty) = split(&new, &old);
        Changes {
            parts,
            kept,
            unfit,
            unused,
            empty,
        }
    }

    /// Whether there is a state of this name.
    pub(crate) fn has_state(&self, state: &str) -> bool {
        self.0
            .iter()
            .any(|part| part.state.as_deref() == Some(state))
    }

    /// State that both have, by name, of which what is kept means something else now.
    pub(crate) fn unfit(&self, now: &Self) -> Vec<String> {
        let now = now.0.iter();
        let unfit = now.filter_map(|part| {
            let state = part.state.as_ref()?;
            let mut old = self
                .0
                .iter()
                .filter(|old| old.state.as_ref() == Some(state));
            old.any(|old| old.keeps_otherwise(part))
                .then(|| state.clone())
        });
        unfit.collect()
    }

    /// Whether the sink called `name` wrote to the topic that `sink` of a plan writes to now.
    pub(crate) fn wrote(&self, name: &str, plan: &Plan, sink: &SinkPlan) -> Wrote {
        let mut sinks = self.0.iter().filter(|part| part.kind == Kind::Sink);
        let Some(before) = sinks.find(|part| part.name == name) else {
            return Wrote::Unknown;
        };
        let now = of_sink(plan, sink);
        if before.hashed().settings == now.hashed().settings {
            return Wrote::There;
        }
        match (before.value(TOPIC), now.value(TOPIC)) {
            (Some(before), Some(now)) if before == now => Wrote::There,
            (None, _) if name == &*sink.name => Wrote::Unknown,
            _ => Wrote::Elsewhere,
        }
    }

    /// Whether the dead letters lay where those of a plan do now.
    pub(crate) fn set_aside(&self, plan: &Plan) -> Wrote {
        let mut parts = self.0.iter();
        let before = parts.find(|part| part.kind == Kind::DeadLetters);
        match before.map(Part::hashed) {
            None => Wrote::Unknown,
            Some(before) if before == of_dead_letters(plan).hashed() => Wrote::There,
            Some(_) => Wrote::Elsewhere,
        }
    }
}

/// How a part differs.
enum Difference {
    Of(String),
    /// Only in what follows from other parts.
    Follows,
}

impl Part {
    /// Whether what is kept in its state means something else in that of `now`.
    fn keeps_otherwise(&self, now: &Self) -> bool {
        let (Settings::Named(old), Settings::Named(new)) = (&self.settings, &now.settings) else {
            return self.hashed().settings != now.hashed().settings;
        };
        let decides = |name: &str| {
            matches!(name, "op" | "key" | "id" | "size" | HOLDS) || name.starts_with(AGGREGATE)
        };
        let deciding = |of: &[(String, String)]| -> Vec<(String, String)> {
            of.iter()
                .filter(|(name, _)| decides(name))
                .cloned()
                .collect()
        };
        deciding(old) != deciding(new)
    }

    fn title(&self) -> String {
        match self.kind {
            Kind::Pipeline => "the pipeline".to_owned(),
            Kind::Source => format!("source `{}`", self.name),
            Kind::Stage => format!("stage `{}`", self.name),
            Kind::Sink => format!("sink `{}`", self.name),
            Kind::DeadLetters => "dead letters".to_owned(),
        }
    }

    fn compare(&self, now: &Self) -> Option<Difference> {
        let (Settings::Named(old), Settings::Named(new)) = (&self.settings, &now.settings) else {
            let differs = self.hashed().settings != now.hashed().settings;
            return differs.then(|| Difference::Of("changed".to_owned()));
        };
        let mut told = Vec::new();
        let mut follows = false;
        for (name, after) in new {
            match self.value(name) {
                Some(before) if before == after => {}
                Some(_) if name == GIVES || name == HOLDS => follows = true,
                Some(before) => {
                    told.push(format!("{name} {} -> {}", short(before), short(after)));
                }
                // Not noted down by earlier versions of tidemill.
                None if name == HOLDS => follows = true,
                None => told.push(format!("{name} {} is new", short(after))),
            }
        }
        for (name, before) in old {
            if now.value(name).is_none() {
                told.push(format!("{name} {} is gone", short(before)));
            }
        }
        match (told.is_empty(), follows) {
            (false, _) => Some(Difference::Of(told.join(", "))),
            (true, true) => Some(Difference::Follows),
            (true, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(kind: Kind, name: &str, size: &str) -> Part {
        Part::new(kind, name).with("size", size)
    }

    #[test]
    fn what_is_new_gone_or_set_otherwise_is_told_by_name_with_what_becomes_of_state() {
        let stateful = |name: &str, size: &str| {
            let mut part = part(Kind::Stage, name, size);
            part.state = Some(name.to_owned());
            part
        };
        let was = Parts(vec![stateful("minute", "1m"), stateful("hour", "1h")]);
        let sink = part(Kind::Sink, "bars", "1");
        let now = Parts(vec![stateful("minute", "5m"), stateful("day", "1d"), sink]);
        let changes = was.changes(&now);
        assert_eq!(
            changes.parts,
            [
                "stage `day` is new",
                "stage `minute`: size 1m -> 5m",
                "sink `bars` is new",
                "stage `hour` is gone",
            ]
        );
        assert_eq!(changes.kept, Vec::<String>::new());
        assert_eq!(
            changes.unfit,
            ["minute"],
            "its windows were of another size"
        );
        assert_eq!(changes.unused, ["hour"]);
        assert_eq!(changes.empty, ["day"]);
    }

    #[test]
    fn what_only_follows_is_told_only_where_nothing_else_differs() {
        let of = |size: &str, gives: &str| {
            Parts(vec![
                part(Kind::Source, "ticks", size),
                Part::new(Kind::Stage, "bars").with(GIVES, gives),
            ])
        };
        assert_eq!(
            of("1", "a").changes(&of("2", "b")).parts,
            ["source `ticks`: size 1 -> 2"]
        );
        assert_eq!(
            of("1", "a").changes(&of("1", "b")).parts,
            ["stage `bars`: what comes out of it"]
        );
        assert_eq!(
            of("1", "a").changes(&of("1", "a")).parts,
            ["something that was not noted down"]
        );
    }
}
