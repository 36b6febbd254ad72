//! Operators on a stream of this program's own, without a broker or a pipeline file: closures over
//! batches of any type, then a window over decoded events, as the engine runs it.
//!
//! `cargo run --example operators`

use std::error::Error;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use tidemill::broker::{BatchBuilder, Offset, Timestamp, Topic, TopicPartition};
use tidemill::config::plan::{Aggregate, AggregateFunction, Unplaced};
use tidemill::events::{Field, JsonDecoder, JsonEncoder, Limits, Schema, Type};
use tidemill::operators::{
    BatchExt as _, Decode, Element, OperatorExt as _, TUMBLING_WINDOW_CODEC, TumblingWindow,
    TumblingWindowOptions, Window,
};
use tidemill::state::{
    Digest, Epoch, Identity, Kind, MemoryDisk, MemoryStore, State, StateOptions, Table, TableSpec,
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

/// The highest price of each second, from JSON.
async fn highs() -> Result<Vec<String>, Box<dyn Error>> {
    let trade = schema(
        "Trade",
        &[("price", Type::Decimal(2)), ("at", Type::Time)],
        1,
    );
    let high = schema(
        "High",
        &[
            ("from", Type::Time),
            ("to", Type::Time),
            ("high", Type::Decimal(2)),
        ],
        1,
    );

    let mut records = BatchBuilder::default();
    for value in [
        r#"{"price":10.00,"at":"2024-03-11T14:30:00.100Z"}"#,
        r#"{"price":10.25,"at":"2024-03-11T14:30:00.900Z"}"#,
        r#"{"price":10.10,"at":"2024-03-11T14:30:01.000Z"}"#,
    ] {
        records.push(Timestamp(0), None, Some(value.as_bytes()), &[]);
    }
    let batch = records.build(TopicPartition::new(Topic::new("trades")?, 0), Offset(3));
    let decoder = JsonDecoder::new(trade.clone(), 0b11, Limits::default());
    let mut decode = Decode::new(decoder, Duration::ZERO);
    let rows = decode.decode(&batch, &mut |_, poison| panic!("{poison:?}"));

    // What an operator remembers lies in a table; here in memory alone.
    let identity = Identity {
        pipeline: "highs".into(),
        task: "0".into(),
    };
    let store = MemoryStore::open(&MemoryDisk::default(), &identity)?;
    let (state, _) = State::open(Arc::new(store), StateOptions::default()).await?;
    // There is no changelog to catch up with.
    state.finish_redo(Epoch::NONE, 0, Digest::EMPTY).await?;
    let spec = TableSpec {
        name: "windows".into(),
        kind: Kind::Value,
        codec: TUMBLING_WINDOW_CODEC,
        ttl_ms: None,
    };
    let table = state.declare(&[spec])?[0];
    let mut windows = Table::<Window>::new(table, 1 << 20);
    state.load_all(&mut windows).await?;

    let options = TumblingWindowOptions {
        name: "highs".into(),
        key: Vec::new(),
        size: Duration::from_secs(1),
        lateness: Duration::ZERO,
        late: Unplaced::DeadLetter,
        aggregates: vec![Aggregate {
            output: 2,
            function: AggregateFunction::Max(0),
        }],
        input: trade,
        output: high.clone(),
    };
    // Event time ends: no window stays open.
    let input = [
        Element::Rows(Arc::new(rows)),
        Element::Watermark(Timestamp::MAX),
    ];
    let mut output = stream::iter(input).operate(TumblingWindow::new(options, windows), |dead| {
        panic!("{dead:?}")
    });
    let encoder = JsonEncoder::new(high, None);
    let mut lines = Vec::new();
    while let Some(element) = output.next().await {
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

fn schema(name: &str, fields: &[(&str, Type)], time: usize) -> Arc<Schema> {
    let fields = fields.iter().map(|(name, ty)| Field {
        name: (*name).into(),
        ty: *ty,
        required: true,
    });
    Arc::new(Schema {
        name: name.into(),
        fields: fields.collect(),
        time: Some(time),
    })
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
