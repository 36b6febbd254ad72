//! A pipeline inside a program, over a broker in memory: how to use one as a part, and how to test it.
//!
//! `cargo run --example embed`

use std::error::Error;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::sync::Arc;

use tidemill::broker::{
    Broker as _, BrokerExt as _, NewRecord, Start, Topic, TopicPartition, TopicSpec,
};
use tidemill::config;
use tidemill::memory::MemoryBroker;
use tidemill::pipeline::{MemoryStores, Pipeline, RunOptions};

const FILE: &str = r#"
[pipeline]
format = 1
name = "volumes"
guarantee = "exactly_once"

[brokers.main]
url = "mem://"

[events.Trade]
fields = { symbol = "text", price = "decimal(2)", size = "int", at = "time" }
time = "at"

[topics.trades]
broker = "main"
event = "Trade"
key = "symbol"
start = "earliest"

[stages.per-minute]
from = "trades"
op = "tumbling_window"
size = "1m"
event = "Volume"

[stages.per-minute.aggregate]
volume = "sum(size)"
vwap = "vwap(price, size)"

[sinks.volumes]
from = "per-minute"
topic = { broker = "main", topic = "volumes" }
"#;

const TRADES: [(&str, &str); 4] = [
    (
        "ACME",
        r#"{"symbol":"ACME","price":10.00,"size":100,"at":"2024-03-11T14:30:01Z"}"#,
    ),
    (
        "ACME",
        r#"{"symbol":"ACME","price":10.10,"size":300,"at":"2024-03-11T14:30:40Z"}"#,
    ),
    (
        "WILE",
        r#"{"symbol":"WILE","price":7.25,"size":40,"at":"2024-03-11T14:30:59Z"}"#,
    ),
    (
        "ACME",
        r#"{"symbol":"ACME","price":10.20,"size":50,"at":"2024-03-11T14:31:00Z"}"#,
    ),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    for volume in volumes().await? {
        writeln!(io::stdout(), "{volume}")?;
    }
    Ok(())
}

/// Runs the pipeline over the trades, and reads what it wrote.
async fn volumes() -> Result<Vec<String>, Box<dyn Error>> {
    let broker = MemoryBroker::default();
    let trades = Topic::new("trades")?;
    broker
        .create_topic(&TopicSpec::new(trades.clone(), NonZeroU32::MIN))
        .await?;
    for (key, trade) in TRADES {
        broker
            .send(NewRecord::new(trades.clone(), trade).key(key))
            .await?;
    }

    // Any environment: the file names none.
    let plan = config::Pipeline::parse("volumes.toml", FILE, &|_| None)?.plan;
    let pipeline = Pipeline::new(
        plan,
        &[("main", Arc::new(broker.clone()))],
        Arc::new(MemoryStores::default()),
    )?;
    pipeline.run_to_end(RunOptions::new("0", 1)).await?;

    let at = TopicPartition::new(Topic::new("volumes")?, 0);
    let batches = broker.read_to_end(&at, Start::Earliest).await?;
    let values = batches
        .iter()
        .flat_map(|batch| batch.iter())
        .filter_map(|record| record.value);
    Ok(values
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn each_symbol_has_a_volume_for_each_minute_it_traded_in() {
        let volumes = super::volumes().await.unwrap();
        assert_eq!(volumes.len(), 3);
        assert!(
            volumes[0].contains(r#""volume":400,"vwap":10.075"#),
            "{volumes:?}"
        );
    }
}
