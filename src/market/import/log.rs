//! The log of imports: what a topic holds already, so that nothing gets in twice.
//!
//! A compacted topic of one partition. Key `import/TOPIC/ID`: how far an import has come; it is
//! written in the transaction of each chunk of records. Key `file/TOPIC/ID`: which import a file
//! belongs to; written with the first chunk. Both ids are hashes of content and options, both values
//! are JSON. An entry counts only for the incarnation of the topic it was made for.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tidemill_broker::{
    Broker, BrokerExt, Headers, RecordSet, Start, Topic, TopicDescription, TopicPartition,
};

use super::error::{Error, Result};
use super::reader::Source;

/// One import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImportEntry {
    identity: Option<String>,
    /// Its files, in order.
    pub(super) files: Vec<String>,
    /// Items that are in, of all topics.
    pub(super) items: u64,
    /// Whether these are all.
    pub(super) done: bool,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FileEntry {
    identity: Option<String>,
    /// Its name at the time.
    pub(super) path: String,
    /// The id of the import it belongs to.
    pub(super) import: String,
}

/// The entries of one topic.
#[derive(Debug)]
pub(super) struct ImportLog {
    at: TopicPartition,
    topic: Topic,
    identity: Option<String>,
    imports: HashMap<String, ImportEntry>,
    files: HashMap<String, FileEntry>,
}

impl ImportLog {
    /// Reads what the log says of a topic.
    pub(super) async fn read(
        broker: &dyn Broker,
        log: &Topic,
        topic: &TopicDescription,
    ) -> Result<Self> {
        let mut this = Self {
            at: TopicPartition::new(log.clone(), 0),
            topic: topic.name.clone(),
            identity: topic.identity.map(|identity| identity.to_string()),
            imports: HashMap::new(),
            files: HashMap::new(),
        };
        for batch in broker.read_to_end(&this.at, Start::Earliest).await? {
            for record in batch.iter() {
                let (Some(key), Some(value)) = (record.key, record.value) else {
                    continue;
                };
                this.take(key, value).map_err(|what| Error::Log {
                    topic: this.at.clone(),
                    offset: record.offset,
                    what,
                })?;
            }
        }
        Ok(this)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let key = std::str::from_utf8(key).map_err(|error| error.to_string())?;
        let mut parts = key.splitn(3, '/');
        let (Some(kind), Some(topic), Some(id)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(format!("unknown key `{key}`"));
        };
        if topic != self.topic.as_str() {
            return Ok(());
        }
        let id = id.to_owned();
        match kind {
            "import" => {
                let entry: ImportEntry =
                    serde_json::from_slice(value).map_err(|error| error.to_string())?;
                if entry.identity == self.identity {
                    self.imports.insert(id, entry);
                }
            }
            "file" => {
                let entry: FileEntry =
                    serde_json::from_slice(value).map_err(|error| error.to_string())?;
                if entry.identity == self.identity {
                    self.files.insert(id, entry);
                }
            }
            _ => return Err(format!("unknown key `{key}`")),
        }
        Ok(())
    }

    /// The entry of an import.
    pub(super) fn import(&self, id: &str) -> Option<&ImportEntry> {
        self.imports.get(id)
    }

    /// The entry of a file.
    pub(super) fn file(&self, id: u128) -> Option<&FileEntry> {
        self.files.get(&hex(id))
    }

    /// Records that say: of import `id`, `items` are in.
    ///
    /// Every file is claimed with the first chunk.
    pub(super) fn records(
        &self,
        id: &str,
        sources: &[Source],
        items: u64,
        done: bool,
        first: bool,
    ) -> Result<RecordSet> {
        let mut set = RecordSet::new(self.at.clone());
        let mut push = |key: String, value: serde_json::Result<Vec<u8>>| {
            let value = value.map_err(|error| Error::Invalid(error.to_string()))?;
            set.push(None, Some(key.as_bytes()), Some(&value), &Headers::new());
            Ok::<_, Error>(())
        };
        if first {
            for source in sources {
                let entry = FileEntry {
                    identity: self.identity.clone(),
                    path: source.path.display().to_string(),
                    import: id.to_owned(),
                };
                push(
                    format!("file/{}/{}", self.topic, hex(source.id)),
                    serde_json::to_vec(&entry),
                )?;
            }
        }
        let entry = ImportEntry {
            identity: self.identity.clone(),
            files: sources
                .iter()
                .map(|source| source.path.display().to_string())
                .collect(),
            items,
            done,
        };
        push(
            format!("import/{}/{id}", self.topic),
            serde_json::to_vec(&entry),
        )?;
        Ok(set)
    }
}

/// An id as in keys.
pub(super) fn hex(id: u128) -> String {
    format!("{id:032x}")
}
