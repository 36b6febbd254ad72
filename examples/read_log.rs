//! Reading a log on disk from another program, also while a pipeline writes to it.
//!
//! `cargo run --example read_log [DIRECTORY]` lists its topics and shows how each begins; `first_bars`
//! makes one in `data`. Without DIRECTORY a small log is made first.

use std::error::Error;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use tidemill::broker::{
    Broker, BrokerExt as _, ConsumerOptions, Delivery, NewRecord, Start, Topic, TopicPartition,
    TopicSpec,
};
use tidemill::cli::printable;
use tidemill::file::{FileBroker, FileOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let made = tempfile::tempdir()?;
    let directory = match std::env::args_os().nth(1) {
        Some(directory) => PathBuf::from(directory),
        None => {
            make(made.path()).await?;
            made.path().to_owned()
        }
    };
    show(&directory, &mut io::stdout()).await
}

async fn make(directory: &Path) -> Result<(), Box<dyn Error>> {
    let broker = FileBroker::open(directory, FileOptions::default()).await?;
    let topic = Topic::new("prices")?;
    let two = NonZeroU32::new(2).ok_or("two is zero")?;
    broker
        .create_topic(&TopicSpec::new(topic.clone(), two))
        .await?;
    for (key, price) in [("ACME", "10.5"), ("WILE", "7.25"), ("ACME", "10.6")] {
        broker
            .send(NewRecord::new(topic.clone(), price).key(key))
            .await?;
    }
    broker.close().await?;
    Ok(())
}

/// Opens the directory for reading alone, which takes no lock, and shows what is in it.
async fn show(directory: &Path, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let broker = FileBroker::open_reader(directory, FileOptions::default()).await?;
    for topic in broker.list_topics().await? {
        let partitions = broker.describe_topic(&topic).await?.partitions;
        for partition in 0..partitions {
            let at = TopicPartition::new(topic.clone(), partition);
            let ends = broker.watermarks(&at).await?;
            writeln!(out, "{at}: offsets {} to {}", ends.low, ends.last_stable)?;
            if let Some(first) = first(&broker, at).await? {
                writeln!(out, "    {first}")?;
            }
        }
    }
    Ok(())
}

/// The first record of a partition, as text.
async fn first(broker: &dyn Broker, at: TopicPartition) -> Result<Option<String>, Box<dyn Error>> {
    let options = ConsumerOptions::partitions(vec![(at, Start::Earliest)]);
    let mut consumer = broker.consumer(options).await?;
    loop {
        match consumer.next().await? {
            Delivery::Records(batch) => {
                let record = batch.get(0);
                let text = |bytes: Option<&[u8]>| match bytes {
                    Some(bytes) => printable(&String::from_utf8_lossy(bytes)),
                    None => "-".to_owned(),
                };
                return Ok(Some(format!(
                    "{} = {}",
                    text(record.key),
                    text(record.value)
                )));
            }
            // Without more to read, `next` would wait for it.
            Delivery::End { .. } | Delivery::Lost { .. } => return Ok(None),
            Delivery::Assigned { .. } | Delivery::Revoked { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn topics_are_shown_with_their_first_records() {
        let directory = tempfile::tempdir().unwrap();
        make(directory.path()).await.unwrap();
        let mut shown = Vec::new();
        show(directory.path(), &mut shown).await.unwrap();
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains("ACME = 10.5"), "{shown}");
        assert!(shown.contains("prices/1: offsets 0 to 3"), "{shown}");
    }
}
