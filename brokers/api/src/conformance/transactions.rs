//! Clauses on transactions.

use super::kit::*;
use super::{Need, Subject};
use crate::{Error, GroupOffsets, Headers, Offset, Outcome, RecordSet, Start, Transaction};

/// Contract: all records of a committed transaction become visible, in every partition, and the
/// answer tells for each partition once where its records went.
pub async fn all_records_of_a_transaction_are_read(subject: &Subject) {
    let broker = subject.broker().await;
    let Some(mut transactor) = transactor(subject, &*broker, "id").await else {
        return;
    };
    create(&*broker, "t", 2).await;
    create(&*broker, "u", 1).await;
    produce(&*broker, &at("u", 0), ["before"]).await;
    let partitions = [at("t", 0), at("t", 1), at("u", 0)];
    let sets = partitions.iter().map(|at| set(at, ["a", "b"])).collect();
    let appended = committed(transactor.commit(of_records(sets)).await);
    assert_eq!(appended.len(), 3);
    produce(&*broker, &at("u", 0), ["after"]).await;
    for at in &partitions {
        let (before, after) = if at.topic == topic("u") {
            (1, 1)
        } else {
            (0, 0)
        };
        let read = read(subject, &*broker, at, before + 2 + after).await;
        assert_eq!(texts(&read[before..before + 2]), ["a", "b"]);
        let answer = appended.iter().find(|answer| answer.at == *at).unwrap();
        assert_eq!(answer.first, read[before].offset);
    }
}

/// Contract: several sets of a transaction may name one partition and are appended in their order.
pub async fn sets_of_one_partition_keep_their_order(subject: &Subject) {
    let broker = subject.broker().await;
    let Some(mut transactor) = transactor(subject, &*broker, "id").await else {
        return;
    };
    create(&*broker, "t", 2).await;
    let sets = vec![
        set(&at("t", 0), ["a"]),
        set(&at("t", 1), ["x"]),
        set(&at("t", 0), ["b", "c"]),
        RecordSet::new(at("t", 0)),
        set(&at("t", 0), ["d"]),
    ];
    let appended = committed(transactor.commit(of_records(sets)).await);
    assert_eq!(appended.len(), 2, "one answer for each partition");
    assert_eq!(
        read_texts(subject, &*broker, &at("t", 0), 4).await,
        ["a", "b", "c", "d"]
    );
}

/// Contract: a transaction without records and offsets commits.
pub async fn a_transaction_of_nothing_is_committed(subject: &Subject) {
    let broker = subject.broker().await;
    let Some(mut transactor) = transactor(subject, &*broker, "id").await else {
        return;
    };
    let appended = committed(transactor.commit(Transaction::default()).await);
    assert_eq!(appended, []);
}

/// Contract: opening an id shuts out its former owner, of whose commits nothing is ever seen.
pub async fn opening_an_id_fences_its_former_owner(subject: &Subject) {
    let broker = subject.broker().await;
    let Some(mut former) = transactor(subject, &*broker, "id").await else {
        return;
    };
    create(&*broker, "t", 1).await;
    let one = |value| of_records(vec![set(&at("t", 0), [value])]);
    let _ = committed(former.commit(one("first")).await);
    if !subject.has(&*broker, Need::Fencing) {
        return;
    }
    let mut present = transactor(subject, &*broker, "id").await.unwrap();
    for _ in 0..2 {
        let rejection = rejected(former.commit(one("zombie")).await);
        assert!(rejection.error.is_fenced(), "{}", rejection.error);
        let _ = committed(present.commit(one("second")).await);
    }
    assert_eq!(
        read_texts(subject, &*broker, &at("t", 0), 3).await,
        ["first", "second", "second"]
    );
}

