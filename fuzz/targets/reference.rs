//! What a record says, read by serde_json alone: slow, plain, and without a line of the decoder's.
//!
//! Numbers are shifted as strings of digits, dates come from jiff, and what nests is read level by
//! level. Where the order of checks decides which refusal it is, members are taken in their order.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use tidemill::events::{Limits, Schema, Type, class};

/// How records are read.
pub(crate) struct Reference {
    pub(crate) schema: Arc<Schema>,
    pub(crate) needed: u64,
    pub(crate) limits: Limits,
    pub(crate) system: bool,
    pub(crate) round: bool,
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Number(i64),
    Text(Vec<u8>),
}

/// What a record says.
#[derive(Debug)]
pub(crate) struct Answer {
    /// A value for each field that is there and needed; else the classes it may be refused with.
    pub(crate) values: Result<Vec<Option<Value>>, Vec<&'static str>>,
    /// Its event time.
    pub(crate) time: i64,
    /// Numbers rounded on the way.
    pub(crate) rounded: u64,
}

type Refused = Vec<&'static str>;

fn refuse<T>(class: &'static str) -> Result<T, Refused> {
    Err(vec![class])
}

impl Reference {
    /// Reads a payload, `None` for a tombstone, of a record with this timestamp.
    pub(crate) fn read(&self, payload: Option<&[u8]>, timestamp: i64) -> Answer {
        let mut rounded = 0;
        let values = self.values(payload, &mut rounded);
        let time = match (&values, self.schema.time) {
            (Ok(values), Some(slot)) => match values[slot] {
                Some(Value::Number(micros)) => micros,
                _ => timestamp,
            },
            _ => timestamp,
        };
        // What was rounded before a refusal is not in any row.
        let rounded = if values.is_ok() { rounded } else { 0 };
        Answer {
            values,
            time,
            rounded,
        }
    }

    fn values(
        &self,
        payload: Option<&[u8]>,
        rounded: &mut u64,
    ) -> Result<Vec<Option<Value>>, Refused> {
        let Some(payload) = payload else {
            return refuse(class::EMPTY);
        };
        if payload.len() > self.limits.record {
            return refuse(class::TOO_LARGE);
        }
        let Ok(text) = std::str::from_utf8(payload) else {
            return refuse(class::UTF8);
        };
        // What was cut off is told as that, whatever else is wrong with it.
        let end = text.trim_end_matches(SPACE).chars().next_back();
        let whole = serde_json::from_str::<IgnoredAny>(text);
        if end != Some('}')
            && let Err(error) = whole
            && error.is_eof()
        {
            return Err(not_json(text));
        }
        let mut members = Members(Vec::new());
        let mut json = serde_json::Deserializer::from_slice(payload);
        let walked = json.deserialize_map(&mut members);

        let mut seen: Vec<&str> = Vec::new();
        let mut values = vec![None; self.schema.width()];
        let mut there = vec![false; self.schema.width()];
        for (name, raw) in &members.0 {
            if name.len() > self.limits.string {
                return refuse(class::STRING);
            }
            bounded(raw, 1, &self.limits)?;
            let slot = self.schema.slot(name);
            let system = self.system && slot.is_none();
            if slot.is_none() && !(system && (name == "eventType" || name == "version")) {
                continue;
            }
            if seen.contains(&name.as_str()) {
                return refuse(class::DUPLICATE);
            }
            seen.push(name);
            if raw == "null" {
                continue;
            }
            let Some(slot) = slot else {
                self.of_the_system(name, raw)?;
                continue;
            };
            there[slot] = true;
            // The field of event time is always needed.
            if self.needed & (1 << slot) != 0 || self.schema.time == Some(slot) {
                values[slot] = Some(self.value(self.schema.fields[slot].ty, raw, rounded)?);
            }
        }
        if let Err(error) = walked {
            return Err(if error.is_data() {
                vec![class::NOT_OBJECT]
            } else {
                not_json(text)
            });
        }
        if json.end().is_err() {
            return refuse(class::TRAILING);
        }
        for (field, there) in self.schema.fields.iter().zip(there) {
            if field.required && !there {
                return refuse(class::MISSING_FIELD);
            }
        }
        Ok(values)
    }

    fn of_the_system(&self, name: &str, raw: &str) -> Result<(), Refused> {
        if name == "eventType" {
            return match string(raw)? {
                Some(found) if *found == *self.schema.name => Ok(()),
                _ => refuse(class::EVENT_TYPE),
            };
        }
        match decimal(raw, 0) {
            Ok((1, false)) => Ok(()),
            _ => refuse(class::VERSION),
        }
    }

