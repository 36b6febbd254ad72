//! Clauses on dropping a call that is under way: each is polled once, or a few times, and dropped.

use std::time::Duration;

use super::Subject;
use super::kit::*;
use crate::{ConsumerOptions, Error, Offset, Outcome, Start, TopicDescription};

/// After how many polls a call is dropped at most.
const POLLS_MAX: usize = 3;

/// Contract: dropping `next` loses nothing; what it would have yielded comes from the next call.
pub async fn a_dropped_next_loses_nothing(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 2).await;
    let parts = (0..2).map(|partition| (at("t", partition), Start::Earliest));
    let options = ConsumerOptions {
        batch_records_max: 3,
        ..ConsumerOptions::partitions(parts.collect())
    };
    let mut reader = Reader::open(subject, &*broker, options).await;
    let mut produced = 0;
    while reader.reads.len() < 200 {
        if produced < 200 {
            let value = [(produced / 2).to_string()];
            produce(&*broker, &at("t", produced % 2), &value).await;
            produced += 1;
        }
        for _ in 0..3 {
            if let Some(delivery) = poll_once(reader.consumer.next()) {
                reader.take(delivery);
            }
        }
        if produced == 200 {
            reader.next_if_any().await;
        }
    }
    for partition in 0..2 {
        let of_one: Vec<_> = reader
            .reads
            .iter()
            .filter(|read| read.at.partition == partition)
            .map(Read::text)
            .collect();
        assert_eq!(of_one, numbered("", 100));
    }
}

/// Contract: dropping `produce` leaves unknown which records were appended; none is torn, and the
/// broker goes on.
pub async fn a_dropped_produce_tears_nothing(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    for round in 0..10 {
        let values = numbered(&format!("{round}-"), 5);
        let producing = broker.produce(vec![set(&at("t", 0), &values)]);
        let _ = poll_times(subject, 1 + round % POLLS_MAX, producing).await;
    }
    subject.check_cut_short();
    // What was dropped may still be on its way: whatever is read before this is all that counts.
    produce(&*broker, &at("t", 0), ["last"]).await;
    let start = vec![(at("t", 0), Start::Earliest)];
    let mut reader = Reader::by_hand(subject, &*broker, start).await;
    while !reader.reads.iter().any(|read| read.text() == "last") {
        reader.next().await;
    }
    for round in 0..10 {
        let prefix = format!("{round}-");
        let of_one: Vec<_> = texts(&reader.reads)
            .into_iter()
            .filter(|value| value.starts_with(&prefix))
            .collect();
        assert_eq!(of_one, numbered(&prefix, 5)[..of_one.len()]);
    }
}

/// Contract: dropping a commit of offsets leaves unknown whether it happened; committing again is
/// harmless.
pub async fn a_dropped_commit_of_offsets_can_be_repeated(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create(&*broker, "t", 1).await;
    let mut member = Reader::join(subject, &*broker, "g", &["t"]).await;
    let generation = member.assigned().await;
    let mut before = None;
    for polls in 1..=POLLS_MAX {
        let after = Some(Offset(4 + polls as u64));
        let offsets = [(at("t", 0), Offset(4 + polls as u64))];
        let committing = member.consumer.commit(Some(&generation), &offsets);
        let _ = poll_times(subject, polls, committing).await;
        let committed = committed_by(&*broker, "g", &[at("t", 0)]).await;
        assert!([before, after].contains(&committed[0]), "{committed:?}");
        member
            .consumer
            .commit(Some(&generation), &offsets)
            .await
            .unwrap();
        let committed = committed_by(&*broker, "g", &[at("t", 0)]).await;
        assert_eq!(committed, [after]);
        before = after;
    }
    subject.check_cut_short();
}

/// Contract: dropping a seek leaves the position where it was or at the offset.
pub async fn a_dropped_seek_leaves_the_old_place_or_the_new(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    produce(&*broker, &at("t", 0), numbered("", 20)).await;
    let start = vec![(at("t", 0), Start::Earliest)];
    let mut reader = Reader::by_hand(subject, &*broker, start).await;
    reader.read_to_end().await;
    let end = reader.consumer.position(&at("t", 0)).unwrap();
    let _ = poll_once(reader.consumer.seek(&at("t", 0), Offset(15)));
    let position = reader.consumer.position(&at("t", 0)).unwrap();
    assert!(
        [end, Offset(15)].contains(&position),
        "the position is {position}"
    );
    reader.consumer.seek(&at("t", 0), Offset(15)).await.unwrap();
    let mut again = Vec::new();
    while again.len() < 5 {
        match reader.consumer.next().await.unwrap() {
            crate::Delivery::Records(batch) => again.extend(texts(&read_of(&batch))),
            crate::Delivery::End { .. } => {}
            other => panic!("came {other:?} after a seek"),
        }
    }
    assert_eq!(again, numbered("", 20)[15..]);
}

