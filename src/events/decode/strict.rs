//! The strict reader: serde_json walks the object, and every value is taken from its exact text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Limits, Spec, Target, VERSION_MAX};
use crate::events::time::{TimeError, in_range, parse_time};
use crate::events::{Poison, Rows, Text, Type, class};
use crate::market::decimal::{ParseError, parse_exact, parse_rounded};

/// What a record's reading gave besides its slots.
pub(super) struct Read {
    /// One bit per slot filled.
    pub(super) present: u64,
    /// Numbers rounded.
    pub(super) rounded: u64,
}

/// One record being read.
pub(super) struct Strict<'a> {
    spec: &'a Spec,
    text: &'a str,
    // Where the payload starts in the slab.
    base: u32,
    rows: &'a mut Rows,
    slots: &'a mut [i64],
    // Declared fields met, then those that were not null.
    seen: u64,
    there: u64,
    event_type: bool,
    version: bool,
    read: Read,
    // Why the visitor stopped before the end: serde's own errors cannot carry it, and are dear.
    poison: Option<Poison>,
}

impl<'a> Strict<'a> {
    /// Reads a payload that starts at `base` in the slab; fills `slots`, which hold zeros.
    pub(super) fn read(
        spec: &'a Spec,
        payload: &'a [u8],
        base: u32,
        rows: &'a mut Rows,
        slots: &'a mut [i64],
    ) -> Result<Read, Poison> {
        let text = std::str::from_utf8(payload).map_err(|error| {
            let at = error.valid_up_to();
            Poison::new(class::UTF8, format!("byte {at}: not UTF-8"))
        })?;
        check_whole(text)?;
        let mut reader = Self {
            spec,
            text,
            base,
            rows,
            slots,
            seen: 0,
            there: 0,
            event_type: false,
            version: false,
            read: Read {
                present: 0,
                rounded: 0,
            },
            poison: None,
        };
        let mut json = serde_json::Deserializer::from_str(text);
        let walked = json.deserialize_map(&mut reader);
        if let Some(poison) = reader.poison {
            return Err(poison);
        }
        walked.map_err(|error| malformed(text, &error))?;
        if let Err(error) = json.end() {
            let at = byte_of(text, &error);
            let message = format!("byte {at}: expected the end after the object");
            return Err(Poison::new(class::TRAILING, message));
        }
        let missing = spec.required & !reader.there;
        if missing != 0 {
            let name = &spec.schema.fields[missing.trailing_zeros() as usize].name;
            let is = if reader.seen & missing & missing.wrapping_neg() == 0 {
                "missing"
            } else {
                "null"
            };
            let message = format!("required field `{name}` is {is}");
            return Err(Poison::new(class::MISSING_FIELD, message));
        }
        Ok(reader.read)
    }

    fn member(&mut self, target: Target, raw: &'a str, at: usize) -> Result<(), Poison> {
        check_bounds(&self.spec.limits, raw, at)?;
        match target {
            Target::Unknown => Ok(()),
            Target::EventType => {
                once(&mut self.event_type, "eventType", at)?;
                self.check_event_type(raw, at)
            }
            Target::Version => {
                once(&mut self.version, "version", at)?;
                check_version(raw, at)
            }
            Target::Field(slot) => {
                let bit = 1 << slot;
                let mut again = self.seen & bit != 0;
                once(&mut again, &self.spec.schema.fields[slot].name, at)?;
                self.seen |= bit;
                if raw == "null" {
                    return Ok(());
                }
                self.there |= bit;
                if self.spec.needed & bit != 0 {
                    self.slots[slot] = self.value(slot, raw, at)?;
                    self.read.present |= bit;
                }
                Ok(())
            }
        }
    }

