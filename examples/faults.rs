//! A broker that breaks on purpose: replies are lost, connections drop, transactions hang. The
//! pipeline writes the same bars as over a broker that never fails.
//!
//! `cargo run --example faults`

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidemill::broker::{
    Broker as _, BrokerExt as _, NewRecord, Start, Timestamp, TokioClock, Topic, TopicPartition,
    TopicSpec,
};
use tidemill::config;
use tidemill::memory::{Fault, FaultPlan, MemoryBroker, MemoryOptions, Persona};
use tidemill::pipeline::{MemoryStores, Pipeline, RunOptions};

const UPDATES: u64 = 2_000;

// Time is tokio's and stands still while anything can be done: waiting costs nothing.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    let (calm, _) = bars(FaultPlan::default()).await?;
    let (stormy, faults) = bars(storm()).await?;
    writeln!(
        out,
        "{} bars without faults, {} with: {}",
        calm.len(),
        stormy.len(),
        match calm == stormy {
            true => "the same, byte for byte",
            false => "NOT the same",
        }
    )?;
    for (fault, count) in faults {
        writeln!(out, "  {count:>4} times {fault:?}")?;
    }
    Ok(())
}

fn storm() -> FaultPlan {
    FaultPlan {
        lost_reply: 0.2,
        forgotten: 0.2,
        disconnect: 0.05,
        delay: 0.1,
        delay_max: Duration::from_millis(20),
        ..FaultPlan::default()
    }
}

/// Runs the shipped pipeline over a broker with faults from a seed: its bars, and the faults.
async fn bars(plan: FaultPlan) -> Result<(Vec<Vec<u8>>, BTreeMap<Fault, u64>), Box<dyn Error>> {
    let seed = 7;
    let broker = MemoryBroker::new(MemoryOptions::new(
        Persona::Memory,
        Arc::new(TokioClock::starting_at(Timestamp(0))),
        seed,
    ));
    let updates = Topic::new("market-data-updates")?;
    broker
        .create_topic(&TopicSpec::new(updates.clone(), NonZeroU32::MIN))
        .await?;
    for number in 0..UPDATES {
        let (minute, second) = (number / 60 % 60, number % 60);
        let update = format!(
            r#"{{"pair":"ACME","currentPrice":{},"quantity":1,"timestamp":"2024-03-11T14:{minute:02}:{second:02}Z"}}"#,
            100 + number % 17,
        );
        broker
            .send(NewRecord::new(updates.clone(), update).key("ACME"))
            .await?;
    }

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/bars.toml");
    let in_memory = |name: &str| (name == "TIDEMILL_BROKER").then(|| "mem://".to_owned());
    let mut checked = config::load(&[file], &in_memory)?;
    // Many commits, so that many can go wrong.
    checked.commit.records = 50;
    broker.faults().plan(plan);
    let pipeline = Pipeline::new(
        checked,
        &[("main", Arc::new(broker.clone()))],
        Arc::new(MemoryStores::default()),
    )?;
    pipeline.run_to_end(RunOptions::new("0", seed)).await?;
    broker.faults().heal();

    let mut bars = Vec::new();
    for topic in ["bars-1s", "bars-1m", "bars-5m"] {
        let at = TopicPartition::new(Topic::new(topic)?, 0);
        for batch in broker.read_to_end(&at, Start::Earliest).await? {
            bars.extend(
                batch
                    .iter()
                    .filter_map(|record| record.value.map(<[u8]>::to_vec)),
            );
        }
    }
    Ok((bars, broker.faults().counts()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_bars_come_out_whatever_happens() {
        let (calm, _) = bars(FaultPlan::default()).await.unwrap();
        let (stormy, faults) = bars(storm()).await.unwrap();
        assert!(faults.values().sum::<u64>() > 10, "{faults:?}");
        assert_eq!(calm.len() as u64, UPDATES + 34 + 7);
        assert!(calm == stormy);
    }
}
