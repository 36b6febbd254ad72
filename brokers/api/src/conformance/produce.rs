//! Clauses on producing.

use std::time::Duration;

use super::kit::*;
use super::{Need, Subject};
use crate::{
    BrokerExt, Error, Headers, NewRecord, Offset, RecordSet, Timestamp, TopicPartition, partition,
};

/// Contract: records of one partition are read in the order they were appended.
pub async fn records_come_back_in_the_order_given(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    let mut expected = Vec::new();
    for round in 0..20 {
        let values = numbered(&format!("{round}-"), 1 + round * 7 % 50);
        produce(&*broker, &at("t", 0), &values).await;
        expected.extend(values);
    }
    assert_eq!(
        read_texts(subject, &*broker, &at("t", 0), expected.len()).await,
        expected
    );
}

/// Contract: one answer comes for each set of a call, in their order; several sets may name one
/// partition.
pub async fn every_set_of_a_call_is_answered(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 2).await;
    let sets = vec![
        set(&at("t", 0), ["a", "b"]),
        set(&at("t", 1), ["x"]),
        set(&at("t", 0), ["c"]),
    ];
    let acks = broker.produce(sets).await.unwrap();
    let lengths: Vec<usize> = acks.iter().map(crate::Acks::len).collect();
    assert_eq!(lengths, [2, 1, 1]);
    assert!(acks.iter().all(|acks| acks.failure().is_none()));
    assert!(acks[0].get(1).unwrap() < acks[2].get(0).unwrap());
    assert_eq!(
        read_texts(subject, &*broker, &at("t", 0), 3).await,
        ["a", "b", "c"]
    );
    assert_eq!(read_texts(subject, &*broker, &at("t", 1), 1).await, ["x"]);
}

/// Contract: the offset acknowledged is the one under which the record is read.
pub async fn acknowledged_offsets_are_those_read(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    let mut acknowledged = Vec::new();
    for values in [numbered("a", 3), numbered("b", 1), numbered("c", 100)] {
        let acks = broker.produce(vec![set(&at("t", 0), &values)]).await;
        let acks = acks.unwrap().remove(0);
        for (index, value) in values.iter().enumerate() {
            acknowledged.push((acks.get(index).unwrap(), value.clone()));
        }
    }
    let read: Vec<(Offset, String)> = read(subject, &*broker, &at("t", 0), acknowledged.len())
        .await
        .iter()
        .map(|record| (record.offset, record.text()))
        .collect();
    assert_eq!(read, acknowledged);
}

/// Contract: a key or a payload that is missing and one that is empty stay apart.
pub async fn a_missing_key_or_payload_is_not_an_empty_one(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    let some = |bytes: &'static [u8]| Some(bytes);
    let shapes = [
        (None, some(b"v")),
        (some(b""), some(b"v")),
        (some(b"k"), None),
        (some(b"k"), some(b"")),
        (None, some(b"\xff\x00\xfe")),
    ];
    let mut records = RecordSet::new(at("t", 0));
    for (key, value) in shapes {
        records.push(None, key, value, &Headers::new());
    }
    produce_set(&*broker, records).await;
    let read = read(subject, &*broker, &at("t", 0), shapes.len()).await;
    for (record, (key, value)) in read.iter().zip(shapes) {
        assert_eq!(record.key.as_deref(), key);
        assert_eq!(record.value.as_deref(), value);
    }
}

/// Contract: headers come back in their order, repeats and all; where there are none they are
/// refused.
pub async fn headers_come_back_in_order_with_repeats(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    let headers = Headers::new()
        .with("b", "1")
        .with("a", "")
        .with("b", [0xff, 0x00]);
    let mut records = RecordSet::new(at("t", 0));
    records.push(None, None, Some(b"with"), &headers);
    records.push(None, None, Some(b"without"), &Headers::new());
    if !subject.has(&*broker, Need::Headers) {
        refuses(broker.produce(vec![records]).await);
        let marks = broker.watermarks(&at("t", 0)).await.unwrap();
        assert_eq!(marks.high, Offset::START);
        return;
    }
    produce_set(&*broker, records).await;
    let read = read(subject, &*broker, &at("t", 0), 2).await;
    let expected = [("b", &b"1"[..]), ("a", b""), ("b", &[0xff, 0x00])]
        .map(|(name, value)| (name.to_owned(), value.to_vec()));
    assert_eq!(read[0].headers, expected);
    assert_eq!(read[1].headers, []);
}

