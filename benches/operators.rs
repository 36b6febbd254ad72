//! Closures as operators on a stream of batches: what the combinators themselves cost.
//!
//! `cargo bench --bench operators` prints, as medians of interleaved rounds on one thread, five
//! closures (map, filter, map, filter, map) over events of 24 bytes in batches of 256:
//!
//! * **loop**: written out as one loop;
//! * **stream**: as combinators of [`BatchExt`], each stream boxed, as a program puts them together;
//! * **items**: as boxed combinators of single events, for comparison.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark reads the clock and prints"
)]

mod market;

use std::process::ExitCode;

use futures::StreamExt;
use futures::executor::block_on;
use futures::stream::{self, BoxStream};
use market::{Claim, claim, median, per_second, row, seconds, verdict};
use tidemill::operators::BatchExt;

const EVENTS: usize = 10_000_000;
const PER_BATCH: usize = 256;
const ROUNDS: usize = 7;

#[derive(Clone, Copy)]
struct Event {
    time: i64,
    price: i64,
    quantity: i64,
}

fn events() -> Vec<Vec<Event>> {
    let event = |at: usize| Event {
        time: at as i64 * 10,
        price: 1_000_000 + (at % 977) as i64,
        quantity: 1 + (at % 31) as i64,
    };
    let all: Vec<Event> = (0..EVENTS).map(event).collect();
    all.chunks(PER_BATCH).map(<[Event]>::to_vec).collect()
}

fn dearer(event: Event) -> Event {
    Event {
        price: event.price + 5,
        ..event
    }
}

fn is_worth_it(event: &Event) -> bool {
    event.price * event.quantity > 2_000_000
}

fn in_millis(event: Event) -> Event {
    Event {
        time: event.time / 1000,
        ..event
    }
}

fn is_even(event: &Event) -> bool {
    event.time % 2 == 0
}

fn notional(event: Event) -> i64 {
    event.price * event.quantity
}

fn by_hand(batches: Vec<Vec<Event>>) -> i64 {
    let mut sum = 0_i64;
    for event in batches.into_iter().flatten() {
        let event = dearer(event);
        if is_worth_it(&event) {
            let event = in_millis(event);
            if is_even(&event) {
                sum = sum.wrapping_add(notional(event));
            }
        }
    }
    sum
}

fn by_stream(batches: Vec<Vec<Event>>) -> i64 {
    let stream: BoxStream<'_, Vec<Event>> = stream::iter(batches).map_each(dearer).boxed();
    let stream: BoxStream<'_, Vec<Event>> = stream.filter_each(is_worth_it).boxed();
    let stream: BoxStream<'_, Vec<Event>> = stream.map_each(in_millis).boxed();
    let stream: BoxStream<'_, Vec<Event>> = stream.filter_each(is_even).boxed();
    let stream: BoxStream<'_, Vec<i64>> = stream.map_each(notional).boxed();
    let sum =
        |sum: i64, batch: Vec<i64>| async move { batch.into_iter().fold(sum, i64::wrapping_add) };
    block_on(stream.fold(0, sum))
}

fn by_item(batches: Vec<Vec<Event>>) -> i64 {
    let stream: BoxStream<'_, Event> = stream::iter(batches.into_iter().flatten())
        .map(dearer)
        .boxed();
    let keep = |keep: bool| futures::future::ready(keep);
    let stream: BoxStream<'_, Event> = stream.filter(move |event| keep(is_worth_it(event))).boxed();
    let stream: BoxStream<'_, Event> = stream.map(in_millis).boxed();
    let stream: BoxStream<'_, Event> = stream.filter(move |event| keep(is_even(event))).boxed();
    let stream: BoxStream<'_, i64> = stream.map(notional).boxed();
    block_on(stream.fold(0, |sum: i64, one| async move { sum.wrapping_add(one) }))
}

fn main() -> ExitCode {
    let batches = events();
    let mut rounds = vec![Vec::new(); 3];
    let mut first = None;
    for _ in 0..ROUNDS {
        for (round, run) in rounds.iter_mut().zip([by_hand, by_stream, by_item]) {
            let input = batches.clone();
            let (took, sum) = seconds(|| run(input));
            // All of them the same work, or the figures tell nothing.
            assert_eq!(*first.get_or_insert(sum), sum, "the sums differ");
            round.push(took);
        }
    }
    let [by_hand, by_stream, by_item] = [0, 1, 2].map(|at| median(std::mem::take(&mut rounds[at])));
    row(
        "five closures over batches, events of 24 bytes",
        per_second(EVENTS, by_stream, "events"),
        format!(
            "{:.2} x the closures in one loop; {:.1} x item by item",
            by_hand / by_stream,
            by_item / by_stream
        ),
    );
    let millions = EVENTS as f64 / by_stream / 1e6;
    claim(
        "millions of events a second",
        millions,
        Claim::AtLeast(50.0),
    );
    verdict()
}
