//! Clauses on reading.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Subject;
use super::kit::*;
use crate::{
    Class, ConsumerOptions, Delivery, Error, Headers, Offset, RecordSet, Start, Timestamp,
};

/// Contract: partitions assigned by hand are told first, whole and without a generation.
pub async fn an_assignment_by_hand_is_told_first(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 2).await;
    produce(&*broker, &at("t", 0), ["a"]).await;
    let parts = vec![(at("t", 0), Start::Earliest), (at("t", 1), Start::Earliest)];
    let mut consumer = broker
        .consumer(ConsumerOptions::partitions(parts))
        .await
        .unwrap();
    match soon(subject, "an assignment", consumer.next()).await {
        Ok(Delivery::Assigned {
            generation: None,
            partitions,
        }) => assert_eq!(partitions, [at("t", 0), at("t", 1)]),
        other => panic!("came first: {other:?}"),
    }
}

/// Contract: *earliest* begins at the first record that is still there.
pub async fn earliest_begins_at_the_first_record(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    produce(&*broker, &at("t", 0), numbered("", 300)).await;
    assert_eq!(
        read_texts(subject, &*broker, &at("t", 0), 300).await,
        numbered("", 300)
    );
}

/// Contract: *latest* begins after what was there at the assignment, and misses nothing from then.
pub async fn latest_sees_only_what_comes_after(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    produce(&*broker, &at("t", 0), ["before"]).await;
    let parts = vec![(at("t", 0), Start::Latest)];
    let mut reader = Reader::by_hand(subject, &*broker, parts).await;
    reader.read_to_end().await;
    produce(&*broker, &at("t", 0), ["after"]).await;
    assert_eq!(texts(&reader.read(1).await), ["after"]);
    assert_eq!(reader.reads.len(), 1);
}

/// Contract: a start in time begins at the first record whose timestamp is not before it.
pub async fn a_start_in_time_begins_at_the_first_not_before_it(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    for (time, value) in [(1_000, "a"), (3_000, "b"), (2_000, "c")] {
        let mut records = RecordSet::new(at("t", 0));
        let time = Some(Timestamp::from_millis(time));
        records.push(time, None, Some(value.as_bytes()), &Headers::new());
        produce_set(&*broker, records).await;
    }
    for (time, expected) in [
        (0, &["a", "b", "c"][..]),
        (1_500, &["b", "c"]),
        (9_000, &[]),
    ] {
        let parts = vec![(at("t", 0), Start::At(Timestamp::from_millis(time)))];
        let mut reader = Reader::by_hand(subject, &*broker, parts).await;
        assert_eq!(texts(&reader.read_to_end().await), expected);
    }
}

/// Contract: an offset begins there.
pub async fn an_offset_begins_there(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    let first = produce(&*broker, &at("t", 0), numbered("", 10)).await;
    let start = Start::Offset(Offset(first.0 + 7));
    let mut reader = Reader::by_hand(subject, &*broker, vec![(at("t", 0), start)]).await;
    assert_eq!(texts(&reader.read_to_end().await), ["7", "8", "9"]);
}

/// Contract: *committed* begins where the group has committed, and is an error where it has not: a
/// reader never starts where nobody said.
pub async fn a_start_at_the_committed_offset_needs_one(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create(&*broker, "t", 1).await;
    produce(&*broker, &at("t", 0), numbered("", 5)).await;
    let part = || vec![(at("t", 0), Start::Committed)];
    let mut reader = Reader::open(subject, &*broker, by_hand_for("g", part())).await;
    match reader.error().await {
        Error::NoCommittedOffset {
            group: name,
            at: named,
        } => {
            assert_eq!((name, named), (group("g"), at("t", 0)));
        }
        error => panic!("failed with `{error}`"),
    }
    reader.stays_quiet().await;
    assert_eq!(reader.reads, []);
    let offset = [(at("t", 0), Offset(3))];
    reader.consumer.commit(None, &offset).await.unwrap();
    drop(reader);
    let mut reader = Reader::open(subject, &*broker, by_hand_for("g", part())).await;
    assert_eq!(texts(&reader.read_to_end().await), ["3", "4"]);
}

/// Contract: the end of a partition is told once each time it is reached, with the next offset to
/// read.
pub async fn an_end_is_told_once_each_time_it_is_reached(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    let parts = vec![(at("t", 0), Start::Earliest)];
    let mut reader = Reader::by_hand(subject, &*broker, parts).await;
    reader.read_to_end().await;
    assert_eq!(reader.ends, [(at("t", 0), Offset::START)]);
    for round in 1..=3 {
        reader.stays_quiet().await;
        assert_eq!(reader.ends.len(), round, "the end is told once");
        produce(&*broker, &at("t", 0), numbered("", 3)).await;
        reader.read_to_end().await;
        assert_eq!(reader.reads.len(), 3 * round);
        let marks = broker.watermarks(&at("t", 0)).await.unwrap();
        assert_eq!(reader.ends.last(), Some(&(at("t", 0), marks.last_stable)));
    }
    // A seek to where it stands reaches the end once more.
    let end = reader.consumer.position(&at("t", 0)).unwrap();
    reader.consumer.seek(&at("t", 0), end).await.unwrap();
    assert_eq!(reader.read_to_end().await, []);
    reader.stays_quiet().await;
    assert_eq!(reader.ends.len(), 5);
}

