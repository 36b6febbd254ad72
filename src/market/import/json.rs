//! JSON lines: MarketDataUpdate events as they are, or objects whose fields a mapping names.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::tz::TimeZone;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use tidemill_broker::Timestamp;

use super::binance::MICROS_MAX;
use super::error::BadLine;
use super::item::{Item, Reason, Update};
use super::layout::Emit;
use crate::events::{JsonDecoder, Limits, Schema, parse_time};
use crate::market::decimal;

/// The fields of an update that are read, in the order of [`Found`].
const FIELDS: [&str; 14] = [
    "eventType",
    "timestamp",
    "pair",
    "currentPrice",
    "quantity",
    "side",
    "bid",
    "ask",
    "venue",
    "sequence",
    "tradeId",
    "version",
    "bidQuantity",
    "askQuantity",
];

const EVENT_TYPE: usize = 0;
const TIMESTAMP: usize = 1;
const PAIR: usize = 2;
const PRICE: usize = 3;
const QUANTITY: usize = 4;
const SIDE: usize = 5;
const BID: usize = 6;
const ASK: usize = 7;
const VENUE: usize = 8;
const SEQUENCE: usize = 9;
const TRADE_ID: usize = 10;
const VERSION: usize = 11;
const BID_QUANTITY: usize = 12;
const ASK_QUANTITY: usize = 13;

/// What the fields of foreign JSON are called among ours, each `THEIRS=OURS`.
///
/// A field of ours that no entry names keeps its own name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mapping {
    entries: Vec<(String, usize)>,
}

impl Mapping {
    /// Checks entries of the form `price=currentPrice`.
    ///
    /// # Errors
    ///
    /// If one has another form, names a field that an update does not have, or one is named twice.
    pub fn new<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> Result<Self, String> {
        let mut mapping = Self::default();
        for entry in entries {
            let entry = entry.as_ref();
            let Some((theirs, ours)) = entry.split_once('=') else {
                return Err(format!(
                    "mapping `{entry}` is not of the form THEIRS=OURS, as in price=currentPrice"
                ));
            };
            let Some(field) = FIELDS.iter().position(|field| *field == ours) else {
                return Err(format!(
                    "mapping `{entry}`: an update has no field `{ours}`; it has {}",
                    FIELDS.join(", ")
                ));
            };
            if mapping
                .entries
                .iter()
                .any(|(name, index)| name == theirs || *index == field)
            {
                return Err(format!("mapping `{entry}` names a field a second time"));
            }
            mapping.entries.push((theirs.to_owned(), field));
        }
        Ok(mapping)
    }

    /// Whether nothing is renamed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether an entry says what a field of ours is called.
    fn names(&self, field: usize) -> bool {
        self.entries.iter().any(|(_, mapped)| *mapped == field)
    }

    fn field(&self, name: &str) -> Option<usize> {
        if let Some((_, field)) = self.entries.iter().find(|(theirs, _)| theirs == name) {
            return Some(*field);
        }
        let field = FIELDS.iter().position(|field| *field == name)?;
        // Our name no longer means our field once theirs was given.
        (!self.names(field)).then_some(field)
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (theirs, field)) in self.entries.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{theirs}={}", FIELDS[*field])?;
        }
        Ok(())
    }
}

impl FromStr for Mapping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::new(text.split(',').filter(|entry| !entry.is_empty()))
    }
}

/// Takes lines of one file.
#[derive(Debug)]
pub(super) struct Parser {
    mapping: Arc<Mapping>,
    // The pair of the line before: most lines repeat it.
    pair: Option<Arc<str>>,
    // Knows no field: checks what every event is held to.
    limits: JsonDecoder,
}

impl Parser {
    pub(super) fn new(mapping: Arc<Mapping>) -> Self {
        let nothing = Schema {
            name: "MarketDataUpdate".into(),
            fields: Vec::new(),
            time: None,
        };
        Self {
            mapping,
            pair: None,
            limits: JsonDecoder::new(Arc::new(nothing), 0, Limits::default()),
        }
    }

