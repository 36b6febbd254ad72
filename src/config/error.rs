//! All that is wrong with a pipeline file, at once.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::Code;
use super::source::{At, Place, Source};

/// Whether a problem keeps the pipeline from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file runs, but probably does not do what was meant.
    Warning,
}

impl Severity {
    /// As printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its stable code.
    pub code: Code,
    /// Where.
    pub place: Place,
    /// The path of the value, such as `topics.ticks.start`; empty for the file as a whole.
    pub path: Arc<str>,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Another place that matters, and why.
    pub related: Option<(Place, String)>,
}

impl Problem {
    /// Adds what to do about it.
    pub(crate) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Adds "did you mean", if there is a suggestion.
    pub(crate) fn did_you_mean(&mut self, suggestion: Option<&str>) -> &mut Self {
        if let Some(suggestion) = suggestion {
            self.help = Some(format!("did you mean `{suggestion}`?"));
        }
        self
    }

    /// Adds another place that matters.
    pub(crate) fn related(&mut self, at: &At, why: impl Into<String>) -> &mut Self {
        self.related = Some((at.place, why.into()));
        self
    }
}

/// Collects problems while a file is checked.
#[derive(Debug, Default)]
pub(crate) struct Report {
    problems: Vec<Problem>,
}

impl Report {
    /// Notes a problem.
    pub(crate) fn add(&mut self, code: Code, at: &At, message: impl Into<String>) -> &mut Problem {
        let index = self.problems.len();
        self.problems.push(Problem {
            code,
            place: at.place,
            path: at.path.clone(),
            message: message.into(),
            help: None,
            related: None,
        });
        &mut self.problems[index]
    }

    /// Whether anything was told of a file.
    pub(crate) fn told_of(&self, source: usize) -> bool {
        let mut problems = self.problems.iter();
        problems.any(|problem| problem.place.source == source)
    }

    /// Whether anything keeps the pipeline from running.
    pub(crate) fn failed(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.code.severity() == Severity::Error)
    }

    /// Sorts what was found.
    pub(crate) fn into_problems(mut self, sources: Arc<[Source]>) -> Problems {
        self.problems.sort_by(|a, b| {
            (a.place, a.code.as_str(), &a.message).cmp(&(b.place, b.code.as_str(), &b.message))
        });
        self.problems.dedup();
        Problems {
            sources,
            list: self.problems,
        }
    }
}

/// All problems of one check, in the order of files and of places in them.
///
/// Displays as one line each: `FILE:LINE:COLUMN: CODE PATH: MESSAGE`.
#[derive(Debug, Clone)]
pub struct Problems {
    sources: Arc<[Source]>,
    list: Vec<Problem>,
}

impl Problems {
    /// The problems.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Problem> {
        self.list.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether the system did not let a file be read: nothing is known of what it says.
    pub fn unreadable(&self) -> bool {
        self.iter()
            .any(|problem| problem.code == Code::UnreadableFile)
    }

    /// Name of the file, line and column of a place.
    pub fn position(&self, place: Place) -> (&str, usize, usize) {
        match self.sources.get(place.source) {
            Some(source) => {
                let (line, column) = source.position(place.start);
                (source.name(), line, column)
            }
            None => ("", 1, 1),
        }
    }

    /// For people: each problem with its line, a caret, and what to do.
    pub fn pretty(&self, colour: bool) -> Pretty<'_> {
        Pretty {
            problems: self,
            colour,
        }
    }

    /// For machines: one object per problem.
    pub fn to_json(&self) -> serde_json::Value {
        let problems = self.list.iter().map(|problem| {
            let (file, line, column) = self.position(problem.place);
            let end = Place {
                start: problem.place.end,
                ..problem.place
            };
            let (_, end_line, end_column) = self.position(end);
            let related = problem.related.as_ref().map(|(place, why)| {
                let (file, line, column) = self.position(*place);
                JsonRelated {
                    file,
                    line,
                    column,
                    message: why,
                }
            });
            let problem = JsonProblem {
                code: problem.code.as_str(),
                severity: problem.code.severity().as_str(),
                file,
                line,
                column,
                end_line,
                end_column,
                path: &problem.path,
                message: &problem.message,
                help: problem.help.as_deref(),
                related,
            };
            // Strings and numbers only: cannot fail.
            serde_json::to_value(problem).unwrap_or_default()
        });
        serde_json::Value::Array(problems.collect())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonProblem<'a> {
    code: &'a str,
    severity: &'a str,
    file: &'a str,
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
    path: &'a str,
    message: &'a str,
    help: Option<&'a str>,
    related: Option<JsonRelated<'a>>,
}

