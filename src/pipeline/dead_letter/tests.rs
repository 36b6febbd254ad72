//! Dead letters as a reader of their topic finds them.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tidemill_broker::{BatchBuilder, Offset, Topic};

use super::earlier::{HISTORY_BYTES_MAX, HISTORY_MAX};
use super::*;

/// A record that somebody means harm with, and what is said of it.
#[derive(Debug, Clone)]
struct Hostile {
    topic: String,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    pipeline: String,
    stage: String,
    why: String,
    // Whether a stage made it of other events.
    is_made: bool,
    max: usize,
}

prop_compose! {
    /// Text whose characters have one to four bytes each, so that a cut may fall within one.
    fn text()(chars in vec(prop::sample::select(vec!['x', 'é', '→', '🌊', '\n', '\0']), 1..40), times in 1usize..60)
        -> String {
        chars.into_iter().collect::<String>().repeat(times)
    }
}

fn header_of_anybody() -> impl Strategy<Value = (String, Vec<u8>)> {
    const KNOWN: [&str; 12] = [
        "dl-v",
        "dl-id",
        "dl-src",
        "dl-stage",
        "dl-class",
        "dl-history",
        "dl-trace",
        "dl-payload",
        "dl-key",
        "dl-other",
        "traceparent",
        WHOLE_BYTES,
    ];
    let name = prop_oneof![
        prop::sample::select(&KNOWN[..]).prop_map(str::to_owned),
        text()
    ];
    let value = prop_oneof![
        text().prop_map(String::into_bytes),
        vec(any::<u8>(), 0..200),
        (0usize..30_000).prop_map(|len| vec![b'h'; len]),
        any::<u64>().prop_map(|number| number.to_string().into_bytes()),
    ];
    (name, value)
}

fn bytes(most: usize) -> impl Strategy<Value = Option<Vec<u8>>> {
    option::of(prop_oneof![0..100usize, 0..most].prop_map(|len| vec![b'b'; len]))
}

prop_compose! {
    fn hostile()(
        (topic, key, value) in ("[a-z._-]{3,249}", bytes(80_000), bytes(200_000)),
        headers in vec(header_of_anybody(), 0..12),
        (pipeline, stage, why) in (text(), text(), text()),
        is_made: bool,
        max in (32usize << 10)..(256 << 10),
    ) -> Hostile {
        Hostile { topic, key, value, headers, pipeline, stage, why, is_made, max }
    }
}

impl Hostile {
    /// The batch it comes in, and its dead letter.
    fn set_aside(&self) -> (Batch, RecordSet) {
        let mut own = Headers::new();
        for (name, value) in &self.headers {
            own.push(name, value);
        }
        let mut builder = BatchBuilder::default();
        let (key, value) = (self.key.as_deref(), self.value.as_deref());
        let last = Offset(i64::MAX as u64 - 1);
        builder.push_at(last, Timestamp::MAX, key, value, own.encoded());
        let at = |topic: &str| TopicPartition::new(Topic::new(topic).unwrap(), u32::MAX);
        let batch = builder.build(at(&self.topic), last.next());
        let mut dead = DeadLetters::new(at("dead"), self.pipeline.clone(), self.max);
        let source = match self.is_made {
            true => Source::Made {
                id: u128::MAX,
                time: Timestamp(i64::MIN),
                key: self.key.clone(),
                value: self.value.clone().unwrap_or_default().into(),
            },
            false => Source::Record(&batch, u64::MAX, batch.get(0)),
        };
        dead.put(
            &source,
            &self.stage,
            "decode.json.number.class",
            "permanent",
            &self.why,
        );
        let set = dead.take();
        (batch, set)
    }
}

/// As much of a text as fits into so many bytes, and no part of a character.
fn is_beginning(part: &str, whole: &str, bytes: usize) -> bool {
    whole.starts_with(part) && part.len() <= bytes && (part == whole || part.len() + 4 > bytes)
}

proptest! {
    #[test]
    fn a_dead_letter_is_bounded_and_fits_whatever_came_in(hostile in hostile()) {
        let (batch, set) = hostile.set_aside();
        let (came, record) = (batch.get(0), set.get(0));
        let (mut added, mut names) = (0, Vec::new());
        for (name, value) in record.headers().filter(|(name, _)| name.starts_with("dl-")) {
            prop_assert!(value.len() <= 1024, "{name} has {} bytes", value.len());
            prop_assert!(!names.contains(&name), "{name} twice");
            added += 8 + name.len() + value.len();
            names.push(name);
        }
        prop_assert!(added <= 8 * 1024, "{added} bytes");
        let len = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let all = record.encoded_headers().len() + len(record.key) + len(record.value);
        prop_assert!(all <= hostile.max, "{all} of {} bytes", hostile.max);

        let text = |name| header(&set, name).unwrap();
        prop_assert!(is_beginning(&text("dl-stage"), &hostile.stage, NAME_BYTES_MAX));
        prop_assert!(is_beginning(&text("dl-pipeline"), &hostile.pipeline, NAME_BYTES_MAX));
        prop_assert!(is_beginning(&text("dl-error"), &hostile.why, ERROR_BYTES_MAX));

        // What is not told to be cut is what came in, byte for byte.
        let own = |record: RecordRef<'_>| -> Vec<_> {
            let own = record.headers().filter(|(name, _)| !name.starts_with("dl-"));
            own.map(|(name, value)| (name.to_owned(), value.to_vec())).collect()
        };
        if hostile.is_made {
            prop_assert_eq!(own(record), vec![]);
        } else if header(&set, "dl-headers").is_none() {
            prop_assert_eq!(own(record), own(came));
        } else {
            let bytes: usize = own(came).iter().map(|(name, value)| name.len() + value.len()).sum();
            prop_assert_eq!(text("dl-headers"), format!("removed {bytes}"));
            prop_assert_eq!(own(record), vec![]);
        }
        match header(&set, "dl-key") {
            None => prop_assert_eq!(record.key, came.key),
            Some(told) => {
                prop_assert!(came.key.unwrap().starts_with(record.key.unwrap()));
                let start = format!("truncated {} ", len(came.key));
                prop_assert!(told.starts_with(&start), "{told}");
            }
        }
        let payload = text("dl-payload");
        if payload == "full" && !hostile.is_made {
            prop_assert_eq!(record.value, came.value);
        } else if payload == "full" {
            prop_assert_eq!(record.value, Some(came.value.unwrap_or_default()));
        } else {
            prop_assert!(payload.starts_with("truncated "), "{payload}");
            prop_assert!(came.value.unwrap_or_default().starts_with(record.value.unwrap_or_default()));
        }
    }
}

