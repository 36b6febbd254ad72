mod load;
mod messages;
mod mutations;
mod plans;
mod reference;

use std::collections::BTreeSet;

use super::*;

/// A pipeline without fault, from which the cases are made.
const RIGHT: &str = r#"[pipeline]
format = 1
name = "gate"

[brokers.main]
url = "mem://"

[events.Trade]
fields = { pair = "text", price = "decimal(2)", size = "int?", side = "text", at = "time" }
time = "at"

[topics.trades]
event = "Trade"
key = "pair"

[topics.bars]

[stages.bar]
from = "trades"
op = "tumbling_window"
size = "1m"
aggregate = { close = "last(price)" }

[sinks.out]
from = "bar"
topic = "bars"
"#;

const BARS: &str = include_str!("../../../pipelines/bars.toml");

/// A wrong file: what is changed in [`RIGHT`], and what is told, each without `gate.toml:`.
struct Case {
    about: &'static str,
    changes: &'static [(&'static str, &'static str)],
    told: &'static [&'static str],
}

fn changed(changes: &[(&str, &str)]) -> String {
    changes.iter().fold(RIGHT.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?} is not in {text}");
        text.replacen(from, to, 1)
    })
}

fn no_env(_: &str) -> Option<String> {
    None
}

fn parse(text: &str) -> Result<Pipeline, Problems> {
    Pipeline::parse("gate.toml", text, &no_env)
}

fn plan(changes: &[(&str, &str)]) -> Plan {
    match parse(&changed(changes)) {
        Ok(pipeline) => pipeline.plan,
        Err(problems) => panic!("{problems}"),
    }
}

fn problems(text: &str) -> Problems {
    match parse(text) {
        Ok(pipeline) => pipeline.warnings,
        Err(problems) => problems,
    }
}

fn check(case: &Case) {
    let told = problems(&changed(case.changes)).to_string();
    let expected: Vec<String> = case
        .told
        .iter()
        .map(|line| format!("gate.toml:{line}"))
        .collect();
    assert_eq!(told, expected.join("\n"), "{}", case.about);
}

#[test]
fn every_problem_is_reported_at_once() {
    let text = r#"
        [topics.ticks]
        broker = "main"
        topic = ""

        [stages.limit]
        from = ["ticks"]
        op = "dedupe"
        id = "tradeId"
        window = "0s"
    "#;
    assert_eq!(
        problems(text).to_string(),
        "gate.toml:1:1: E0104 pipeline: the section is required\n\
         gate.toml:1:1: E0151: the pipeline has no sink\n\
         gate.toml:2:9: E0104 topics.ticks.event: is required of a topic that is read\n\
         gate.toml:3:18: E0120 topics.ticks.broker: unknown broker `main`\n\
         gate.toml:4:17: E0112 topics.ticks.topic: must not be empty\n\
         gate.toml:10:18: E0110 stages.limit.window: must be at least 1ms"
    );
}

#[test]
fn every_code_is_provoked_by_some_file() {
    let mut seen: BTreeSet<&str> = messages::cases()
        .flat_map(|case| case.told)
        .filter_map(|line| line.split(' ').nth(1))
        .map(|code| code.trim_end_matches(':'))
        .collect();
    // What only files on disk can do is shown in `load`.
    seen.insert("E0100");
    let all: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(seen, all);
}
