//! Predicted layouts: what lies between the values of a record, remembered from one like it.
//!
//! A layout is learned from a record that the strict reader took: the exact bytes between its
//! values, and the form of each value. Another record has the layout if those bytes are the same
//! and each value is of the same form; it then says what the strict reader would have read. What a
//! layout cannot tell apart from a refusal it does not match.

use serde_json::value::RawValue;

use super::scan::{self, Minute, PAD};
use super::strict::check_nested;
use super::{Limits, Spec, Target};
use crate::events::time::in_range;
use crate::events::{Text, Type};

/// Values of a record that is still worth a layout; twice a row's fields.
const STEPS_MAX: usize = 128;

/// Longest number or instant between quotes that the scanners take. They do not hold it to the
/// limit on strings, so a limit below is left to the strict reader.
const QUOTED_MAX: usize = 40;

/// Bytes of a literal that are compared as words; a longer one compares the rest as a slice.
const WORDS: usize = 4;

/// The form of a value.
#[derive(Debug, Clone, Copy)]
enum Form {
    Text(u8),
    Number { slot: u8, scale: u8 },
    Truth(u8),
    Instant(u8),
    Millis(u8),
    SkipText,
    SkipNumber,
    SkipTruth,
    SkipNested,
    End,
}

/// The bytes before a value, and the value.
#[derive(Debug)]
struct Step {
    words: [u64; WORDS],
    masks: [u64; WORDS],
    len: usize,
    rest: Box<[u8]>,
    form: Form,
}

impl Step {
    fn new(literal: &[u8], form: Form) -> Self {
        let mut step = Self {
            words: [0; WORDS],
            masks: [0; WORDS],
            len: literal.len(),
            rest: literal.get(WORDS * 8..).unwrap_or_default().into(),
            form,
        };
        for (at, byte) in literal.iter().take(WORDS * 8).enumerate() {
            let shift = 8 * (at % 8);
            step.words[at / 8] |= u64::from(*byte) << shift;
            step.masks[at / 8] |= 0xff << shift;
        }
        step
    }

    /// Whether the bytes at `at` are those before the value.
    #[inline(always)]
    fn matches(&self, bytes: &[u8], at: usize) -> Option<bool> {
        let window = bytes.get(at..)?.first_chunk::<{ WORDS * 8 }>()?;
        let mut differ = 0;
        for (index, chunk) in window.as_chunks::<8>().0.iter().enumerate() {
            let word = u64::from_le_bytes(*chunk);
            differ |= (word ^ self.words[index]) & self.masks[index];
        }
        let same = differ == 0;
        if self.len <= WORDS * 8 {
            return Some(same);
        }
        let rest = bytes.get(at + WORDS * 8..at + self.len)?;
        Some(same && *rest == *self.rest)
    }
}

/// A layout: compare, read, compare, read, to the end.
#[derive(Debug)]
pub(super) struct Layout {
    steps: Vec<Step>,
    /// One bit per slot that it fills.
    pub(super) present: u64,
    /// How often it matched of late.
    pub(super) hits: u32,
}

impl Layout {
    /// Learns the layout of a payload that the strict reader took; `None` where it has none that
    /// can be predicted.
    pub(super) fn learn(spec: &Spec, payload: &[u8]) -> Option<Self> {
        if spec.limits.string < QUOTED_MAX {
            return None;
        }
        let mut layout = Self {
            steps: Vec::new(),
            present: 0,
            hits: 0,
        };
        // Where the literal began that is being collected.
        let mut literal = 0;
        let mut at = after(b'{', payload, 0)?;
        if payload[skip_space(payload, at)] == b'}' {
            return None;
        }
        loop {
            let name = after(b'"', payload, at)?;
            let end = name + memchr::memchr2(b'"', b'\\', &payload[name..])?;
            let target = spec.target(std::str::from_utf8(&payload[name..end]).ok()?, 0);
            at = skip_space(payload, after(b':', payload, after(b'"', payload, end)?)?);
            let first = *payload.get(at)?;
            let form = spec.form(target, first)?;
            if let Some(form) = form {
                if first == b'"' {
                    at += 1;
                }
                layout.steps.push(Step::new(&payload[literal..at], form));
                if let Some(slot) = form.slot() {
                    layout.present |= 1 << slot;
                }
                if layout.steps.len() == STEPS_MAX {
                    return None;
                }
                literal = at + value_len(&payload[at..], first, &spec.limits)?;
                at = literal + usize::from(first == b'"');
            } else {
                let quotes = usize::from(first == b'"');
                at += quotes + value_len(&payload[at + quotes..], first, &spec.limits)? + quotes;
            }
            at = skip_space(payload, at);
            match payload.get(at)? {
                b',' => at += 1,
                _ => break,
            }
        }
        layout.steps.push(Step::new(&payload[literal..], Form::End));
        Some(layout)
    }

