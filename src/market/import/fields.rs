//! The fields of a comma-separated line, one after the other.

use crate::market::decimal;

use super::error::BadLine;

/// Takes a line apart, field by field, and knows where it is.
///
/// A field may stand in double quotes; no layout read here has quotes within a field. Lines are
/// taken one at a time, and not by the `csv` crate, so that their length is bounded and a fault has
/// its line and byte.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    line: &'a str,
    // Where the next field starts; beyond the end once the last one is taken.
    next: usize,
    // What is left to take instead, where the columns are wanted in another order.
    picked: Option<std::vec::IntoIter<Text<'a>>>,
    /// Numbers that had more decimals than their scale.
    pub(super) rounded: u64,
}

/// A field and where it starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'a> {
    pub(super) text: &'a str,
    // Byte in the line, from 0.
    start: usize,
}

impl Text<'_> {
    /// The field is not what belongs there.
    pub(super) fn bad(&self, expected: impl Into<String>) -> BadLine {
        BadLine::new(self.start + 1, expected, self.text.as_bytes())
    }
}

impl<'a> Fields<'a> {
    pub(super) fn new(line: &'a str) -> Self {
        Self {
            line,
            next: 0,
            picked: None,
            rounded: 0,
        }
    }

    /// The fields of a line of `count` columns that stand in the columns `order`, in that order.
    pub(super) fn picked(line: &'a str, count: usize, order: &[usize]) -> Result<Self, BadLine> {
        let mut fields = Self::new(line);
        let mut all = Vec::with_capacity(count);
        while let Some(text) = fields.try_text() {
            if all.len() == count {
                return Err(text.bad(format!("the line's end, after {count} columns")));
            }
            all.push(text);
        }
        let missing = |column: usize| {
            let expected = format!("column {} of {count}", column + 1);
            BadLine::new(line.len() + 1, expected, b"the line's end")
        };
        if all.len() < count {
            return Err(missing(all.len()));
        }
        let picked: Result<Vec<_>, _> = order
            .iter()
            .map(|column| all.get(*column).copied().ok_or_else(|| missing(*column)))
            .collect();
        fields.picked = Some(picked?.into_iter());
        Ok(fields)
    }

    /// The next field, or `None` after the last.
    pub(super) fn try_text(&mut self) -> Option<Text<'a>> {
        if let Some(picked) = &mut self.picked {
            return picked.next();
        }
        let rest = self.line.get(self.next..)?;
        let start = self.next;
        if let Some(quoted) = rest.strip_prefix('"')
            && let Some(end) = quoted.find('"')
            && matches!(quoted.as_bytes().get(end + 1), None | Some(b','))
        {
            self.next += end + 3;
            return Some(Text {
                text: &quoted[..end],
                start: start + 1,
            });
        }
        let end = rest.find(',').unwrap_or(rest.len());
        self.next += end + 1;
        Some(Text {
            text: rest[..end].trim(),
            start,
        })
    }

    /// The next field, called `name`.
    pub(super) fn text(&mut self, name: &str) -> Result<Text<'a>, BadLine> {
        self.try_text()
            .ok_or_else(|| BadLine::new(self.line.len() + 1, name, b"the line's end"))
    }

    /// Reads a field that is a number with `scale` decimals, as an integer of the last one.
    pub(super) fn number(
        &mut self,
        field: Text<'a>,
        name: &str,
        scale: u8,
    ) -> Result<i64, BadLine> {
        match decimal::parse_rounded(field.text.as_bytes(), scale) {
            Ok((value, rounded)) => {
                self.rounded += u64::from(rounded);
                Ok(value)
            }
            Err(_) => Err(field.bad(format!("{name} as a decimal number"))),
        }
    }

    /// A number that is not negative.
    pub(super) fn unsigned(&mut self, name: &str, scale: u8) -> Result<i64, BadLine> {
        let field = self.text(name)?;
        let value = self.number(field, name, scale)?;
        if value < 0 {
            return Err(field.bad(format!("{name} that is not negative")));
        }
        Ok(value)
    }

    /// A whole number.
    pub(super) fn integer(&mut self, name: &str) -> Result<u64, BadLine> {
        let field = self.text(name)?;
        field
            .text
            .parse()
            .map_err(|_| field.bad(format!("{name} as a whole number")))
    }

    /// True or false, in the spellings that occur.
    pub(super) fn boolean(&mut self, name: &str) -> Result<bool, BadLine> {
        let field = self.text(name)?;
        match field.text {
            "true" | "True" | "TRUE" | "1" => Ok(true),
            "false" | "False" | "FALSE" | "0" => Ok(false),
            _ => Err(field.bad(format!("{name} as true or false"))),
        }
    }

    /// Nothing may follow.
    pub(super) fn end(&mut self) -> Result<(), BadLine> {
        match self.try_text() {
            None => Ok(()),
            Some(more) => Err(more.bad("the line's end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_has_its_byte_and_what_belongs_there() {
        let mut fields = Fields::new("34200000,abc,1");
        assert_eq!(fields.integer("time").unwrap(), 34_200_000);
        let bad = fields.unsigned("price", 8).unwrap_err();
        assert_eq!(
            bad.to_string(),
            "column 10: expected price as a decimal number, found `abc`"
        );
        assert_eq!(fields.integer("size").unwrap(), 1);
        let bad = fields.text("exchange").unwrap_err();
        assert_eq!(
            bad.to_string(),
            "column 15: expected exchange, found `the line's end`"
        );
        fields.end().unwrap();
    }

    #[test]
    fn a_quoted_field_is_taken_without_its_quotes() {
        let mut fields = Fields::new("\"1.5\",x,\"\"");
        assert_eq!(fields.unsigned("price", 1).unwrap(), 15);
        assert_eq!(fields.text("b").unwrap().text, "x");
        assert_eq!(fields.text("c").unwrap().text, "");
        fields.end().unwrap();
    }

    #[test]
    fn a_number_no_price_can_have_is_refused() {
        for bad in [
            "NaN",
            "inf",
            "1e400",
            "",
            "0x10",
            "--1",
            "-1",
            "99999999999999",
        ] {
            assert!(Fields::new(bad).unsigned("price", 8).is_err(), "{bad}");
        }
    }
}