/// Contract: an offset beyond the end is named once, with what the log holds; the partition is then
/// silent until a seek, and others go on.
pub async fn an_offset_beyond_the_end_is_named_once(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 2).await;
    produce(&*broker, &at("t", 0), ["a", "b"]).await;
    let end = broker.watermarks(&at("t", 0)).await.unwrap().high;
    let beyond = Offset(end.0 + 5);
    let parts = vec![
        (at("t", 0), Start::Offset(beyond)),
        (at("t", 1), Start::Earliest),
    ];
    let mut reader = Reader::by_hand(subject, &*broker, parts).await;
    let error = reader.error().await;
    assert_eq!(error.class(), Class::Permanent);
    match error {
        Error::OutOfRange {
            at: named,
            asked,
            low,
            high,
        } => {
            assert_eq!((named, asked), (at("t", 0), beyond));
            assert_eq!((low, high), (Offset::START, end));
        }
        error => panic!("failed with `{error}`"),
    }
    produce(&*broker, &at("t", 0), numbered("", 10)).await;
    produce(&*broker, &at("t", 1), ["x"]).await;
    assert_eq!(texts(&reader.read(1).await), ["x"]);
    reader.stays_quiet().await;
    reader.consumer.seek(&at("t", 0), Offset(1)).await.unwrap();
    assert_eq!(reader.read(11).await[0].text(), "b");
}

/// Contract: after a seek the next record is the first at or after that offset, whatever was fetched
/// before.
pub async fn a_seek_moves_whatever_was_fetched(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    let first = produce(&*broker, &at("t", 0), numbered("", 1_000)).await;
    let parts = ConsumerOptions {
        batch_records_max: 10,
        ..ConsumerOptions::partitions(vec![(at("t", 0), Start::Earliest)])
    };
    let mut consumer = broker.consumer(parts).await.unwrap();
    for target in [0, 500, 20, 990, 0] {
        loop {
            // Whatever comes before the seek is left behind by it.
            match soon(subject, "records", consumer.next()).await.unwrap() {
                Delivery::Records(batch) if !batch.is_empty() => break,
                _ => {}
            }
        }
        let offset = Offset(first.0 + target);
        consumer.seek(&at("t", 0), offset).await.unwrap();
        assert_eq!(consumer.position(&at("t", 0)), Some(offset));
        loop {
            match soon(subject, "records", consumer.next()).await.unwrap() {
                Delivery::Records(batch) if !batch.is_empty() => {
                    assert_eq!(batch.get(0).offset, offset);
                    break;
                }
                Delivery::Records(_) => {}
                other => panic!("came {other:?} after a seek"),
            }
        }
        consumer.seek(&at("t", 0), first).await.unwrap();
    }
    let end = broker.watermarks(&at("t", 0)).await.unwrap().high;
    consumer.seek(&at("t", 0), end).await.unwrap();
    match soon(subject, "the end", consumer.next()).await.unwrap() {
        Delivery::End { offset, .. } => assert_eq!(offset, end),
        other => panic!("came {other:?} at the end"),
    }
}

/// Contract: only an assigned partition can be sought, and only it has a position.
pub async fn a_partition_that_is_not_assigned_cannot_be_sought(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 2).await;
    let parts = vec![(at("t", 0), Start::Earliest)];
    let mut reader = Reader::by_hand(subject, &*broker, parts).await;
    reader.read_to_end().await;
    match reader.consumer.seek(&at("t", 1), Offset(0)).await {
        Err(Error::NotAssigned { at: named }) => assert_eq!(named, at("t", 1)),
        other => panic!("a seek answered {other:?}"),
    }
    assert_eq!(reader.consumer.position(&at("t", 1)), None);
    // Ignored, not refused.
    reader.consumer.pause(&[at("t", 1)]);
    reader.consumer.resume(&[at("t", 1)]);
}

/// Contract: a paused partition delivers no records, also none already fetched; others go on, and
/// resuming continues without loss.
pub async fn a_paused_partition_waits_and_others_go_on(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 2).await;
    let parts = vec![(at("t", 0), Start::Earliest), (at("t", 1), Start::Earliest)];
    let options = ConsumerOptions {
        batch_records_max: 10,
        ..ConsumerOptions::partitions(parts)
    };
    produce(&*broker, &at("t", 0), numbered("p", 100)).await;
    let mut reader = Reader::open(subject, &*broker, options).await;
    reader.read(10).await;
    reader.consumer.pause(&[at("t", 0)]);
    reader.stays_quiet().await;
    produce(&*broker, &at("t", 1), numbered("q", 20)).await;
    let others = reader.read(20).await;
    assert_eq!(texts(&others), numbered("q", 20));
    reader.stays_quiet().await;
    reader.consumer.resume(&[at("t", 0)]);
    let rest = reader.read(90).await;
    assert_eq!(texts(&rest), numbered("p", 100)[10..]);
}

