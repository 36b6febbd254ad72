//! The grammar of aggregates: `function(field, field)`.

use std::ops::Range;

use super::Code;
use super::error::Report;
use super::reader::part;
use super::source::{At, Located};
use super::tree::Text;

/// A function and the fields it reads, each with its place inside the string.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) at: At,
    pub(crate) function: Located<String>,
    pub(crate) arguments: Vec<Located<String>>,
}

/// Reads `function(field, ...)`.
pub(crate) fn parse(at: &At, text: &Text, report: &mut Report) -> Option<Call> {
    let located = |range: Range<usize>| {
        let range = trim(&text.value, range);
        Located::new(text.value[range.clone()].to_owned(), part(at, text, range))
    };
    let length = text.value.len();
    let mut refuse = |range: Range<usize>, message: &str| {
        report
            .add(Code::BadAggregate, &part(at, text, range), message)
            .help("write it as in \"sum(quantity)\" or \"vwap(price, quantity)\"");
        None
    };
    let Some(open) = text.value.find('(') else {
        return refuse(0..length, "expected `(` after the name of a function");
    };
    let close = match text.value[open..].find(')') {
        Some(found) => open + found,
        None => return refuse(open..length, "`(` without `)`"),
    };
    let rest = trim(&text.value, close + 1..length);
    if !rest.is_empty() {
        return refuse(rest, "nothing may follow the `)`");
    }
    let function = located(0..open);
    if function.value.is_empty() {
        return refuse(0..open + 1, "expected the name of a function before `(`");
    }
    let mut arguments = Vec::new();
    let inside = trim(&text.value, open + 1..close);
    if !inside.is_empty() {
        let mut start = open + 1;
        for piece in text.value[open + 1..close].split(',') {
            let end = start + piece.len();
            let argument = located(start..end);
            if argument.value.is_empty() || argument.value.contains('(') {
                return refuse(start..end.max(start + 1).min(length), "expected a field");
            }
            arguments.push(argument);
            start = end + 1;
        }
    }
    Some(Call {
        at: at.clone(),
        function,
        arguments,
    })
}

/// The range without blanks at its ends.
fn trim(text: &str, range: Range<usize>) -> Range<usize> {
    let inside = &text[range.clone()];
    let start = range.start + (inside.len() - inside.trim_start().len());
    start..start + inside.trim().len()
}

#[cfg(test)]
mod tests {
    use super::super::source::Place;
    use super::*;

    type Fields = Vec<(String, usize)>;

    fn read(value: &str) -> Result<(String, Fields), (usize, String)> {
        let at = At {
            place: Place::new(0, 0..0),
            path: "".into(),
        };
        let text = Text {
            value: value.into(),
            expanded: false,
            verbatim: Some(100),
        };
        let mut report = Report::default();
        match parse(&at, &text, &mut report) {
            Some(call) => Ok((
                call.function.value,
                call.arguments
                    .into_iter()
                    .map(|a| (a.value, a.at.place.start))
                    .collect(),
            )),
            None => {
                let problems = report.into_problems(std::sync::Arc::from([]));
                let problem = problems.iter().next().unwrap();
                Err((problem.place.start, problem.message.clone()))
            }
        }
    }

    #[test]
    fn calls_are_read_with_the_place_of_each_field() {
        assert_eq!(read(" count( ) ").unwrap(), ("count".into(), vec![]));
        assert_eq!(
            read("vwap(price, quantity)").unwrap(),
            (
                "vwap".into(),
                vec![("price".into(), 105), ("quantity".into(), 112)]
            )
        );
    }

    #[test]
    fn a_broken_call_is_told_where_it_breaks() {
        for (text, place) in [
            ("sum", 100),
            ("sum(price", 103),
            ("sum(price) + 1", 111),
            ("(price)", 100),
            ("sum(a,,b)", 106),
            ("sum(first(a))", 112),
            ("sum(,)", 104),
        ] {
            let (at, message) = read(text).unwrap_err();
            assert_eq!(at, place, "{text}: {message}");
        }
    }
}