/// Contract: dropping a commit leaves its outcome unknown; opening the id again settles it, and the
/// transaction is there whole or not at all.
pub async fn a_dropped_transaction_is_whole_or_absent(subject: &Subject) {
    let broker = subject.broker().await;
    if transactor(subject, &*broker, "id").await.is_none() {
        return;
    }
    create(&*broker, "t", 2).await;
    for round in 0..10 {
        let mut transactor = broker.transactor(&id("id")).await.unwrap();
        let values = numbered(&format!("{round}-"), 3);
        let sets = || vec![set(&at("t", 0), &values), set(&at("t", 1), &values)];
        let committing = transactor.commit(of_records(sets()));
        let dropped = poll_times(subject, 1 + round % POLLS_MAX, committing).await;
        if dropped.is_none() {
            // Until the id is opened again this owner has nothing more to say.
            let outcome = transactor.commit(of_records(sets())).await;
            match outcome {
                Outcome::NotCommitted(rejection) => {
                    assert!(rejection.error.is_fenced(), "{}", rejection.error);
                }
                other => panic!("answered {other:?} after an unknown outcome"),
            }
        }
    }
    subject.check_cut_short();
    let mut transactor = broker.transactor(&id("id")).await.unwrap();
    let last = vec![set(&at("t", 0), ["last"]), set(&at("t", 1), ["last"])];
    let _ = committed(transactor.commit(of_records(last)).await);
    let mut seen = Vec::new();
    for partition in 0..2 {
        let start = vec![(at("t", partition), Start::Earliest)];
        let mut reader = Reader::by_hand(subject, &*broker, start).await;
        while !reader.reads.iter().any(|read| read.text() == "last") {
            reader.next().await;
        }
        seen.push(texts(&reader.reads));
    }
    assert_eq!(seen[0], seen[1], "both partitions tell the same");
    for round in 0..10 {
        let prefix = format!("{round}-");
        let of_one: Vec<_> = seen[0]
            .iter()
            .filter(|value| value.starts_with(&prefix))
            .collect();
        assert!(
            of_one.is_empty() || of_one == numbered(&prefix, 3).iter().collect::<Vec<_>>(),
            "{of_one:?}"
        );
    }
}

/// Contract: dropping the opening of an id may have shut out the former owner; opening it again
/// works.
pub async fn a_dropped_opening_of_an_id_can_be_repeated(subject: &Subject) {
    let broker = subject.broker().await;
    if transactor(subject, &*broker, "id").await.is_none() {
        return;
    }
    create(&*broker, "t", 1).await;
    for polls in 1..=POLLS_MAX {
        let _ = poll_times(subject, polls, broker.transactor(&id("id"))).await;
    }
    let mut transactor = broker.transactor(&id("id")).await.unwrap();
    let _ = committed(
        transactor
            .commit(of_records(vec![set(&at("t", 0), ["a"])]))
            .await,
    );
    assert_eq!(read_texts(subject, &*broker, &at("t", 0), 1).await, ["a"]);
}

/// Contract: dropping a creation leaves the topic whole or absent.
pub async fn a_dropped_creation_leaves_a_topic_whole_or_absent(subject: &Subject) {
    let broker = subject.broker().await;
    let whole = |described: TopicDescription| assert_eq!(described.partitions, 3);
    for polls in 1..=POLLS_MAX {
        let name = format!("t{polls}");
        let name = name.as_str();
        let _ = poll_times(subject, polls, broker.create_topic(&spec(name, 3))).await;
        match broker.describe_topic(&topic(name)).await {
            Ok(described) => whole(described),
            Err(Error::UnknownTopic { .. }) => {}
            Err(error) => panic!("failed with `{error}`"),
        }
        match broker.create_topic(&spec(name, 3)).await {
            Ok(()) | Err(Error::TopicExists { .. }) => {}
            Err(error) => panic!("failed with `{error}`"),
        }
        whole(broker.describe_topic(&topic(name)).await.unwrap());
        produce(&*broker, &at(name, 2), ["a"]).await;
        assert_eq!(read_texts(subject, &*broker, &at(name, 2), 1).await, ["a"]);
    }
    subject.check_cut_short();
}

/// Contract: dropping a deletion leaves the topic whole or absent.
pub async fn a_dropped_deletion_leaves_a_topic_whole_or_absent(subject: &Subject) {
    let broker = subject.broker().await;
    for polls in 1..=POLLS_MAX {
        create(&*broker, "t", 1).await;
        produce(&*broker, &at("t", 0), ["a"]).await;
        let _ = poll_times(subject, polls, broker.delete_topic(&topic("t"))).await;
        match broker.describe_topic(&topic("t")).await {
            Ok(_) | Err(Error::UnknownTopic { .. }) => {}
            Err(error) => panic!("failed with `{error}`"),
        }
        match broker.delete_topic(&topic("t")).await {
            Ok(()) | Err(Error::UnknownTopic { .. }) => {}
            Err(error) => panic!("failed with `{error}`"),
        }
        assert_eq!(broker.list_topics().await.unwrap(), []);
    }
    subject.check_cut_short();
}

/// Contract: dropping the opening of a consumer leaves its group as it was, or as after a member
/// left: the others are not kept waiting beyond the session timeout.
pub async fn a_dropped_joining_does_not_block_its_group(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create(&*broker, "t", 4).await;
    let options = || ConsumerOptions {
        session_timeout: Duration::from_secs(6),
        ..member_options("g", &["t"], Duration::from_secs(6))
    };
    drop(poll_times(subject, 1, broker.consumer(options())).await);
    let mut member = Reader::open(subject, &*broker, options()).await;
    for polls in 1..=POLLS_MAX {
        drop(poll_times(subject, polls, broker.consumer(options())).await);
    }
    converge(subject, &mut [&mut member], 4).await;
}

/// Contract: dropping `sync` leaves unknown whether everything is durable; it can be called again.
pub async fn a_dropped_sync_can_be_repeated(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    for polls in 1..=POLLS_MAX {
        produce(&*broker, &at("t", 0), [polls.to_string()]).await;
        let _ = poll_times(subject, polls, broker.sync()).await;
        broker.sync().await.unwrap();
    }
    let texts = read_texts(subject, &*broker, &at("t", 0), POLLS_MAX).await;
    assert_eq!(texts, ["1", "2", "3"]);
}
