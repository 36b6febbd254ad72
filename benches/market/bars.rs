//! Bars as a loop over the same bytes makes them, and as a topic holds them: they must be the same, or it
//! does not matter how fast they came.

#![allow(dead_code, reason = "each benchmark uses its part")]

use std::collections::HashMap;

use serde::Deserialize;
use tidemill::broker::{Broker, BrokerExt, Start, Topic, TopicPartition};
use tidemill::events::parse_time;

/// What bars need of an update.
#[derive(Deserialize)]
pub struct Borrowed<'a> {
    pub timestamp: &'a str,
    pub pair: &'a str,
    #[serde(rename = "currentPrice")]
    pub current_price: f64,
    pub quantity: f64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Bar {
    pub open: f64,
    pub high: f64,
    pub low: f64,
    pub close: f64,
    pub volume: f64,
}

/// Bars by pair, then the begin of their window: looked up by borrowed text.
pub type Bars = HashMap<String, HashMap<i64, Bar>>;

impl Bar {
    /// Of one trade.
    pub fn new(price: f64, quantity: f64) -> Self {
        Self {
            open: price,
            high: price,
            low: price,
            close: price,
            volume: quantity,
        }
    }

    pub fn add(&mut self, price: f64, quantity: f64) {
        self.high = self.high.max(price);
        self.low = self.low.min(price);
        self.close = price;
        self.volume += quantity;
    }

    /// Half of the last digit that a decimal keeps: far more than floats lose of a bar.
    fn is(&self, other: &Self) -> bool {
        let of = |bar: &Self| [bar.open, bar.high, bar.low, bar.close, bar.volume];
        let pairs = of(self).into_iter().zip(of(other));
        pairs
            .into_iter()
            .all(|(one, other)| (one - other).abs() < 5e-9)
    }
}

/// A bar as a pipeline writes it.
#[derive(Deserialize)]
struct Written<'a> {
    pair: &'a str,
    #[serde(rename = "windowStart")]
    start: &'a str,
    #[serde(flatten)]
    bar: Bar,
}

/// The bars that the topic `bars` holds.
///
/// # Panics
///
/// If one is there twice.
pub async fn written(broker: &dyn Broker) -> Bars {
    let topic = Topic::new("bars").expect("a name");
    let described = broker.describe_topic(&topic).await.expect("a topic");
    let mut bars = Bars::new();
    for partition in 0..described.partitions {
        let at = TopicPartition::new(topic.clone(), partition);
        for batch in broker
            .read_to_end(&at, Start::Earliest)
            .await
            .expect("bars")
        {
            for record in batch.iter() {
                let value = record.value.expect("a bar");
                let one: Written<'_> = serde_json::from_slice(value).expect("a bar");
                let start = parse_time(one.start.as_bytes()).expect("a time");
                let of_pair = bars.entry(one.pair.to_owned()).or_default();
                let before = of_pair.insert(start, one.bar);
                assert!(before.is_none(), "a bar of {} is there twice", one.pair);
            }
        }
    }
    bars
}

/// Fails the bench unless both are the same.
pub fn are_the_same(what: &str, found: &Bars, expected: &Bars) {
    let count = |bars: &Bars| bars.values().map(HashMap::len).sum::<usize>();
    let (all, of) = (count(found), count(expected));
    assert!(
        all == of && of > 0,
        "{what}: {all} bars, and the loop has {of}"
    );
    for (pair, bars) in expected {
        for (start, bar) in bars {
            let found = found.get(pair).and_then(|bars| bars.get(start));
            assert!(
                found.is_some_and(|found| found.is(bar)),
                "{what}: the bar of {pair} at {start} is {found:?}, and the loop has {bar:?}"
            );
        }
    }
}
