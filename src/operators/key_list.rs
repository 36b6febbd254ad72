//! Keys one after the other in one buffer: a window over a day may have a million of them.

/// Keys, in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct KeyList {
    bytes: Vec<u8>,
    lens: Vec<u32>,
}

impl KeyList {
    /// Adds a key of the state, which is never as long as 4 GiB.
    pub(super) fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.lens.push(key.len() as u32);
    }

    /// Adds the keys of another list.
    pub(super) fn append(&mut self, other: Self) {
        if self.lens.is_empty() {
            *self = other;
        } else {
            self.bytes.extend_from_slice(&other.bytes);
            self.lens.extend_from_slice(&other.lens);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..];
        self.lens.iter().map_while(move |len| {
            let (key, behind) = rest.split_at_checked(*len as usize)?;
            rest = behind;
            Some(key)
        })
    }

    pub(super) fn sorted(&self) -> Vec<&[u8]> {
        let mut keys: Vec<&[u8]> = self.iter().collect();
        keys.sort_unstable();
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_in_the_order_added_and_in_their_own() {
        let list = |keys: &[&str]| {
            let mut list = KeyList::default();
            keys.iter().for_each(|key| list.push(key.as_bytes()));
            list
        };
        let mut keys = list(&[]);
        keys.append(list(&["b", "", "abc"]));
        keys.append(list(&["ab"]));
        assert_eq!(
            keys.iter().collect::<Vec<_>>(),
            [&b"b"[..], b"", b"abc", b"ab"]
        );
        assert_eq!(keys.sorted(), [&b""[..], b"ab", b"abc", b"b"]);
    }
}