#[test]
fn of_a_record_too_large_for_the_topic_each_part_has_its_share() {
    let at = |name| TopicPartition::new(Topic::new(name).unwrap(), 0);
    let max = 64 << 10;
    // Bytes of the record's headers, key and payload, and which of them are whole.
    for (headers, key, value, whole) in [
        (10, 3, 0, [true, true, true]),
        (10, 3, 60_000, [true, true, true]),
        (10, 3, 66_000, [true, true, false]),
        (40_000, 3, 10, [true, true, true]),
        (66_000, 3, 10, [false, true, true]),
        (30_000, 3, 64_000, [false, true, false]),
        (10, 66_000, 10, [true, false, true]),
        (16_000, 8_000, 65_000, [true, true, false]),
    ] {
        let own = Headers::new().with("own", vec![b'h'; headers]);
        let mut builder = BatchBuilder::default();
        let (key, value) = (vec![b'k'; key], vec![b'v'; value]);
        builder.push(Timestamp(7), Some(&key), Some(&value), own.encoded());
        let batch = builder.build(at("t"), Offset(1));
        let mut dead = DeadLetters::new(at("dead"), "p".into(), max);
        dead.poison(&batch, 0, 0, &Poison::new("decode.too_large", "why"));
        let set = dead.take();
        let record = set.get(0);
        let found = [
            record.headers().any(|(name, _)| name == "own"),
            record.key == Some(&key),
            record.value == Some(&value),
        ];
        assert_eq!(found, whole);
        let told = [
            header(&set, "dl-headers").is_none(),
            header(&set, "dl-key").is_none(),
            header(&set, "dl-payload").as_deref() == Some("full"),
        ];
        assert_eq!(told, whole);
    }
}

#[test]
fn a_dead_letter_says_where_it_came_from_when_and_why() {
    let at = TopicPartition::new(Topic::new("trades").unwrap(), 3);
    let mut builder = BatchBuilder::default();
    for (offset, time) in [(40, 5), (42, -7)] {
        let (key, value) = (Some(&b"key"[..]), Some(&b"{"[..]));
        builder.push_at(Offset(offset), Timestamp(time), key, value, &[]);
    }
    let batch = builder.build(at, Offset(43));
    let dead_at = TopicPartition::new(Topic::new("dead").unwrap(), 0);
    let mut dead = DeadLetters::new(dead_at, "bars 2 00ff".into(), 1 << 20);
    dead.poison(
        &batch,
        u64::MAX,
        1,
        &Poison::new("decode.json.syntax", "no end"),
    );
    let set = dead.take();
    let record = set.get(0);
    assert_eq!(record.timestamp, Timestamp(-7));
    assert_eq!(
        (record.key, record.value),
        (Some(&b"key"[..]), Some(&b"{"[..]))
    );
    let mut id = Vec::new();
    let source = Source::Record(&batch, u64::MAX, batch.get(1));
    write_hex(
        identity::derived(0, Shared::new("", "decode", "", "").id ^ source.identity()),
        &mut id,
    );
    let expected = [
        ("dl-v", "1"),
        ("dl-pipeline", "bars 2 00ff"),
        ("dl-stage", "decode"),
        ("dl-class", "decode.json.syntax"),
        ("dl-disposition", "poison"),
        ("dl-attempts", "1"),
        ("dl-id", std::str::from_utf8(&id).unwrap()),
        ("dl-src", "trades/3@42 incarnation 18446744073709551615"),
        ("dl-src-ts", "-7"),
        ("dl-error", "no end"),
        ("dl-payload", "full"),
    ];
    let found: Vec<_> = record.headers().collect();
    let expected = expected.map(|(name, value)| (name, value.as_bytes()));
    assert_eq!(found, expected);
}

#[test]
fn the_gaps_of_two_partitions_are_two_dead_letters() {
    let topic = Topic::new("t").unwrap();
    let id = |partition| {
        let at = TopicPartition::new(Topic::new("dead").unwrap(), 0);
        let mut dead = DeadLetters::new(at, "p".into(), 1 << 20);
        dead.gap(
            &TopicPartition::new(topic.clone(), partition),
            10,
            20,
            false,
        );
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
