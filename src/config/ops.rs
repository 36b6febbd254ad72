//! Stages as written: `from`, `op`, and the options of that operator.

use std::time::Duration;

use super::Code;
use super::aggregate::{self, Call};
use super::error::Report;
use super::reader::{self, Reader};
use super::source::Located;
use super::tree::{Node, Value};

/// Names, and where the list stands.
pub(crate) type Names = Located<Vec<Located<String>>>;

/// `[stages.NAME]`.
#[derive(Debug)]
pub(crate) struct StageSection {
    pub(crate) from: Option<Names>,
    pub(crate) op: Option<Op>,
    /// Aggregates of an operator that is unknown.
    pub(crate) loose: Option<Aggregates>,
}

/// An operator and its options. An option that could not be read is `None`: it has been told.
#[derive(Debug)]
pub(crate) enum Op {
    KeyBy {
        key: Option<Names>,
    },
    Dedupe {
        id: Option<Names>,
        window: Option<Duration>,
        count_max: usize,
        state: Option<Located<String>>,
    },
    TumblingWindow(Box<WindowOptions>),
    Route {
        field: Option<Located<String>>,
        cases: Option<Vec<Case>>,
        otherwise: Leftover,
    },
    Merge,
}

/// The options of `tumbling_window`.
#[derive(Debug)]
pub(crate) struct WindowOptions {
    pub(crate) key: Option<Names>,
    pub(crate) size: Option<Duration>,
    pub(crate) lateness: Duration,
    pub(crate) late: Leftover,
    pub(crate) aggregates: Option<Aggregates>,
    pub(crate) state: Option<Located<String>>,
    pub(crate) event: Option<Located<String>>,
}

/// A port of a route and the values that go there.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) port: Located<String>,
    pub(crate) values: Vec<Node>,
}

/// What becomes of events that an operator cannot place.
#[derive(Debug)]
pub(crate) enum Leftover {
    DeadLetter,
    Port(Located<String>),
    Drop(String),
}

/// Aggregates as written.
#[derive(Debug)]
pub(crate) enum Aggregates {
    /// Output fields, each with its function.
    Table(Vec<(Located<String>, Option<Call>)>),
    /// A shorthand for several.
    Shorthand(Call),
}

