//! Dead letters: records set aside with their reason, in the same epoch as everything else.
//!
//! | Header | What it says |
//! | --- | --- |
//! | `dl-v` | version of these headers: 1 |
//! | `dl-id` | the same for the same record and stage, however often it is set aside |
//! | `dl-src`, `dl-src-ts` | `TOPIC/PARTITION@OFFSET` of the record, with ` incarnation N` where the topic was created again, and its timestamp, microseconds since 1970 |
//! | `dl-pipeline`, `dl-stage` | where it was set aside: `NAME VERSION HASH` of the pipeline, the hash that of its file; `decode`, `op:STAGE` or `source` |
//! | `dl-class`, `dl-disposition` | the stable code of the reason; `poison`, `permanent` or `operator` |
//! | `dl-error` | the reason in words, at most 1 KiB |
//! | `dl-attempts` | how often it was tried |
//! | `dl-trace` | its W3C trace context, if it had a header `traceparent` |
//! | `dl-history` | if it was a dead letter before: `CLASS STAGE PLACE` of each earlier time, a line each, the last one first, at most 8 |
//! | `dl-payload` | `full`, or `truncated BYTES HASH`: the length of the whole and its hash where it was known |
//! | `dl-headers` | `removed BYTES`, if the record's own headers did not fit |
//!
//! None says when, by the clock, or on which machine: a replay writes the same bytes.

use std::sync::Arc;

use tidemill_broker::{Batch, Headers, RecordRef, RecordSet, Timestamp, TopicPartition};

use super::Marker;
use crate::events::identity::{self, Identity};
use crate::events::{JsonEncoder, Poison};
use crate::market::decimal::write_int;
use crate::operators::Dead;

/// What dead letters are counted under in a marker, among the sinks: none has this name.
pub(crate) const DEAD_LETTERS: &str = "";

/// Longest text of an error, in bytes.
const ERROR_BYTES_MAX: usize = 1024;

/// Longest name of a stage, in bytes.
const STAGE_BYTES_MAX: usize = 256;

/// Longest trace context, in bytes: that of W3C's first version has 55.
const TRACE_BYTES_MAX: usize = 128;

/// Most earlier deaths that are told.
const HISTORY_MAX: usize = 8;

/// Longest line about one of them, in bytes: all together stay below a header's KiB.
const HISTORY_BYTES_MAX: usize = 120;

/// Most bytes of headers a dead letter gets beside the record's own.
const HEADER_BYTES_MAX: usize = 8 * 1024;

/// Header of a record that is only the beginning of what came in: the length of the whole, in bytes.
pub(crate) const WHOLE_BYTES: &str = "line-bytes";

/// Writes dead letters for one task.
///
/// Payload, key, timestamp and headers of the record stay as they were, byte for byte; headers that
/// begin with `dl-` are added, or replaced if the record was a dead letter before.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    at: TopicPartition,
    pipeline: String,
    // What the broker takes at most; a larger dead letter goes without payload, with its hash.
    record_bytes_max: usize,
    set: RecordSet,
    // How many of each class are in the set.
    classes: Vec<(&'static str, u64)>,
    // How many there have been since the task began to exist.
    written: u64,
    // The stage of the one before, and its part in the ids: mostly the same again.
    stage: (String, u128),
    // Buffers that outlive one dead letter: under a flood of poison each costs little.
    headers: Headers,
    text: Vec<u8>,
}

impl DeadLetters {
    pub(crate) fn new(at: TopicPartition, pipeline: String, record_bytes_max: usize) -> Self {
        Self {
            set: RecordSet::new(at.clone()),
            at,
            pipeline,
            record_bytes_max,
            classes: Vec::new(),
            written: 0,
            stage: (String::new(), stage_id("")),
            headers: Headers::new(),
            text: Vec::new(),
        }
    }

    /// Goes on counting where a marker left off.
    pub(crate) fn restore(&mut self, marker: &Marker) {
        let sequences = marker.sequences.iter();
        let own = sequences.filter(|(of, ..)| of == DEAD_LETTERS);
        self.written = own.map(|(_, _, count)| count).sum();
    }