    pub(super) fn line(&mut self, line: &str, out: &mut Emit<'_>) -> Result<u64, BadLine> {
        let found = Found::read(line, &self.mapping)?;
        let event_type = found.text(EVENT_TYPE)?;
        if let Some(event_type) = &event_type
            && event_type != "MarketDataUpdate"
        {
            return Err(found.bad(EVENT_TYPE, "\"MarketDataUpdate\""));
        }
        if found.raw(VERSION).is_some_and(|version| version != "1") {
            return Err(found.bad(VERSION, "version 1"));
        }
        // What calls itself an event of ours has its times in our unit, unless they are another's field.
        let time = found.time(event_type.is_some() && !self.mapping.names(TIMESTAMP))?;
        let pair = match found.text(PAIR)? {
            Some(pair) if !pair.is_empty() => self.pair(&pair),
            _ if !out.pair.is_empty() => out.pair.clone(),
            _ => return Err(found.bad(PAIR, "a pair; give --pair if the lines have none")),
        };
        let mut rounded = 0;
        let mut number = |field, scale| found.number(field, scale, &mut rounded);
        let price = number(PRICE, out.scales.price)?
            .ok_or_else(|| found.bad(PRICE, "currentPrice as a decimal number"))?;
        let update = Update {
            time,
            price,
            quantity: number(QUANTITY, out.scales.quantity)?,
            bid: number(BID, out.scales.price)?,
            bid_quantity: number(BID_QUANTITY, out.scales.quantity)?,
            ask: number(ASK, out.scales.price)?,
            ask_quantity: number(ASK_QUANTITY, out.scales.quantity)?,
            ..Update::default()
        };
        let side = found.text(SIDE)?;
        let venue = found.text(VENUE)?;
        let trade_id = found.id(TRADE_ID)?;
        let sequence = found.sequence()?;

        let suspect = if update.quantity == Some(0) {
            Some(Reason::ZeroSize)
        } else {
            (price == 0).then_some(Reason::ZeroPrice)
        };
        // An event of ours is kept byte for byte: it may have fields that are not known here.
        let ours = self.mapping.is_empty()
            && event_type.is_some()
            && found.raw(PAIR).is_some()
            && found.raw(TRADE_ID).is_none_or(|id| id.starts_with('"'))
            && rounded == 0;
        if ours {
            self.check_limits(line)?;
        }
        let payload = if ours {
            line.trim().as_bytes().to_vec()
        } else {
            Update {
                side: side.as_deref(),
                venue: venue.as_deref().or(out.venue),
                trade_id: trade_id.as_deref(),
                sequence: sequence.or(Some(out.line)),
                ..update
            }
            .json(&pair, out.scales)
        };
        out.items.push_back(Item {
            time,
            pair,
            line: out.line,
            suspect,
            payload,
        });
        Ok(rounded)
    }

    /// Holds an event that is kept as it is to what a pipeline reads: members that are not known here
    /// may nest too deeply.
    fn check_limits(&self, line: &str) -> Result<(), BadLine> {
        // The event itself opens one level.
        if memchr::memchr2(b'[', b'{', &line.trim_start().as_bytes()[1..]).is_none() {
            return Ok(());
        }
        self.limits.check(line.trim().as_bytes()).map_err(|poison| {
            let expected = format!("an event that can be read ({poison})");
            BadLine::new(1, expected, line.as_bytes())
        })
    }

    fn pair(&mut self, pair: &str) -> Arc<str> {
        match &self.pair {
            Some(known) if **known == *pair => known.clone(),
            _ => self.pair.insert(Arc::from(pair)).clone(),
        }
    }
}

/// The fields of a line, as written.
#[derive(Debug)]
struct Found<'a> {
    line: &'a str,
    values: [Option<&'a RawValue>; FIELDS.len()],
}

impl<'a> Found<'a> {
    fn read(line: &'a str, mapping: &Mapping) -> Result<Self, BadLine> {
        let mut json = serde_json::Deserializer::from_str(line);
        let bad = |error: serde_json::Error| {
            let column = error.column().clamp(1, line.len().max(1));
            let found = line.as_bytes().get(column - 1..).unwrap_or_default();
            BadLine::new(column, format!("a JSON object ({error})"), found)
        };
        let values = json.deserialize_map(Fields { mapping }).map_err(bad)?;
        json.end().map_err(bad)?;
        Ok(Self { line, values })
    }

