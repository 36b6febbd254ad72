//! Clauses on retention and compaction.

use std::collections::BTreeMap;
use std::time::Duration;

use super::kit::*;
use super::{Need, Subject};
use crate::{Cleanup, Error, Headers, Offset, RecordSet, Retention, Start, Timestamp};

const HOUR: Duration = Duration::from_secs(3600);

/// Contract: a topic without bounds keeps everything.
pub async fn a_topic_without_bounds_keeps_everything(subject: &Subject) {
    let broker = subject.broker().await;
    if !subject.has(&*broker, Need::Hours) {
        return;
    }
    create(&*broker, "t", 1).await;
    produce(&*broker, &at("t", 0), numbered("", 100)).await;
    subject.pass(3 * HOUR).await;
    subject.clean().await;
    assert_eq!(
        read_texts(subject, &*broker, &at("t", 0), 100).await,
        numbered("", 100)
    );
}

/// Contract: records go once they were appended longer ago than the bound; event time does not
/// count.
pub async fn old_records_go_by_the_time_they_were_appended(subject: &Subject) {
    let broker = subject.broker().await;
    if !subject.has(&*broker, Need::Hours) {
        return;
    }
    let age = Some(HOUR);
    let retention = Retention { age, bytes: None };
    create_with(&*broker, "t", 1, Cleanup::Delete(retention)).await;
    let ancient = |value: &str| {
        let mut records = RecordSet::new(at("t", 0));
        let time = Some(Timestamp::from_millis(1));
        records.push(time, None, Some(value.as_bytes()), &Headers::new());
        records
    };
    produce_set(&*broker, ancient("old")).await;
    subject.clean().await;
    assert_eq!(read_texts(subject, &*broker, &at("t", 0), 1).await, ["old"]);
    subject.pass(2 * HOUR).await;
    let kept = produce_set(&*broker, ancient("new")).await;
    subject.clean().await;
    let marks = broker.watermarks(&at("t", 0)).await.unwrap();
    assert!(marks.low <= kept, "what is younger stays");
    if subject.has(&*broker, Need::Cleaning) {
        assert!(marks.low > Offset::START, "what is older goes");
        assert_eq!(read_texts(subject, &*broker, &at("t", 0), 1).await, ["new"]);
    }
}

/// Contract: a clock that jumps back by an hour makes nothing go sooner than the bound says, and nothing
/// stay for ever; what was appended while it was ahead goes once the clock is past that again.
pub async fn a_clock_that_jumps_back_lets_nothing_go_too_soon_and_nothing_stay(subject: &Subject) {
    let broker = subject.broker().await;
    if !subject.has(&*broker, Need::Hours) {
        return;
    }
    let hour = HOUR.as_micros() as i64;
    let age = Some(HOUR);
    let retention = Retention { age, bytes: None };
    create_with(&*broker, "t", 1, Cleanup::Delete(retention)).await;
    produce(&*broker, &at("t", 0), ["before"]).await;
    subject.clean().await;
    // An hour ahead for a moment, then an hour behind: none of them is an hour old.
    for (jump, value) in [(hour - 1_000_000, "ahead"), (1 - 2 * hour, "behind")] {
        subject.jump(jump);
        produce(&*broker, &at("t", 0), [value]).await;
        subject.clean().await;
        let marks = broker.watermarks(&at("t", 0)).await.unwrap();
        assert_eq!(marks.low, Offset::START, "{value}");
    }
    let all = read_texts(subject, &*broker, &at("t", 0), 3).await;
    assert_eq!(all, ["before", "ahead", "behind"]);
    // Past what was appended ahead, and an hour more.
    subject.pass(4 * HOUR).await;
    let kept = produce(&*broker, &at("t", 0), ["new"]).await;
    subject.clean().await;
    let marks = broker.watermarks(&at("t", 0)).await.unwrap();
    assert!(marks.low <= kept, "what is younger stays");
    if subject.has(&*broker, Need::Cleaning) {
        assert!(marks.low > Offset(2), "what is older goes");
        assert_eq!(read_texts(subject, &*broker, &at("t", 0), 1).await, ["new"]);
    }
}