    fn value(&mut self, slot: usize, raw: &'a str, at: usize) -> Result<i64, Poison> {
        let spec = self.spec;
        let field = &spec.schema.fields[slot];
        let wrong_type = || {
            let (name, ty, kind) = (&field.name, field.ty, kind_of(raw));
            Poison::new(
                class::TYPE,
                format!("byte {at}: field `{name}`: expected {ty}, found {kind}"),
            )
        };
        let refused = |class, error: &dyn fmt::Display| {
            let name = &field.name;
            Poison::new(class, format!("byte {at}: field `{name}`: {error}"))
        };
        let content = string_content(raw, at)?;
        let number = raw.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        match (field.ty, content) {
            (Type::Text, Some(Cow::Borrowed(text))) => {
                let start = self.base + at as u32 + 1;
                let end = start + text.len() as u32;
                Ok(Text { start, end }.to_slot())
            }
            (Type::Text, Some(Cow::Owned(text))) => {
                Ok(self.rows.add_text(text.as_bytes()).to_slot())
            }
            (Type::Bool, None) if raw == "true" => Ok(1),
            (Type::Bool, None) if raw == "false" => Ok(0),
            (Type::Time, Some(text)) => {
                parse_time(text.as_bytes()).map_err(|error| refused(time_class(error), &error))
            }
            // Milliseconds at scale 3 are microseconds.
            (Type::Time, None) if number => {
                let micros = parse_exact(raw.as_bytes(), 3)
                    .map_err(|error| refused(number_class(error), &error))?;
                in_range(micros).map_err(|error| refused(time_class(error), &error))
            }
            (Type::Int | Type::Decimal(_), content) if number || content.is_some() => {
                let text = content.as_deref().unwrap_or(raw).as_bytes();
                let scale = field.ty.scale();
                let parsed = if spec.round {
                    parse_rounded(text, scale)
                } else {
                    parse_exact(text, scale).map(|value| (value, false))
                };
                let (value, rounded) =
                    parsed.map_err(|error| refused(number_class(error), &error))?;
                self.read.rounded += u64::from(rounded);
                Ok(value)
            }
            _ => Err(wrong_type()),
        }
    }

    fn check_event_type(&self, raw: &str, at: usize) -> Result<(), Poison> {
        let name = &self.spec.schema.name;
        if raw == "null" || string_content(raw, at)?.is_some_and(|found| *found == **name) {
            return Ok(());
        }
        let message = format!("byte {at}: another `eventType` than `{name}`");
        Err(Poison::new(class::EVENT_TYPE, message))
    }
}

impl<'de> Visitor<'de> for &mut Strict<'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let start = self.text.as_ptr() as usize;
        // Fields mostly come in the order in which they are declared.
        let mut likely = 0;
        while let Some(name) = map.next_key_seed(Name(self.spec, likely))? {
            if let Some(Target::Field(slot)) = name {
                likely = slot + 1;
            }
            let raw = map.next_value::<&'de RawValue>()?.get();
            let at = raw.as_ptr() as usize - start;
            let member = match name {
                Some(target) => self.member(target, raw, at),
                None => Err(too_long(at, self.spec.limits.string)),
            };
            if let Err(poison) = member {
                self.poison = Some(poison);
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Reads a member's name, most likely that of the field in this slot; `None` if it is above the
/// limit.
struct Name<'a>(&'a Spec, usize);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<Target>;

    fn deserialize<D: serde::Deserializer<'de>>(self, name: D) -> Result<Self::Value, D::Error> {
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<Target>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok((name.len() <= self.0.limits.string).then(|| self.0.target(name, self.1)))
    }
}

/// Refuses what was cut off, whatever else may be wrong with it: without taking a value of any member.
fn check_whole(text: &str) -> Result<(), Poison> {
    if text.trim_ascii_end().ends_with('}') {
        return Ok(());
    }
    match serde_json::from_str::<IgnoredAny>(text) {
        Err(error) if error.is_eof() => Err(malformed(text, &error)),
        _ => Ok(()),
    }
}

fn once(seen: &mut bool, name: &str, at: usize) -> Result<(), Poison> {
    if *seen {
        let message = format!("byte {at}: field `{name}` is there twice");
        return Err(Poison::new(class::DUPLICATE, message));
    }
    *seen = true;
    Ok(())
}

fn check_version(raw: &str, at: usize) -> Result<(), Poison> {
    match parse_exact(raw.as_bytes(), 0) {
        Ok(1..=VERSION_MAX) => Ok(()),
        _ if raw == "null" => Ok(()),
        _ => {
            let message = format!("byte {at}: `version` is not a whole number up to {VERSION_MAX}");
            Err(Poison::new(class::VERSION, message))
        }
    }
}

/// Holds a value, which is JSON, to the limits on depth, strings and arrays.
fn check_bounds(limits: &Limits, raw: &str, at: usize) -> Result<(), Poison> {
    match raw.as_bytes().first() {
        // Its quotes do not count.
        Some(b'"') if raw.len() - 2 > limits.string => Err(too_long(at, limits.string)),
        Some(b'{' | b'[') => check_nested(limits, raw.as_bytes(), at),
        _ => Ok(()),
    }
}

