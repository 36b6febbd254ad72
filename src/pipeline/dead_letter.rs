//! Dead letters: records set aside with their reason, in the same epoch as everything else.

use std::io::Write;
use std::sync::Arc;

use tidemill_broker::{Batch, Headers, RecordRef, RecordSet, Timestamp, TopicPartition};

use crate::events::identity::{self, Identity};
use crate::events::{JsonEncoder, Poison};
use crate::market::decimal::write_int;
use crate::operators::Dead;

/// Longest text of an error, in bytes.
const ERROR_BYTES_MAX: usize = 1024;

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
            stage: (String::new(), stage_id("")),
            headers: Headers::new(),
            text: Vec::new(),
        }
    }

    /// Sets aside a record that could not be decoded.
    pub(crate) fn poison(&mut self, batch: &Batch, index: usize, poison: &Poison) {
        let record = batch.get(index);
        let source = Source::Record(batch, record);
        self.put(&source, "decode", poison.class, "poison", &poison.message);
    }

    /// Sets aside a row that a stage could not take.
    pub(crate) fn row(&mut self, stage: &str, dead: &Dead) {
        let stage = format!("op:{stage}");
        let rows = &dead.rows;
        if let (None, Some(batch)) = (rows.id(dead.row), rows.source()) {
            let record = batch.get(rows.head(dead.row).record as usize);
            let source = Source::Record(batch, record);
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
            Source::Record(_, record) => (record.timestamp, record.key, record.value),
            Source::Made {
                time, key, value, ..
            } => (*time, key.as_deref(), Some(&value[..])),
        };
        let (headers, text) = (&mut self.headers, &mut self.text);
        headers.clear();
        let (mut dead_id, mut whole) = (None, None);
        if let Source::Record(_, record) = source {
            for (name, value) in record.headers() {
                if name == WHOLE_BYTES {
                    // Anybody may send such a header: only a number is believed.
                    let text = std::str::from_utf8(value).ok();
                    whole = text.and_then(|text| text.parse::<u64>().ok());
                }
                match name {
                    // Attempts and ids of an earlier death are replaced; one of ours is 32 long.
                    "dl-id" if value.len() <= 64 => dead_id = Some(value),
                    name if name.starts_with("dl-") => {}
                    name => {
                        headers.push(name, value);
                    }
                }
            }
        }
        let own = headers.encoded().len();
        if self.stage.0 != stage {
            self.stage = (stage.to_owned(), stage_id(stage));
        }
        headers.push("dl-v", b"1");
        match dead_id {
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
        headers.push("dl-stage", cut(stage, 256).as_bytes());
        headers.push("dl-class", class.as_bytes());
        headers.push("dl-disposition", disposition.as_bytes());
        headers.push("dl-error", cut(why, ERROR_BYTES_MAX).as_bytes());
        headers.push("dl-attempts", b"1");
        debug_assert!(headers.encoded().len() - own <= HEADER_BYTES_MAX);
        let bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        if bytes + headers.encoded().len() + 128 > self.record_bytes_max {
            // A dead letter may never fail for its size.
            let value = value.unwrap_or_default();
            let hash = Identity::of("payload").bytes(value).finish();
            text.clear();
            // Writing to memory cannot fail.
            let _ = write!(text, "truncated {} ", value.len());
            write_hex(hash, text);
            headers.push("dl-payload", text);
            if own > self.record_bytes_max / 4 {
                *headers = without_own(headers);
            }
            let room = self.record_bytes_max / 2;
            let kept = &value[..value.len().min(room)];
            let key = key.map(|key| &key[..key.len().min(1024)]);
            self.set.push(Some(time), key, Some(kept), headers);
        } else {
            match whole {
                // Of the rest nobody knows a hash.
                Some(bytes) => {
                    text.clear();
                    text.extend_from_slice(b"truncated ");
                    text.extend_from_slice(bytes.to_string().as_bytes());
                    headers.push("dl-payload", text)
                }
                None => headers.push("dl-payload", b"full"),
            };
            self.set.push(Some(time), key, value, headers);
        }
        match self.classes.iter_mut().find(|(of, _)| *of == class) {
            Some((_, count)) => *count += 1,
            None => self.classes.push((class, 1)),
        }
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
    Record(&'a Batch, RecordRef<'a>),
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
            Self::Record(batch, record) => {
                let at = batch.at();
                identity::of_record(
                    identity::of_partition(at.topic.as_str(), at.partition),
                    *record,
                )
            }
            Self::Made { id, .. } => *id,
        }
    }

    fn write_place(&self, text: &mut Vec<u8>) {
        match self {
            Self::Record(batch, record) => {
                let at = batch.at();
                text.extend_from_slice(at.topic.as_str().as_bytes());
                text.push(b'/');
                write_int(i64::from(at.partition), text);
                text.push(b'@');
                write_int(record.offset.0.cast_signed(), text);
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
}
