//! Which records are the newest of their keys.

use std::collections::HashMap;

use tidemill_broker::Result;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// So many keys are looked at in one pass over the records, in some 26 MiB: more take further passes.
pub(super) const KEYS_MAX: usize = 900_000;

/// One bit for each record, in the order in which they lie.
#[derive(Debug, Default)]
pub(super) struct Newest {
    bits: Vec<u64>,
}

/// A pass over all records: hands the key of each to what it is given.
type Pass<'a> = dyn FnMut(&mut dyn FnMut(Option<&[u8]>)) -> Result<()> + 'a;

impl Newest {
    /// Looks at the keys in the order of their hashes, in as many passes as they need. Keys are told apart by
    /// 128 bits, as Kafka's cleaner does; `seed` makes them others in each log.
    pub(super) fn find(keys_max: usize, seed: u64, pass: &mut Pass<'_>) -> Result<Self> {
        let mut found = Self::default();
        let mut from = 0;
        loop {
            let mut to = u128::MAX;
            let mut newest: HashMap<[u64; 2], usize> = HashMap::new();
            let mut number = 0;
            pass(&mut |key| {
                let hash = key.map(|key| xxh3_128_with_seed(key, seed));
                if let Some(hash) = hash.filter(|hash| (from..=to).contains(hash)) {
                    newest.insert(halves(hash), number);
                    while newest.len() > keys_max {
                        // The rest is for a later pass.
                        to = from + (to - from) / 2;
                        newest.retain(|hash, _| whole(*hash) <= to);
                    }
                }
                number += 1;
            })?;
            found.bits.resize(number.div_ceil(64), 0);
            for number in newest.into_values() {
                found.bits[number / 64] |= 1 << (number % 64);
            }
            match to.checked_add(1) {
                Some(next) => from = next,
                None => return Ok(found),
            }
        }
    }

    /// Whether the record of this number, counted from 0, is the newest of its key.
    pub(super) fn is_newest(&self, number: usize) -> bool {
        let bits = self.bits.get(number / 64);
        bits.is_some_and(|bits| bits >> (number % 64) & 1 == 1)
    }
}

// A `u128` would be aligned to 16 bytes, and an entry would take a third more.
fn halves(hash: u128) -> [u64; 2] {
    [(hash >> 64) as u64, hash as u64]
}

fn whole([high, low]: [u64; 2]) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_newest_of_each_key_is_found_however_few_keys_fit_into_a_pass(
            keys in proptest::collection::vec(proptest::option::of(0_u8..40), 0..200),
            keys_max in 1_usize..50,
        ) {
            let keys: Vec<Option<[u8; 1]>> = keys.into_iter().map(|key| key.map(|key| [key])).collect();
            let mut passes = 0;
            let newest = Newest::find(keys_max, 7, &mut |visit| {
                passes += 1;
                keys.iter().for_each(|key| visit(key.as_ref().map(<[u8; 1]>::as_slice)));
                Ok(())
            }).unwrap();
            for (number, key) in keys.iter().enumerate() {
                let is_last = key.is_some() && !keys[number + 1..].contains(key);
                prop_assert_eq!(newest.is_newest(number), is_last, "record {}", number);
            }
            let distinct = keys.iter().flatten().collect::<std::collections::HashSet<_>>().len();
            prop_assert!(passes >= distinct.div_ceil(keys_max));
        }
    }
}
