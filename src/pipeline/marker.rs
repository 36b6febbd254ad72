//! Markers: the last word on how far a task has come.
//!
//! A marker is written with everything else of an epoch in one broker transaction, under a reserved
//! key of the task's changelog partition. After an unknown outcome, and after every restart, the
//! marker decides whether an epoch happened.

use serde::{Deserialize, Serialize};
use tidemill_broker::{Offset, TopicIdentity, TopicPartition};
use tidemill_state::{Digest, Epoch};

/// Key of markers in a changelog partition. Keys of state begin with the number of a table; this
/// number is never given out.
pub const MARKER_KEY: &[u8] = b"\xff\xffmarker";

// Written to topics: never renumber.
const FORMAT: u8 = 2;

/// What makes one try to commit an epoch differ from every other: epoch numbers alone are not
/// unique across owners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The instance that tried.
    pub instance: String,
    /// Drawn once for each start of a process.
    pub run: u64,
    /// Counts the transactions of that run.
    pub transaction: u64,
}

/// How far an input partition has been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkedInput {
    /// Name of the source in the file.
    pub source: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// Which topic of that name, where its broker tells them apart.
    pub identity: Option<[u8; 16]>,
    /// How often it was deleted and created again: [identities](crate::events::identity) of records
    /// depend on it, as offsets begin anew.
    pub incarnation: u64,
    /// The next offset to read.
    pub next: u64,
}

impl MarkedInput {
    /// Whether this is about a partition, whatever its source is called.
    pub fn is_of(&self, at: &TopicPartition) -> bool {
        self.topic == at.topic.as_str() && self.partition == at.partition
    }

    /// The next offset to read.
    pub fn next(&self) -> Offset {
        Offset(self.next)
    }

    /// Which topic of that name, where its broker tells them apart.
    pub fn identity(&self) -> Option<TopicIdentity> {
        self.identity.map(TopicIdentity)
    }
}

/// The end of an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The epoch.
    pub epoch: Epoch,
    /// Who tried to commit it, and when.
    pub attempt: Attempt,
    /// The task's name.
    pub task: String,
    /// Partitions of the task's co-partitioned topics: what tasks there are depends on it.
    pub partitions: u32,
    /// Major version of the pipeline.
    pub version: u32,
    /// Hash of what decides about results in the pipeline's file.
    pub config_hash: u64,
    /// How far each input has been read.
    pub inputs: Vec<MarkedInput>,
    /// Records written so far to each (sink, partition); under an empty name, dead letters.
    pub sequences: Vec<(String, u32, u64)>,
    /// Digest of the state after this epoch.
    pub digest: Digest,
}

/// Why bytes are not a marker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MarkerError {
    /// It was written by another version.
    #[error("marker has format {found}; this version reads {FORMAT}")]
    OtherFormat {
        /// The format found.
        found: u8,
    },
    /// It is not what was written.
    #[error("marker is damaged")]
    Damaged,
}

impl Marker {
    /// As bytes: a format byte, then the fields in postcard.
    pub fn encode(&self) -> Vec<u8> {
        // Writing plain data to memory cannot fail.
        postcard::to_extend(self, vec![FORMAT]).unwrap_or_default()
    }

    /// How far an input was read, whatever its source was called: offsets are the topic's, and a pipeline
    /// has one source for each.
    pub(crate) fn input(&self, at: &TopicPartition) -> Option<&MarkedInput> {
        self.inputs.iter().find(|one| one.is_of(at))
    }

    /// From bytes.
    ///
    /// # Errors
    ///
    /// If they are not a marker, or one of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, MarkerError> {
        match bytes.split_first() {
            Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|_| MarkerError::Damaged),
            Some((&found, _)) => Err(MarkerError::OtherFormat { found }),
            None => Err(MarkerError::Damaged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        Marker {
            epoch: Epoch(700),
            attempt: Attempt {
                instance: "host".into(),
                run: u64::MAX,
                transaction: 4,
            },
            task: "0/0".into(),
            partitions: 4,
            version: 1,
            config_hash: 9,
            inputs: vec![
                MarkedInput {
                    source: "ticks".into(),
                    topic: "t".into(),
                    partition: 300,
                    identity: Some(*b"sixteen of these"),
                    incarnation: 2,
                    next: 99,
                },
                MarkedInput {
                    source: "lines".into(),
                    topic: "-".into(),
                    partition: 0,
                    identity: None,
                    incarnation: 0,
                    next: 128,
                },
            ],
            sequences: vec![("bars".into(), 0, 5), (String::new(), 0, 1)],
            digest: Digest(1 << 100),
        }
    }

    /// What lies in changelogs. A test that writes and reads with the same code would not notice that
    /// none of them can be read any more.
    #[test]
    fn a_marker_of_format_2_is_read_and_written_as_it_was() {
        let stored = [
            b"\x02\xbc\x05\x04host\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x04".as_slice(),
            b"\x030/0\x04\x01\x09",
            b"\x02\x05ticks\x01t\xac\x02\x01sixteen of these\x02\x63",
            b"\x05lines\x01-\x00\x00\x00\x80\x01",
            b"\x02\x04bars\x00\x05\x00\x00\x01",
            b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x04",
        ]
        .concat();
        assert_eq!(Marker::decode(&stored), Ok(marker()));
        assert_eq!(marker().encode(), stored);
        assert_eq!(MARKER_KEY, b"\xff\xffmarker");
    }

    #[test]
    fn a_marker_of_another_version_or_torn_is_refused() {
        let bytes = marker().encode();
        for found in [FORMAT - 1, FORMAT + 1] {
            let mut other = bytes.clone();
            other[0] = found;
            let refused = Err(MarkerError::OtherFormat { found });
            assert_eq!(Marker::decode(&other), refused);
        }
        assert_eq!(
            Marker::decode(&bytes[..bytes.len() - 3]),
            Err(MarkerError::Damaged)
        );
        assert_eq!(Marker::decode(&[]), Err(MarkerError::Damaged));
    }
}
