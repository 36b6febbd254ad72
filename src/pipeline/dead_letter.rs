//! Dead letters: records set aside with their reason, in the same epoch as everything else.
//!
//! | Header | What it says |
//! | --- | --- |
//! | `dl-v` | version of these headers: 1 |
//! | `dl-id` | the same for the same record and stage, however often it is set aside |
//! | `dl-src`, `dl-src-ts` | `TOPIC/PARTITION@OFFSET` of the record, with ` incarnation N` where the topic was created again, or of which run the lines of standard input are, and its timestamp, microseconds since 1970 |
//! | `dl-pipeline`, `dl-stage` | where it was set aside: `NAME VERSION HASH` of the pipeline, the hash that of its file; `decode`, `op:STAGE`, `sink:SINK` or `source` |
//! | `dl-class`, `dl-disposition` | the stable code of the reason; `poison`, `permanent` or `operator` |
//! | `dl-error` | the reason in words, at most 1 KiB |
//! | `dl-attempts` | how often it was tried |
//! | `dl-trace` | its W3C trace context, if it had a header `traceparent` |
//! | `dl-history` | if it was a dead letter before: `CLASS STAGE PLACE` of each earlier time, a line each, the last one first, at most 8 |
//! | `dl-payload` | `full`, or `truncated BYTES HASH`: the length of the whole and its hash where it was known |
//! | `dl-key` | `truncated BYTES HASH`, if the record's key did not fit |
//! | `dl-headers` | `removed BYTES`, if the record's own headers did not fit |
//!
//! No value is longer than 1 KiB, and all together are below 8 KiB, whatever came in.
//!
//! None says when, by the clock, or on which machine: a replay writes the same bytes.

mod earlier;

use std::sync::Arc;

use tidemill_broker::{Batch, Headers, RecordRef, RecordSet, Timestamp, TopicPartition};

use self::earlier::{Earlier, keep};
use super::Marker;
use super::graph::Setter;
use crate::events::identity::{self, Identity};
use crate::events::{JsonEncoder, Poison};
use crate::market::decimal::write_int;
use crate::operators::Dead;

/// What dead letters are counted under in a marker, among the sinks: none has this name.
pub(crate) const DEAD_LETTERS: &str = "";

/// Longest text of an error, in bytes.
const ERROR_BYTES_MAX: usize = 1024;

/// Longest name of a stage or a pipeline, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Room for the headers that say what was cut, in bytes.
const LAST_BYTES_MAX: usize = 256;

/// Header of a record that is only the beginning of what came in: the length of the whole, in bytes.
pub(crate) const WHOLE_BYTES: &str = "line-bytes";

/// Writes dead letters for one task.
///
/// Payload, key, timestamp and headers of the record stay as they were, byte for byte, unless all of it
/// is more than the broker takes; headers that begin with `dl-` are added, or replaced if the record was
/// a dead letter before.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    at: TopicPartition,
    pipeline: String,
    // The partition of the task.
    task: u32,
    // What the broker takes at most.
    record_bytes_max: usize,
    set: RecordSet,
    // How many of each class are in the set.
    classes: Vec<(&'static str, u64)>,
    // How many there have been since the task began to exist.
    written: u64,
    // Of the one before: mostly the same again.
    shared: Shared,
    // Buffers that outlive one dead letter: under a flood of poison each costs little.
    headers: Headers,
    text: Vec<u8>,
}

impl DeadLetters {
    pub(crate) fn new(at: TopicPartition, pipeline: String, record_bytes_max: usize) -> Self {
        Self {
            set: RecordSet::new(at.clone()),
            at,
            pipeline: cut(&pipeline, NAME_BYTES_MAX).to_owned(),
            task: 0,
            record_bytes_max,
            classes: Vec::new(),
            written: 0,
            shared: Shared::default(),
            headers: Headers::new(),
            text: Vec::new(),
        }
    }

    /// Writes those of the task of this partition.
    pub(crate) fn of_task(mut self, partition: u32) -> Self {
        self.task = partition;
        self
    }

