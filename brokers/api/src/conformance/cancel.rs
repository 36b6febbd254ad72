//! Clauses on dropping a call that is under way: each is polled so often as a seed says, and dropped.

use std::time::Duration;

use super::kit::*;
use super::{Need, Subject};
use crate::{ConsumerOptions, Error, Offset, Outcome, Start, Timestamp, TopicDescription};

/// How often a call is dropped: enough for some to be cut short, and others not.
const ROUNDS: usize = 8;

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
    let (mut drops, mut produced) = (subject.drops(), 0);
    while reader.reads.len() < 200 {
        if produced < 200 {
            let value = [(produced / 2).to_string()];
            produce(&*broker, &at("t", produced % 2), &value).await;
            produced += 1;
        }
        for _ in 0..3 {
            if let Some(delivery) = drops.drop(subject, reader.consumer.next()).await {
                reader.take(delivery);
            }
        }
        if produced == 200 {
            reader.next_if_any().await;
        }
    }
    // It waited at the end now and then.
    subject.check_cut_short();
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
    let mut drops = subject.drops();
    for round in 0..10 {
        let values = numbered(&format!("{round}-"), 5);
        let producing = broker.produce(vec![set(&at("t", 0), &values)]);
        let _ = drops.drop(subject, producing).await;
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
    let (mut drops, mut before) = (subject.drops(), None);
    for round in 0..ROUNDS {
        let next = Offset(4 + round as u64);
        let (after, offsets) = (Some(next), [(at("t", 0), next)]);
        let committing = member.consumer.commit(Some(&generation), &offsets);
        let _ = drops.drop(subject, committing).await;
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
    let at_0 = at("t", 0);
    let seeking = reader.consumer.seek(&at_0, Offset(15));
    let _ = subject.drops().drop(subject, seeking).await;
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
    let mut drops = subject.drops();
    for round in 0..10 {
        let mut transactor = broker.transactor(&id("id")).await.unwrap();
        let values = numbered(&format!("{round}-"), 3);
        let sets = || vec![set(&at("t", 0), &values), set(&at("t", 1), &values)];
        let committing = transactor.commit(of_records(sets()));
        let dropped = drops.drop(subject, committing).await;
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
    let mut drops = subject.drops();
    for _ in 0..ROUNDS {
        let _ = drops.drop(subject, broker.transactor(&id("id"))).await;
    }
    subject.check_cut_short_if_slow();
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
    let mut drops = subject.drops();
    for round in 0..ROUNDS {
        let name = format!("t{round}");
        let name = name.as_str();
        let _ = drops
            .drop(subject, broker.create_topic(&spec(name, 3)))
            .await;
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
    let mut drops = subject.drops();
    for _ in 0..ROUNDS {
        create(&*broker, "t", 1).await;
        produce(&*broker, &at("t", 0), ["a"]).await;
        let _ = drops.drop(subject, broker.delete_topic(&topic("t"))).await;
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
    let mut drops = subject.drops();
    drop(drops.drop(subject, broker.consumer(options())).await);
    let mut member = Reader::open(subject, &*broker, options()).await;
    for _ in 0..ROUNDS {
        drop(drops.drop(subject, broker.consumer(options())).await);
    }
    subject.check_cut_short_if_slow();
    converge(subject, &mut [&mut member], 4).await;
}

/// Contract: dropping `sync` leaves unknown whether everything is durable; it can be called again.
pub async fn a_dropped_sync_can_be_repeated(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    let mut drops = subject.drops();
    for round in 0..ROUNDS {
        produce(&*broker, &at("t", 0), [round.to_string()]).await;
        let _ = drops.drop(subject, broker.sync()).await;
        broker.sync().await.unwrap();
    }
    subject.check_cut_short_if_slow();
    let texts = read_texts(subject, &*broker, &at("t", 0), ROUNDS).await;
    assert_eq!(texts, numbered("", ROUNDS));
}

/// Contract: dropping a question leaves everything as it was: asked again it is answered, and what goes
/// on beside it is not disturbed.
pub async fn a_dropped_question_changes_nothing(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 2).await;
    create(&*broker, "u", 1).await;
    let start = vec![(at("t", 0), Start::Earliest)];
    let mut reader = Reader::by_hand(subject, &*broker, start).await;
    let at_0 = at("t", 0);
    let here = [at("t", 0), at("t", 1)];
    let group = group("g");
    let grouped = subject.has(&*broker, Need::Groups);
    if grouped {
        let mut member = Reader::join(subject, &*broker, "g", &["t"]).await;
        member.assigned().await;
        member.commit(&at_0, 7).await.unwrap();
    }
    let mut drops = subject.drops();
    for round in 0..ROUNDS {
        let offset = produce(&*broker, &at_0, [round.to_string()]).await;
        let _ = drops
            .drop(subject, broker.describe_topic(&at_0.topic))
            .await;
        let _ = drops.drop(subject, broker.list_topics()).await;
        let _ = drops.drop(subject, broker.watermarks(&at_0)).await;
        let _ = drops
            .drop(subject, broker.offset_at(&at_0, Timestamp(0)))
            .await;
        if grouped {
            let _ = drops.drop(subject, broker.committed(&group, &here)).await;
            let committed = broker.committed(&group, &here).await.unwrap();
            assert_eq!(committed, [Some(Offset(7)), None]);
        }
        let described = broker.describe_topic(&at_0.topic).await.unwrap();
        assert_eq!(described.partitions, 2);
        assert_eq!(
            broker.list_topics().await.unwrap(),
            [topic("t"), topic("u")]
        );
        let marks = broker.watermarks(&at_0).await.unwrap();
        assert_eq!((marks.low, marks.high), (Offset::START, offset.next()));
        let first = broker.offset_at(&at_0, Timestamp(0)).await.unwrap();
        assert_eq!(first, Offset::START);
        assert_eq!(texts(&reader.read(1).await), [round.to_string()]);
    }
    subject.check_cut_short_if_slow();
}
