//! What a plan is made of, in few words: it goes with a pipeline's markers, so that what has changed in
//! a file can be told name by name.

mod changes;
mod holds;
mod of;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

pub use changes::Changes;
pub(crate) use changes::Wrote;
pub(crate) use of::does;

// Written to topics: never renumber.
const FORMAT: u8 = 1;

/// Most bytes of an encoding whose parts name their settings; of larger plans only a hash of each part
/// is kept, as they go with every commit.
const BYTES_MAX: usize = 4 << 10;

/// The setting of what comes out of a part: it follows from others, so it is named only if no other
/// differs.
const GIVES: &str = "gives";

/// The setting of what a part keeps in its state, down to the types: named like [`GIVES`].
const HOLDS: &str = "holds";

/// The setting of what a part reads.
const FROM: &str = "from";

/// The setting of which operator a stage is.
const OP: &str = "op";

/// The setting of where something is read from or written to.
const TOPIC: &str = "topic";

/// What the settings of aggregates begin with.
const AGGREGATE: &str = "aggregate.";

/// What a plan is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parts(Vec<Part>);

/// A named part of a plan: the pipeline as a whole, a source, stage or sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    kind: Kind,
    name: String,
    settings: Settings,
    /// The state that it keeps, by its name in the store.
    state: Option<String>,
}

// Written to topics: new ones at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Kind {
    Pipeline,
    Source,
    Stage,
    Sink,
    DeadLetters,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Settings {
    /// In order, names as in the file.
    Named(Vec<(String, String)>),
    /// Too long to be kept.
    Hashed(u64),
}

impl Parts {
    /// As bytes: a format byte, then the parts in postcard.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Writing plain data to memory cannot fail.
        let encoded = |parts: &[Part]| postcard::to_extend(parts, vec![FORMAT]).unwrap_or_default();
        let whole = encoded(&self.0);
        if whole.len() <= BYTES_MAX {
            return whole;
        }
        let hashed: Vec<Part> = self.0.iter().map(Part::hashed).collect();
        encoded(&hashed)
    }

    /// From bytes; `None` if they are not ours, or of a newer version: then it is as if nothing had
    /// been noted down.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (format, rest) = bytes.split_first()?;
        let parts = (*format == FORMAT).then(|| postcard::from_bytes(rest))?;
        parts.ok().map(Self)
    }
}

impl Part {
    fn new(kind: Kind, name: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            settings: Settings::Named(Vec::new()),
            state: None,
        }
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        if let Settings::Named(settings) = &mut self.settings {
            settings.push((name.to_owned(), value.into()));
        }
        self
    }

    /// A setting; none where it is not there, or not kept.
    fn value(&self, name: &str) -> Option<&str> {
        let Settings::Named(settings) = &self.settings else {
            return None;
        };
        let mut settings = settings.iter();
        let found = settings.find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    fn hashed(&self) -> Self {
        let settings = match &self.settings {
            Settings::Named(settings) => {
                let bytes = postcard::to_allocvec(settings).unwrap_or_default();
                Settings::Hashed(xxh3_64(&bytes))
            }
            Settings::Hashed(hash) => Settings::Hashed(*hash),
        };
        Self {
            settings,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(kind: Kind, name: &str, size: &str) -> Part {
        Part::new(kind, name).with("size", size)
    }

    #[test]
    fn a_large_plan_is_kept_as_hashes_and_still_names_the_part_that_differs() {
        let of = |last: &str| {
            let parts =
                (0..200).map(|number| part(Kind::Stage, &format!("s{number}"), &"x".repeat(40)));
            Parts(parts.chain([part(Kind::Stage, "last", last)]).collect())
        };
        let kept = of("1").encode();
        let was = Parts::decode(&kept).unwrap();
        assert!(
            was.0
                .iter()
                .all(|part| matches!(part.settings, Settings::Hashed(_)))
        );
        assert_eq!(was.changes(&of("2")).parts, ["stage `last`: changed"]);
        // Many are counted.
        let changes = was.changes(&Parts(Vec::new()));
        assert_eq!(changes.parts.last().unwrap(), "and 189 more");
    }

    #[test]
    fn parts_written_by_the_first_version_are_read() {
        let bytes = b"\x01\x01\x02\x01a\x00\x01\x04size\x021m\x01\x01a";
        let mut parts = Parts(vec![part(Kind::Stage, "a", "1m")]);
        parts.0[0].state = Some("a".into());
        assert_eq!(parts.encode(), bytes);
        assert_eq!(Parts::decode(bytes), Some(parts));
        assert_eq!(Parts::decode(b""), None);
        assert_eq!(Parts::decode(b"\x02\x00"), None, "a newer version");
        assert_eq!(Parts::decode(&bytes[..9]), None, "torn");
    }
}
