//! Clauses on transactions that carry the offsets of a group.

use super::kit::*;
use super::{Need, Subject};
use crate::{Broker, Generation, GroupOffsets, Offset, Outcome, RecordSet, Start, Transaction};

fn with_offset(
    records: Vec<RecordSet>,
    generation: Option<Generation>,
    offset: u64,
) -> Transaction {
    Transaction {
        records,
        offsets: vec![GroupOffsets {
            group: group("g"),
            generation,
            offsets: vec![(at("in", 0), Offset(offset))],
        }],
    }
}

async fn offset_in(broker: &dyn Broker) -> Option<Offset> {
    committed_by(broker, "g", &[at("in", 0)]).await[0]
}

async fn nothing_is_seen(subject: &Subject, broker: &dyn Broker) {
    assert_eq!(read(subject, broker, &at("out", 0), 0).await, []);
}

/// Checks that offsets were refused because of this very generation.
fn rejected_as_stale(outcome: Outcome, generation: Option<&Generation>) {
    stale(Err::<(), _>(rejected(outcome).error), generation);
}

/// Contract: records and a group's offsets become visible together; where offsets cannot be part of
/// a transaction it is refused.
pub async fn records_and_offsets_are_committed_together(subject: &Subject) {
    let Some(broker) = broker_with_groups(subject).await else {
        return;
    };
    let Some(mut transactor) = transactor(subject, &*broker, "id").await else {
        return;
    };
    create(&*broker, "in", 1).await;
    create(&*broker, "out", 1).await;
    let mut member = Reader::join(subject, &*broker, "g", &["in"]).await;
    let generation = member.assigned().await;
    let records = vec![set(&at("out", 0), ["a"])];
    let outcome = transactor
        .commit(with_offset(records, Some(generation), 7))
        .await;
    if !subject.has(&*broker, Need::OffsetsInTransaction) {
        refuses(Err::<(), _>(rejected(outcome).error));
        return;
    }
    let _ = committed(outcome);
    assert_eq!(read_texts(subject, &*broker, &at("out", 0), 1).await, ["a"]);
    assert_eq!(offset_in(&*broker).await, Some(Offset(7)));
}

