//! A pipeline file as a tree of values, each with its place: parsed before anything is substituted,
//! so that a value can never change structure.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Report;
use super::source::{At, Place, join};
use super::{Code, env};

/// Largest file, in bytes: far beyond what people write, small enough to check at once.
pub(crate) const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Deepest nesting of values.
const DEPTH_MAX: usize = 32;

/// Most values in one file.
const NODES_MAX: usize = 10_000;

/// Most mistakes of syntax told of one file: after a few the rest are echoes.
const SYNTAX_PROBLEMS_MAX: usize = 10;

/// What the parser says of a key or a section that is there twice.
const DOUBLE: &str = "duplicate key";

/// Tells that a file has too many bytes.
pub(crate) fn too_large(bytes: u64, at: &At, report: &mut Report) {
    let message = format!("has {bytes} bytes; the limit is {FILE_BYTES_MAX}");
    report
        .add(Code::TooLarge, at, message)
        .help("split the pipeline into several files");
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) at: At,
    pub(crate) value: Value,
}

impl Node {
    /// Whether it is a table in which nothing is.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(&self.value, Value::Table(entries) if entries.is_empty())
    }
}

/// A value as written.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(Text),
    /// In decimal, or with its prefix.
    Integer(String),
    /// As written: never through `f64`.
    Float(String),
    Boolean(bool),
    Datetime(String),
    Array(Vec<Node>),
    /// Text whose substitution failed, which has been told: whoever wants a value gets none.
    Broken,
    /// In the order written.
    Table(Vec<Entry>),
}

/// Text, after substitution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) value: String,
    /// Whether a variable was put in: then a number may be read from it.
    pub(crate) expanded: bool,
    /// Where in the file the text itself begins, if it stands there letter by letter.
    pub(crate) verbatim: Option<usize>,
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: At,
    pub(crate) node: Node,
}

impl Value {
    /// What kind of value it is, in prose.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number with a point",
            Self::Boolean(_) => "true or false",
            Self::Datetime(_) => "a date",
            Self::Array(_) => "a list",
            Self::Broken => "a broken string",
            Self::Table(_) => "a table",
        }
    }
}

/// Parses one file. `None` if its syntax is broken beyond keys that are there twice, or it breaks a limit: then nothing else about it
/// can be told.
pub(crate) fn parse(
    source: usize,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    report: &mut Report,
) -> Option<Node> {
    let whole = |range| At {
        place: Place::new(source, range),
        path: "".into(),
    };
    if text.len() > FILE_BYTES_MAX {
        too_large(text.len() as u64, &whole(0..0), report);
        return None;
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let place = |error: &toml::de::Error| whole(error.span().unwrap_or(0..0));
        for error in errors.iter().take(SYNTAX_PROBLEMS_MAX) {
            report.add(Code::Syntax, &place(error), error.message());
        }
        let more = errors.get(SYNTAX_PROBLEMS_MAX..).unwrap_or_default();
        if let Some(first) = more.first() {
            let message = match more.len() {
                1 => "1 more mistake of syntax is not shown".to_owned(),
                number => format!("{number} more mistakes of syntax are not shown"),
            };
            report
                .add(Code::Syntax, &place(first), message)
                .help("mend those above first: later ones may follow from them");
        }
        // What was there before its double is whole: the rest can be told too.
        let is_double = |error: &toml::de::Error| error.message() == DOUBLE;
        if !errors.iter().all(is_double) {
            return None;
        }
    }
    let mut builder = Builder {
        source,
        text,
        env,
        report,
        nodes: 0,
    };
    let span = table.span();
    let entries = builder.table(table.into_inner(), "", 0)?;
    Some(Node {
        at: whole(span.start..span.start),
        value: Value::Table(entries),
    })
}

struct Builder<'a> {
    source: usize,
    text: &'a str,
    env: &'a dyn Fn(&str) -> Option<String>,
    report: &'a mut Report,
    nodes: usize,
}

impl Builder<'_> {
    fn table(&mut self, table: DeTable<'_>, path: &str, depth: usize) -> Option<Vec<Entry>> {
        let mut entries = Vec::with_capacity(table.len());
        for (key, value) in table {
            let path: Arc<str> = join(path, key.get_ref()).into();
            let key_at = At {
                place: Place::new(self.source, key.span()),
                path: path.clone(),
            };
            let node = self.node(value, path, depth + 1)?;
            entries.push(Entry {
                key: key.into_inner().into_owned(),
                key_at,
                node,
            });
        }
        // The parser sorts by name; what is written first comes first in outputs.
        entries.sort_by_key(|entry| entry.key_at.place.start);
        Some(entries)
    }

    fn node(&mut self, value: Spanned<DeValue<'_>>, path: Arc<str>, depth: usize) -> Option<Node> {
        let at = At {
            place: Place::new(self.source, value.span()),
            path,
        };
        self.nodes += 1;
        let (code, limit) = (Code::TooLarge, self.nodes > NODES_MAX);
        if limit || depth > DEPTH_MAX {
            let message = if limit {
                format!("the file has more than {NODES_MAX} values")
            } else {
                format!("is nested more than {DEPTH_MAX} levels deep")
            };
            self.report.add(code, &at, message);
            return None;
        }
        let value = match value.into_inner() {
            DeValue::String(text) => self.expand(&text, &at),
            DeValue::Integer(number) => Value::Integer(number.to_string()),
            DeValue::Float(number) => Value::Float(number.as_str().to_owned()),
            DeValue::Boolean(value) => Value::Boolean(value),
            DeValue::Datetime(value) => Value::Datetime(value.to_string()),
            DeValue::Array(array) => {
                let mut nodes = Vec::with_capacity(array.len());
                for (index, value) in array.into_iter().enumerate() {
                    let path = format!("{}[{index}]", at.path).into();
                    nodes.push(self.node(value, path, depth + 1)?);
                }
                Value::Array(nodes)
            }
            DeValue::Table(table) => {
                let path = at.path.clone();
                Value::Table(self.table(table, &path, depth)?)
            }
        };
        Some(Node { at, value })
    }

    fn expand(&mut self, written: &str, at: &At) -> Value {
        let verbatim = self.verbatim(written, at);
        match env::expand(written, self.env) {
            Ok(None) => Value::Text(Text {
                value: written.to_owned(),
                expanded: false,
                verbatim,
            }),
            Ok(Some(value)) => Value::Text(Text {
                value,
                expanded: true,
                verbatim: None,
            }),
            Err(failure) => {
                let mut at = at.clone();
                if let Some(start) = verbatim {
                    at.place.start = start + failure.range.start;
                    at.place.end = start + failure.range.end;
                }
                let problem = self.report.add(failure.code, &at, failure.message);
                problem.help = failure.help;
                Value::Broken
            }
        }
    }

    /// Where the text itself begins, unless escapes make it differ from what is written.
    fn verbatim(&self, value: &str, at: &At) -> Option<usize> {
        let raw = self.text.get(at.place.start..at.place.end)?;
        let quotes = if raw.starts_with("\"\"\"") || raw.starts_with("'''") {
            3
        } else {
            1
        };
        let inner = raw.get(quotes..raw.len().checked_sub(quotes)?)?;
        (inner == value).then_some(at.place.start + quotes)
    }
}