/// Contract: an event time comes back as given, to the millisecond and in whatever order.
pub async fn event_times_come_back(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    let times = [1_381_152_600_123, 1, 1_381_152_600_122, 4_102_444_800_000];
    let mut records = RecordSet::new(at("t", 0));
    for time in times {
        let time = Some(Timestamp::from_millis(time));
        records.push(time, None, Some(b"v"), &Headers::new());
    }
    produce_set(&*broker, records).await;
    let read = read(subject, &*broker, &at("t", 0), times.len()).await;
    let back: Vec<i64> = read
        .iter()
        .map(|record| record.timestamp.as_millis())
        .collect();
    assert_eq!(back, times);
}

/// Contract: a record without event time gets the broker's append time.
pub async fn a_record_without_event_time_gets_one(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    produce(&*broker, &at("t", 0), ["early"]).await;
    subject.pass(Duration::from_secs(2)).await;
    produce(&*broker, &at("t", 0), ["late"]).await;
    let read = read(subject, &*broker, &at("t", 0), 2).await;
    assert_ne!(read[0].timestamp, Timestamp::MIN);
    let passed = read[1].timestamp.as_millis() - read[0].timestamp.as_millis();
    assert!(passed >= 1_000, "{passed} ms between two records");
}

/// Contract: a record above the limit is refused by a call that appends nothing, and named with its
/// partition, its index, its size and the limit.
pub async fn a_record_too_large_is_named_before_anything_is_appended(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 2).await;
    let max = broker.capabilities().record_bytes_max;
    let huge = vec![b'x'; max];
    let mut records = set(&at("t", 1), ["small"]);
    records.push(None, Some(b"k"), Some(&huge), &Headers::new());
    let sets = vec![set(&at("t", 0), ["fine"]), records];
    match broker.produce(sets).await {
        Err(Error::TooLarge {
            at: named,
            index,
            bytes,
            limit,
        }) => {
            assert_eq!((named, index), (at("t", 1), 1));
            assert_eq!((bytes, limit), (max + 1, max));
        }
        other => panic!("a record too large was answered {other:?}"),
    }
    for partition in 0..2 {
        let marks = broker.watermarks(&at("t", partition)).await.unwrap();
        assert_eq!(marks.high, Offset::START);
    }
}

/// Contract: a record just at the limit is taken and comes back whole.
pub async fn a_record_of_the_largest_size_is_taken(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    let huge: Vec<u8> = (0..broker.capabilities().record_bytes_max - 1)
        .map(|index| index as u8)
        .collect();
    let mut records = RecordSet::new(at("t", 0));
    records.push(None, Some(b"k"), Some(&huge), &Headers::new());
    records.push(None, None, Some(b"after"), &Headers::new());
    produce_set(&*broker, records).await;
    let read = read(subject, &*broker, &at("t", 0), 2).await;
    assert!(
        read[0].value.as_deref() == Some(&huge[..]),
        "came back whole"
    );
    assert_eq!(read[1].text(), "after");
}

/// Contract: a record's partition is the one it names, else Kafka's murmur2 of its key.
pub async fn a_key_decides_the_partition_as_kafka_would(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 7).await;
    for key in ["21", "foobar", "abc", "BTC-USD", ""] {
        let record = NewRecord::new(topic("t"), "v").key(key);
        let sent = broker.send(record).await.unwrap();
        assert_eq!(sent.at, at("t", partition::for_key(key.as_bytes(), 7)));
    }
    // As Kafka's DefaultPartitioner chooses: murmur2("foobar") & 0x7fffffff modulo 7.
    let record = NewRecord::new(topic("t"), "v").key("foobar");
    assert_eq!(broker.send(record).await.unwrap().at, at("t", 0));
    let record = NewRecord::new(topic("t"), "v").key("foobar").partition(2);
    let sent = broker.send(record).await.unwrap();
    assert_eq!(sent.at, at("t", 2));
    let marks = broker.watermarks(&at("t", 2)).await.unwrap();
    assert!(sent.offset < marks.high);
}

/// Contract: a call without records, and a set without records, succeed.
pub async fn nothing_to_produce_is_no_error(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    assert!(broker.produce(Vec::new()).await.unwrap().is_empty());
    let sets = vec![RecordSet::new(at("t", 0)), set(&at("t", 0), ["a"])];
    let acks = broker.produce(sets).await.unwrap();
    assert_eq!((acks[0].len(), acks[1].len()), (0, 1));
    assert_eq!(read_texts(subject, &*broker, &at("t", 0), 1).await, ["a"]);
}