    /// How many there have been, as a marker says it; none if there are none.
    pub(crate) fn sequence(&self) -> Option<(String, u32, u64)> {
        let some = self.written > 0;
        some.then(|| (DEAD_LETTERS.to_owned(), self.at.partition, self.written))
    }

    /// Sets aside a record that could not be decoded.
    pub(crate) fn poison(
        &mut self,
        batch: &Batch,
        incarnation: u64,
        index: usize,
        poison: &Poison,
    ) {
        let record = batch.get(index);
        let source = Source::Record(batch, incarnation, record);
        self.put(&source, "decode", poison.class, "poison", &poison.message);
    }

    /// Sets aside a row that a stage could not take.
    pub(crate) fn row(&mut self, stage: &str, dead: &Dead) {
        let stage = format!("op:{stage}");
        let rows = &dead.rows;
        if let (None, Some(batch)) = (rows.id(dead.row), rows.source()) {
            let record = batch.get(rows.head(dead.row).record as usize);
            let source = Source::Record(batch, rows.incarnation(), record);
            self.put(&source, &stage, dead.class, "permanent", &dead.message);
            return;
        }
        // Made by an operator, so there is no record to keep: written as its JSON.
        let name = rows.schema().name.clone();
        let mut value = Vec::new();
        JsonEncoder::new(rows.schema().clone(), Some(&name)).write(rows, dead.row, &mut value);
        let source = Source::Made {
            id: rows.identity(dead.row),
            time: rows.time(dead.row),
            key: rows.key(dead.row).map(<[u8]>::to_vec),
            value: value.into(),
        };
        self.put(&source, &stage, dead.class, "permanent", &dead.message);
    }

    /// Notes that records were gone before they could be read.
    pub(crate) fn gap(&mut self, at: &TopicPartition, asked: u64, low: u64) {
        let id = Identity::of("gap")
            .text(at.topic.as_str())
            .number(u64::from(at.partition))
            .number(asked)
            .number(low)
            .finish();
        let source = Source::Made {
            id,
            time: Timestamp(0),
            key: None,
            value: Vec::new().into(),
        };
        let message = format!(
            "records of {at} from offset {asked} were removed before they were read; going on at {low}"
        );
        self.put(&source, "source", "source.gap", "operator", &message);
    }

    fn put(
        &mut self,
        source: &Source<'_>,
        stage: &str,
        class: &'static str,
        disposition: &str,
        why: &str,
    ) {
        let (time, key, value) = match source {
            Source::Record(_, _, record) => (record.timestamp, record.key, record.value),
            Source::Made {
                time, key, value, ..
            } => (*time, key.as_deref(), Some(&value[..])),
        };
        self.headers.clear();
        let earlier = match source {
            Source::Record(_, _, record) => keep(*record, &mut self.headers),
            Source::Made { .. } => Earlier::default(),
        };
        let own = self.headers.encoded().len();
        self.push_place(source, stage, time, &earlier);
        let headers = &mut self.headers;
        headers.push("dl-stage", cut(stage, STAGE_BYTES_MAX).as_bytes());
        headers.push("dl-class", class.as_bytes());
        headers.push("dl-disposition", disposition.as_bytes());
        headers.push("dl-error", cut(why, ERROR_BYTES_MAX).as_bytes());
        headers.push("dl-attempts", b"1");
        if let Some(trace) = earlier.trace {
            headers.push("dl-trace", trace);
        }
        if earlier.write_history(&mut self.text) {
            headers.push("dl-history", &self.text);
        }
        debug_assert!(headers.encoded().len() - own <= HEADER_BYTES_MAX);
        self.push_record(time, key, value, earlier.whole, own);
        self.written += 1;
        match self.classes.iter_mut().find(|(of, _)| *of == class) {
            Some((_, count)) => *count += 1,
            None => self.classes.push((class, 1)),
        }
    }