/// Contract: a former owner is told that it is fenced, whatever else is wrong with its transaction, so that
/// it does not take a record of it for the culprit.
pub async fn a_former_owner_is_fenced_whatever_it_commits(subject: &Subject) {
    let broker = subject.broker().await;
    let Some(mut former) = transactor(subject, &*broker, "id").await else {
        return;
    };
    create(&*broker, "t", 1).await;
    if !subject.has(&*broker, Need::Fencing) {
        return;
    }
    let _present = transactor(subject, &*broker, "id").await.unwrap();
    let huge = vec![b'x'; broker.capabilities().record_bytes_max + 1];
    let mut too_large = RecordSet::new(at("t", 0));
    too_large.push(None, None, Some(&huge), &Headers::new());
    let of_offset = Transaction {
        records: Vec::new(),
        offsets: vec![GroupOffsets {
            group: group("g"),
            generation: None,
            offsets: vec![(at("missing", 0), Offset(1))],
        }],
    };
    for transaction in [
        of_records(vec![too_large]),
        of_records(vec![set(&at("missing", 0), ["x"])]),
        of_records(vec![set(&at("t", 7), ["x"])]),
        of_offset,
        Transaction::default(),
    ] {
        let rejection = rejected(former.commit(transaction).await);
        assert!(
            matches!(rejection.error, Error::Fenced { .. }),
            "{}",
            rejection.error
        );
        assert_eq!(rejection.culprit, None);
    }
}

/// Contract: opening one id leaves the owners of others alone.
pub async fn other_ids_are_not_fenced(subject: &Subject) {
    let broker = subject.broker().await;
    let Some(mut one) = transactor(subject, &*broker, "one").await else {
        return;
    };
    create(&*broker, "t", 1).await;
    let mut other = transactor(subject, &*broker, "other").await.unwrap();
    let _ = committed(one.commit(of_records(vec![set(&at("t", 0), ["a"])])).await);
    let _ = committed(
        other
            .commit(of_records(vec![set(&at("t", 0), ["b"])]))
            .await,
    );
    assert_eq!(
        read_texts(subject, &*broker, &at("t", 0), 2).await,
        ["a", "b"]
    );
}

/// Contract: a transaction with a record above the limit is rejected, the record named, and nothing
/// of it is seen.
pub async fn a_record_too_large_is_named_and_nothing_is_seen(subject: &Subject) {
    let broker = subject.broker().await;
    let Some(mut transactor) = transactor(subject, &*broker, "id").await else {
        return;
    };
    create(&*broker, "t", 2).await;
    let huge = vec![b'x'; broker.capabilities().record_bytes_max + 1];
    let mut records = set(&at("t", 1), ["small"]);
    records.push(None, None, Some(&huge), &Headers::new());
    let sets = vec![set(&at("t", 0), ["fine"]), records];
    let rejection = rejected(transactor.commit(of_records(sets)).await);
    assert_eq!(rejection.culprit, Some((1, 1)));
    assert!(
        matches!(rejection.error, Error::TooLarge { index: 1, .. }),
        "{}",
        rejection.error
    );
    let _ = committed(
        transactor
            .commit(of_records(vec![set(&at("t", 0), ["a"])]))
            .await,
    );
    assert_eq!(read_texts(subject, &*broker, &at("t", 0), 1).await, ["a"]);
}

/// Contract: a transaction for a topic that is not there does not happen, and the set is named.
pub async fn an_unknown_topic_rejects_the_whole(subject: &Subject) {
    let broker = subject.broker().await;
    let Some(mut transactor) = transactor(subject, &*broker, "id").await else {
        return;
    };
    create(&*broker, "t", 1).await;
    for missing in [at("missing", 0), at("t", 1)] {
        let sets = vec![set(&at("t", 0), ["x"]), set(&missing, ["y"])];
        let rejection = rejected(transactor.commit(of_records(sets)).await);
        assert_eq!(rejection.culprit, Some((1, 0)));
        assert!(
            matches!(
                rejection.error,
                Error::UnknownTopic { .. } | Error::UnknownPartition { .. }
            ),
            "{}",
            rejection.error
        );
    }
    assert_eq!(
        read_texts(subject, &*broker, &at("t", 0), 0).await,
        Vec::<String>::new()
    );
}

