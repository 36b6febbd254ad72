//! Clauses on topics.

use std::time::Duration;

use super::kit::*;
use super::{Need, Subject};
use crate::{Cleanup, ConsumerOptions, Error, Offset, Retention, Start, Timestamp};

/// Contract: a topic is described with the partitions and the cleanup it was created with.
pub async fn a_created_topic_is_described_as_asked(subject: &Subject) {
    let broker = subject.broker().await;
    let retention = Retention {
        age: Some(Duration::from_secs(3600)),
        bytes: Some(1 << 20),
    };
    create_with(&*broker, "bounded", 3, Cleanup::Delete(retention)).await;
    create(&*broker, "plain", 1).await;
    let bounded = broker.describe_topic(&topic("bounded")).await.unwrap();
    assert_eq!(bounded.name, topic("bounded"));
    assert_eq!(bounded.partitions, 3);
    assert_eq!(bounded.cleanup, Cleanup::Delete(retention));
    let plain = broker.describe_topic(&topic("plain")).await.unwrap();
    assert_eq!(plain.partitions, 1);
    assert_eq!(plain.cleanup, Cleanup::default());
}

/// Contract: all topics are listed, sorted by name.
pub async fn topics_are_listed_in_order_of_their_names(subject: &Subject) {
    let broker = subject.broker().await;
    assert_eq!(broker.list_topics().await.unwrap(), []);
    for name in ["b", "a", "c-2", "c-10"] {
        create(&*broker, name, 1).await;
    }
    let names = ["a", "b", "c-10", "c-2"].map(topic);
    assert_eq!(broker.list_topics().await.unwrap(), names);
}

/// Contract: creating a topic that is there fails and changes nothing.
pub async fn a_topic_is_not_created_twice(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 2).await;
    produce(&*broker, &at("t", 0), ["kept"]).await;
    match broker.create_topic(&spec("t", 5)).await {
        Err(Error::TopicExists { topic: name }) => assert_eq!(name, topic("t")),
        other => panic!("created twice: {other:?}"),
    }
    let described = broker.describe_topic(&topic("t")).await.unwrap();
    assert_eq!(described.partitions, 2);
    assert_eq!(
        read_texts(subject, &*broker, &at("t", 0), 1).await,
        ["kept"]
    );
}

/// Contract: calls for a topic that is not there fail and name it.
pub async fn an_unknown_topic_is_named(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "other", 1).await;
    let missing = at("missing", 0);
    let start = vec![(missing.clone(), Start::Earliest)];
    let errors = [
        broker.describe_topic(&missing.topic).await.err(),
        broker.delete_topic(&missing.topic).await.err(),
        broker.watermarks(&missing).await.err(),
        broker.offset_at(&missing, Timestamp(0)).await.err(),
        broker
            .consumer(ConsumerOptions::partitions(start))
            .await
            .err(),
    ];
    for (call, error) in errors.into_iter().enumerate() {
        match error {
            Some(Error::UnknownTopic { topic }) => assert_eq!(topic, missing.topic),
            other => panic!("call {call} answered {other:?}"),
        }
    }
    if subject.has(&*broker, Need::Groups) {
        let topics = vec![topic("other"), missing.topic.clone()];
        let options = ConsumerOptions::group(group("g"), topics, Start::Earliest);
        match broker.consumer(options).await {
            Err(Error::UnknownTopic { topic }) => assert_eq!(topic, missing.topic),
            other => panic!("a subscription answered {other:?}"),
        }
    }
}

/// Contract: calls for a partition that the topic does not have fail and name it.
pub async fn an_unknown_partition_is_named(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 2).await;
    let missing = at("t", 2);
    let start = vec![(missing.clone(), Start::Earliest)];
    let errors = [
        broker.watermarks(&missing).await.err(),
        broker.offset_at(&missing, Timestamp(0)).await.err(),
        broker
            .consumer(ConsumerOptions::partitions(start))
            .await
            .err(),
    ];
    for (call, error) in errors.into_iter().enumerate() {
        match error {
            Some(Error::UnknownPartition { at }) => assert_eq!(at, missing),
            other => panic!("call {call} answered {other:?}"),
        }
    }
}

/// Contract: a deleted topic is no longer there.
pub async fn a_deleted_topic_is_gone(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    produce(&*broker, &at("t", 0), ["a"]).await;
    broker.delete_topic(&topic("t")).await.unwrap();
    assert_eq!(broker.list_topics().await.unwrap(), []);
    assert!(matches!(
        broker.describe_topic(&topic("t")).await,
        Err(Error::UnknownTopic { .. })
    ));
}

