//! Reads a table key by key; at the end every key that nobody asked for is unknown.

use std::time::Duration;

use super::Code;
use super::error::Report;
use super::source::{At, Located, Place};
use super::suggest::{nearest, one_of};
use super::tree::{Entry, Node, Text, Value};
use super::value;

/// A table that is being read.
pub(crate) struct Reader<'r> {
    pub(crate) at: At,
    entries: Vec<Option<Entry>>,
    asked: Vec<&'static str>,
    given: Vec<(&'static str, At)>,
    pub(crate) report: &'r mut Report,
}

impl<'r> Reader<'r> {
    /// Begins to read `node`; a problem if it is no table.
    pub(crate) fn new(node: Node, report: &'r mut Report) -> Option<Self> {
        match node.value {
            Value::Table(entries) => Some(Self {
                at: node.at,
                entries: entries.into_iter().map(Some).collect(),
                asked: Vec::new(),
                given: Vec::new(),
                report,
            }),
            other => {
                wrong_type(&node.at, "a table", &other, report);
                None
            }
        }
    }

    /// The value of a key, if it is there.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Node> {
        self.asked.push(key);
        let mut entries = self.entries.iter_mut();
        let slot = entries.find(|entry| entry.as_ref().is_some_and(|entry| entry.key == key))?;
        let entry = slot.take()?;
        self.given.push((key, entry.key_at));
        Some(entry.node)
    }

    /// Whether a key that was asked for stands in the file, be its value right or wrong.
    pub(crate) fn was_given(&self, key: &str) -> bool {
        self.given.iter().any(|(given, _)| *given == key)
    }

    /// Where a key that was asked for stands.
    pub(crate) fn given_at(&self, key: &str) -> Option<At> {
        let given = self.given.iter().find(|(given, _)| *given == key)?;
        Some(given.1.clone())
    }

    /// The value of a key that must be there.
    pub(crate) fn need(&mut self, key: &'static str) -> Option<Node> {
        let node = self.take(key);
        if node.is_none() {
            self.missing(key);
        }
        node
    }

    /// Tells that a key must be there.
    pub(crate) fn missing(&mut self, key: &'static str) {
        let at = self.at.child(key);
        self.report.add(Code::MissingKey, &at, "is required");
    }

    /// Text that is not empty.
    pub(crate) fn text(&mut self, key: &'static str) -> Option<Located<String>> {
        let node = self.take(key)?;
        text(node, self.report)
    }

    /// Text that must be there.
    pub(crate) fn need_text(&mut self, key: &'static str) -> Option<Located<String>> {
        let node = self.need(key)?;
        text(node, self.report)
    }

    /// A name or a list of names, none of them empty.
    pub(crate) fn names(&mut self, key: &'static str) -> Option<Located<Vec<Located<String>>>> {
        let node = self.take(key)?;
        names(node, self.report)
    }

    /// True or false.
    pub(crate) fn boolean(&mut self, key: &'static str) -> Option<Located<bool>> {
        let node = self.take(key)?;
        let value = match &node.value {
            Value::Boolean(value) => Some(*value),
            Value::Text(text) if text.expanded => text.value.trim().parse().ok(),
            _ => None,
        };
        if value.is_none() {
            wrong_type(&node.at, "true or false", &node.value, self.report);
        }
        Some(Located::new(value?, node.at))
    }

    /// A whole number within a range.
    pub(crate) fn number(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<Located<u64>> {
        let node = self.take(key)?;
        number(node, range, self.report)
    }

    /// A duration of at least `min`.
    pub(crate) fn duration(
        &mut self,
        key: &'static str,
        min: Duration,
    ) -> Option<Located<Duration>> {
        let node = self.take(key)?;
        duration(node, min, self.report)
    }

    /// A size of at least one byte.
    pub(crate) fn size(&mut self, key: &'static str) -> Option<Located<u64>> {
        let node = self.take(key)?;
        let text = with_unit(
            &node,
            "a size with its unit, such as \"64MiB\"",
            self.report,
        )?;
        match value::size(&text.value) {
            Ok(0) => {
                self.report
                    .add(Code::OutOfRange, &node.at, "must be at least 1B");
                None
            }
            Ok(size) => Some(Located::new(size, node.at)),
            Err(message) => {
                self.report.add(Code::BadUnit, &node.at, message);
                None
            }
        }
    }

    /// All entries that nobody asked for by name, for tables whose keys are names.
    pub(crate) fn rest(&mut self) -> Vec<Entry> {
        self.entries.iter_mut().filter_map(Option::take).collect()
    }

    /// Ends reading: what is left is unknown.
    pub(crate) fn finish(self) {
        for entry in self.entries.into_iter().flatten() {
            let suggestion = nearest(&entry.key, self.asked.iter().copied());
            let problem = self
                .report
                .add(Code::UnknownKey, &entry.key_at, "unknown key");
            let known = format!("known here: {}", one_of(self.asked.iter().copied()));
            problem.help(match suggestion {
                Some(suggestion) => format!("did you mean `{suggestion}`? {known}"),
                None => known,
            });
        }
    }
}

/// Tells that a value is of the wrong kind.
pub(crate) fn wrong_type(at: &At, expected: &str, found: &Value, report: &mut Report) {
    if matches!(found, Value::Broken) {
        return;
    }
    let message = format!("must be {expected}, not {}", found.kind());
    report.add(Code::WrongType, at, message);
}