    /// Which record it is, and whose dead letter.
    fn push_place(
        &mut self,
        source: &Source<'_>,
        stage: &str,
        time: Timestamp,
        earlier: &Earlier<'_>,
    ) {
        if self.stage.0 != stage {
            self.stage = (stage.to_owned(), stage_id(stage));
        }
        let (headers, text) = (&mut self.headers, &mut self.text);
        headers.push("dl-v", b"1");
        match earlier.id {
            Some(id) => headers.push("dl-id", id),
            None => {
                let id = identity::derived(0, self.stage.1 ^ source.identity());
                text.clear();
                write_hex(id, text);
                headers.push("dl-id", text)
            }
        };
        text.clear();
        source.write_place(text);
        headers.push("dl-src", text);
        text.clear();
        write_int(time.0, text);
        headers.push("dl-src-ts", text);
        headers.push("dl-pipeline", self.pipeline.as_bytes());
    }

    /// The record with its last header, which says how much of the payload it has. `own` are the bytes
    /// of the headers that came with it, `whole` those of the payload if more of it came in.
    fn push_record(
        &mut self,
        time: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        whole: Option<u64>,
        own: usize,
    ) {
        let text = &mut self.text;
        text.clear();
        let bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        if bytes + self.headers.encoded().len() + 128 <= self.record_bytes_max {
            match whole {
                // Of the rest nobody knows a hash.
                Some(bytes) => write_truncated(bytes, text),
                None => text.extend_from_slice(b"full"),
            }
            self.headers.push("dl-payload", text);
            self.set.push(Some(time), key, value, &self.headers);
            return;
        }
        // A dead letter may never fail for its size.
        let value = value.unwrap_or_default();
        write_truncated(whole.unwrap_or(value.len() as u64), text);
        if whole.is_none() {
            text.push(b' ');
            write_hex(Identity::of("payload").bytes(value).finish(), text);
        }
        self.headers.push("dl-payload", text);
        if own > self.record_bytes_max / 4 {
            self.headers = without_own(&self.headers);
        }
        let kept = &value[..value.len().min(self.record_bytes_max / 2)];
        let key = key.map(|key| &key[..key.len().min(1024)]);
        self.set.push(Some(time), key, Some(kept), &self.headers);
    }

    /// Takes what was written since the last call.
    pub(crate) fn take(&mut self) -> RecordSet {
        for (class, count) in self.classes.drain(..) {
            metrics::counter!("tidemill_dead_letters_total", "class" => class).increment(count);
        }
        std::mem::replace(&mut self.set, RecordSet::new(self.at.clone()))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.set.bytes()
    }
}

/// What the headers of a record that comes in say of it.
#[derive(Default)]
struct Earlier<'a> {
    /// Bytes of the whole payload, if this is only its beginning.
    whole: Option<u64>,
    trace: Option<&'a [u8]>,
    // Of the death before, if it is a dead letter.
    id: Option<&'a [u8]>,
    stage: Option<&'a str>,
    class: Option<&'a str>,
    place: Option<&'a str>,
    history: Option<&'a str>,
}

/// Copies a record's own headers, and reads those that mean something here. Anybody may send any of
/// them: only what is well formed is believed, and nothing of any length is taken over.
fn keep<'a>(record: RecordRef<'a>, headers: &mut Headers) -> Earlier<'a> {
    let mut earlier = Earlier::default();
    let text = |value| std::str::from_utf8(value).ok();
    for (name, value) in record.headers() {
        match name {
            // Ids of ours are 32 long.
            "dl-id" if value.len() <= 64 => earlier.id = Some(value),
            "dl-stage" => earlier.stage = text(value),
            "dl-class" => earlier.class = text(value),
            "dl-src" => earlier.place = text(value),
            "dl-history" => earlier.history = text(value),
            WHOLE_BYTES => earlier.whole = text(value).and_then(|text| text.parse().ok()),
            "traceparent" if value.len() <= TRACE_BYTES_MAX => earlier.trace = Some(value),
            "dl-trace" if value.len() <= TRACE_BYTES_MAX => {
                earlier.trace = earlier.trace.or(Some(value));
            }
            _ => {}
        }
        // What is said of an earlier death is replaced.
        if !name.starts_with("dl-") {
            headers.push(name, value);
        }
    }
    earlier
}

