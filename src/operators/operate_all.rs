//! Operators of several inputs and several ports, on streams.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use futures::{Stream, StreamExt};
use tidemill_broker::Timestamp;

use super::{Context, Dead, Element, Operate, Operator};
use crate::events::Rows;

/// Runs an operator over several streams, its inputs in their order; what it sets aside goes to `dead`.
/// Streams of different types are boxed first, with [`StreamExt::boxed`].
///
/// Event time is the least of the inputs', and an input is as far as its watermarks and its rows' heads
/// say. Only what is furthest behind is read on, those that are level in turn: so what an operator has
/// to hold of the others is bounded by a batch of each and by how far event times are off. An input that
/// is silent therefore holds the others, until it sends a [watermark](Element::Watermark) or ends; one
/// that has ended holds nobody. When all have, event time ends: windows fire and held events go out.
/// A program that does not want that drops the stream instead of letting it end.
///
/// What comes out carries the port it left through. [`OperateAll::port`] goes on with one of them.
///
/// # Cancel safety
///
/// Dropping a future of its next item loses nothing: what was taken and not handed out stays in the
/// stream, which takes no more before all that is out.
///
/// # Examples
///
/// Two venues in order of event time, then large trades apart from small ones:
///
/// ```
/// use std::sync::Arc;
/// use futures::{StreamExt, executor::block_on, stream};
/// use tidemill::broker::Timestamp;
/// use tidemill::config::plan::{RouteValue, Unplaced};
/// use tidemill::events::{RowHead, Rows, Schema, Type};
/// use tidemill::operators::{Element, Merge, Output, Route, operate_all};
///
/// let fields = [("isLarge", Type::Bool), ("at", Type::Time)];
/// let trade = Arc::new(Schema::new("Trade", fields, Some("at")));
/// let venue = |trades: &[(i64, i64)]| {
///     let mut rows = Rows::new(trade.clone());
///     for &(is_large, at) in trades {
///         rows.push(RowHead::at(Timestamp(at)), &[is_large, at]);
///     }
///     stream::iter([Element::Rows(rows.into())])
/// };
/// let venues = [venue(&[(0, 1), (1, 4)]), venue(&[(1, 2), (0, 3)])];
/// let merge = Merge::in_memory(trade.clone());
/// let merged = operate_all(venues, merge, |dead| panic!("{dead:?}")).port(0);
///
/// let large = vec![(RouteValue::Number(1), 1)];
/// let route = Route::new(0, large, Unplaced::Port(0));
/// let mut routed = operate_all([merged], route, |dead| panic!("{dead:?}"));
///
/// let (mut small, mut large) = (Vec::new(), Vec::new());
/// while let Some(output) = block_on(routed.next()) {
///     if let Output::Rows { port, rows } = output {
///         let times = rows.heads().iter().map(|head| head.time);
///         if port == 1 { large.extend(times) } else { small.extend(times) }
///     }
/// }
/// assert_eq!((small, large), (vec![1, 3], vec![2, 4]));
/// ```
pub fn operate_all<I, O, D>(inputs: I, operator: O, dead: D) -> OperateAll<I::Item, O, D>
where
    I: IntoIterator,
    I::Item: Stream<Item = Element> + Unpin,
    O: Operator + Unpin,
    D: FnMut(Dead) + Unpin,
{
    let input = |stream| Input {
        stream: Some(stream),
        watermark: i64::MIN,
    };
    OperateAll {
        inputs: inputs.into_iter().map(input).collect(),
        turn: 0,
        watermark: i64::MIN,
        operator,
        dead,
        ready: VecDeque::new(),
    }
}

/// What comes out of an operator.
#[derive(Debug, Clone)]
pub enum Output {
    /// A batch of events.
    Rows {
        /// The port they left through.
        port: usize,
        /// The events.
        rows: Arc<Rows>,
    },
    /// No earlier event time is expected, at any port.
    Watermark(Timestamp),
}

impl Output {
    /// What it is to those behind a port: rows of another are nothing to them.
    pub fn at(self, port: usize) -> Option<Element> {
        match self {
            Self::Rows { port: of, rows } => (of == port).then_some(Element::Rows(rows)),
            Self::Watermark(watermark) => Some(Element::Watermark(watermark)),
        }
    }
}

