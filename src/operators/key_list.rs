//! Keys one after the other in one buffer: a window over a day may have a million of them.

/// Keys in any order, given back in their own.
#[derive(Debug, Default)]
pub(super) struct KeyList {
    bytes: Vec<u8>,
    lens: Vec<u32>,
    // Whether they lie from the last to the first: then some can be taken without moving the others.
    is_descending: bool,
}

impl KeyList {
    /// Adds a key of the state, which is never as long as 4 GiB.
    pub(super) fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.lens.push(key.len() as u32);
        self.is_descending = false;
    }

    /// Adds the keys of another list.
    pub(super) fn append(&mut self, other: Self) {
        if self.lens.is_empty() {
            *self = other;
        } else if !other.lens.is_empty() {
            self.bytes.extend_from_slice(&other.bytes);
            self.lens.extend_from_slice(&other.lens);
            self.is_descending = false;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lens.len()
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

    /// The least `most` keys, in order.
    pub(super) fn first(&mut self, most: usize) -> impl Iterator<Item = &[u8]> {
        self.sort();
        let mut rest = &self.bytes[..];
        let lens = self.lens.iter().rev().take(most);
        lens.map_while(move |len| {
            let (before, key) = rest.split_at_checked(rest.len() - *len as usize)?;
            rest = before;
            Some(key)
        })
    }

    /// Takes the least `most` keys, in order.
    pub(super) fn take_first(&mut self, most: usize) -> Self {
        let mut taken = Self::default();
        for key in self.first(most) {
            taken.push(key);
        }
        self.bytes.truncate(self.bytes.len() - taken.bytes.len());
        self.lens.truncate(self.lens.len() - taken.lens.len());
        taken
    }

    fn sort(&mut self) {
        if self.is_descending {
            return;
        }
        let mut descending = Self {
            bytes: Vec::with_capacity(self.bytes.len()),
            lens: Vec::with_capacity(self.lens.len()),
            is_descending: false,
        };
        for key in self.sorted().into_iter().rev() {
            descending.push(key);
        }
        descending.is_descending = true;
        *self = descending;
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

    #[test]
    fn keys_are_taken_from_the_least_on_whatever_is_added_between() {
        let mut keys = KeyList::default();
        for key in ["d", "a", "ab", "c", ""] {
            keys.push(key.as_bytes());
        }
        assert_eq!(keys.first(2).collect::<Vec<_>>(), [&b""[..], b"a"]);
        let taken = keys.take_first(2);
        assert_eq!(taken.iter().collect::<Vec<_>>(), [&b""[..], b"a"]);
        keys.push(b"b");
        assert_eq!(keys.len(), 4);
        let taken = keys.take_first(9);
        assert_eq!(
            taken.iter().collect::<Vec<_>>(),
            [&b"ab"[..], b"b", b"c", b"d"]
        );
        assert_eq!(keys.len(), 0);
        assert_eq!(keys.take_first(1).len(), 0);
    }
}