    fn value(&self, ty: Type, raw: &str, rounded: &mut u64) -> Result<Value, Refused> {
        let text = string(raw)?;
        let is_number = raw.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        Ok(match (ty, text) {
            (Type::Text, Some(text)) => Value::Text(text.into_bytes()),
            (Type::Bool, None) => match serde_json::from_str::<bool>(raw) {
                Ok(truth) => Value::Number(i64::from(truth)),
                Err(_) => return refuse(class::TYPE),
            },
            (Type::Time, Some(text)) => Value::Number(instant(&text)?),
            (Type::Time, None) if is_number => {
                let micros = exact(raw, 3)?;
                Value::Number(in_range(i128::from(micros))?)
            }
            (Type::Int | Type::Decimal(_), text) if is_number || text.is_some() => {
                let text = text.as_deref().unwrap_or(raw);
                let scale = ty.scale();
                if self.round {
                    let (value, inexact) = decimal(text, scale)?;
                    *rounded += u64::from(inexact);
                    Value::Number(value)
                } else {
                    Value::Number(exact(text, scale)?)
                }
            }
            _ => return refuse(class::TYPE),
        })
    }
}

/// How a text that is no JSON may be refused.
fn not_json(text: &str) -> Refused {
    if text.contains("NaN") || text.contains("Infinity") {
        vec![class::SYNTAX, class::NOT_FINITE]
    } else {
        vec![class::SYNTAX]
    }
}

/// The members of an object in their order, up to where it stops being JSON.
struct Members(Vec<(String, String)>);

impl<'de> Visitor<'de> for &mut Members {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let raw = map.next_value::<&'de RawValue>()?;
            self.0.push((name, raw.get().to_owned()));
        }
        Ok(())
    }
}

/// The text of a JSON string; `None` for other values.
fn string(raw: &str) -> Result<Option<String>, Refused> {
    if !raw.starts_with('"') {
        return Ok(None);
    }
    match serde_json::from_str(raw) {
        Ok(text) => Ok(Some(text)),
        // Raw values may hold half a surrogate pair.
        Err(_) => refuse(class::SYNTAX),
    }
}

