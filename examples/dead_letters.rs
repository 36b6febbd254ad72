//! Reading what a pipeline set aside: the record as it was, byte for byte, with its reason beside it.
//!
//! `cargo run --example dead_letters`

use std::error::Error;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use tidemill::broker::{
    Broker as _, BrokerExt as _, NewRecord, RecordRef, Start, Topic, TopicPartition, TopicSpec,
};
use tidemill::config;
use tidemill::memory::MemoryBroker;
use tidemill::pipeline::{MemoryStores, Pipeline, RunOptions};

const UPDATES: [&str; 4] = [
    r#"{"pair":"ACME","currentPrice":10.5,"quantity":1,"timestamp":"2024-03-11T14:30:00Z"}"#,
    r#"{"pair":"ACME","currentPrice":"#,
    r#"{"pair":"ACME","currentPrice":1e400,"quantity":1,"timestamp":"2024-03-11T14:30:01Z"}"#,
    // Its windows were closed by the update before it.
    r#"{"pair":"ACME","currentPrice":10.7,"quantity":1,"timestamp":"2024-03-11T15:00:00Z"}"#,
];
const LATE: &str =
    r#"{"pair":"ACME","currentPrice":10.6,"quantity":1,"timestamp":"2024-03-11T14:30:02Z"}"#;

/// A dead letter, as far as a person wants to know.
#[derive(Debug)]
struct DeadLetter {
    class: String,
    stage: String,
    from: String,
    error: String,
    payload: String,
}

impl DeadLetter {
    fn of(record: RecordRef<'_>) -> Self {
        let text =
            |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        Self {
            class: text(record.header("dl-class")),
            stage: text(record.header("dl-stage")),
            from: text(record.header("dl-src")),
            error: text(record.header("dl-error")),
            payload: text(record.value),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    for letter in dead_letters().await? {
        writeln!(
            out,
            "{} at {}, from {}: {}",
            letter.class, letter.stage, letter.from, letter.error
        )?;
        writeln!(out, "    {}", letter.payload)?;
    }
    Ok(())
}

/// Runs the shipped pipeline over good and bad updates, and reads its dead letters.
async fn dead_letters() -> Result<Vec<DeadLetter>, Box<dyn Error>> {
    let broker = MemoryBroker::default();
    let updates = Topic::new("market-data-updates")?;
    broker
        .create_topic(&TopicSpec::new(updates.clone(), NonZeroU32::MIN))
        .await?;
    for update in UPDATES.into_iter().chain([LATE]) {
        broker
            .send(NewRecord::new(updates.clone(), update).key("ACME"))
            .await?;
    }

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/bars.toml");
    let in_memory = |name: &str| (name == "TIDEMILL_BROKER").then(|| "mem://".to_owned());
    let plan = config::load(&[file], &in_memory)?;
    let pipeline = Pipeline::new(
        plan,
        &[("main", Arc::new(broker.clone()))],
        Arc::new(MemoryStores::default()),
    )?;
    pipeline.run_to_end(RunOptions::new("0", 1)).await?;

    let at = TopicPartition::new(Topic::new("bars.dead-letter")?, 0);
    let batches = broker.read_to_end(&at, Start::Earliest).await?;
    Ok(batches
        .iter()
        .flat_map(|batch| batch.iter())
        .map(DeadLetter::of)
        .collect())
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn what_is_set_aside_keeps_its_bytes_and_says_why() {
        let letters = super::dead_letters().await.unwrap();
        let from = |offset: usize| {
            let place = format!("market-data-updates/0@{offset}");
            letters
                .iter()
                .filter(move |letter| letter.from == place)
                .collect::<Vec<_>>()
        };
        for (offset, payload) in super::UPDATES.iter().enumerate().skip(1).take(2) {
            assert_eq!(from(offset).len(), 1, "{letters:?}");
            assert_eq!(from(offset)[0].payload, *payload);
        }
        let late: Vec<_> = from(4).iter().map(|letter| letter.class.as_str()).collect();
        assert_eq!(late, ["window.late"; 3], "once for each size of bars");
    }
}