/// Contract: a topic created under the name of a deleted one has none of its records, and its
/// offsets begin anew.
pub async fn a_recreated_topic_begins_empty(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    produce(&*broker, &at("t", 0), ["old", "old"]).await;
    broker.delete_topic(&topic("t")).await.unwrap();
    create(&*broker, "t", 2).await;
    let marks = broker.watermarks(&at("t", 0)).await.unwrap();
    assert_eq!((marks.low, marks.high), (Offset::START, Offset::START));
    assert_eq!(produce(&*broker, &at("t", 0), ["new"]).await, Offset::START);
    assert_eq!(read_texts(subject, &*broker, &at("t", 0), 1).await, ["new"]);
}

/// Contract: where topics have an identity it is lasting, and another for each incarnation;
/// elsewhere there is none.
pub async fn a_recreated_topic_has_another_identity(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    create(&*broker, "u", 1).await;
    let first = broker.describe_topic(&topic("t")).await.unwrap().identity;
    let again = broker.describe_topic(&topic("t")).await.unwrap().identity;
    let other = broker.describe_topic(&topic("u")).await.unwrap().identity;
    broker.delete_topic(&topic("t")).await.unwrap();
    create(&*broker, "t", 1).await;
    let second = broker.describe_topic(&topic("t")).await.unwrap().identity;
    if subject.has(&*broker, Need::Identity) {
        assert!(first.is_some() && other.is_some() && second.is_some());
        assert_eq!(first, again);
        assert_ne!(first, other);
        assert_ne!(first, second);
    } else {
        assert_eq!([first, again, other, second], [None; 4]);
    }
}

/// Contract: a reader of a topic that is deleted is told so, as a loss or as an error.
pub async fn a_deleted_topic_is_told_to_its_reader(subject: &Subject) {
    let broker = subject.broker().await;
    create(&*broker, "t", 1).await;
    produce(&*broker, &at("t", 0), ["a"]).await;
    let start = vec![(at("t", 0), Start::Earliest)];
    let mut reader = Reader::by_hand(subject, &*broker, start).await;
    reader.read_to_end().await;
    broker.delete_topic(&topic("t")).await.unwrap();
    told_of_deletion(&mut reader).await;
}

async fn told_of_deletion(reader: &mut Reader<'_>) {
    loop {
        match reader.next().await {
            Came::Lost => {
                assert_eq!(reader.lost, [at("t", 0)]);
                return;
            }
            Came::Error(
                Error::UnknownTopic { topic: name } | Error::TopicDeleted { topic: name },
            ) => {
                assert_eq!(name, topic("t"));
                return;
            }
            Came::Error(error) if error.is_transient() => {}
            Came::End => {}
            other => panic!("came {other:?} from a deleted topic"),
        }
    }
}

/// Contract: where topics have an identity, a reader does not go on in a topic that was deleted and
/// created again.
pub async fn a_reader_does_not_take_a_recreated_topic_for_the_old(subject: &Subject) {
    let broker = subject.broker().await;
    if !subject.has(&*broker, Need::Identity) {
        return;
    }
    create(&*broker, "t", 1).await;
    produce(&*broker, &at("t", 0), ["old"]).await;
    let start = vec![(at("t", 0), Start::Earliest)];
    let mut reader = Reader::by_hand(subject, &*broker, start).await;
    reader.read_to_end().await;
    broker.delete_topic(&topic("t")).await.unwrap();
    create(&*broker, "t", 1).await;
    produce(&*broker, &at("t", 0), ["new", "new", "new"]).await;
    told_of_deletion(&mut reader).await;
}

/// Contract: a compacted topic is created where compaction is offered, and refused elsewhere.
pub async fn a_compacted_topic_is_created_or_refused(subject: &Subject) {
    let broker = subject.broker().await;
    let cleanup = Cleanup::Compact {
        tombstones: Duration::from_secs(60),
    };
    let created = broker.create_topic(&spec("t", 1).cleanup(cleanup)).await;
    if subject.has(&*broker, Need::Compaction) {
        created.unwrap();
        let described = broker.describe_topic(&topic("t")).await.unwrap();
        assert_eq!(described.cleanup, cleanup);
    } else {
        refuses(created);
        assert_eq!(broker.list_topics().await.unwrap(), []);
    }
}

/// Contract: with a topic go the offsets that groups have committed for it.
pub async fn the_offsets_of_a_deleted_topic_are_gone(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    create(&*broker, "t", 1).await;
    create(&*broker, "stays", 1).await;
    let both = [at("t", 0), at("stays", 0)];
    let parts = both.iter().map(|at| (at.clone(), Start::Earliest));
    let mut reader = Reader::open(subject, &*broker, by_hand_for("g", parts.collect())).await;
    let offsets = [(both[0].clone(), Offset(1)), (both[1].clone(), Offset(2))];
    reader.consumer.commit(None, &offsets).await.unwrap();
    drop(reader);
    broker.delete_topic(&topic("t")).await.unwrap();
    create(&*broker, "t", 1).await;
    assert_eq!(
        committed_by(&*broker, "g", &both).await,
        [None, Some(Offset(2))]
    );
}
