//! Any bytes as a file of a recorded market: importing never panics, a refused file leaves nothing
//! behind, and what is imported is read back by the decoder, counted, and imported once only.
//!
//! The first byte chooses the file's name, the second how it is imported; the rest is the file.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tidemill::broker::{Batch, Broker, BrokerExt, Start, Topic, TopicPartition};
use tidemill::events::{JsonDecoder, Limits, Schema};
use tidemill::market::import::{self, OnBadLine, Options, Report};
use tidemill::memory::MemoryBroker;

/// Bits of the second byte; the two highest choose the scale.
const SKIP: u8 = 1;
const NO_PAIR: u8 = 2;
const DATED: u8 = 4;

/// Names that tell layout, pair and day, and some that tell nothing.
const NAMES: [&str; 12] = [
    "equity/usa/tick/ibm/20131007_trade.csv",
    "equity/usa/tick/ibm/20131007_quote.csv",
    "equity/usa/minute/ibm/20131007_trade.csv",
    "crypto/coinbase/second/btcusd/20161007_trade.csv",
    "crypto/coinbase/minute/btcusd/20161007_quote.csv",
    "BTCUSDT-trades-2024-12-31.csv",
    "BTCUSDT-aggTrades-2025-01-01.csv",
    "BTCUSDT-1m-2025-01-02.csv",
    "bars.csv",
    "lines.jsonl",
    "equity/usa/tick/ibm/20131007_trade.zip",
    "nothing",
];

const SCALES: [u8; 4] = [8, 2, 0, 18];

/// Imports the file twice into a broker in memory.
///
/// # Panics
///
/// If what was written is not what was counted, or cannot be read.
pub(crate) fn run(data: &[u8]) {
    let [name, setting, content @ ..] = data else {
        return;
    };
    let place = place();
    let path = place.path().join(NAMES[usize::from(*name) % NAMES.len()]);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).expect("a directory");
    }
    std::fs::write(&path, content).expect("a file");
    let topic = |name| Topic::new(name).expect("a name");
    let mut options = Options::new(vec![path], topic("updates"));
    if setting & NO_PAIR == 0 {
        options.pair = Some("A-B".to_owned());
    }
    if setting & DATED != 0 {
        options.date = Some(jiff::civil::date(2024, 3, 11));
    }
    if setting & SKIP != 0 {
        options.on_bad_line = OnBadLine::Skip;
    }
    let scale = SCALES[usize::from(setting >> 6)];
    (options.price_scale, options.quantity_scale) = (scale, scale);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(check(&options, scale));
}

async fn check(options: &Options, scale: u8) {
    let broker = Arc::new(MemoryBroker::default());
    let report = match import::run(options, broker.clone(), &mut |_| {}).await {
        Ok(report) => report,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let topics = broker.list_topics().await.expect("topics");
            assert!(topics.is_empty(), "{error}, but there are {topics:?}");
            return;
        }
    };
    let counts = report.counts;
    assert_eq!(
        report.written,
        counts.records + counts.suspicious + counts.bad_lines,
        "{report:?}"
    );
    assert!(counts.first <= counts.last, "{report:?}");
    let updates = read(&*broker, &options.topic).await;
    assert_eq!(records(&updates), counts.records, "{report:?}");
    readable(&updates, scale, &report);
    let suspects = read(&*broker, &options.suspect_topic).await;
    assert_eq!(
        records(&suspects),
        counts.suspicious + counts.bad_lines,
        "{report:?}"
    );

    let again = import::run(options, broker.clone(), &mut |_| {}).await;
    match again {
        Ok(again) => assert_eq!((again.written, again.counts), (0, counts)),
        Err(error) => panic!("the second time: {error}"),
    }
}

/// Holds what was imported to what a pipeline reads.
fn readable(batches: &[Batch], scale: u8, report: &Report) {
    let schema = Arc::new(Schema::market_data_update(scale));
    let mut decoder = JsonDecoder::new(schema, u64::MAX, Limits::default()).system_event();
    let mut last = i64::MIN;
    let mut backwards = 0;
    for batch in batches {
        let rows = decoder.decode(batch, &mut |at, poison| {
            let value = batch.get(at).value.unwrap_or_default();
            panic!("{poison}: {}", String::from_utf8_lossy(value));
        });
        for row in 0..rows.len() {
            let record = batch.get(row);
            assert_eq!(rows.time(row), record.timestamp, "its time");
            let pair = rows.text(row, 0).expect("a pair");
            assert_eq!(record.key, Some(pair), "its key");
            backwards += u64::from(record.timestamp.0 < last);
            last = record.timestamp.0;
        }
    }
    // Suspicious ones count too, and lie elsewhere.
    assert!(backwards == 0 || report.counts.backwards > 0, "{report:?}");
}

fn records(batches: &[Batch]) -> u64 {
    batches.iter().map(|batch| batch.len() as u64).sum()
}

async fn read(broker: &dyn Broker, topic: &Topic) -> Vec<Batch> {
    let at = TopicPartition::new(topic.clone(), 0);
    let batches = broker.read_to_end(&at, Start::Earliest).await;
    batches.expect("a topic")
}

/// A directory that goes with its guard: in memory where there is such a place, because one is made for
/// every input.
fn place() -> TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() {
        TempDir::new_in(memory)
    } else {
        TempDir::new()
    };
    place.expect("a directory")
}