/// Reads the options of an operator.
pub(crate) type ReadOp = fn(&mut Reader<'_>) -> Op;

/// The operators there are.
pub(crate) const OPS: [(&str, ReadOp); 5] = [
    ("key_by", key_by),
    ("dedupe", dedupe),
    ("tumbling_window", tumbling_window),
    ("route", route),
    ("merge", merge),
];

/// Reads a stage.
pub(crate) fn stage(mut table: Reader<'_>) -> StageSection {
    let from = table.names("from");
    if from.is_none() && !table.was_given("from") {
        table.missing("from");
    }
    let Some(op) = table.need_text("op") else {
        return StageSection {
            from,
            op: None,
            loose: None,
        };
    };
    let Some((_, read)) = OPS.iter().find(|(name, _)| *name == op.value) else {
        let names = || OPS.iter().map(|(name, _)| *name);
        let shown = super::value::short(&op.value);
        let problem = table.report.add(
            Code::UnknownOp,
            &op.at,
            format!("unknown operator `{shown}`"),
        );
        match super::suggest::nearest(&op.value, names()) {
            Some(near) => problem.did_you_mean(Some(near)),
            None => problem.help(format!("operators are {}", super::suggest::one_of(names()))),
        };
        // Only a window has these: what is wrong with them is told too.
        let aggregates = table.take("aggregate");
        let aggregates = aggregates.and_then(|node| self::aggregates(node, table.report));
        return StageSection {
            from,
            op: None,
            loose: aggregates,
        };
    };
    let op = Some(read(&mut table));
    table.finish();
    StageSection {
        from,
        op,
        loose: None,
    }
}

fn key_by(table: &mut Reader<'_>) -> Op {
    Op::KeyBy {
        key: need_names(table, "key"),
    }
}

/// Most ids that `dedupe` remembers for one key unless the file says otherwise.
const COUNT_DEFAULT: usize = 10_000;

fn dedupe(table: &mut Reader<'_>) -> Op {
    Op::Dedupe {
        id: need_names(table, "id"),
        window: need_duration(table, "window"),
        count_max: table
            .number("count_max", 1..=10_000_000)
            .map_or(COUNT_DEFAULT, |count| count.value as usize),
        state: table.text("state"),
    }
}

fn tumbling_window(table: &mut Reader<'_>) -> Op {
    Op::TumblingWindow(Box::new(WindowOptions {
        key: table.names("key"),
        size: need_duration(table, "size"),
        lateness: table
            .duration("lateness", Duration::ZERO)
            .map_or(Duration::ZERO, |lateness| lateness.value),
        late: leftover(table, "late"),
        aggregates: table
            .need("aggregate")
            .and_then(|node| aggregates(node, table.report)),
        state: table.text("state"),
        event: table.text("event"),
    }))
}

fn route(table: &mut Reader<'_>) -> Op {
    Op::Route {
        field: table.need_text("field"),
        cases: table
            .need("cases")
            .and_then(|node| cases(node, table.report)),
        otherwise: leftover(table, "otherwise"),
    }
}

fn merge(_: &mut Reader<'_>) -> Op {
    Op::Merge
}

fn need_names(table: &mut Reader<'_>, key: &'static str) -> Option<Names> {
    let names = table.names(key);
    if names.is_none() && !table.was_given(key) {
        table.missing(key);
    }
    names
}

fn need_duration(table: &mut Reader<'_>, key: &'static str) -> Option<Duration> {
    let node = table.need(key)?;
    let shortest = Duration::from_millis(1);
    reader::duration(node, shortest, table.report).map(|duration| duration.value)
}

/// `"dead_letter"`, `{ port = "NAME" }` or `{ drop = "REASON" }`.
fn leftover(table: &mut Reader<'_>, key: &'static str) -> Leftover {
    let Some(node) = table.take(key) else {
        return Leftover::DeadLetter;
    };
    read_leftover(node, table.report).unwrap_or(Leftover::DeadLetter)
}

fn read_leftover(node: Node, report: &mut Report) -> Option<Leftover> {
    if matches!(node.value, Value::Text(_)) {
        let text = reader::text(node, report)?;
        if text.value == "drop" {
            report
                .add(Code::MissingKey, &text.at, "dropping needs a reason")
                .help("write `{ drop = \"REASON\" }`");
            return None;
        }
        reader::word(&text, &[("dead_letter", ())], report)?;
        return Some(Leftover::DeadLetter);
    }
    let mut table = Reader::new(node, report)?;
    let (port, reason) = (table.text("port"), table.text("drop"));
    let given = table.was_given("port") || table.was_given("drop");
    let leftover = match (port, reason) {
        (Some(port), None) => {
            let valid = reader::port_name(&port, table.report);
            valid.then_some(Leftover::Port(port))
        }
        (None, Some(reason)) => Some(Leftover::Drop(reason.value)),
        (None, None) if given => None,
        (None, None) => {
            let at = table.at.clone();
            table
                .report
                .add(Code::MissingKey, &at, "needs `port` or `drop`");
            None
        }
        (Some(_), Some(reason)) => {
            table.report.add(
                Code::Exclusive,
                &reason.at,
                "`port` and `drop` exclude each other",
            );
            None
        }
    };
    table.finish();
    leftover
}

fn aggregates(node: Node, report: &mut Report) -> Option<Aggregates> {
    if let Value::Text(text) = &node.value {
        return aggregate::parse(&node.at, text, report).map(Aggregates::Shorthand);
    }
    let mut table = Reader::new(node, report)?;
    let entries = table.rest();
    if entries.is_empty() {
        let at = table.at.clone();
        table.report.add(Code::Empty, &at, "must not be empty");
        return None;
    }
    let read = entries.into_iter().map(|entry| {
        let call = match &entry.node.value {
            Value::Text(text) => aggregate::parse(&entry.node.at, text, table.report),
            other => {
                reader::wrong_type(&entry.node.at, "a string", other, table.report);
                None
            }
        };
        (Located::new(entry.key, entry.key_at), call)
    });
    Some(Aggregates::Table(read.collect()))
}

fn cases(node: Node, report: &mut Report) -> Option<Vec<Case>> {
    let mut table = Reader::new(node, report)?;
    let entries = table.rest();
    if entries.is_empty() {
        let at = table.at.clone();
        table.report.add(Code::Empty, &at, "must not be empty");
        return None;
    }
    let mut cases = Vec::with_capacity(entries.len());
    for entry in entries {
        let port = Located::new(entry.key, entry.key_at);
        if !reader::port_name(&port, table.report) {
            continue;
        }
        let values = match entry.node.value {
            Value::Array(values) if values.is_empty() => {
                table
                    .report
                    .add(Code::Empty, &entry.node.at, "must not be empty");
                continue;
            }
            Value::Array(values) => values,
            value => vec![Node {
                at: entry.node.at,
                value,
            }],
        };
        cases.push(Case { port, values });
    }
    Some(cases)
}