/// Contract: all of a transaction becomes visible at once: who sees it in one partition, or in the offsets
/// of the group, finds it in the others.
pub async fn records_and_offsets_become_visible_at_once(subject: &Subject) {
    const ROUNDS: u64 = 20;
    let Some((broker, mut transactor)) = broker_with_offsets_in_transactions(subject).await else {
        return;
    };
    create(&*broker, "in", 1).await;
    create(&*broker, "out", 2).await;
    let writer = tokio::spawn(async move {
        for round in 1..=ROUNDS {
            let value = [round.to_string()];
            let records = vec![set(&at("out", 0), &value), set(&at("out", 1), &value)];
            let _ = committed(transactor.commit(with_offset(records, None, round)).await);
            tokio::task::yield_now().await;
        }
    });
    // Each time in another order.
    for look in 0.. {
        let is_over = writer.is_finished();
        let mut seen = 0;
        for place in (look..look + 3).map(|place| place % 3) {
            let there = match place {
                2 => offset_in(&*broker).await.map_or(0, |offset| offset.0),
                partition => newest_round(subject, &*broker, partition).await,
            };
            assert!(
                there >= seen,
                "round {seen} is seen, and at {place} is {there}"
            );
            seen = there;
        }
        if is_over {
            writer.await.expect("every round is committed");
            assert_eq!(seen, ROUNDS);
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// The number that the last record of a partition of `out` bears; 0 if there is none.
async fn newest_round(subject: &Subject, broker: &dyn Broker, partition: u32) -> u64 {
    let start = vec![(at("out", partition), Start::Earliest)];
    let mut reader = Reader::by_hand(subject, broker, start).await;
    let reads = reader.read_to_end().await;
    reads
        .last()
        .map_or(0, |read| read.text().parse().expect("a number"))
}

/// Contract: a transaction with a stale generation is fenced, and nothing of it is ever seen.
pub async fn a_stale_generation_is_fenced_and_nothing_is_seen(subject: &Subject) {
    let Some((broker, mut transactor)) = broker_with_offsets_in_transactions(subject).await else {
        return;
    };
    create(&*broker, "in", 2).await;
    create(&*broker, "out", 1).await;
    let mut first = Reader::join(subject, &*broker, "g", &["in"]).await;
    let former = first.assigned().await;
    let _second = join_and_share(subject, &*broker, &mut first, "in", 2).await;
    let records = vec![set(&at("out", 0), ["x"])];
    let outcome = transactor
        .commit(with_offset(records, Some(former.clone()), 7))
        .await;
    rejected_as_stale(outcome, Some(&former));
    assert_eq!(offset_in(&*broker).await, None);
    let _ = committed(
        transactor
            .commit(of_records(vec![set(&at("out", 0), ["seen"])]))
            .await,
    );
    assert_eq!(
        read_texts(subject, &*broker, &at("out", 0), 1).await,
        ["seen"]
    );
}

/// Contract: an offset of a partition that is another member's is fenced in a transaction, and
/// nothing of it is ever seen.
pub async fn an_offset_of_another_partition_rejects_the_whole(subject: &Subject) {
    let Some((broker, mut transactor)) = broker_with_offsets_in_transactions(subject).await else {
        return;
    };
    create(&*broker, "in", 2).await;
    create(&*broker, "out", 1).await;
    let (first, second) = two_members(subject, &*broker, "in", 2).await;
    let not_its_own = if first.owned.contains(&at("in", 0)) {
        second.generation.clone()
    } else {
        first.generation.clone()
    };
    let records = vec![set(&at("out", 0), ["x"])];
    let outcome = transactor
        .commit(with_offset(records, not_its_own.clone(), 7))
        .await;
    rejected_as_stale(outcome, not_its_own.as_ref());
    assert_eq!(offset_in(&*broker).await, None);
    nothing_is_seen(subject, &*broker).await;
}

/// Contract: a transaction that mixes generations of one group is refused, be one of them stale or
/// another member's.
pub async fn a_transaction_that_mixes_generations_is_refused(subject: &Subject) {
    let Some((broker, mut transactor)) = broker_with_offsets_in_transactions(subject).await else {
        return;
    };
    create(&*broker, "in", 2).await;
    create(&*broker, "out", 1).await;
    let mut first = Reader::join(subject, &*broker, "g", &["in"]).await;
    let former = first.assigned().await;
    let second = join_and_share(subject, &*broker, &mut first, "in", 2).await;
    let offsets = |generation: &Generation, of: &Reader<'_>| GroupOffsets {
        group: group("g"),
        generation: Some(generation.clone()),
        offsets: of.owned.iter().map(|at| (at.clone(), Offset(1))).collect(),
    };
    let (one, other) = (
        first.generation.clone().unwrap(),
        second.generation.clone().unwrap(),
    );
    let mixtures = [
        vec![offsets(&one, &first), offsets(&former, &first)],
        vec![offsets(&one, &first), offsets(&other, &second)],
    ];
    for offsets in mixtures {
        let records = vec![set(&at("out", 0), ["x"])];
        let _ = rejected(transactor.commit(Transaction { records, offsets }).await);
    }
    let both = [at("in", 0), at("in", 1)];
    assert_eq!(committed_by(&*broker, "g", &both).await, [None, None]);
    nothing_is_seen(subject, &*broker).await;
}

/// Contract: offsets without a generation are fenced while the group has members.
pub async fn offsets_without_generation_are_fenced_while_there_are_members(subject: &Subject) {
    let Some((broker, mut transactor)) = broker_with_offsets_in_transactions(subject).await else {
        return;
    };
    create(&*broker, "in", 1).await;
    let mut member = Reader::join(subject, &*broker, "g", &["in"]).await;
    member.assigned().await;
    let rejection = rejected(transactor.commit(with_offset(Vec::new(), None, 3)).await);
    assert!(rejection.error.is_fenced(), "{}", rejection.error);
    assert_eq!(offset_in(&*broker).await, None);
}

/// Contract: offsets of partitions assigned by hand are taken while the group has no members.
pub async fn offsets_without_generation_are_taken_without_members(subject: &Subject) {
    let Some((broker, mut transactor)) = broker_with_offsets_in_transactions(subject).await else {
        return;
    };
    create(&*broker, "in", 1).await;
    let _ = committed(transactor.commit(with_offset(Vec::new(), None, 3)).await);
    assert_eq!(offset_in(&*broker).await, Some(Offset(3)));
}