impl Earlier<'_> {
    /// Writes the deaths before this one, a line each, the last one first; false if there are none.
    fn write_history(&self, text: &mut Vec<u8>) -> bool {
        let (Some(class), Some(place)) = (self.class, self.place) else {
            return false;
        };
        text.clear();
        let stage = self.stage.unwrap_or("-");
        let last = format!("{class} {stage} {place}").replace('\n', " ");
        let before = self.history.unwrap_or_default().lines();
        for line in std::iter::once(&*last).chain(before).take(HISTORY_MAX) {
            if !text.is_empty() {
                text.push(b'\n');
            }
            text.extend_from_slice(cut(line, HISTORY_BYTES_MAX).as_bytes());
        }
        true
    }
}

enum Source<'a> {
    /// A record of an incarnation of its topic.
    Record(&'a Batch, u64, RecordRef<'a>),
    Made {
        id: u128,
        time: Timestamp,
        key: Option<Vec<u8>>,
        value: Arc<[u8]>,
    },
}

impl Source<'_> {
    fn identity(&self) -> u128 {
        match self {
            Self::Record(batch, incarnation, record) => {
                let partition = identity::of_partition(batch.at(), *incarnation);
                identity::of_record(partition, *record)
            }
            Self::Made { id, .. } => *id,
        }
    }

    fn write_place(&self, text: &mut Vec<u8>) {
        match self {
            Self::Record(batch, incarnation, record) => {
                let at = batch.at();
                text.extend_from_slice(at.topic.as_str().as_bytes());
                text.push(b'/');
                write_int(i64::from(at.partition), text);
                text.push(b'@');
                write_int(record.offset.0.cast_signed(), text);
                if *incarnation > 0 {
                    text.extend_from_slice(b" incarnation ");
                    write_int(incarnation.cast_signed(), text);
                }
            }
            Self::Made { id, .. } => {
                text.extend_from_slice(b"made ");
                write_hex(*id, text);
            }
        }
    }
}

/// What a stage gives to the ids of its dead letters.
fn stage_id(stage: &str) -> u128 {
    Identity::of(stage).number(0).finish()
}

/// That a payload is only the beginning of one of so many bytes.
fn write_truncated(bytes: u64, text: &mut Vec<u8>) {
    text.extend_from_slice(b"truncated ");
    write_int(i64::try_from(bytes).unwrap_or(i64::MAX), text);
}

