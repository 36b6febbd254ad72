//! Operators as stream combinators.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use futures::{Stream, StreamExt};
use tidemill_broker::Timestamp;

use super::{Context, Dead, Operator};
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
pub trait OperatorExt: Stream<Item = Element> + Sized {
    /// Runs an operator over the stream: its main output goes on, its other ports are dropped, and
    /// what it sets aside goes to `dead`.
    ///
    /// ```
    /// use futures::{StreamExt, executor::block_on, stream};
    /// use std::sync::Arc;
    /// use tidemill::events::{Field, RowHead, Rows, Schema, Type};
    /// use tidemill::operators::{Element, KeyBy, OperatorExt};
    ///
    /// let field = Field { name: "venue".into(), ty: Type::Int, required: true };
    /// let schema = Arc::new(Schema { name: "Quote".into(), fields: vec![field], time: None });
    /// let mut rows = Rows::new(schema);
    /// let head = RowHead { present: 1, time: 0, watermark: 0, key: None, record: 0 };
    /// rows.push(head, &[7]);
    /// let mut keyed = stream::iter([Element::Rows(rows.into())])
    ///     .operate(KeyBy::new(vec![0]), |dead| panic!("{dead:?}"));
    /// let Some(Element::Rows(rows)) = block_on(keyed.next()) else { panic!("a batch") };
    /// assert_eq!(rows.key(0), Some(&b"7"[..]));
    /// ```
    fn operate<O, D>(self, operator: O, dead: D) -> Operate<Self, O, D>
    where
        O: Operator,
        D: FnMut(Dead),
    {
        Operate {
            input: self,
            operator,
            dead,
            ready: VecDeque::new(),
        }
    }
}

impl<S: Stream<Item = Element>> OperatorExt for S {}

/// Stream returned by [`OperatorExt::operate`].
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct Operate<S, O, D> {
    input: S,
    operator: O,
    dead: D,
    ready: VecDeque<Element>,
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
            if let Some(element) = self.ready.pop_front() {
                return Poll::Ready(Some(element));
            }
            let this = &mut *self;
            let mut context = Context::default();
            let after = match ready!(this.input.poll_next_unpin(cx)) {
                None => return Poll::Ready(None),
                Some(Element::Rows(rows)) => {
                    this.operator.process(0, rows, &mut context);
                    None
                }
                Some(Element::Watermark(watermark)) => {
                    this.operator.advance(watermark, &mut context);
                    Some(Element::Watermark(watermark))
                }
            };
            context.take_dead().into_iter().for_each(&mut this.dead);
            let main = context
                .take_emitted()
                .into_iter()
                .filter(|(port, _)| *port == 0);
            this.ready.extend(main.map(|(_, rows)| Element::Rows(rows)));
            this.ready.extend(after);
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
    use crate::events::{Field, RowHead, Schema, Type};
    use crate::operators::KeyBy;

    fn batch(value: i64) -> Element {
        let field = Field {
            name: "venue".into(),
            ty: Type::Int,
            required: true,
        };
        let mut rows = Rows::new(Arc::new(Schema {
            name: "Quote".into(),
            fields: vec![field],
            time: None,
        }));
        let head = RowHead {
            present: 1,
            time: 0,
            watermark: 0,
            key: None,
            record: 0,
        };
        rows.push(head, &[value]);
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
        let watermark = assert_ready!(keyed.poll_next());
        assert!(
            matches!(watermark, Some(Element::Watermark(Timestamp(5)))),
            "{watermark:?}"
        );
        assert_pending!(keyed.poll_next());
        drop(sender);
        assert!(keyed.is_woken());
        assert!(assert_ready!(keyed.poll_next()).is_none());
    }
}