/// As [`check_bounds`], for an object or array.
pub(super) fn check_nested(limits: &Limits, raw: &[u8], base: usize) -> Result<(), Poison> {
    // Most are far too short to break any of them.
    let opening = || raw.iter().filter(|byte| matches!(byte, b'{' | b'['));
    if raw.len() <= limits.string.min(limits.array) && opening().count() < limits.depth {
        return Ok(());
    }
    // Commas seen at each open level; `None` for objects.
    let mut open: Vec<Option<usize>> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        match byte {
            b'"' => {
                let start = at + 1;
                at = start;
                while let Some(&byte) = raw.get(at)
                    && byte != b'"'
                {
                    at += if byte == b'\\' { 2 } else { 1 };
                }
                if at - start > limits.string {
                    return Err(too_long(base + start - 1, limits.string));
                }
            }
            b'{' | b'[' => {
                open.push((byte == b'[').then_some(0));
                // The event itself is one level.
                if open.len() + 1 > limits.depth {
                    let (at, depth) = (base + at, limits.depth);
                    let message = format!("byte {at}: nested deeper than {depth} levels");
                    return Err(Poison::new(class::DEPTH, message));
                }
            }
            b'}' | b']' => {
                open.pop();
            }
            b',' => {
                if let Some(Some(commas)) = open.last_mut() {
                    *commas += 1;
                    if *commas >= limits.array {
                        let (at, array) = (base + at, limits.array);
                        let message = format!("byte {at}: array of more than {array} elements");
                        return Err(Poison::new(class::ARRAY, message));
                    }
                }
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// What stands between the quotes of a JSON string; `None` for other values.
fn string_content(raw: &str, at: usize) -> Result<Option<Cow<'_, str>>, Poison> {
    let Some(inner) = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) else {
        return Ok(None);
    };
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Ok(Some(Cow::Borrowed(inner)));
    }
    match serde_json::from_str(raw) {
        Ok(text) => Ok(Some(Cow::Owned(text))),
        // Half a surrogate pair: nothing else is left to go wrong.
        Err(_) => Err(Poison::new(
            class::SYNTAX,
            format!("byte {at}: string with an escape that is no character"),
        )),
    }
}

fn too_long(at: usize, limit: usize) -> Poison {
    let message = format!("byte {at}: string of more than {limit} bytes");
    Poison::new(class::STRING, message)
}

fn kind_of(raw: &str) -> &'static str {
    match raw.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a truth",
        Some(b'n') => "null",
        _ => "a number",
    }
}

fn number_class(error: ParseError) -> &'static str {
    match error {
        ParseError::Syntax { .. } => class::NUMBER_SYNTAX,
        ParseError::Decimals { .. } => class::DECIMALS,
        ParseError::Overflow { .. } => class::OVERFLOW,
        ParseError::Exponent => class::EXPONENT,
        ParseError::NotFinite => class::NOT_FINITE,
    }
}

fn time_class(error: TimeError) -> &'static str {
    match error {
        TimeError::Syntax { .. } | TimeError::NoSuch { .. } => class::TIME_SYNTAX,
        TimeError::Precision => class::TIME_PRECISION,
        TimeError::Range => class::TIME_RANGE,
    }
}

/// Names what serde_json met. Its messages of syntax quote no payload; its messages of types
/// would, and are not used.
fn malformed(text: &str, error: &serde_json::Error) -> Poison {
    if error.is_data() {
        return Poison::new(class::NOT_OBJECT, "expected a JSON object");
    }
    let at = byte_of(text, error);
    let bytes = text.as_bytes();
    let spelled = |from: usize| {
        let rest = &bytes[from.min(bytes.len())..];
        [&b"NaN"[..], b"Infinity", b"-Infinity"]
            .iter()
            .any(|word| rest.starts_with(word))
    };
    if spelled(at) || spelled(at.saturating_sub(1)) {
        let message = format!("byte {at}: not a finite number");
        return Poison::new(class::NOT_FINITE, message);
    }
    let mut message = format!("byte {at}: {error}");
    if let Some(end) = without_place(&message).map(str::len) {
        message.truncate(end);
    }
    Poison::new(class::SYNTAX, message)
}

/// A message of serde_json without its ` at line 1 column 2`.
fn without_place(message: &str) -> Option<&str> {
    let digits = |text: char| text.is_ascii_digit();
    let line = message.trim_end_matches(digits).strip_suffix(" column ")?;
    line.trim_end_matches(digits).strip_suffix(" at line ")
}

/// The byte that an error of serde_json points at.
fn byte_of(text: &str, error: &serde_json::Error) -> usize {
    let line = match error.line() {
        0 | 1 => 0,
        line => memchr::memchr_iter(b'\n', text.as_bytes())
            .nth(line - 2)
            .map_or(0, |end| end + 1),
    };
    (line + error.column().saturating_sub(1)).min(text.len())
}