    /// Reads a payload of `len` bytes, which are followed by [`PAD`] more, into `slots`; `base` is
    /// where it lies in the slab. `None` where it has not this layout: `slots` may hold anything
    /// then at the places of [`present`](Self::present).
    #[inline]
    pub(super) fn read(
        &self,
        payload: &[u8],
        base: u32,
        limits: &Limits,
        minute: &mut Minute,
        slots: &mut [i64],
    ) -> Option<()> {
        let mut at = 0;
        for step in &self.steps {
            if !step.matches(payload, at)? {
                return None;
            }
            at += step.len;
            match step.form {
                Form::Text(slot) => {
                    let end = scan::text(payload, at)?;
                    if end - at > limits.string {
                        return None;
                    }
                    let (start, stop) = (base + at as u32, base + end as u32);
                    *slots.get_mut(usize::from(slot))? = Text { start, end: stop }.to_slot();
                    at = end;
                }
                Form::Number { slot, scale } => {
                    let (value, end) = scan::number(payload, at, usize::from(scale))?;
                    *slots.get_mut(usize::from(slot))? = value;
                    at = end;
                }
                Form::Instant(slot) => {
                    let (value, end) = minute.instant(payload, at)?;
                    *slots.get_mut(usize::from(slot))? = value;
                    at = end;
                }
                Form::Millis(slot) => {
                    let (value, end) = scan::number(payload, at, 3)?;
                    *slots.get_mut(usize::from(slot))? = in_range(value).ok()?;
                    at = end;
                }
                Form::Truth(slot) => {
                    let (value, end) = scan::truth(payload, at)?;
                    *slots.get_mut(usize::from(slot))? = value;
                    at = end;
                }
                Form::SkipText => {
                    let end = scan::text(payload, at)?;
                    if end - at > limits.string {
                        return None;
                    }
                    at = end;
                }
                Form::SkipNumber => at = scan::skip_number(payload, at)?,
                Form::SkipTruth => at = scan::truth(payload, at)?.1,
                Form::SkipNested => at += nested_len(payload.get(at..)?, limits)?,
                Form::End => return (at + PAD == payload.len()).then_some(()),
            }
        }
        None
    }
}

impl Form {
    fn slot(self) -> Option<u8> {
        match self {
            Self::Text(slot)
            | Self::Number { slot, .. }
            | Self::Truth(slot)
            | Self::Instant(slot)
            | Self::Millis(slot) => Some(slot),
            Self::SkipText | Self::SkipNumber | Self::SkipTruth | Self::SkipNested | Self::End => {
                None
            }
        }
    }
}

impl Spec {
    /// The form of a value that begins with `first`: `Some(None)` where the value itself becomes
    /// part of the literal, `None` where it cannot be predicted.
    fn form(&self, target: Target, first: u8) -> Option<Option<Form>> {
        let needed = match target {
            Target::Field(slot) if self.needed & (1 << slot) != 0 => {
                Some((slot as u8, self.schema.fields[slot].ty))
            }
            Target::Field(_) | Target::Unknown => None,
            Target::EventType | Target::Version => return Some(None),
        };
        let form = match (first, needed) {
            (b'n', _) => return Some(None),
            (b'"', None) => Form::SkipText,
            (b't' | b'f', None) => Form::SkipTruth,
            (b'-' | b'0'..=b'9', None) => Form::SkipNumber,
            (b'{' | b'[', None) => Form::SkipNested,
            (b'"', Some((slot, Type::Text))) => Form::Text(slot),
            (b'"', Some((slot, Type::Time))) => Form::Instant(slot),
            (b't' | b'f', Some((slot, Type::Bool))) => Form::Truth(slot),
            (b'-' | b'0'..=b'9', Some((slot, Type::Time))) => Form::Millis(slot),
            (b'"' | b'-' | b'0'..=b'9', Some((slot, ty @ (Type::Int | Type::Decimal(_))))) => {
                let scale = ty.scale();
                Form::Number { slot, scale }
            }
            _ => return None,
        };
        Some(Some(form))
    }
}

fn skip_space(payload: &[u8], at: usize) -> usize {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    at + payload[at..].iter().take_while(|byte| space(byte)).count()
}

/// Behind `byte`, which comes next but for white space.
fn after(byte: u8, payload: &[u8], at: usize) -> Option<usize> {
    let at = skip_space(payload, at);
    (*payload.get(at)? == byte).then_some(at + 1)
}

/// Bytes of a value that begins with `first`; of a string, without its quotes.
fn value_len(value: &[u8], first: u8, limits: &Limits) -> Option<usize> {
    let end = |byte: &u8| matches!(byte, b',' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
    match first {
        // A text with escapes is nothing to predict from.
        b'"' => memchr::memchr2(b'"', b'\\', value).filter(|&end| value[end] == b'"'),
        b'{' | b'[' => nested_len(value, limits),
        _ => value.iter().position(end),
    }
}

/// Bytes of the object or array that `bytes` begin with; `None` if it is not JSON or beyond the
/// limits.
fn nested_len(bytes: &[u8], limits: &Limits) -> Option<usize> {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<&RawValue>();
    let raw = values.next()?.ok()?.get().as_bytes();
    check_nested(limits, raw, 0).ok()?;
    Some(raw.len())
}