#[derive(Serialize)]
struct JsonRelated<'a> {
    file: &'a str,
    line: usize,
    column: usize,
    message: &'a str,
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            let (file, line, column) = self.position(problem.place);
            write!(f, "{file}:{line}:{column}: {}", problem.code.as_str())?;
            if !problem.path.is_empty() {
                write!(f, " {}", problem.path)?;
            }
            write!(f, ": {}", problem.message)?;
        }
        Ok(())
    }
}

/// Displays problems for people; made by [`Problems::pretty`].
#[derive(Debug)]
pub struct Pretty<'a> {
    problems: &'a Problems,
    colour: bool,
}

/// Longest stretch of a line shown beside a problem, in characters.
const EXCERPT_CHARS_MAX: usize = 160;

impl Pretty<'_> {
    fn paint<'t>(&self, ansi: &'t str) -> &'t str {
        if self.colour { ansi } else { "" }
    }

    fn excerpt(&self, f: &mut fmt::Formatter<'_>, place: Place, mark: &str) -> fmt::Result {
        let Some(source) = self.problems.sources.get(place.source) else {
            return Ok(());
        };
        let (line, column) = source.position(place.start);
        let (end_line, end_column) = source.position(place.end);
        let text = source.line(line);
        let chars = text.chars().count();
        let width = if end_line == line {
            end_column.saturating_sub(column)
        } else {
            (chars + 1).saturating_sub(column)
        };
        // Very long lines are shown around the place.
        let skip = if column > EXCERPT_CHARS_MAX {
            column - 40
        } else {
            0
        };
        let shown: String = text
            .chars()
            .skip(skip)
            .take(EXCERPT_CHARS_MAX)
            // A tab is shown as one blank so that the caret stands under its column; control
            // characters must not reach the terminal.
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let width = width.clamp(1, EXCERPT_CHARS_MAX);
        let gutter = line.to_string().len();
        let (dim, reset) = (self.paint("\x1b[2m"), self.paint("\x1b[0m"));
        writeln!(f, "{dim}{:gutter$} |{reset}", "")?;
        writeln!(f, "{dim}{line} |{reset} {shown}")?;
        writeln!(
            f,
            "{dim}{:gutter$} |{reset} {:indent$}{mark}{}{reset}",
            "",
            "",
            "^".repeat(width),
            indent = column - 1 - skip,
        )
    }
}

impl fmt::Display for Pretty<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bold, reset) = (self.paint("\x1b[1m"), self.paint("\x1b[0m"));
        for problem in self.problems.iter() {
            let severity = problem.code.severity();
            let mark = self.paint(match severity {
                Severity::Error => "\x1b[31m",
                Severity::Warning => "\x1b[33m",
            });
            let (file, line, column) = self.problems.position(problem.place);
            let code = problem.code.as_str();
            write!(f, "{mark}{}[{code}]{reset}{bold}: ", severity.as_str())?;
            if !problem.path.is_empty() {
                write!(f, "{}: ", problem.path)?;
            }
            writeln!(f, "{}{reset}", problem.message)?;
            let source = self.problems.sources.get(problem.place.source);
            if source.is_none_or(Source::is_blank) {
                // There is nothing to show a place in.
                writeln!(f, "  at {file}")?;
            } else {
                writeln!(f, "  at {file}:{line}:{column}")?;
                self.excerpt(f, problem.place, mark)?;
            }
            if let Some((place, why)) = &problem.related {
                let (file, line, column) = self.problems.position(*place);
                writeln!(f, "  {why}: {file}:{line}:{column}")?;
                self.excerpt(f, *place, "")?;
            }
            if let Some(help) = &problem.help {
                writeln!(f, "  help: {help}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