/// Stream returned by [`operate_all`].
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct OperateAll<S, O, D> {
    inputs: Vec<Input<S>>,
    // Which input is asked first among those that are level.
    turn: usize,
    // The least of the inputs'.
    watermark: i64,
    operator: O,
    dead: D,
    // What the last element taken has made.
    ready: VecDeque<Output>,
}

#[derive(Debug)]
struct Input<S> {
    // None once it has ended.
    stream: Option<S>,
    watermark: i64,
}

impl<S, O, D> OperateAll<S, O, D>
where
    S: Stream<Item = Element> + Unpin,
    O: Operator + Unpin,
    D: FnMut(Dead) + Unpin,
{
    /// Goes on with what leaves through one port, and drops what leaves through others.
    pub fn port(self, port: usize) -> Operate<S, O, D> {
        Operate::new(self, port)
    }

    /// The next element, and the input it comes from; `None` once that has ended.
    fn poll_behind(&mut self, cx: &mut TaskContext<'_>) -> Poll<(usize, Option<Element>)> {
        let behind = self.least(None);
        for place in (self.turn..self.inputs.len()).chain(0..self.turn) {
            let input = &mut self.inputs[place];
            let Some(stream) = &mut input.stream else {
                continue;
            };
            if input.watermark > behind {
                continue;
            }
            if let Poll::Ready(element) = stream.poll_next_unpin(cx) {
                self.turn = (place + 1) % self.inputs.len();
                return Poll::Ready((place, element));
            }
        }
        Poll::Pending
    }

    fn step(&mut self, place: usize, element: Option<Element>) {
        let mut context = Context::default();
        match element {
            None => {
                self.inputs[place].stream = None;
                self.inputs[place].watermark = i64::MAX;
            }
            Some(Element::Watermark(watermark)) => self.move_to(place, watermark.0),
            Some(Element::Rows(rows)) => {
                if let Some(most) = rows.heads().iter().map(|head| head.watermark).max() {
                    self.move_to(place, most);
                }
                let rows = held_back(rows, self.least(Some(place)));
                self.operator.process(place, rows, &mut context);
            }
        }
        let least = self.least(None);
        let moved = least > self.watermark;
        if moved {
            self.watermark = least;
            self.operator.advance(Timestamp(least), &mut context);
        }
        context.take_dead().into_iter().for_each(&mut self.dead);
        let made = context.take_emitted().into_iter();
        self.ready
            .extend(made.map(|(port, rows)| Output::Rows { port, rows }));
        if moved {
            self.ready.push_back(Output::Watermark(Timestamp(least)));
        }
    }

    fn move_to(&mut self, place: usize, watermark: i64) {
        let input = &mut self.inputs[place];
        input.watermark = input.watermark.max(watermark);
    }

    /// How far the input that is furthest behind has come, one of them left out.
    fn least(&self, but: Option<usize>) -> i64 {
        let inputs = self.inputs.iter().enumerate();
        let others = inputs.filter(|(place, _)| Some(*place) != but);
        let times = others.map(|(_, input)| input.watermark);
        times.min().unwrap_or(i64::MAX)
    }
}

/// Rows whose watermark goes no further than `limit`.
fn held_back(rows: Arc<Rows>, limit: i64) -> Arc<Rows> {
    if rows.heads().iter().all(|head| head.watermark <= limit) {
        return rows;
    }
    let mut rows = Arc::unwrap_or_clone(rows);
    for head in rows.heads_mut() {
        head.watermark = head.watermark.min(limit);
    }
    rows.into()
}

impl<S, O, D> Stream for OperateAll<S, O, D>
where
    S: Stream<Item = Element> + Unpin,
    O: Operator + Unpin,
    D: FnMut(Dead) + Unpin,
{
    type Item = Output;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Output>> {
        loop {
            if let Some(output) = self.ready.pop_front() {
                return Poll::Ready(Some(output));
            }
            if self.inputs.iter().all(|input| input.stream.is_none()) {
                return Poll::Ready(None);
            }
            let (place, element) = ready!(self.poll_behind(cx));
            self.step(place, element);
        }
    }
}

#[cfg(test)]
mod tests;
