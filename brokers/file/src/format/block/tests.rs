use proptest::prelude::*;
use tidemill_broker::{BatchBuilder, Offset, Timestamp};

use super::*;

type Row = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<u8>, u64);

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    proptest::collection::vec(
        (
            any::<i64>(),
            proptest::option::of(bytes()),
            proptest::option::of(bytes()),
            bytes(),
            0..3u64,
        ),
        1..50,
    )
}

fn encode(rows: &[Row], base: u64) -> (Header, Vec<u8>, Vec<u64>) {
    let mut data = Vec::new();
    let mut delta = 0;
    let mut records = Vec::new();
    for (index, (time, key, value, headers, gap)) in rows.iter().enumerate() {
        data.extend_from_slice(key.as_deref().unwrap_or_default());
        data.extend_from_slice(value.as_deref().unwrap_or_default());
        data.extend_from_slice(headers);
        delta += gap + u64::from(index > 0);
        records.push(DraftRecord {
            timestamp: Timestamp(*time),
            key_len: key.as_ref().map(|key| key.len() as u32),
            value_len: value.as_ref().map(|value| value.len() as u32),
            headers_len: headers.len() as u32,
            offset_delta: delta,
        });
    }
    let mut draft = Draft::new(3, 1, &records, data.into());
    let header = draft.place(base, base + delta + 1, Timestamp(5), 77);
    let block = [&draft.head[..], &draft.data[..]].concat();
    let offsets = records
        .iter()
        .map(|record| base + record.offset_delta)
        .collect();
    (header, block, offsets)
}

proptest! {
    #[test]
    fn a_block_comes_back_as_it_was_written(rows in rows(), base in 0..1u64 << 40) {
        let (written, block, offsets) = encode(&rows, base);
        let header = Header::parse(&block).unwrap();
        prop_assert_eq!(header, written);
        prop_assert!(header.holds(&block, 77));
        prop_assert!(!header.holds(&block, 78));
        let mut builder = BatchBuilder::default();
        Entries::new(header, &block).for_each(|entry| entry.push(&mut builder, 0));
        let at = tidemill_broker::TopicPartition::new("t".parse().unwrap(), 1);
        let batch = builder.build_in(block.into(), at, Offset(header.next));
        prop_assert_eq!(batch.len(), rows.len());
        for ((record, row), offset) in batch.iter().zip(&rows).zip(offsets) {
            prop_assert_eq!(record.offset.0, offset);
            prop_assert_eq!(record.timestamp.0, row.0);
            prop_assert_eq!(record.key, row.1.as_deref());
            prop_assert_eq!(record.value, row.2.as_deref());
            prop_assert_eq!(record.encoded_headers(), &row.3[..]);
        }
    }

    #[test]
    fn no_flipped_bit_goes_unseen(rows in rows(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let (_, mut block, _) = encode(&rows, 9);
        let at = at.index(block.len());
        block[at] ^= 1u8 << bit;
        prop_assert!(!Header::parse(&block).is_some_and(|header| header.holds(&block, 77)));
    }
}