/// Contract: a position is the next offset to deliver.
pub async fn positions_follow_what_was_delivered(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    produce(&*broker, &at("t", 0), numbered("", 100)).await;
    let options = ConsumerOptions {
        batch_records_max: 7,
        ..ConsumerOptions::partitions(vec![(at("t", 0), Start::Earliest)])
    };
    let mut consumer = broker.consumer(options).await.unwrap();
    loop {
        match soon(subject, "a delivery", consumer.next()).await.unwrap() {
            Delivery::Records(batch) => {
                assert_eq!(consumer.position(batch.at()), Some(batch.next()));
            }
            Delivery::End { partition, offset } => {
                assert_eq!(consumer.position(&partition), Some(offset));
                break;
            }
            _ => {}
        }
    }
}

/// Contract: a batch holds at most so many records and bytes; a larger record comes alone.
pub async fn a_batch_keeps_to_its_bounds(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    let mut sizes = vec![10; 50];
    sizes.extend([5_000, 10, 400, 400, 400, 10, 5_000, 5_000, 10]);
    for chunk in sizes.chunks(7) {
        let mut records = RecordSet::new(at("t", 0));
        for size in chunk {
            records.push(None, None, Some(&vec![b'x'; *size]), &Headers::new());
        }
        produce_set(&*broker, records).await;
    }
    let options = ConsumerOptions {
        batch_records_max: 8,
        batch_bytes_max: 1_000,
        ..ConsumerOptions::partitions(vec![(at("t", 0), Start::Earliest)])
    };
    let mut consumer = broker.consumer(options).await.unwrap();
    let mut read = Vec::new();
    while read.len() < sizes.len() {
        if let Delivery::Records(batch) = soon(subject, "records", consumer.next()).await.unwrap() {
            let lengths: Vec<usize> = batch
                .iter()
                .map(|record| record.value.unwrap().len())
                .collect();
            assert!(lengths.len() <= 8, "{} records", lengths.len());
            assert!(
                lengths.len() <= 1 || lengths.iter().sum::<usize>() <= 1_000,
                "{lengths:?}"
            );
            read.extend(lengths);
        }
    }
    assert_eq!(read, sizes);
}

/// Contract: partitions take turns.
pub async fn partitions_take_turns(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 3).await;
    for partition in 0..3 {
        produce(&*broker, &at("t", partition), numbered("", 2_000)).await;
    }
    let parts = (0..3).map(|partition| (at("t", partition), Start::Earliest));
    let options = ConsumerOptions {
        batch_records_max: 10,
        ..ConsumerOptions::partitions(parts.collect())
    };
    let mut reader = Reader::open(subject, &*broker, options).await;
    while reader.reads.len() < 3_000 {
        reader.next().await;
    }
    let seen: BTreeSet<_> = reader.reads.iter().map(|read| read.at.partition).collect();
    assert_eq!(seen.len(), 3, "all partitions had a turn in the first half");
}

/// Contract: a reader at the end wakes for what is appended then.
pub async fn a_waiting_reader_wakes_for_new_records(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    let parts = vec![(at("t", 0), Start::Earliest)];
    let mut reader = Reader::by_hand(subject, &*broker, parts).await;
    reader.read_to_end().await;
    let produced = async {
        tokio::task::yield_now().await;
        produce(&*broker, &at("t", 0), ["a"]).await;
    };
    let (read, ()) = tokio::join!(reader.read(1), produced);
    assert_eq!(texts(&read), ["a"]);
}

/// Contract: readers do not disturb each other, and many may read while many write.
pub async fn many_readers_each_see_everything(subject: &Subject) {
    const READERS: usize = 6;
    const RECORDS: usize = 200;
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    let patience = subject.patient();
    let tasks: Vec<_> = (0..READERS)
        .map(|index| {
            let broker = Arc::clone(&broker);
            tokio::spawn(async move {
                let options = ConsumerOptions {
                    batch_records_max: 1 + index * 10,
                    ..ConsumerOptions::partitions(vec![(at("t", 0), Start::Earliest)])
                };
                let mut consumer = broker.consumer(options).await.unwrap();
                let mut values = Vec::new();
                while values.len() < RECORDS {
                    let next = tokio::time::timeout(patience, consumer.next()).await;
                    if let Delivery::Records(batch) = next.unwrap().unwrap() {
                        values.extend(texts(&read_of(&batch)));
                    }
                }
                values
            })
        })
        .collect();
    for value in numbered("", RECORDS) {
        produce(&*broker, &at("t", 0), [value]).await;
        tokio::task::yield_now().await;
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), numbered("", RECORDS));
    }
}

/// Contract: reading again from the same offset yields the same records.
pub async fn a_partition_read_twice_is_the_same(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    for size in [1, 100, 3, 70] {
        produce(&*broker, &at("t", 0), numbered("", size)).await;
    }
    let once = read(subject, &*broker, &at("t", 0), 174).await;
    let twice = read(subject, &*broker, &at("t", 0), 174).await;
    assert_eq!(once, twice);
}