/// Contract: where the clock jumped, the offset at a time is still the first whose timestamp is not
/// before it, in segments and in the log.
pub async fn a_time_is_found_though_the_clock_jumped(subject: &Subject) {
    let broker = subject.broker().await;
    if !subject.has(&*broker, Need::Hours) {
        return;
    }
    let hour = HOUR.as_micros() as i64;
    create(&*broker, "t", 1).await;
    for jump in [0, hour, -2 * hour, hour] {
        subject.jump(jump);
        produce(&*broker, &at("t", 0), numbered("", 3)).await;
        subject.clean().await;
    }
    let reads = read(subject, &*broker, &at("t", 0), 12).await;
    assert!(reads[3].timestamp > reads[0].timestamp && reads[6].timestamp < reads[0].timestamp);
    let end = broker.watermarks(&at("t", 0)).await.unwrap().high;
    for time in reads.iter().map(|read| read.timestamp) {
        for time in [-1, 0, 1].map(|by| Timestamp(time.0 + by)) {
            let first = reads.iter().find(|read| read.timestamp >= time);
            let expected = first.map_or(end, |read| read.offset);
            let found = broker.offset_at(&at("t", 0), time).await.unwrap();
            assert_eq!(found, expected, "{time:?}");
        }
    }
}

/// Contract: records go from the beginning while the partition is larger than the bound; the bound's
/// worth of the newest stays.
pub async fn records_go_from_the_beginning_beyond_the_bound_of_bytes(subject: &Subject) {
    let broker = subject.broker().await;
    let bytes = Some(20_000);
    let retention = Retention { age: None, bytes };
    create_with(&*broker, "t", 1, Cleanup::Delete(retention)).await;
    let mut last = Offset::START;
    for round in 0..10 {
        let mut records = RecordSet::new(at("t", 0));
        records.push(None, None, Some(&[round; 10_000]), &Headers::new());
        last = produce_set(&*broker, records).await;
        subject.clean().await;
    }
    let marks = broker.watermarks(&at("t", 0)).await.unwrap();
    assert!(marks.low < last, "the bound's worth of the newest stays");
    if subject.has(&*broker, Need::Cleaning) {
        assert!(marks.low > Offset::START, "what is beyond the bound goes");
    }
    let start = vec![(at("t", 0), Start::Earliest)];
    let mut reader = Reader::by_hand(subject, &*broker, start).await;
    let kept = reader.read_to_end().await;
    assert_eq!(kept.last().map(|record| record.offset), Some(last));
    assert!(kept.iter().all(|record| record.offset >= marks.low));
}

/// Contract: a reader whose position retention has passed is told, once, and never led on silently.
pub async fn a_reader_overtaken_by_retention_is_told(subject: &Subject) {
    let broker = subject.broker().await;
    if !subject.has(&*broker, Need::Hours) {
        return;
    }
    let age = Some(HOUR);
    let retention = Retention { age, bytes: None };
    create_with(&*broker, "t", 1, Cleanup::Delete(retention)).await;
    produce(&*broker, &at("t", 0), numbered("", 10)).await;
    let start = vec![(at("t", 0), Start::Offset(Offset(0)))];
    let mut reader = Reader::by_hand(subject, &*broker, start).await;
    reader.read(10).await;
    reader.consumer.seek(&at("t", 0), Offset(2)).await.unwrap();
    reader.consumer.pause(&[at("t", 0)]);
    subject.pass(2 * HOUR).await;
    produce(&*broker, &at("t", 0), ["new"]).await;
    subject.clean().await;
    let marks = broker.watermarks(&at("t", 0)).await.unwrap();
    if marks.low <= Offset(2) {
        assert!(
            !subject.has(&*broker, Need::Cleaning),
            "retention moves the low watermark"
        );
        return;
    }
    reader.consumer.resume(&[at("t", 0)]);
    match reader.error().await {
        Error::OutOfRange {
            at: named,
            asked,
            low,
            high,
        } => {
            assert_eq!((named, asked), (at("t", 0), Offset(2)));
            assert_eq!((low, high), (marks.low, marks.high));
        }
        error => panic!("failed with `{error}`"),
    }
    reader.stays_quiet().await;
    reader.consumer.seek(&at("t", 0), marks.low).await.unwrap();
    assert_eq!(texts(&reader.read(1).await), ["new"]);
}

/// Contract: offsets are never used again, also when all records are gone.
pub async fn offsets_are_not_used_again_after_retention(subject: &Subject) {
    let broker = subject.broker().await;
    if !subject.has(&*broker, Need::Hours) {
        return;
    }
    let age = Some(HOUR);
    let retention = Retention { age, bytes: None };
    create_with(&*broker, "t", 1, Cleanup::Delete(retention)).await;
    produce(&*broker, &at("t", 0), numbered("", 10)).await;
    let before = broker.watermarks(&at("t", 0)).await.unwrap();
    subject.pass(2 * HOUR).await;
    subject.clean().await;
    let after = broker.watermarks(&at("t", 0)).await.unwrap();
    assert_eq!(after.high, before.high);
    let first = produce(&*broker, &at("t", 0), ["new"]).await;
    assert!(first >= before.high);
    let start = vec![(at("t", 0), Start::Offset(first))];
    let mut reader = Reader::by_hand(subject, &*broker, start).await;
    assert_eq!(texts(&reader.read_to_end().await), ["new"]);
}