/// Contract: a call fails as a whole only if nothing of it was appended; otherwise each record is
/// answered by itself.
pub async fn a_refused_call_appends_nothing(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    for missing in [at("missing", 0), at("t", 1)] {
        let before = broker.watermarks(&at("t", 0)).await.unwrap().high;
        let sets = vec![set(&at("t", 0), ["a"]), set(&missing, ["b"])];
        let named = match broker.produce(sets).await {
            Err(error) => {
                let after = broker.watermarks(&at("t", 0)).await.unwrap().high;
                assert_eq!(before, after, "nothing was appended");
                error
            }
            Ok(mut acks) => {
                let answer = acks.pop().unwrap().into_result();
                let taken = acks[0].failure().is_none();
                let after = broker.watermarks(&at("t", 0)).await.unwrap().high;
                assert_eq!(taken, after > before, "the answer says what happened");
                answer.expect_err("there is no such partition")
            }
        };
        match named {
            Error::UnknownTopic { topic } => assert_eq!(topic, missing.topic),
            Error::UnknownPartition { at } => assert_eq!(at, missing),
            error => panic!("failed with `{error}`"),
        }
    }
}

/// Contract: the high watermark is where the next record goes, and once all is answered the last
/// stable offset has reached it; the low one stays until retention moves it.
pub async fn watermarks_follow_what_is_appended(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    let empty = broker.watermarks(&at("t", 0)).await.unwrap();
    assert_eq!(empty.low, Offset::START);
    assert_eq!(empty.last_stable, empty.high);
    let mut high = empty.high;
    for count in [1, 10, 3] {
        let first = produce(&*broker, &at("t", 0), numbered("v", count)).await;
        assert!(first >= high, "offsets rise");
        let marks = broker.watermarks(&at("t", 0)).await.unwrap();
        assert!(marks.high.0 >= first.0 + count as u64);
        assert_eq!((marks.low, marks.last_stable), (Offset::START, marks.high));
        high = marks.high;
    }
}

/// Contract: the offset at a time is that of the first record whose timestamp is not before it, also
/// where timestamps fall; the end if there is none.
pub async fn the_offset_at_a_time_is_the_first_not_before_it(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    let mut offsets = Vec::new();
    // The last lies in the future: no append time bounds an event time.
    for time in [1_000, 3_000, 2_000, 4_102_444_800_000] {
        let mut records = RecordSet::new(at("t", 0));
        let time = Some(Timestamp::from_millis(time));
        records.push(time, None, Some(b"v"), &Headers::new());
        offsets.push(produce_set(&*broker, records).await);
    }
    let end = broker.watermarks(&at("t", 0)).await.unwrap().high;
    let expected = [
        (0, offsets[0]),
        (1_000, offsets[0]),
        (1_001, offsets[1]),
        (2_000, offsets[1]),
        (3_001, offsets[3]),
        (4_102_444_800_000, offsets[3]),
        (4_102_444_800_001, end),
    ];
    for (time, offset) in expected {
        let time = Timestamp::from_millis(time);
        let found = broker.offset_at(&at("t", 0), time).await.unwrap();
        assert_eq!(found, offset, "at {time:?}");
    }
}

/// Contract: every method may be called from many tasks at once; each producer's records keep their
/// order and none is lost or doubled.
pub async fn many_producers_lose_nothing_and_keep_their_order(subject: &Subject) {
    const PRODUCERS: usize = 8;
    const ROUNDS: usize = 25;
    let broker = subject.broker().await;
    create(&*broker, "t", 2).await;
    let tasks: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let broker = std::sync::Arc::clone(&broker);
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    let value = [format!("{producer} {round}")];
                    let sets = vec![set(&at("t", 0), &value), set(&at("t", 1), &value)];
                    for acks in broker.produce(sets).await.unwrap() {
                        acks.into_result().unwrap();
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for partition in 0..2 {
        let at: TopicPartition = at("t", partition);
        let values = read_texts(subject, &*broker, &at, PRODUCERS * ROUNDS).await;
        for producer in 0..PRODUCERS {
            let own = format!("{producer} ");
            let of_one: Vec<_> = values
                .iter()
                .filter(|value| value.starts_with(&own))
                .cloned()
                .collect();
            assert_eq!(of_one, numbered(&own, ROUNDS));
        }
    }
}

/// Contract: making everything durable succeeds, also with nothing to do, and changes nothing.
pub async fn what_is_synced_is_still_there(subject: &Subject) {
    let broker = subject.broker().await;
    broker.sync().await.unwrap();
    create(&*broker, "t", 1).await;
    produce(&*broker, &at("t", 0), ["a", "b"]).await;
    broker.sync().await.unwrap();
    broker.sync().await.unwrap();
    assert_eq!(
        read_texts(subject, &*broker, &at("t", 0), 2).await,
        ["a", "b"]
    );
}
