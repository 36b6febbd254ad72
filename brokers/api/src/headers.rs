//! Headers of a record: names and bytes, in order, names may repeat.

use bytes::Bytes;

/// The headers of a record, encoded once.
///
/// The encoding is the one batches and the file format use: for each header the length of its name
/// and of its value (4 bytes each, little endian), then the name (UTF-8), then the value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    encoded: Vec<u8>,
}

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a header after those already there.
    pub fn push(&mut self, name: &str, value: &[u8]) -> &mut Self {
        encode_into(&mut self.encoded, name, value);
        self
    }

    /// Adds all of `others`, in their order.
    pub fn append(&mut self, others: &Self) -> &mut Self {
        self.encoded.extend_from_slice(&others.encoded);
        self
    }

    /// Adds a header and returns the whole, for chains.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.push(name, value.as_ref());
        self
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// The headers in order.
    pub fn iter(&self) -> HeaderIter<'_> {
        HeaderIter::new(&self.encoded)
    }

    /// The encoded form.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Drops all headers and keeps the allocation.
    pub fn clear(&mut self) {
        self.encoded.clear();
    }
}

/// Appends one header's encoding to `target`.
fn encode_into(target: &mut Vec<u8>, name: &str, value: &[u8]) {
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    target.reserve(8 + name.len() + value.len());
    target.extend_from_slice(&len(name.as_bytes()));
    target.extend_from_slice(&len(value));
    target.extend_from_slice(name.as_bytes());
    target.extend_from_slice(value);
}

/// Iterates over encoded headers; stops at the first byte that is not an encoding.
#[derive(Debug, Clone)]
pub struct HeaderIter<'a> {
    rest: &'a [u8],
}

impl<'a> HeaderIter<'a> {
    /// Iterates over an encoding as made by [`Headers`].
    pub fn new(encoded: &'a [u8]) -> Self {
        Self { rest: encoded }
    }

    /// Whether `encoded` is a whole encoding, down to its last byte.
    pub fn is_valid(encoded: &'a [u8]) -> bool {
        let mut iter = Self::new(encoded);
        while iter.next().is_some() {}
        iter.rest.is_empty()
    }
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name_len, rest) = self.rest.split_first_chunk::<4>()?;
        let (value_len, rest) = rest.split_first_chunk::<4>()?;
        let (name, rest) = rest.split_at_checked(u32::from_le_bytes(*name_len) as usize)?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_len) as usize)?;
        let name = std::str::from_utf8(name).ok()?;
        self.rest = rest;
        Some((name, value))
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(iter: I) -> Self {
        let mut headers = Self::new();
        for (name, value) in iter {
            headers.push(name.as_ref(), value.as_ref());
        }
        headers
    }
}

impl From<&Headers> for Bytes {
    fn from(headers: &Headers) -> Self {
        Bytes::copy_from_slice(headers.encoded())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_in_order_with_repeats() {
        let headers = Headers::new()
            .with("a", "1")
            .with("b", "")
            .with("a", [0xff]);
        let back: Vec<_> = headers.iter().collect();
        assert_eq!(back, [("a", &b"1"[..]), ("b", b""), ("a", &[0xff])]);
        assert!(HeaderIter::is_valid(headers.encoded()));
        assert!(!HeaderIter::is_valid(
            &headers.encoded()[..headers.encoded().len() - 1]
        ));
    }
}
