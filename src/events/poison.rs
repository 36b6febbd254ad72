//! Why a record could not be read.

use std::fmt;

/// A record that cannot become an event, now or ever: it goes to the dead letters.
///
/// The message names places and what was expected, and never quotes the payload, which may hold
/// secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    /// A stable code, one of [`class`].
    pub class: &'static str,
    /// What is wrong, at which byte of the payload, and what was expected there.
    pub message: String,
}

impl Poison {
    /// A poison of one of the classes.
    pub fn new(class: &'static str, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
        }
    }
}

impl fmt::Display for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.class)
    }
}

impl std::error::Error for Poison {}

/// The codes of decoding, as written into dead letters. Programs match on them: never rename.
pub mod class {
    /// A tombstone where an event was expected.
    pub const EMPTY: &str = "decode.empty";
    /// A payload above the limit.
    pub const TOO_LARGE: &str = "decode.too_large";
    /// Bytes that are not UTF-8.
    pub const UTF8: &str = "decode.utf8";
    /// Not JSON.
    pub const SYNTAX: &str = "decode.json.syntax";
    /// JSON, but not an object.
    pub const NOT_OBJECT: &str = "decode.json.not_object";
    /// Something after the object.
    pub const TRAILING: &str = "decode.json.trailing";
    /// Nested too deeply.
    pub const DEPTH: &str = "decode.json.depth";
    /// A string above the limit.
    pub const STRING: &str = "decode.json.string";
    /// An array above the limit.
    pub const ARRAY: &str = "decode.json.array";
    /// A declared field that is there twice.
    pub const DUPLICATE: &str = "decode.json.duplicate";
    /// A string that should spell a number, and does not.
    pub const NUMBER_SYNTAX: &str = "decode.number.syntax";
    /// NaN or infinity.
    pub const NOT_FINITE: &str = "decode.number.not_finite";
    /// An exponent beyond what is read.
    pub const EXPONENT: &str = "decode.number.exponent";
    /// A number beyond 64 bits at its scale.
    pub const OVERFLOW: &str = "decode.number.overflow";
    /// More decimals than declared.
    pub const DECIMALS: &str = "decode.number.decimals";
    /// Not an RFC 3339 instant.
    pub const TIME_SYNTAX: &str = "decode.time.syntax";
    /// An instant between two microseconds.
    pub const TIME_PRECISION: &str = "decode.time.precision";
    /// An event dated further ahead of its record than is taken.
    pub const TIME_AHEAD: &str = "decode.time.ahead";
    /// An instant outside the years 0000 to 9999.
    pub const TIME_RANGE: &str = "decode.time.range";
    /// A record whose key belongs in another partition than it lies in.
    pub const PARTITION: &str = "decode.partition";
    /// A required field is absent or null.
    pub const MISSING_FIELD: &str = "schema.missing_field";
    /// A field of another type.
    pub const TYPE: &str = "schema.type";
    /// Another event.
    pub const EVENT_TYPE: &str = "schema.event_type";
    /// A version that this program does not know.
    pub const VERSION: &str = "schema.version";
}