/// Text that is not empty.
pub(crate) fn text(node: Node, report: &mut Report) -> Option<Located<String>> {
    match node.value {
        Value::Text(text) if text.value.is_empty() => {
            report.add(Code::Empty, &node.at, "must not be empty");
            None
        }
        Value::Text(text) => Some(Located::new(text.value, node.at)),
        other => {
            wrong_type(&node.at, "a string", &other, report);
            None
        }
    }
}

/// A name or a list of names, none of them empty, none twice.
pub(crate) fn names(node: Node, report: &mut Report) -> Option<Located<Vec<Located<String>>>> {
    let at = node.at.clone();
    let nodes = match node.value {
        Value::Array(nodes) => nodes,
        Value::Text(_) => vec![node],
        other => {
            wrong_type(&at, "a string or a list of strings", &other, report);
            return None;
        }
    };
    if nodes.is_empty() {
        report.add(Code::Empty, &at, "must not be empty");
        return None;
    }
    let mut names: Vec<Located<String>> = Vec::with_capacity(nodes.len());
    let mut whole = true;
    for node in nodes {
        match text(node, report) {
            Some(name) => {
                if let Some(first) = names.iter().find(|first| first.value == name.value) {
                    let message = format!("`{}` is listed twice", value::short(&name.value));
                    report
                        .add(Code::Duplicate, &name.at, message)
                        .related(&first.at, "first listed here");
                    whole = false;
                } else {
                    names.push(name);
                }
            }
            None => whole = false,
        }
    }
    whole.then(|| Located::new(names, at))
}

/// A whole number within a range.
pub(crate) fn number(
    node: Node,
    range: std::ops::RangeInclusive<u64>,
    report: &mut Report,
) -> Option<Located<u64>> {
    let digits = match &node.value {
        Value::Integer(digits) => digits.as_str(),
        Value::Text(text) if text.expanded => text.value.trim(),
        other => {
            wrong_type(&node.at, "a whole number", other, report);
            return None;
        }
    };
    match parse_integer(digits).and_then(|number| u64::try_from(number).ok()) {
        Some(number) if range.contains(&number) => Some(Located::new(number, node.at)),
        _ => {
            report.add(Code::OutOfRange, &node.at, not_in_range(&range));
            None
        }
    }
}

/// What is wrong with a number outside its range.
pub(crate) fn not_in_range(range: &std::ops::RangeInclusive<u64>) -> String {
    match (*range.start(), *range.end()) {
        (start, u64::MAX) => format!("must be a whole number of at least {start}"),
        (start, end) => format!("must be a whole number from {start} to {end}"),
    }
}

/// A whole number as TOML writes it.
pub(crate) fn parse_integer(digits: &str) -> Option<i128> {
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(rest) = digits.strip_prefix(prefix) {
            return i128::from_str_radix(rest, radix).ok();
        }
    }
    digits.parse().ok()
}

/// A duration of at least `min`.
pub(crate) fn duration(
    node: Node,
    min: Duration,
    report: &mut Report,
) -> Option<Located<Duration>> {
    let text = with_unit(&node, "a duration with its unit, such as \"250ms\"", report)?;
    match value::duration(&text.value) {
        Ok(duration) if duration < min => {
            let message = format!("must be at least {}", value::show_duration(min));
            report.add(Code::OutOfRange, &node.at, message);
            None
        }
        Ok(duration) => Some(Located::new(duration, node.at)),
        Err(message) => {
            report.add(Code::BadUnit, &node.at, message);
            None
        }
    }
}

fn with_unit<'n>(node: &'n Node, expected: &str, report: &mut Report) -> Option<&'n Text> {
    match &node.value {
        Value::Text(text) => Some(text),
        Value::Integer(number) | Value::Float(number) => {
            let message = format!("`{number}` has no unit: write {expected}");
            report.add(Code::BadUnit, &node.at, message);
            None
        }
        other => {
            wrong_type(&node.at, expected, other, report);
            None
        }
    }
}

/// One of a few words.
pub(crate) fn word<T: Copy>(
    text: &Located<String>,
    choices: &[(&'static str, T)],
    report: &mut Report,
) -> Option<T> {
    let found = choices.iter().find(|(word, _)| *word == text.value);
    if found.is_none() {
        let words = || choices.iter().map(|(word, _)| *word);
        let message = format!(
            "must be {}, not `{}`",
            one_of(words()),
            value::short(&text.value)
        );
        report
            .add(Code::UnknownWord, &text.at, message)
            .did_you_mean(nearest(&text.value, words()));
    }
    found.map(|(_, value)| *value)
}

/// The place of a part of a text, if the text stands in the file letter by letter.
pub(crate) fn part(at: &At, text: &Text, range: std::ops::Range<usize>) -> At {
    let place = match text.verbatim {
        Some(start) => Place {
            source: at.place.source,
            start: start + range.start,
            end: start + range.end,
        },
        None => at.place,
    };
    At {
        place,
        path: at.path.clone(),
    }
}

/// Checks the name of a section.
pub(crate) fn section_name(entry: &Entry, report: &mut Report) -> bool {
    checked_name(&entry.key, &entry.key_at, report)
}

/// Checks the name of a port.
pub(crate) fn port_name(name: &Located<String>, report: &mut Report) -> bool {
    checked_name(&name.value, &name.at, report)
}

fn checked_name(name: &str, at: &At, report: &mut Report) -> bool {
    let valid = !name.is_empty()
        && name.len() <= 64
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if !valid {
        let message = "a name has 1 to 64 ASCII letters, digits, `_` and `-`";
        report.add(Code::BadName, at, message);
    }
    valid
}
