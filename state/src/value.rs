//! How values become bytes.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// Why stored bytes are not a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct DecodeError {
    what: String,
}

impl DecodeError {
    /// Says what was found, and what was expected.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }
}

/// A value that a table keeps.
///
/// The same value must always encode to the same bytes: deltas, digests and replays are compared by them. So no
/// iteration over an unordered map, and no float whose NaN carries a payload.
pub trait StateValue: Sized + Send + 'static {
    /// Appends the value's bytes.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads what [`encode`](Self::encode) wrote, all of it.
    ///
    /// # Errors
    ///
    /// If the bytes are anything else.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;

    /// Bytes the value holds outside itself, roughly: what bounds a table's memory.
    fn heap(&self) -> usize {
        0
    }
}

/// Any serde type as a [`StateValue`], in postcard's format.
///
/// Fields are stored in order and without names, so a changed type needs a new codec number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Postcard<T>(pub T);

impl<T: Serialize + DeserializeOwned + Send + 'static> StateValue for Postcard<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        // Only a type that refuses to be serialized fails here; its first value fails in the first test. What it
        // leaves behind does not decode, so it is not taken for a value.
        let at = out.len();
        match postcard::to_extend(&self.0, std::mem::take(out)) {
            Ok(written) => *out = written,
            Err(error) => {
                out.truncate(at);
                tracing::error!(%error, "a state value refuses to be serialized");
            }
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match postcard::take_from_bytes(bytes) {
            Ok((value, [])) => Ok(Self(value)),
            Ok((_, rest)) => Err(DecodeError::new(format!(
                "{} bytes are left over",
                rest.len()
            ))),
            Err(error) => Err(DecodeError::new(error.to_string())),
        }
    }
}

impl StateValue for Vec<u8> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(bytes.to_vec())
    }

    fn heap(&self) -> usize {
        self.capacity()
    }
}

impl StateValue for Bytes {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self::copy_from_slice(bytes))
    }

    fn heap(&self) -> usize {
        self.len()
    }
}

impl StateValue for String {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_utf8(bytes.to_vec()).map_err(|error| DecodeError::new(error.to_string()))
    }

    fn heap(&self) -> usize {
        self.capacity()
    }
}

impl StateValue for () {
    fn encode(&self, _: &mut Vec<u8>) {}

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes {
            [] => Ok(()),
            _ => Err(DecodeError::new(format!(
                "expected 0 bytes, found {}",
                bytes.len()
            ))),
        }
    }
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl StateValue for $integer {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                let found = bytes.len();
                let bytes = bytes.try_into().map_err(|_| {
                    DecodeError::new(format!("expected {} bytes, found {found}", size_of::<Self>()))
                })?;
                Ok(Self::from_le_bytes(bytes))
            }
        }
    )*};
}

integers!(u8, u32, u64, i64, i128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_over_and_missing_bytes_are_refused() {
        let mut bytes = Vec::new();
        Postcard((7_u32, "x".to_owned())).encode(&mut bytes);
        assert_eq!(
            Postcard::decode(&bytes),
            Ok(Postcard((7_u32, "x".to_owned())))
        );
        bytes.push(0);
        assert!(Postcard::<(u32, String)>::decode(&bytes).is_err());
        assert!(Postcard::<(u32, String)>::decode(&bytes[..1]).is_err());
        assert!(u64::decode(&[1, 2]).is_err());
        assert!(String::decode(&[0xff]).is_err());
    }

    #[test]
    fn postcard_appends_to_what_is_there() {
        let mut bytes = vec![9, 9];
        Postcard(1_u8).encode(&mut bytes);
        assert_eq!(bytes, [9, 9, 1]);
    }
}
