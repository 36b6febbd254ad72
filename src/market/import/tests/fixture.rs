//! Small files and a broker in memory to import them into.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tidemill_broker::{Broker, BrokerExt, Start, Topic, TopicPartition};
use tidemill_broker_memory::MemoryBroker;

use super::super::{Options, Report, Result, run};

pub(super) struct Fixture {
    pub(super) directory: TempDir,
    pub(super) broker: Arc<MemoryBroker>,
}

/// A record as tests compare it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) offset: u64,
    pub(super) time: i64,
    pub(super) key: String,
    pub(super) value: String,
    pub(super) headers: Vec<(String, String)>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            broker: Arc::new(MemoryBroker::default()),
        }
    }

    pub(super) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(super) fn zip(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        self.file(name, zipped(&[("x.csv", content.as_ref())]))
    }

    pub(super) fn options(&self, files: &[&Path]) -> Options {
        let files = files.iter().map(|path| path.to_path_buf()).collect();
        Options::new(files, topic("market-data-updates"))
    }

    pub(super) async fn run(&self, options: &Options) -> Result<Report> {
        run(options, self.broker.clone(), &mut |_| {}).await
    }

    pub(super) async fn read(&self, name: &str) -> Vec<Read> {
        read(self.broker.as_ref(), name).await
    }

    pub(super) async fn updates(&self) -> Vec<String> {
        let records = self.read("market-data-updates").await;
        records.into_iter().map(|record| short(&record)).collect()
    }

    pub(super) async fn suspects(&self) -> Vec<String> {
        let records = self.read("market-data-suspect").await;
        records
            .into_iter()
            .map(|record| {
                let origin = Path::new(&record.headers[1].1);
                let origin = origin.file_name().unwrap().to_string_lossy();
                format!("{} {} {}", record.headers[0].1, origin, short(&record))
            })
            .collect()
    }

    pub(super) async fn topics(&self) -> Vec<Topic> {
        self.broker.list_topics().await.unwrap()
    }
}

/// All records of a topic's only partition; none if there is no topic.
pub(super) async fn read(broker: &dyn Broker, name: &str) -> Vec<Read> {
    let at = TopicPartition::new(topic(name), 0);
    let Ok(batches) = broker.read_to_end(&at, Start::Earliest).await else {
        return Vec::new();
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    batches
        .iter()
        .flat_map(|batch| batch.iter())
        .map(|record| Read {
            offset: record.offset.0,
            time: record.timestamp.0,
            key: text(record.key.unwrap()),
            value: text(record.value.unwrap()),
            headers: record
                .headers()
                .map(|(name, value)| (name.to_owned(), text(value)))
                .collect(),
        })
        .collect()
}

/// The event without what all have in common.
fn short(record: &Read) -> String {
    record
        .value
        .replace(r#"{"eventType":"MarketDataUpdate","timestamp":"#, "")
        .replace(r#","version":1,"pair":"#, " ")
        .replace(r#","currentPrice":"#, " ")
        .replace("\"", "")
        .trim_end_matches('}')
        .to_owned()
}

pub(super) fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

pub(super) fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        zip.start_file(*name, zip::write::SimpleFileOptions::default())
            .unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}
