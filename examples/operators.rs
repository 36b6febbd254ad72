//! Operators on streams of this program's own, without a broker or a pipeline file: closures over
//! batches of any type, then two venues merged by event time and a window over them, as the engine runs it.
//!
//! `cargo run --example operators`

use std::error::Error;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use tidemill::broker::{BatchBuilder, Offset, Timestamp, Topic, TopicPartition};
use tidemill::config::plan::AggregateFunction;
use tidemill::events::{JsonDecoder, JsonEncoder, Limits, Schema, Type};
use tidemill::operators::{
    BatchExt as _, Dead, Decode, Element, Merge, OperatorExt as _, TumblingWindow,
    TumblingWindowOptions, operate_all,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let large = large_trades().await;
    writeln!(
        io::stdout(),
        "notional of trades of 100 and more: {large:?}"
    )?;
    for bar in highs().await? {
        writeln!(io::stdout(), "{bar}")?;
    }
    Ok(())
}

/// Closures, one event at a time, called inside their batch.
async fn large_trades() -> Vec<u64> {
    let trades = [vec![(10, 100), (11, 5)], vec![(12, 300)]];
    let notional = stream::iter(trades)
        .filter_each(|(_, size)| *size >= 100)
        .map_each(|(price, size)| price * size);
    notional.collect::<Vec<_>>().await.concat()
}

/// The highest price of each second on two venues, from JSON.
async fn highs() -> Result<Vec<String>, Box<dyn Error>> {
    let fields = [("price", Type::Decimal(2)), ("at", Type::Time)];
    let trade = Arc::new(Schema::new("Trade", fields, Some("at")));
    let one = decoded(
        &trade,
        &[
            r#"{"price":10.00,"at":"2024-03-11T14:30:00.100Z"}"#,
            r#"{"price":10.10,"at":"2024-03-11T14:30:01.000Z"}"#,
        ],
    )?;
    let other = decoded(
        &trade,
        &[r#"{"price":10.25,"at":"2024-03-11T14:30:00.900Z"}"#],
    )?;

    let seconds = TumblingWindowOptions::new("High", trade.clone(), &[], Duration::from_secs(1))
        .aggregate("high", AggregateFunction::Max(0));
    let encoder = JsonEncoder::new(seconds.output.clone(), None);
    let merge = Merge::in_memory(trade);
    let mut highs = operate_all([one, other].map(|one| stream::iter([one])), merge, aside)
        .port(0)
        .operate(TumblingWindow::in_memory(seconds), aside);

    let mut lines = Vec::new();
    while let Some(element) = highs.next().await {
        if let Element::Rows(rows) = element {
            for row in 0..rows.len() {
                let mut line = Vec::new();
                encoder.write(&rows, row, &mut line);
                lines.push(String::from_utf8(line)?);
            }
        }
    }
    Ok(lines)
}

/// A batch of events, decoded as a pipeline's source does it.
fn decoded(schema: &Arc<Schema>, lines: &[&str]) -> Result<Element, Box<dyn Error>> {
    let mut records = BatchBuilder::default();
    for line in lines {
        records.push(Timestamp(0), None, Some(line.as_bytes()), &[]);
    }
    let at = TopicPartition::new(Topic::new("trades")?, 0);
    let batch = records.build(at, Offset(lines.len() as u64));
    let decoder = JsonDecoder::new(schema.clone(), 0b11, Limits::default());
    let mut decode = Decode::new(decoder, Duration::ZERO);
    let rows = decode.decode(&batch, &mut |_, poison| panic!("{poison:?}"));
    Ok(Element::Rows(rows.into()))
}

/// What an operator cannot place, such as events that come too late.
fn aside(dead: Dead) {
    panic!("{dead:?}");
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn closures_run_inside_their_batches() {
        assert_eq!(super::large_trades().await, [1000, 3600]);
    }

    #[tokio::test]
    async fn a_window_runs_over_a_stream_of_ones_own() {
        let highs = super::highs().await.unwrap();
        assert_eq!(highs.len(), 2);
        assert!(highs[0].contains(r#""high":10.25"#), "{highs:?}");
    }
}