/// Contract: after a rejection other than fencing the owner may commit again.
pub async fn a_transactor_lives_on_after_a_rejection(subject: &Subject) {
    let broker = subject.broker().await;
    let Some(mut transactor) = transactor(subject, &*broker, "id").await else {
        return;
    };
    create(&*broker, "t", 1).await;
    for round in numbered("", 3) {
        let missing = of_records(vec![set(&at("missing", 0), ["x"])]);
        let _ = rejected(transactor.commit(missing).await);
        let _ = committed(
            transactor
                .commit(of_records(vec![set(&at("t", 0), [round])]))
                .await,
        );
    }
    assert_eq!(
        read_texts(subject, &*broker, &at("t", 0), 3).await,
        ["0", "1", "2"]
    );
}

/// Contract: offsets rise and may have gaps; what to read next leads over them to the end.
pub async fn readers_go_over_the_gaps_transactions_leave(subject: &Subject) {
    let broker = subject.broker().await;
    let Some(mut transactor) = transactor(subject, &*broker, "id").await else {
        return;
    };
    create(&*broker, "t", 1).await;
    let from = vec![(at("t", 0), Start::Earliest)];
    let mut reader = Reader::by_hand(subject, &*broker, from).await;
    for value in numbered("", 5) {
        let records = vec![set(&at("t", 0), [&value])];
        let _ = committed(transactor.commit(of_records(records)).await);
        assert_eq!(texts(&reader.read(1).await), [value]);
    }
    let marks = broker.watermarks(&at("t", 0)).await.unwrap();
    while reader.consumer.position(&at("t", 0)) != Some(marks.last_stable) {
        match reader.next().await {
            Came::Records(0) | Came::End => {}
            other => panic!("came {other:?} on the way to the end"),
        }
    }
    let mut again = Reader::by_hand(
        subject,
        &*broker,
        vec![(at("t", 0), Start::Offset(marks.last_stable))],
    )
    .await;
    assert_eq!(again.read_to_end().await, []);
    assert_eq!(again.ends, [(at("t", 0), marks.last_stable)]);
}

/// Contract: transactions of many owners at once are each whole and keep their owner's order.
pub async fn transactions_of_many_ids_are_each_whole(subject: &Subject) {
    const OWNERS: usize = 4;
    const ROUNDS: usize = 20;
    let broker = subject.broker().await;
    if transactor(subject, &*broker, "probe").await.is_none() {
        return;
    }
    create(&*broker, "t", 2).await;
    let tasks: Vec<_> = (0..OWNERS)
        .map(|owner| {
            let broker = std::sync::Arc::clone(&broker);
            tokio::spawn(async move {
                let mut transactor = broker.transactor(&id(&owner.to_string())).await.unwrap();
                for round in 0..ROUNDS {
                    let value = [format!("{owner} {round}")];
                    let sets = vec![set(&at("t", 0), &value), set(&at("t", 1), &value)];
                    let _ = committed(transactor.commit(of_records(sets)).await);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for partition in 0..2 {
        let values = read_texts(subject, &*broker, &at("t", partition), OWNERS * ROUNDS).await;
        for owner in 0..OWNERS {
            let own = format!("{owner} ");
            let of_one: Vec<_> = values
                .iter()
                .filter(|value| value.starts_with(&own))
                .cloned()
                .collect();
            assert_eq!(of_one, numbered(&own, ROUNDS));
        }
    }
}

/// Contract: once every commit is answered nothing holds readers back.
pub async fn nothing_is_open_once_all_is_answered(subject: &Subject) {
    let broker = subject.broker().await;
    let Some(mut transactor) = transactor(subject, &*broker, "id").await else {
        return;
    };
    create(&*broker, "t", 1).await;
    for value in numbered("", 3) {
        let outcome = transactor
            .commit(of_records(vec![set(&at("t", 0), [value])]))
            .await;
        assert!(matches!(outcome, Outcome::Committed(_)));
    }
    read(subject, &*broker, &at("t", 0), 3).await;
    let marks = broker.watermarks(&at("t", 0)).await.unwrap();
    assert_eq!(marks.last_stable, marks.high);
}
