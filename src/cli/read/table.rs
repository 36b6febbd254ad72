//! Events as a table: one column for each field, for people.

use std::fmt;
use std::io;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use tidemill_broker::{RecordRef, TopicPartition};

use super::text_line;
use crate::cli::{Console, printable, time};

/// Fields that say the same in every row, or what stands there already.
const LEFT_OUT: [&str; 3] = ["eventType", "version", "timestamp"];

/// Headers that are shown as fields are.
const WHY: [&str; 3] = ["dl-class", "dl-error", "dl-src"];

/// Widest cell, in characters: longer ones are cut, JSON lines have them whole.
const CELL_CHARS_MAX: usize = 40;

/// Shows records as they come; columns keep their widths once shown.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<String>,
    widths: Vec<usize>,
    colour: bool,
}

/// A row: names of its columns and their cells.
struct Row {
    columns: Vec<String>,
    cells: Vec<Cell>,
}

struct Cell {
    text: String,
    is_number: bool,
}

impl Table {
    pub(super) fn new(colour: bool) -> Self {
        Self {
            columns: Vec::new(),
            widths: Vec::new(),
            colour,
        }
    }

    /// Shows the records of one batch: events in columns, anything else a line each.
    pub(super) fn show(
        &mut self,
        at: &TopicPartition,
        records: &[RecordRef<'_>],
        console: &mut Console<'_>,
    ) -> io::Result<()> {
        let mut rows = records
            .iter()
            .map(|record| (record, row(at, record)))
            .peekable();
        while let Some((record, first)) = rows.next() {
            let Some(first) = first else {
                // The next event needs its titles again.
                self.columns.clear();
                console.line(text_line(at, record, self.colour))?;
                continue;
            };
            let mut block = vec![first];
            while let Some((_, Some(row))) = rows.next_if(|(_, row)| {
                row.as_ref()
                    .is_some_and(|row| row.columns == block[0].columns)
            }) {
                block.push(row);
            }
            self.block(&block, console)?;
        }
        Ok(())
    }

    /// Rows of the same columns.
    fn block(&mut self, rows: &[Row], console: &mut Console<'_>) -> io::Result<()> {
        let Some(first) = rows.first() else {
            return Ok(());
        };
        let begins = first.columns != self.columns;
        if begins {
            self.columns.clone_from(&first.columns);
            self.widths = first.columns.iter().map(|name| width(name)).collect();
        }
        for row in rows {
            for (known, cell) in self.widths.iter_mut().zip(&row.cells) {
                *known = (*known).max(width(&cell.text));
            }
        }
        let (bold, reset) = if self.colour {
            ("\x1b[1m", "\x1b[0m")
        } else {
            ("", "")
        };
        if begins {
            let titles = first.columns.iter().zip(&first.cells);
            let titles = titles.map(|(name, cell)| (name.as_str(), cell.is_number));
            console.line(format_args!("{bold}{}{reset}", self.line(titles)))?;
        }
        for row in rows {
            let cells = row
                .cells
                .iter()
                .map(|cell| (cell.text.as_str(), cell.is_number));
            console.line(self.line(cells))?;
        }
        Ok(())
    }

    fn line<'c>(&self, cells: impl Iterator<Item = (&'c str, bool)>) -> String {
        let mut line = String::new();
        for ((text, is_number), wide) in cells.zip(&self.widths) {
            let blanks = " ".repeat(wide.saturating_sub(width(text)));
            if is_number {
                line.push_str(&blanks);
                line.push_str(text);
            } else {
                line.push_str(text);
                line.push_str(&blanks);
            }
            line.push_str("  ");
        }
        line.truncate(line.trim_end().len());
        line
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// A record as a row, if it is an event: a JSON object.
fn row(at: &TopicPartition, record: &RecordRef<'_>) -> Option<Row> {
    let Fields(fields) = fields(record.value?)?;
    let mut row = Row {
        columns: vec!["at".to_owned(), "time".to_owned()],
        cells: vec![
            Cell {
                text: format!("{}@{}", at.partition, record.offset),
                is_number: true,
            },
            Cell {
                text: time::show(record.timestamp.0),
                is_number: false,
            },
        ],
    };
    // Of a dead letter people want to know why it is one.
    for (name, bytes) in record.headers().filter(|(name, _)| WHY.contains(name)) {
        row.columns.push(name.to_owned());
        row.cells.push(Cell {
            text: cut(&String::from_utf8_lossy(bytes)),
            is_number: false,
        });
    }
    for (name, value) in fields {
        if LEFT_OUT.contains(&name.as_str()) {
            continue;
        }
        let raw = value.get();
        let text = match serde_json::from_str::<String>(raw) {
            Ok(text) => text,
            Err(_) => raw.to_owned(),
        };
        row.columns.push(cut(&name));
        row.cells.push(Cell {
            text: cut(&text),
            is_number: raw.starts_with(|c: char| c.is_ascii_digit() || c == '-'),
        });
    }
    Some(row)
}

fn cut(text: &str) -> String {
    let safe = printable(text);
    if width(&safe) <= CELL_CHARS_MAX {
        return safe;
    }
    let kept: String = safe.chars().take(CELL_CHARS_MAX - 1).collect();
    kept + "…"
}

/// The fields of an object in their order, numbers as they are written.
struct Fields(Vec<(String, Box<RawValue>)>);

fn fields(value: &[u8]) -> Option<Fields> {
    struct InOrder;

    impl<'de> Visitor<'de> for InOrder {
        type Value = Fields;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
            let mut fields = Vec::new();
            while let Some(entry) = map.next_entry()? {
                fields.push(entry);
            }
            Ok(Fields(fields))
        }
    }

    let mut reader = serde_json::Deserializer::from_slice(value);
    let fields = reader.deserialize_map(InOrder).ok()?;
    reader.end().ok()?;
    Some(fields)
}

#[cfg(test)]
mod tests {
    use tidemill_broker::{BatchBuilder, Headers, Offset, Timestamp, Topic};

    use super::*;

    #[test]
    fn a_dead_letter_says_why_it_is_one_also_where_it_is_an_event() {
        let at = TopicPartition::new(Topic::new("p.dead-letter").unwrap(), 0);
        let headers = Headers::new()
            .with("dl-v", "1")
            .with("dl-src", "ticks/0@7")
            .with("dl-class", "window.late")
            .with("dl-error", "3 s before the watermark");
        let mut builder = BatchBuilder::default();
        let value = &br#"{"n":1}"#[..];
        builder.push(Timestamp(0), None, Some(value), headers.encoded());
        let batch = builder.build(at.clone(), Offset(1));
        let row = row(&at, &batch.get(0)).unwrap();
        assert_eq!(
            row.columns,
            ["at", "time", "dl-src", "dl-class", "dl-error", "n"]
        );
        let cells: Vec<&str> = row.cells.iter().map(|cell| &*cell.text).collect();
        assert_eq!(
            cells[2..],
            ["ticks/0@7", "window.late", "3 s before the watermark", "1"]
        );
    }
}
