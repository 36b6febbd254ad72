use futures::FutureExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_test::{assert_pending, assert_ready, task};

use super::*;
use crate::config::plan::{RouteValue, Unplaced};
use crate::events::{RowHead, Schema, Type};
use crate::operators::{Merge, OperatorExt, Route};

fn schema() -> Arc<Schema> {
    let fields = [("venue", Type::Int), ("at", Type::Time)];
    Arc::new(Schema::new("Trade", fields, Some("at")))
}

fn batch(venue: i64, times: &[i64]) -> Element {
    let mut rows = Rows::new(schema());
    for &at in times {
        rows.push(RowHead::at(Timestamp(at)), &[venue, at]);
    }
    Element::Rows(rows.into())
}

fn never(dead: Dead) {
    panic!("{dead:?}");
}

/// Venue and time of what a port has given, and the last watermark behind it.
fn times(elements: impl IntoIterator<Item = Element>) -> (Vec<(i64, i64)>, Option<i64>) {
    let (mut seen, mut last) = (Vec::new(), None);
    for element in elements {
        match element {
            Element::Rows(rows) => {
                seen.extend((0..rows.len()).map(|row| (rows.slots(row)[0], rows.slots(row)[1])));
            }
            Element::Watermark(watermark) => last = Some(watermark.0),
        }
    }
    (seen, last)
}

#[test]
fn streams_are_merged_by_event_time_whichever_is_ready_first_and_whole_when_they_end() {
    let merge = || Merge::in_memory(schema());
    let a = || vec![batch(0, &[1, 5]), batch(0, &[9])];
    let b = || vec![batch(1, &[2, 3, 8])];
    for swap in [false, true] {
        let inputs = if swap { [b(), a()] } else { [a(), b()] };
        let inputs = inputs.map(futures::stream::iter);
        let merged = operate_all(inputs, merge(), never).port(0);
        let merged: Vec<Element> = merged.collect().now_or_never().unwrap();
        let (seen, last) = times(merged);
        assert_eq!(seen, [(0, 1), (1, 2), (1, 3), (0, 5), (1, 8), (0, 9)]);
        assert_eq!(last, Some(i64::MAX));
    }
}

#[test]
fn only_the_input_that_is_furthest_behind_is_read_on() {
    let (a, input_a) = mpsc::channel(8);
    let (b, input_b) = mpsc::channel(8);
    let inputs = [input_a, input_b].map(ReceiverStream::new);
    let mut merged = task::spawn(operate_all(inputs, Merge::in_memory(schema()), never).port(0));
    for at in 1..=8 {
        a.try_send(batch(0, &[at])).unwrap();
    }
    assert_pending!(merged.poll_next());
    // One was taken; the rest wait for the other input, and whoever sends them with them.
    assert_eq!(a.capacity(), 1);

    b.try_send(Element::Watermark(Timestamp(4))).unwrap();
    assert!(merged.is_woken());
    let mut ready = Vec::new();
    while let std::task::Poll::Ready(element) = merged.poll_next() {
        ready.extend(element);
    }
    assert_eq!(times(ready), (vec![(0, 1), (0, 2), (0, 3)], Some(4)));

    // Who is level is asked in turn, and who has ended holds nobody.
    drop(b);
    assert!(merged.is_woken());
    let Some(Element::Rows(rows)) = assert_ready!(merged.poll_next()) else {
        panic!("rows");
    };
    assert_eq!(rows.time(0), Timestamp(4));
}

#[test]
fn each_row_leaves_with_its_port_and_event_time_moves_on_at_all_of_them() {
    let cases = vec![(RouteValue::Number(1), 1)];
    let route = Route::new(0, cases, Unplaced::Port(0));
    let mixed = [batch(0, &[1]), batch(1, &[2]), batch(0, &[3])];
    let routed = operate_all([futures::stream::iter(mixed)], route, never);
    let routed: Vec<Output> = routed.collect().now_or_never().unwrap();
    let at = |port| {
        routed
            .iter()
            .filter_map(move |output| output.clone().at(port))
    };
    assert_eq!(times(at(0)).0, [(0, 1), (0, 3)]);
    assert_eq!(times(at(1)).0, [(1, 2)]);
    // Behind port 1 it is known at once that nothing comes before 3.
    let before_the_end =
        at(1).filter(|element| !matches!(element, Element::Watermark(Timestamp::MAX)));
    assert_eq!(times(before_the_end).1, Some(3));
}

#[test]
fn a_dropped_wait_for_the_next_item_loses_nothing() {
    let cases = vec![(RouteValue::Number(1), 1)];
    let route = Route::new(0, cases, Unplaced::Port(0));
    let (sender, input) = mpsc::channel(1);
    let mut routed = operate_all([ReceiverStream::new(input)], route, never);
    let mut seen = Vec::new();
    for at in 1..=4 {
        assert!(routed.next().now_or_never().is_none());
        let mut rows = Rows::new(schema());
        rows.push(RowHead::at(Timestamp(at)), &[0, at]);
        rows.push(RowHead::at(Timestamp(at)), &[1, at]);
        sender.try_send(Element::Rows(rows.into())).unwrap();
        // Each wait is dropped after one item, though the batch made several.
        while let Some(Some(output)) = routed.next().now_or_never() {
            if let Output::Rows { port, rows } = output {
                seen.push((port, rows.time(0).0));
            }
        }
    }
    let expected: Vec<(usize, i64)> = (1..=4).flat_map(|at| [(0, at), (1, at)]).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_stage_behind_a_merge_is_as_far_as_the_merge() {
    let inputs = [batch(0, &[1, 6]), batch(1, &[2, 3])].map(|one| futures::stream::iter([one]));
    let merged = operate_all(inputs, Merge::in_memory(schema()), never).port(0);
    let route = Route::new(0, Vec::new(), Unplaced::Port(0));
    let through = merged.operate(route, never);
    let through: Vec<Element> = through.collect().now_or_never().unwrap();
    assert_eq!(times(through).0, [(0, 1), (1, 2), (1, 3), (0, 6)]);
}