fn compacted() -> Cleanup {
    Cleanup::Compact { tombstones: HOUR }
}

fn keyed(pairs: &[(&str, Option<&str>)]) -> RecordSet {
    let mut records = RecordSet::new(at("t", 0));
    for (key, value) in pairs {
        let value = value.map(str::as_bytes);
        records.push(None, Some(key.as_bytes()), value, &Headers::new());
    }
    records
}

/// Contract: compaction keeps the newest record of each key, with its offset and in its order.
pub async fn compaction_keeps_the_newest_record_of_each_key(subject: &Subject) {
    let broker = subject.broker().await;
    if !subject.has(&*broker, Need::Compaction) {
        let created = broker
            .create_topic(&spec("t", 1).cleanup(compacted()))
            .await;
        return refuses(created);
    }
    create_with(&*broker, "t", 1, compacted()).await;
    produce_set(&*broker, keyed(&[("a", Some("1")), ("b", Some("1"))])).await;
    produce_set(&*broker, keyed(&[("a", Some("2")), ("c", Some("1"))])).await;
    produce_set(&*broker, keyed(&[("a", Some("3")), ("c", Some("2"))])).await;
    let before = read(subject, &*broker, &at("t", 0), 6).await;
    let marks = broker.watermarks(&at("t", 0)).await.unwrap();
    subject.clean().await;
    let start = vec![(at("t", 0), Start::Offset(Offset(0)))];
    let mut reader = Reader::by_hand(subject, &*broker, start).await;
    let after = reader.read_to_end().await;
    let newest = [&before[1], &before[4], &before[5]];
    for record in newest {
        assert!(after.contains(record), "{record:?} stays");
    }
    assert!(after.iter().all(|record| before.contains(record)));
    if subject.has(&*broker, Need::Cleaning) {
        assert_eq!(after.iter().collect::<Vec<_>>(), newest);
    }
    assert_eq!(reader.ends, [(at("t", 0), marks.last_stable)]);
    let end = broker.watermarks(&at("t", 0)).await.unwrap();
    assert_eq!(end.high, marks.high, "compaction moves no end");
}

/// Contract: a record without payload removes its key, and goes itself once it is old enough.
pub async fn a_tombstone_removes_its_key_and_then_itself(subject: &Subject) {
    let broker = subject.broker().await;
    if !subject.has(&*broker, Need::Hours) {
        return;
    }
    if !subject.has(&*broker, Need::Compaction) {
        let created = broker
            .create_topic(&spec("t", 1).cleanup(compacted()))
            .await;
        return refuses(created);
    }
    create_with(&*broker, "t", 1, compacted()).await;
    produce_set(&*broker, keyed(&[("a", Some("1")), ("b", Some("1"))])).await;
    produce_set(&*broker, keyed(&[("a", None)])).await;
    subject.clean().await;
    let from = || vec![(at("t", 0), Start::Earliest)];
    let mut reader = Reader::by_hand(subject, &*broker, from()).await;
    let young = reader.read_to_end().await;
    let tombstone = |read: &Read| read.value.is_none() && read.key.as_deref() == Some(b"a");
    assert!(young.iter().any(tombstone), "a young tombstone is readable");
    subject.pass(2 * HOUR).await;
    produce_set(&*broker, keyed(&[("c", Some("1"))])).await;
    subject.clean().await;
    if !subject.has(&*broker, Need::Cleaning) {
        return;
    }
    assert_eq!(young.len(), 2, "the tombstone removed its key");
    let mut reader = Reader::by_hand(subject, &*broker, from()).await;
    let old = reader.read_to_end().await;
    let keys: Vec<_> = old.iter().map(|read| read.key.as_deref()).collect();
    assert_eq!(keys, [Some(&b"b"[..]), Some(b"c")]);
}