    /// Whether they are those of the first task, which alone sets aside the poison that every task reads.
    pub(crate) fn is_of_first_task(&self) -> bool {
        self.task == 0
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

    /// Sets aside a row that a stage or sink could not take.
    pub(crate) fn row(&mut self, setter: &Setter, dead: &Dead) {
        let stage = setter.to_string();
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

    /// Notes that records were gone before they could be read. Where every task reads them, each has a gap
    /// of its own: `is_broadcast`.
    pub(crate) fn gap(&mut self, at: &TopicPartition, asked: u64, low: u64, is_broadcast: bool) {
        let mut id = Identity::of("gap")
            .text(at.topic.as_str())
            .number(u64::from(at.partition))
            .number(asked)
            .number(low);
        if is_broadcast {
            id = id.number(u64::from(self.task));
        }
        let id = id.finish();
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
        disposition: &'static str,
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
        if !self.shared.is_of(stage, class, disposition) {
            self.shared = Shared::new(&self.pipeline, stage, class, disposition);
        }
        self.headers.append(&self.shared.headers);
        self.push_place(source, time, &earlier);
        let headers = &mut self.headers;
        headers.push("dl-error", cut(why, ERROR_BYTES_MAX).as_bytes());
        if let Some(trace) = earlier.trace {
            headers.push("dl-trace", trace);
        }
        if earlier.write_history(&mut self.text) {
            headers.push("dl-history", &self.text);
        }
        self.push_record(time, key, value, earlier.whole, own);
        self.written += 1;
        match self.classes.iter_mut().find(|(of, _)| *of == class) {
            Some((_, count)) => *count += 1,
            None => self.classes.push((class, 1)),
        }
    }

    /// Which record it is.
    fn push_place(&mut self, source: &Source<'_>, time: Timestamp, earlier: &Earlier<'_>) {
        let (headers, text) = (&mut self.headers, &mut self.text);
        match earlier.id {
            Some(id) => headers.push("dl-id", id),
            None => {
                let id = identity::derived(0, self.shared.id ^ source.identity());
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
        let max = self.record_bytes_max;
        let bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        // A dead letter may never fail for its size: of what is too large each part has a share, and
        // they leave an eighth for the headers that are added.
        let is_all = bytes + self.headers.encoded().len() + LAST_BYTES_MAX <= max;
        let (kept_key, kept) = match is_all {
            true => (key, value),
            false => (beginning(key, max / 8), beginning(value, max / 2)),
        };
        if !is_all && own > max / 4 {
            self.headers = without_own(&self.headers);
        }
        let is_cut = |kept: Option<&[u8]>, whole: Option<&[u8]>| {
            kept.map(<[u8]>::len) < whole.map(<[u8]>::len)
        };
        let text = &mut self.text;
        if is_cut(kept_key, key) {
            write_truncated("key", key.unwrap_or_default(), text);
            self.headers.push("dl-key", text);
        }
        match whole {
            // Of the rest nobody knows a hash.
            Some(bytes) => write_truncated_bytes(bytes, text),
            None if is_cut(kept, value) => {
                write_truncated("payload", value.unwrap_or_default(), text);
            }
            None => {
                text.clear();
                text.extend_from_slice(b"full");
            }
        }
        self.headers.push("dl-payload", text);
        self.set.push(Some(time), kept_key, kept, &self.headers);
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
                    text.extend_from_slice(incarnation.to_string().as_bytes());
                }
            }
            Self::Made { id, .. } => {
                text.extend_from_slice(b"made ");
                write_hex(*id, text);
            }
        }
    }
}

/// What all dead letters of a stage and a class share.
#[derive(Debug, Default)]
struct Shared {
    stage: String,
    class: &'static str,
    disposition: &'static str,
    // What the stage gives to their ids.
    id: u128,
    headers: Headers,
}

impl Shared {
    fn new(pipeline: &str, stage: &str, class: &'static str, disposition: &'static str) -> Self {
        let headers = Headers::new()
            .with("dl-v", "1")
            .with("dl-pipeline", pipeline)
            .with("dl-stage", cut(stage, NAME_BYTES_MAX))
            .with("dl-class", class)
            .with("dl-disposition", disposition)
            .with("dl-attempts", "1");
        Self {
            stage: stage.to_owned(),
            class,
            disposition,
            id: Identity::of(stage).number(0).finish(),
            headers,
        }
    }

    fn is_of(&self, stage: &str, class: &str, disposition: &str) -> bool {
        self.class == class && self.stage == stage && self.disposition == disposition
    }
}

/// Writes that only the beginning of this is there.
fn write_truncated(kind: &str, whole: &[u8], text: &mut Vec<u8>) {
    write_truncated_bytes(whole.len() as u64, text);
    text.push(b' ');
    write_hex(Identity::of(kind).bytes(whole).finish(), text);
}

/// Writes that only the beginning of something of so many bytes is there.
fn write_truncated_bytes(bytes: u64, text: &mut Vec<u8>) {
    text.clear();
    text.extend_from_slice(b"truncated ");
    write_int(i64::try_from(bytes).unwrap_or(i64::MAX), text);
}

fn beginning(whole: Option<&[u8]>, bytes: usize) -> Option<&[u8]> {
    whole.map(|whole| &whole[..whole.len().min(bytes)])
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
mod tests;