    /// A value as written; `null` is none.
    fn raw(&self, field: usize) -> Option<&'a str> {
        self.values[field]
            .map(RawValue::get)
            .filter(|raw| *raw != "null")
    }

    fn bad(&self, field: usize, expected: &str) -> BadLine {
        match self.values[field] {
            Some(raw) => {
                let raw = raw.get();
                // The value is a part of the line.
                let at = (raw.as_ptr() as usize).saturating_sub(self.line.as_ptr() as usize);
                BadLine::new(at + 1, expected, raw.as_bytes())
            }
            None => BadLine::new(
                1,
                format!("field `{}` with {expected}", FIELDS[field]),
                self.line.as_bytes(),
            ),
        }
    }

    fn text(&self, field: usize) -> Result<Option<Cow<'a, str>>, BadLine> {
        let Some(raw) = self.raw(field) else {
            return Ok(None);
        };
        if let Ok(plain) = serde_json::from_str::<&str>(raw) {
            return Ok(Some(Cow::Borrowed(plain)));
        }
        match serde_json::from_str::<String>(raw) {
            Ok(escaped) => Ok(Some(Cow::Owned(escaped))),
            Err(_) => Err(self.bad(field, "a text")),
        }
    }

    /// A text, or a number as it is written: many venues count their trades.
    fn id(&self, field: usize) -> Result<Option<Cow<'a, str>>, BadLine> {
        match self.raw(field) {
            Some(raw) if raw.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
                Ok(Some(Cow::Borrowed(raw)))
            }
            _ => self.text(field),
        }
    }

    /// A number, also in quotes.
    fn number(&self, field: usize, scale: u8, rounded: &mut u64) -> Result<Option<i64>, BadLine> {
        let Some(raw) = self.raw(field) else {
            return Ok(None);
        };
        let digits = unquoted(raw);
        match decimal::parse_rounded(digits.as_bytes(), scale) {
            Ok((value, was_rounded)) if value >= 0 => {
                *rounded += u64::from(was_rounded);
                Ok(Some(value))
            }
            Ok(_) => Err(self.bad(field, "a number that is not negative")),
            Err(_) => Err(self.bad(field, "a decimal number")),
        }
    }

    fn sequence(&self) -> Result<Option<u64>, BadLine> {
        self.raw(SEQUENCE)
            .map(|raw| {
                unquoted(raw)
                    .parse()
                    .map_err(|_| self.bad(SEQUENCE, "a whole number"))
            })
            .transpose()
    }

    /// The event time: RFC 3339, or a number of milliseconds since 1970. In foreign lines it is read as
    /// in [`ohlcv`](super::ohlcv), the unit of a number told by its size.
    fn time(&self, ours: bool) -> Result<Timestamp, BadLine> {
        let expected = "a time in RFC 3339 or a number since 1970";
        let bad = || self.bad(TIMESTAMP, expected);
        let raw = self.raw(TIMESTAMP).ok_or_else(bad)?;
        let text = unquoted(raw);
        let micros = if ours {
            if raw.starts_with('"') {
                parse_time(text.as_bytes()).map_err(|_| bad())?
            } else {
                decimal::parse_exact(raw.as_bytes(), 3).map_err(|_| bad())?
            }
        } else {
            super::ohlcv::instant(text, &TimeZone::UTC)
                .ok_or_else(bad)?
                .0
        };
        if !(0..=MICROS_MAX).contains(&micros) {
            return Err(bad());
        }
        Ok(Timestamp(micros))
    }
}

fn unquoted(raw: &str) -> &str {
    raw.strip_prefix('"')
        .and_then(|raw| raw.strip_suffix('"'))
        .unwrap_or(raw)
}

struct Fields<'m> {
    mapping: &'m Mapping,
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = [Option<&'de RawValue>; FIELDS.len()];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [None; FIELDS.len()];
        while let Some(name) = map.next_key::<Name<'de>>()? {
            match self.mapping.field(&name.0) {
                Some(field) => {
                    if values[field].is_some() {
                        return Err(A::Error::custom(format!("duplicate field `{}`", name.0)));
                    }
                    values[field] = Some(map.next_value()?);
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(values)
    }
}

/// A key, copied only where it holds escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
