//! The log against a list of records.

use proptest::prelude::*;
use tidemill_broker::Topic;

use super::*;

fn at() -> TopicPartition {
    TopicPartition::new(Topic::new("t").unwrap(), 0)
}

#[derive(Debug, Clone)]
enum Step {
    Append { keys: Vec<u8>, open: bool },
    Settle { commit: bool },
    Control,
    Age { chunks: u8 },
    Compact,
    DropBefore { part: u8 },
    Truncate { part: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (prop::collection::vec(0..20u8, 1..90), any::<bool>())
            .prop_map(|(keys, open)| Step::Append { keys, open }),
        3 => any::<bool>().prop_map(|commit| Step::Settle { commit }),
        1 => Just(Step::Control),
        1 => (0..4u8).prop_map(|chunks| Step::Age { chunks }),
        2 => Just(Step::Compact),
        1 => any::<u8>().prop_map(|part| Step::DropBefore { part }),
        1 => any::<u8>().prop_map(|part| Step::Truncate { part }),
    ]
}

/// One record of the list: its offset, its key (every seventh is a tombstone), its transaction.
#[derive(Debug, Clone, PartialEq)]
struct Kept {
    offset: u64,
    key: u8,
    open: Option<u64>,
}

fn is_tombstone(offset: u64) -> bool {
    offset % 7 == 6
}

/// Everything readable, in batches of these limits.
fn read_all(log: &Log, limits: ReadLimits) -> Vec<(u64, u8)> {
    let mut position = log.watermarks().low.0;
    let mut read = Vec::new();
    while let Some(batch) = log.read(position, limits) {
        assert!(batch.next().0 > position, "reading goes on");
        assert!(batch.len() <= limits.records);
        let bytes: usize = batch.iter().map(size_of_record).sum();
        assert!(batch.len() <= 1 || bytes <= limits.bytes, "{bytes} bytes");
        for record in batch.iter() {
            assert!(record.offset.0 >= position && record.offset < batch.next());
            assert_eq!(record.value.is_none(), is_tombstone(record.offset.0));
            read.push((record.offset.0, record.key.unwrap()[0]));
        }
        position = batch.next().0;
    }
    assert_eq!(position.max(log.last_stable()), position);
    read
}

proptest! {
    #[test]
    fn a_log_reads_like_a_list_of_records(
        steps in prop::collection::vec(step(), 1..25),
        records in 1..100usize,
        bytes in 1..2_000usize,
        over_gaps in any::<bool>(),
    ) {
        let mut log = Log::new(at());
        let mut list: Vec<Kept> = Vec::new();
        let mut appends: Vec<(u64, i64)> = Vec::new();
        let (mut high, mut low, mut now, mut serial) = (0u64, 0u64, 0i64, 0u64);
        let mut open: Option<u64> = None;
        for step in steps {
            now += 1_000_000;
            let stable = list.iter().find(|kept| kept.open.is_some()).map_or(high, |kept| kept.offset);
            match step {
                Step::Append { keys, open: opens } => {
                    let mut builder = BatchBuilder::default();
                    let transaction = (opens && open.is_none()).then(|| { serial += 1; serial });
                    open = open.or(transaction);
                    for (index, key) in keys.iter().enumerate() {
                        let offset = high + index as u64;
                        let payload = [*key; 9];
                        let value = (!is_tombstone(offset)).then_some(&payload[..]);
                        builder.push(Timestamp(now), Some(&[*key]), value, &[]);
                        list.push(Kept { offset, key: *key, open: transaction });
                    }
                    let first = log.append(builder, Timestamp(now), transaction);
                    prop_assert_eq!(first.0, high);
                    appends.push((high, now));
                    high += keys.len() as u64;
                }
                Step::Settle { commit } => if let Some(transaction) = open.take() {
                    log.settle(transaction, commit);
                    list.retain(|kept| commit || kept.open != Some(transaction));
                    for kept in &mut list {
                        kept.open = None;
                    }
                },
                Step::Control => {
                    log.append_gap(1);
                    high += 1;
                }
                Step::Age { chunks } => {
                    // Whole appends older than the bound go, and nothing younger.
                    let age = Duration::from_secs(u64::from(chunks) + 1);
                    log.expire(Retention { age: Some(age), bytes: None }, Timestamp(now));
                    let moved = log.watermarks().low.0;
                    let youngest = appends.iter().rfind(|(first, _)| *first < moved);
                    if moved > low && let Some((_, appended)) = youngest {
                        prop_assert!(Timestamp(*appended) < Timestamp(now).minus(age));
                    }
                    low = low.max(moved);
                    prop_assert!(low <= stable.max(low.min(high)));
                    list.retain(|kept| kept.offset >= low);
                }
                Step::Compact => {
                    log.compact(Duration::from_secs(3), Timestamp(now));
                    let before = list.clone();
                    list.retain(|kept| kept.offset >= stable || {
                        let newest = !before.iter().any(|other| {
                            other.key == kept.key && other.offset > kept.offset && other.offset < stable
                        });
                        let appended = appends.iter().rfind(|(first, _)| *first <= kept.offset);
                        let old = appended.is_some_and(|(_, at)| *at < now - 3_000_000);
                        newest && !(old && is_tombstone(kept.offset))
                    });
                }
                Step::DropBefore { part } => {
                    let to = high * u64::from(part) / 255;
                    log.drop_before(to);
                    low = low.max(to.min(stable));
                    list.retain(|kept| kept.offset >= low);
                }
                Step::Truncate { part } => {
                    let to = high * u64::from(part) / 255;
                    if to < high {
                        log.truncate(to);
                        list.retain(|kept| kept.offset < to);
                        appends.retain(|(first, _)| *first < to);
                        (high, low) = (to, low.min(to));
                        if !list.iter().any(|kept| kept.open.is_some()) {
                            open = None;
                        }
                    }
                }
            }
            let stable = list.iter().find(|kept| kept.open.is_some()).map_or(high, |kept| kept.offset);
            let marks = log.watermarks();
            prop_assert_eq!((marks.low.0, marks.last_stable.0, marks.high.0), (low, stable, high));
            let limits = ReadLimits { records, bytes, over_gaps };
            let expected: Vec<(u64, u8)> = list
                .iter()
                .filter(|kept| kept.offset < stable)
                .map(|kept| (kept.offset, kept.key))
                .collect();
            prop_assert_eq!(read_all(&log, limits), expected);
        }
    }
}