/// Holds a value to the limits, depth first and in order; `depth` is how many levels are around it.
fn bounded(raw: &str, depth: usize, limits: &Limits) -> Result<(), Refused> {
    match raw.as_bytes()[0] {
        b'"' if raw.len() - 2 > limits.string => refuse(class::STRING),
        open @ (b'{' | b'[') => {
            if depth + 1 > limits.depth {
                return refuse(class::DEPTH);
            }
            let mut rest = raw[1..raw.len() - 1].trim_start_matches(SPACE);
            let mut elements = 0;
            while !rest.is_empty() {
                elements += 1;
                // The comma before this element is one too many.
                if open == b'[' && elements > limits.array {
                    return refuse(class::ARRAY);
                }
                if open == b'{' {
                    let (name, after) = first(rest);
                    bounded(name, depth + 1, limits)?;
                    let after = after.trim_start_matches(SPACE);
                    rest = after.strip_prefix(':').expect("a colon behind a name");
                    rest = rest.trim_start_matches(SPACE);
                }
                let (value, after) = first(rest);
                bounded(value, depth + 1, limits)?;
                rest = after.trim_start_matches(SPACE);
                rest = rest.strip_prefix(',').unwrap_or(rest);
                rest = rest.trim_start_matches(SPACE);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// The first value of a text of valid JSON, and what follows it.
fn first(text: &str) -> (&str, &str) {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let value = values.next().expect("a value").expect("JSON").get();
    text.split_at(value.len())
}

/// A number as JSON writes it, as an integer of `scale` decimals.
fn exact(text: &str, scale: u8) -> Result<i64, Refused> {
    match decimal(text, scale)? {
        (value, false) => Ok(value),
        (_, true) => refuse(class::DECIMALS),
    }
}

/// As [`exact`], rounded half to even; and whether that changed it.
fn decimal(text: &str, scale: u8) -> Result<(i64, bool), Refused> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let spelled = |name: &&str| unsigned.eq_ignore_ascii_case(name);
    if ["nan", "inf", "infinity"].iter().any(spelled) {
        return refuse(class::NOT_FINITE);
    }
    let number: Option<&RawValue> = serde_json::from_str(text).ok();
    if !unsigned.starts_with(|first: char| first.is_ascii_digit())
        || number.is_none_or(|number| number.get() != text)
    {
        return refuse(class::NUMBER_SYNTAX);
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent),
        None => (unsigned, "0"),
    };
    let magnitude = exponent
        .trim_start_matches(['+', '-'])
        .trim_start_matches('0');
    if magnitude.len() > 2 || magnitude.parse().unwrap_or(0) > 30 {
        return refuse(class::EXPONENT);
    }
    let exponent: i64 = exponent.parse().expect("at most two digits");
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // The number is 0.DIGITS times ten to the power of `point`.
    let digits = format!("{whole}{fraction}");
    let point = whole.len() as i64 + exponent + i64::from(scale);

    let kept = usize::try_from(point).unwrap_or(0);
    let mut head: String = digits.chars().take(kept).collect();
    head.extend(std::iter::repeat_n('0', kept - head.len()));
    let tail = match usize::try_from(-point) {
        Ok(zeros) => "0".repeat(zeros) + &digits,
        Err(_) => digits.chars().skip(kept).collect(),
    };
    let tail = tail.trim_end_matches('0');
    // More digits than these overflow whatever they are.
    let head = head.trim_start_matches('0');
    if head.len() > 30 {
        return refuse(class::OVERFLOW);
    }
    let value: i128 = if head.is_empty() {
        0
    } else {
        head.parse().expect("digits")
    };
    let up = match tail.cmp("5") {
        Ordering::Less => false,
        Ordering::Equal => value % 2 == 1,
        Ordering::Greater => true,
    };
    let value = value + i128::from(up);
    let signed = if text.starts_with('-') { -value } else { value };
    match i64::try_from(signed) {
        Ok(value) => Ok((value, !tail.is_empty())),
        Err(_) => refuse(class::OVERFLOW),
    }
}

/// An instant in RFC 3339 with up to nine digits behind the second.
fn instant(text: &str) -> Result<i64, Refused> {
    let Some(parts) = split_instant(text) else {
        return refuse(class::TIME_SYNTAX);
    };
    let [year, month, day, hour, minute, second] = parts.civil;
    let civil = jiff::civil::DateTime::new(
        year,
        month as i8,
        day as i8,
        hour as i8,
        minute as i8,
        second as i8,
        0,
    );
    let Ok(civil) = civil else {
        return refuse(class::TIME_SYNTAX);
    };
    if !parts.nanos.is_multiple_of(1_000) {
        return refuse(class::TIME_PRECISION);
    }
    let epoch = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0);
    let micros = civil.duration_since(epoch).as_micros() + i128::from(parts.nanos / 1_000);
    in_range(micros - i128::from(parts.offset_minutes) * 60_000_000)
}

struct Parts {
    civil: [i16; 6],
    nanos: u32,
    offset_minutes: i32,
}

fn split_instant(text: &str) -> Option<Parts> {
    if !text.is_ascii() {
        return None;
    }
    // Digits stand for digits, the rest for itself in either case.
    let (head, rest) = text.split_at_checked(19)?;
    let like = |text: &str, form: &str| {
        text.len() == form.len()
            && text
                .bytes()
                .zip(form.bytes())
                .all(|(byte, form)| match form {
                    b'0' => byte.is_ascii_digit(),
                    form => byte.eq_ignore_ascii_case(&form),
                })
    };
    if !like(head, "0000-00-00T00:00:00") {
        return None;
    }
    let number = |from: usize, to: usize| head[from..to].parse::<i16>().ok();
    let civil = [
        number(0, 4)?,
        number(5, 7)?,
        number(8, 10)?,
        number(11, 13)?,
        number(14, 16)?,
        number(17, 19)?,
    ];
    let (nanos, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(fraction) => {
            let count = fraction.bytes().take_while(u8::is_ascii_digit).count();
            if !(1..=9).contains(&count) {
                return None;
            }
            let (digits, zone) = fraction.split_at(count);
            (format!("{digits:0<9}").parse().ok()?, zone)
        }
    };
    let offset_minutes = if zone.eq_ignore_ascii_case("z") {
        0
    } else if like(zone, "+00:00") || like(zone, "-00:00") {
        let (hours, minutes): (i32, i32) = (zone[1..3].parse().ok()?, zone[4..6].parse().ok()?);
        if hours > 23 || minutes > 59 {
            return None;
        }
        let size = hours * 60 + minutes;
        if zone.starts_with('-') { -size } else { size }
    } else {
        return None;
    };
    Some(Parts {
        civil,
        nanos,
        offset_minutes,
    })
}

/// The years 0000 to 9999.
fn in_range(micros: i128) -> Result<i64, Refused> {
    let day = |year, month, day| {
        let epoch = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0);
        let midnight = jiff::civil::date(year, month, day).at(0, 0, 0, 0);
        midnight.duration_since(epoch).as_micros()
    };
    let end = day(9999, 12, 31) + 86_400_000_000;
    match i64::try_from(micros) {
        Ok(value) if (day(0, 1, 1)..end).contains(&micros) => Ok(value),
        _ => refuse(class::TIME_RANGE),
    }
}