/// Contract: a reader in the middle of a partition that is compacted goes on, over the gaps.
pub async fn a_reader_goes_on_through_compaction(subject: &Subject) {
    let broker = subject.broker().await;
    if !subject.has(&*broker, Need::Compaction) {
        return;
    }
    create_with(&*broker, "t", 1, compacted()).await;
    for round in 0..20 {
        let value = round.to_string();
        let pairs: Vec<_> = ["a", "b", "c"]
            .iter()
            .map(|key| (*key, Some(value.as_str())))
            .collect();
        produce_set(&*broker, keyed(&pairs)).await;
    }
    let options = crate::ConsumerOptions {
        batch_records_max: 5,
        ..crate::ConsumerOptions::partitions(vec![(at("t", 0), Start::Earliest)])
    };
    let mut reader = Reader::open(subject, &*broker, options).await;
    reader.read(10).await;
    subject.clean().await;
    reader.read_to_end().await;
    let last: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|key| {
            let of_key = |read: &&Read| read.key.as_deref() == Some(key.as_bytes());
            reader.reads.iter().rfind(of_key).map(Read::text)
        })
        .collect();
    assert_eq!(last, vec![Some("19".to_owned()); 3]);
    for pair in reader.reads.windows(2) {
        assert!(pair[0].offset < pair[1].offset);
    }
}

/// What somebody holds who keeps the newest value of each key.
fn follow<'a>(reads: impl Iterator<Item = &'a Read>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut held = BTreeMap::new();
    for read in reads {
        let Some(key) = read.key.as_deref() else {
            continue;
        };
        match &read.value {
            Some(value) => held.insert(key.to_vec(), value.to_vec()),
            None => held.remove(key),
        };
    }
    held
}

/// Contract: below the watermark of tombstones some may be gone; whoever has followed a compacted
/// partition up to there, or further, and goes on from where he is holds what he would have held without
/// compaction. It never goes back.
pub async fn who_followed_beyond_the_tombstones_gone_misses_none(subject: &Subject) {
    let broker = subject.broker().await;
    if !subject.has(&*broker, Need::Hours) {
        return;
    }
    if !subject.has(&*broker, Need::Compaction) {
        create(&*broker, "t", 1).await;
        produce(&*broker, &at("t", 0), ["1"]).await;
        let marks = broker.watermarks(&at("t", 0)).await.unwrap();
        assert_eq!(marks.tombstones_gone, Offset::START, "nothing is known");
        return;
    }
    create_with(&*broker, "t", 1, compacted()).await;
    let start = || vec![(at("t", 0), Start::Earliest)];
    let mut whole = Reader::by_hand(subject, &*broker, start()).await;
    let mut gone = Offset::START;
    for round in 0..4 {
        let value = round.to_string();
        let value = Some(value.as_str());
        let removed = ["a", "b", "c"][round % 3];
        let pairs = [
            ("a", value),
            ("b", value),
            (removed, None),
            ("c", value),
            ("d", value),
        ];
        // The tombstone of `c` is overtaken by its value.
        let first = produce_set(&*broker, keyed(&pairs)).await;
        whole.read(pairs.len()).await;
        let before = broker.watermarks(&at("t", 0)).await.unwrap();
        subject.clean().await;
        let young = broker.watermarks(&at("t", 0)).await.unwrap();
        assert!(before.tombstones_gone >= gone && young.tombstones_gone >= before.tombstones_gone);
        assert!(young.tombstones_gone <= first, "the young one is there");
        subject.pass(2 * HOUR).await;
        // Something newer, so that what is old is compacted also where the newest never is.
        let pairs = [("e", value)];
        produce_set(&*broker, keyed(&pairs)).await;
        whole.read(pairs.len()).await;
        subject.clean().await;
        let marks = broker.watermarks(&at("t", 0)).await.unwrap();
        assert!(
            marks.tombstones_gone >= young.tombstones_gone,
            "it went back"
        );
        assert!(marks.tombstones_gone <= marks.high);
        gone = marks.tombstones_gone;

        let mut reader = Reader::by_hand(subject, &*broker, start()).await;
        let left = reader.read_to_end().await;
        let all = follow(whole.reads.iter());
        for from in marks.tombstones_gone.0..=marks.high.0 {
            let seen = whole.reads.iter().filter(|read| read.offset.0 < from);
            let rest = left.iter().filter(|read| read.offset.0 >= from);
            assert_eq!(follow(seen.chain(rest)), all, "who goes on at {from}");
        }
        if subject.has(&*broker, Need::Cleaning) && removed != "c" {
            let tombstone = whole.reads.iter().rfind(|read| read.value.is_none());
            let at = tombstone.map(|read| read.offset).unwrap_or_default();
            assert!(
                gone > at,
                "the tombstone at {at} is gone, and {gone} is told"
            );
        }
    }
}