/// Writes all 32 digits.
fn write_hex(id: u128, text: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in id.to_be_bytes() {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// Leaves out the record's own headers, and says how many bytes they had.
fn without_own(headers: &Headers) -> Headers {
    let mut kept = Headers::new();
    let mut bytes = 0;
    for (name, value) in headers.iter() {
        if name.starts_with("dl-") {
            kept.push(name, value);
        } else {
            bytes += name.len() + value.len();
        }
    }
    kept.push("dl-headers", format!("removed {bytes}").as_bytes());
    kept
}

/// The beginning of `text`, at most `bytes` long, ending at a character.
fn cut(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use tidemill_broker::{BatchBuilder, Offset, Topic};

    use super::*;

    #[test]
    fn a_dead_letter_fits_however_large_the_record_and_its_headers() {
        let at = |name| TopicPartition::new(Topic::new(name).unwrap(), 0);
        for (headers, value, kept_headers) in [
            (10, 0, true),
            (10, 63_000, true),
            (10, 65_000, true),
            (40_000, 10, true),
            (65_000, 10, false),
            (30_000, 64_000, false),
        ] {
            let own = Headers::new().with("own", vec![b'h'; headers]);
            let mut builder = BatchBuilder::default();
            let value = vec![b'v'; value];
            builder.push(Timestamp(7), Some(b"key"), Some(&value), own.encoded());
            let batch = builder.build(at("t"), Offset(1));
            let mut dead = DeadLetters::new(at("dead"), "p".into(), 64 << 10);
            dead.poison(
                &batch,
                0,
                0,
                &Poison::new("decode.too_large", "x".repeat(5_000)),
            );
            let set = dead.take();
            let record = set.get(0);
            let bytes = record.encoded_headers().len()
                + record.key.map_or(0, <[u8]>::len)
                + record.value.map_or(0, <[u8]>::len);
            assert!(bytes < 64 << 10, "{bytes} of {headers} and {}", value.len());
            let named = |name: &str| record.headers().find(|(found, _)| *found == name);
            assert_eq!(named("own").is_some(), kept_headers, "{headers}");
            assert_eq!(named("dl-headers").is_some(), !kept_headers, "{headers}");
            assert_eq!(named("dl-error").unwrap().1.len(), ERROR_BYTES_MAX);
            assert!(value.starts_with(record.value.unwrap()));
        }
    }

    #[test]
    fn the_gaps_of_two_partitions_are_two_dead_letters() {
        let topic = Topic::new("t").unwrap();
        let id = |partition| {
            let at = TopicPartition::new(Topic::new("dead").unwrap(), 0);
            let mut dead = DeadLetters::new(at, "p".into(), 1 << 20);
            dead.gap(&TopicPartition::new(topic.clone(), partition), 10, 20);
            header(&dead.take(), "dl-id").unwrap()
        };
        assert_eq!(id(0), id(0));
        assert_ne!(id(0), id(1));
    }

    fn batch(value: &[u8], headers: &Headers) -> Batch {
        let mut builder = BatchBuilder::default();
        builder.push(Timestamp(7), None, Some(value), headers.encoded());
        let at = TopicPartition::new(Topic::new("t").unwrap(), 3);
        builder.build(at, Offset(1))
    }

    fn set_aside(batch: &Batch, class: &'static str) -> RecordSet {
        let at = TopicPartition::new(Topic::new("dead").unwrap(), 0);
        let mut dead = DeadLetters::new(at, "p".into(), 1 << 20);
        dead.poison(batch, 0, 0, &Poison::new(class, "why".to_owned()));
        dead.take()
    }

    fn header(set: &RecordSet, name: &str) -> Option<String> {
        let record = set.get(0);
        let mut found = record.headers().filter(|(found, _)| *found == name);
        let value = found
            .next()
            .map(|(_, value)| String::from_utf8(value.to_vec()).unwrap());
        assert!(found.next().is_none(), "`{name}` is there once");
        value
    }

    #[test]
    fn a_record_that_is_set_aside_again_keeps_its_id_and_tells_what_was_before() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let own = Headers::new().with("traceparent", trace);
        let mut set = set_aside(&batch(b"x", &own), "decode.first");
        assert_eq!(header(&set, "dl-history"), None);
        assert_eq!(header(&set, "dl-trace").as_deref(), Some(trace));
        let id = header(&set, "dl-id");
        for death in 0..12 {
            let mut headers = Headers::new();
            for (name, value) in set.get(0).headers() {
                headers.push(name, value);
            }
            set = set_aside(&batch(b"x", &headers), "decode.again");
            let history = header(&set, "dl-history").unwrap();
            assert_eq!(history.lines().count(), (death + 1).min(HISTORY_MAX));
            let last = match death {
                0 => "decode.first decode t/3@0",
                _ => "decode.again decode t/3@0",
            };
            assert_eq!(history.lines().next(), Some(last));
            assert_eq!(header(&set, "dl-id"), id);
            assert_eq!(header(&set, "dl-class").as_deref(), Some("decode.again"));
            assert_eq!(header(&set, "traceparent").as_deref(), Some(trace));
        }
    }

    #[test]
    fn headers_that_anybody_may_have_sent_are_bounded_and_believed_only_where_well_formed() {
        let long = "y".repeat(100_000);
        let headers = Headers::new()
            .with("dl-id", &long)
            .with("dl-trace", &long)
            .with("dl-class", &long)
            .with("dl-src", "a\nb")
            .with("dl-history", format!("{long}\n").repeat(3))
            .with(WHOLE_BYTES, "many");
        let set = set_aside(&batch(b"x", &headers), "decode.first");
        assert_eq!(header(&set, "dl-id").unwrap().len(), 32);
        assert_eq!(header(&set, "dl-trace"), None);
        assert_eq!(header(&set, "dl-payload").as_deref(), Some("full"));
        let history = header(&set, "dl-history").unwrap();
        assert_eq!(history.lines().count(), 4);
        assert!(history.lines().all(|line| line.len() == HISTORY_BYTES_MAX));
        let no_text = Headers::new()
            .with("dl-class", [0xff])
            .with("dl-src", "t/0@0");
        let set = set_aside(&batch(b"x", &no_text), "decode.first");
        assert_eq!(header(&set, "dl-history"), None);
    }
}
