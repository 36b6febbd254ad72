//! Names of topics, consumer groups and transactional ids.

use std::fmt;
use std::sync::Arc;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid name `{name}`: {reason}")]
pub struct InvalidName {
    name: String,
    reason: &'static str,
}

/// Longest name of a topic, group or transactional id, in bytes: Kafka's limit for topics.
const NAME_BYTES_MAX: usize = 249;

// Kafka's rule for topics, kept everywhere so that a file may change its broker.
fn check(name: &str) -> Result<(), InvalidName> {
    let refused = |reason| {
        Err(InvalidName {
            name: name.chars().take(64).collect(),
            reason,
        })
    };
    if name.is_empty() {
        return refused("must not be empty");
    }
    if name.len() > NAME_BYTES_MAX {
        return refused("must be at most 249 bytes");
    }
    if name == "." || name == ".." {
        return refused("must not be `.` or `..`");
    }
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    {
        return refused("may hold only ASCII letters, digits, `.`, `_` and `-`");
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps a name.
            ///
            /// # Errors
            ///
            /// If the name is empty, longer than 249 bytes, `.` or `..`, or holds anything but
            /// ASCII letters, digits, `.`, `_` and `-`.
            pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidName> {
                check(name.as_ref())?;
                Ok(Self(Arc::from(name.as_ref())))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }
    };
}

name! {
    /// The name of a topic.
    Topic
}
name! {
    /// The name of a consumer group: the broker's memory of how far its members have read.
    Group
}
name! {
    /// The name under which one owner at a time commits transactions.
    TransactionalId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_its_directory_is_refused() {
        for bad in ["", ".", "..", "a/b", "a\0b", "naïve", &"x".repeat(250)] {
            assert!(Topic::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            Topic::new("market-data.v1_x").unwrap().as_str(),
            "market-data.v1_x"
        );
    }
}
