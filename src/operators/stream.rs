//! Operators as stream combinators.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use futures::{Stream, StreamExt};
use tidemill_broker::Timestamp;

use super::operate_all::{OperateAll, operate_all};
use super::{Dead, Operator};
use crate::events::Rows;

/// What flows between operators.
#[derive(Debug, Clone)]
pub enum Element {
    /// A batch of events.
    Rows(Arc<Rows>),
    /// No earlier event time is expected.
    Watermark(Timestamp),
}

/// Operators on any stream of [`Element`]s.
///
/// Those of several inputs, such as [`Merge`](super::Merge), and those of several ports, such as
/// [`Route`](super::Route), run in [`operate_all`].
pub trait OperatorExt: Stream<Item = Element> + Sized {
    /// Runs an operator over the stream: its main output goes on, its other ports are dropped, and
    /// what it sets aside goes to `dead`. For the rest see [`operate_all`], which this is for one input
    /// and one port: in particular, event time ends when the stream does.
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    /// use futures::{StreamExt, executor::block_on, stream};
    /// use tidemill::{broker::Timestamp, config::plan::AggregateFunction};
    /// use tidemill::events::{RowHead, Rows, Schema, Type};
    /// use tidemill::operators::{Element, OperatorExt, TumblingWindow, TumblingWindowOptions};
    ///
    /// let fields = [("size", Type::Int), ("at", Type::Time)];
    /// let trade = Arc::new(Schema::new("Trade", fields, Some("at")));
    /// let mut trades = Rows::new(trade.clone());
    /// for (size, at) in [(100, 1_000_000), (300, 59_000_000), (50, 61_000_000)] {
    ///     trades.push(RowHead::at(Timestamp(at)), &[size, at]);
    /// }
    ///
    /// let minutes = TumblingWindowOptions::new("Volume", trade, &[], Duration::from_secs(60))
    ///     .aggregate("volume", AggregateFunction::Sum(0));
    /// let mut volumes = stream::iter([Element::Rows(trades.into())])
    ///     .operate(TumblingWindow::in_memory(minutes), |dead| panic!("{dead:?}"));
    ///
    /// let Some(Element::Rows(first)) = block_on(volumes.next()) else { panic!("a batch") };
    /// assert_eq!(first.slots(0), [0, 60_000_000, 400]); // windowStart, windowEnd, volume
    /// ```
    fn operate<O, D>(self, operator: O, dead: D) -> Operate<Self, O, D>
    where
        Self: Unpin,
        O: Operator + Unpin,
        D: FnMut(Dead) + Unpin,
    {
        operate_all([self], operator, dead).port(0)
    }
}

impl<S: Stream<Item = Element>> OperatorExt for S {}

/// Stream returned by [`OperatorExt::operate`] and [`OperateAll::port`].
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct Operate<S, O, D> {
    all: OperateAll<S, O, D>,
    port: usize,
}

impl<S, O, D> Operate<S, O, D> {
    pub(super) fn new(all: OperateAll<S, O, D>, port: usize) -> Self {
        Self { all, port }
    }
}

impl<S, O, D> Stream for Operate<S, O, D>
where
    S: Stream<Item = Element> + Unpin,
    O: Operator + Unpin,
    D: FnMut(Dead) + Unpin,
{
    type Item = Element;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Element>> {
        loop {
            let Some(output) = ready!(self.all.poll_next_unpin(cx)) else {
                return Poll::Ready(None);
            };
            if let Some(element) = output.at(self.port) {
                return Poll::Ready(Some(element));
            }
        }
    }
}

/// Closures over streams of batches of any type: a closure per event, called inside its batch,
/// costs nothing for being called one by one.
pub trait BatchExt<T>: Stream<Item = Vec<T>> + Sized {
    /// Turns each event into another.
    fn map_each<U>(self, mut f: impl FnMut(T) -> U) -> impl Stream<Item = Vec<U>> {
        self.map(move |batch| batch.into_iter().map(&mut f).collect())
    }

    /// Keeps the events for which `keep` is true, in order. Batches may become empty.
    fn filter_each(self, mut keep: impl FnMut(&T) -> bool) -> impl Stream<Item = Vec<T>> {
        self.map(move |mut batch| {
            batch.retain(&mut keep);
            batch
        })
    }
}

impl<T, S: Stream<Item = Vec<T>>> BatchExt<T> for S {}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::events::{RowHead, Schema, Type};
    use crate::operators::KeyBy;

    fn batch(value: i64) -> Element {
        let schema = Schema::new("Quote", [("venue", Type::Int)], None);
        let mut rows = Rows::new(schema.into());
        rows.push(RowHead::at(Timestamp(3)), &[value]);
        Element::Rows(rows.into())
    }

    #[test]
    fn an_operator_waits_with_its_input_is_woken_by_it_and_ends_with_it() {
        let (sender, input) = mpsc::channel(2);
        let input = ReceiverStream::new(input);
        let never = |dead| panic!("{dead:?}");
        let mut keyed = task::spawn(input.operate(KeyBy::new(vec![0]), never));
        assert_pending!(keyed.poll_next());
        sender.try_send(batch(7)).unwrap();
        sender.try_send(Element::Watermark(Timestamp(5))).unwrap();
        assert!(keyed.is_woken());
        let Some(Element::Rows(rows)) = assert_ready!(keyed.poll_next()) else {
            panic!("a batch");
        };
        assert_eq!(rows.key(0), Some(&b"7"[..]));
        let mut next_is_watermark = |expected| {
            let watermark = assert_ready!(keyed.poll_next());
            let is_that = matches!(watermark, Some(Element::Watermark(at)) if at == expected);
            assert!(is_that, "{watermark:?}");
        };
        next_is_watermark(Timestamp(3));
        next_is_watermark(Timestamp(5));
        assert_pending!(keyed.poll_next());
        drop(sender);
        assert!(keyed.is_woken());
        let watermark = assert_ready!(keyed.poll_next());
        assert!(matches!(
            watermark,
            Some(Element::Watermark(Timestamp::MAX))
        ));
        assert!(assert_ready!(keyed.poll_next()).is_none());
    }
}
