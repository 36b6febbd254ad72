//! What the command reads and writes, passed in so that tests see it.

use std::fmt;
use std::io::{self, BufRead, Write};

use super::Failure;

/// Standard input, output and errors, or what stands in for them.
pub struct Console<'a> {
    /// Where answers come from.
    pub input: &'a mut dyn BufRead,
    /// Where results go.
    pub output: &'a mut dyn Write,
    /// Where everything else goes.
    pub errors: &'a mut dyn Write,
    /// Which of the three are terminals.
    pub terminals: Terminals,
}

/// Which of the standard streams are terminals.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terminals {
    /// Questions may be asked.
    pub input: bool,
    /// Results are read by a person.
    pub output: bool,
    /// Errors are read by a person.
    pub errors: bool,
}

impl fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("terminals", &self.terminals)
            .finish_non_exhaustive()
    }
}

impl Console<'_> {
    /// Writes one line of results.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn line(&mut self, line: impl fmt::Display) -> io::Result<()> {
        writeln!(self.output, "{line}")
    }

    /// Writes a JSON document, one line.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn json(&mut self, value: &serde_json::Value) -> io::Result<()> {
        writeln!(self.output, "{value}")
    }

    /// Writes columns, the first row as their titles. Every cell is made safe to show.
    ///
    /// # Errors
    ///
    /// If they cannot be written.
    pub fn table(&mut self, titles: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.set_header(titles.iter().copied());
        for row in rows {
            table.add_row(row.iter().map(|cell| printable(cell)));
        }
        for line in table.lines() {
            writeln!(self.output, "{}", line.trim_end())?;
        }
        Ok(())
    }

    /// Asks whether to go on; only the word `expected` means yes.
    ///
    /// # Errors
    ///
    /// If there is nobody to ask, or the answer is another.
    pub fn confirm(&mut self, question: &str, expected: &str) -> Result<(), Failure> {
        if !self.terminals.input {
            return Err(Failure::not_confirmed());
        }
        write!(self.errors, "{question}\ntype `{expected}` to go on: ")?;
        self.errors.flush()?;
        let mut answer = String::new();
        self.input.read_line(&mut answer).map_err(|error| {
            Failure::new(super::Exit::Io, "cannot read the answer").because(error)
        })?;
        if answer.trim() == expected {
            Ok(())
        } else {
            Err(Failure::not_confirmed())
        }
    }
}

/// Text with control characters made visible, so that data cannot drive a terminal.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // Directional overrides are not control characters, but can make a line lie.
        if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}
