//! How much memory tables take, as the program measures it on the thread of a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

/// Hears of the tables of each task whenever it closes an epoch.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    most: Arc<Most>,
}

impl Tables {
    /// The most bytes that the tables of a task have taken. Where the memory is shared out, what an epoch has
    /// changed does not count before it is closed.
    pub(crate) fn bytes_max(&self) -> u64 {
        self.most.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Most(AtomicU64);

impl HistogramFn for Most {
    fn record(&self, value: f64) {
        self.0.fetch_max(value as u64, Ordering::Relaxed);
    }
}

impl Recorder for Tables {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match key.name() {
            "tidemill_state_table_bytes" => Histogram::from_arc(self.most.clone()),
            _ => Histogram::noop(),
        }
    }
}
