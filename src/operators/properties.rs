//! Operators against naive models: other code, which keeps every event and reads them all again.

mod extremes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tidemill_broker::Timestamp;
use tidemill_state::{
    Digest, Epoch, Identity, Kind, MemoryDisk, MemoryStore, State, StateOptions, StateValue, Table,
    TableSpec,
};

use super::*;
use crate::config::plan::{Aggregate, AggregateFunction, RouteValue, Unplaced};
use crate::events::{Field, RowHead, Rows, Schema, Type};

const PAIR: usize = 0;
const PRICE: usize = 1;
const QUANTITY: usize = 2;

/// An event as it comes in; prices have 2 decimals, quantities 3.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    pair: i64,
    price: i64,
    quantity: Option<i64>,
    time: i64,
    // No earlier event time is expected after it.
    watermark: i64,
}

prop_compose! {
    /// Events of which some come late, and where the stream is cut into batches.
    fn events()(
        raw in prop::collection::vec((0i64..3, -999i64..999, prop::option::weighted(0.9, 0i64..50), -12i64..20), 1..60),
        slack in 0i64..15,
        cuts in prop::collection::vec(any::<bool>(), 60),
    ) -> (Vec<Event>, Vec<bool>) {
        let mut now = 0;
        let mut watermark = i64::MIN;
        let events = raw.into_iter().map(|(pair, price, quantity, step)| {
            let time = now + step;
            now = now.max(time);
            watermark = watermark.max(now - slack);
            Event { pair, price, quantity, time, watermark }
        });
        (events.collect(), cuts)
    }
}

fn field(name: &str, ty: Type) -> Field {
    Field {
        name: name.into(),
        ty,
        required: false,
    }
}

fn input() -> Arc<Schema> {
    Arc::new(Schema {
        name: "Trade".into(),
        fields: vec![
            field("pair", Type::Int),
            field("price", Type::Decimal(2)),
            field("quantity", Type::Decimal(3)),
        ],
        time: None,
    })
}

/// The events in batches, as `cuts` says.
fn batches(schema: &Arc<Schema>, events: &[Event], cuts: &[bool]) -> Vec<Arc<Rows>> {
    let mut batches = Vec::new();
    let mut rows = Rows::new(schema.clone());
    for (index, event) in events.iter().enumerate() {
        let key = rows.add_text(event.pair.to_string().as_bytes());
        let head = RowHead {
            present: 0b011 | (u64::from(event.quantity.is_some()) << QUANTITY),
            time: event.time,
            watermark: event.watermark,
            key: Some(key),
            record: index as u32,
        };
        rows.push(
            head,
            &[event.pair, event.price, event.quantity.unwrap_or_default()],
        );
        if cuts[index] {
            batches.push(Arc::new(std::mem::replace(
                &mut rows,
                Rows::new(schema.clone()),
            )));
        }
    }
    batches.push(Arc::new(rows));
    batches
}

fn table<V: StateValue>(codec: u32) -> Table<V> {
    futures::executor::block_on(async {
        let identity = Identity {
            pipeline: "model".into(),
            task: "0".into(),
        };
        let store = MemoryStore::open(&MemoryDisk::default(), &identity).unwrap();
        let (state, _) = State::open(Arc::new(store), StateOptions::default())
            .await
            .unwrap();
        state
            .finish_redo(Epoch::NONE, 0, Digest::EMPTY)
            .await
            .unwrap();
        let spec = TableSpec {
            name: "model".into(),
            kind: Kind::Value,
            codec,
            ttl_ms: None,
        };
        let id = state.declare(&[spec]).unwrap()[0];
        let mut table = Table::new(id, 1 << 20);
        state.load_all(&mut table).await.unwrap();
        table
    })
}

/// What an operator makes of the batches, by port, and the records of the rows it sets aside.
fn run(
    operator: &mut dyn Operator,
    batches: &[Arc<Rows>],
    most: usize,
) -> (BTreeMap<usize, Vec<Rows>>, Vec<u32>) {
    let made = make(operator, batches, most);
    let dead = made.dead.iter();
    let dead = dead.map(|dead| dead.rows.head(dead.row).record).collect();
    (made.out, dead)
}

/// What an operator has made.
#[derive(Debug, Default)]
struct Made {
    /// By port.
    out: BTreeMap<usize, Vec<Rows>>,
    dead: Vec<Dead>,
    dropped: u64,
}

/// What an operator makes of the batches; it does no more than `most` at once, for which a batch ends with
/// the record that makes more due.
fn make(operator: &mut dyn Operator, batches: &[Arc<Rows>], most: usize) -> Made {
    let mut made = Made::default();
    let mut take = |context: &mut Context| {
        for (port, rows) in context.take_emitted() {
            let port = made.out.entry(port).or_default();
            port.push(Rows::clone(&rows));
        }
        made.dead.extend(context.take_dead());
        made.dropped += context.take_dropped();
    };
    let mut work_off = |operator: &mut dyn Operator, mut context: Context| {
        take(&mut context);
        while operator.has_backlog() {
            let mut context = Context::default().at_most(most);
            operator.work_off(&mut context);
            take(&mut context);
        }
    };
    for rows in batches {
        let mut from = 0;
        while from < rows.len() {
            // What earlier rows leave may fall due at a later one.
            let is_too_much = |row: &usize| {
                let due = operator.due(Timestamp(rows.head(*row).watermark), most);
                2 * due.saturating_add(*row - from).min(1 << 32) > most
            };
            let last = (from..rows.len()).find(is_too_much);
            let to = last.map_or(rows.len(), |last| last + 1);
            let mut context = Context::default().at_most(most);
            operator.process(0, Arc::new(rows.slice(from..to)), &mut context);
            work_off(operator, context);
            from = to;
        }
    }
    let mut context = Context::default().at_most(most);
    operator.advance(Timestamp::MAX, &mut context);
    work_off(operator, context);
    made
}

fn most() -> impl Strategy<Value = usize> {
    prop_oneof![1 => Just(usize::MAX), 2 => 1usize..5]
}

/// Every row that came out of a port: its fields, `None` where absent.
fn fields(rows: Option<&Vec<Rows>>) -> Vec<Vec<Option<i64>>> {
    let rows = rows.into_iter().flatten();
    rows.flat_map(|rows| {
        let slots = 0..rows.schema().width();
        (0..rows.len()).map(move |row| {
            let slots = slots.clone();
            slots.map(|slot| rows.number(row, slot)).collect()
        })
    })
    .collect()
}

fn numbers(rows: Option<&Vec<Rows>>) -> Vec<u32> {
    let rows = rows.into_iter().flatten();
    rows.flat_map(|rows| rows.heads().iter().map(|head| head.record))
        .collect()
}

const SIZE: i64 = 10;

fn window(lateness: i64) -> TumblingWindow {
    let lateness = Duration::from_micros(lateness as u64);
    window_of(Duration::from_micros(SIZE as u64), lateness)
}

fn window_of(size: Duration, lateness: Duration) -> TumblingWindow {
    let functions = [
        (
            "vwap",
            Type::Decimal(4),
            AggregateFunction::Vwap {
                price: PRICE,
                quantity: QUANTITY,
            },
        ),
        ("count", Type::Int, AggregateFunction::Count),
        ("sum", Type::Decimal(3), AggregateFunction::Sum(QUANTITY)),
        ("min", Type::Decimal(3), AggregateFunction::Min(QUANTITY)),
        ("max", Type::Decimal(2), AggregateFunction::Max(PRICE)),
        ("first", Type::Decimal(2), AggregateFunction::First(PRICE)),
        ("last", Type::Decimal(3), AggregateFunction::Last(QUANTITY)),
    ];
    let mut made = vec![
        field("pair", Type::Int),
        field("from", Type::Time),
        field("to", Type::Time),
    ];
    made.extend(functions.iter().map(|(name, ty, _)| field(name, *ty)));
    let aggregates = functions.iter().enumerate();
    let options = TumblingWindowOptions {
        name: "model".into(),
        key: vec![PAIR],
        size,
        lateness,
        late: Unplaced::DeadLetter,
        aggregates: aggregates
            .map(|(index, (_, _, function))| Aggregate {
                output: 3 + index,
                function: *function,
            })
            .collect(),
        input: input(),
        output: Arc::new(Schema {
            name: "Bar".into(),
            fields: made,
            time: Some(2),
        }),
    };
    TumblingWindow::new(options, table(TUMBLING_WINDOW_CODEC))
}

/// A window's row, from all its events.
fn bar(pair: i64, end: i64, events: &[&Event]) -> Vec<Option<i64>> {
    use rust_decimal::{Decimal, RoundingStrategy};
    let quantities = || events.iter().filter_map(|event| event.quantity);
    let decimal = |value: i64, scale| Decimal::new(value, scale);
    let volume: Decimal = quantities().map(|quantity| decimal(quantity, 3)).sum();
    let value: Decimal = events
        .iter()
        .filter_map(|event| Some(decimal(event.price, 2) * decimal(event.quantity?, 3)))
        .sum();
    let vwap = (!volume.is_zero()).then(|| {
        let mut vwap =
            (value / volume).round_dp_with_strategy(4, RoundingStrategy::MidpointNearestEven);
        vwap.rescale(4);
        vwap.mantissa() as i64
    });
    let earliest = events.iter().min_by_key(|event| event.time);
    let latest = events.iter().filter(|event| event.quantity.is_some());
    vec![
        Some(pair),
        Some(end - SIZE),
        Some(end),
        vwap,
        Some(events.len() as i64),
        quantities().next().map(|_| quantities().sum()),
        quantities().min(),
        events.iter().map(|event| event.price).max(),
        earliest.map(|event| event.price),
        latest
            .max_by_key(|event| event.time)
            .and_then(|event| event.quantity),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn windows_agree_with_a_model_that_keeps_every_event(
        (events, cuts) in events(), lateness in 0i64..25, most in most(),
    ) {
        let (mut expected, mut late) = (Vec::new(), Vec::new());
        let mut taken: BTreeMap<(i64, i64), Vec<&Event>> = BTreeMap::new();
        let mut fired = BTreeSet::new();
        let last = i64::MAX;
        for (index, event) in events.iter().map(Some).chain([None]).enumerate() {
            let watermark = event.map_or(last, |event| event.watermark);
            for ((end, pair), events) in &taken {
                if *end <= watermark && fired.insert((*end, *pair)) {
                    expected.push(bar(*pair, *end, events));
                }
            }
            let Some(event) = event else { break };
            let end = event.time.div_euclid(SIZE) * SIZE + SIZE;
            if end + lateness <= watermark {
                late.push(index as u32);
                continue;
            }
            let events = taken.entry((end, event.pair)).or_default();
            events.push(event);
            if end <= watermark {
                fired.insert((end, event.pair));
                expected.push(bar(event.pair, end, events));
            }
        }
        let (out, dead) = run(&mut window(lateness), &batches(&input(), &events, &cuts), most);
        prop_assert_eq!(fields(out.get(&0)), expected);
        prop_assert_eq!(dead, late);
    }

    #[test]
    fn dedupe_agrees_with_a_model_that_remembers_every_event(
        (events, cuts) in events(), span in 1i64..40, most in most(),
    ) {
        // An id is the price within the record's key, made to repeat often.
        let events: Vec<Event> = events
            .into_iter()
            .map(|event| Event { price: event.price % 4, ..event })
            .collect();
        let (mut kept, mut late) = (Vec::new(), Vec::new());
        for (index, event) in events.iter().enumerate() {
            if event.time + span <= event.watermark {
                late.push(index as u32);
                continue;
            }
            let known = kept.iter().any(|kept: &u32| {
                let before = &events[*kept as usize];
                (before.pair, before.price) == (event.pair, event.price)
                    && before.time + span > event.watermark
            });
            if !known {
                kept.push(index as u32);
            }
        }
        let mut dedupe = Dedupe::new(
            vec![PRICE],
            Duration::from_micros(span as u64),
            usize::MAX,
            table(DEDUPE_CODEC),
        );
        let (out, dead) = run(&mut dedupe, &batches(&input(), &events, &cuts), most);
        prop_assert_eq!(numbers(out.get(&0)), kept);
        prop_assert_eq!(dead, late);
    }

    #[test]
    fn dedupe_never_remembers_more_than_its_count((events, cuts) in events(), count in 1usize..4) {
        // Two ids of one key and time go in the order of their bytes, which the model does not know.
        let mut times = BTreeSet::new();
        let mut events = events;
        events.retain(|event| times.insert((event.pair, event.time)));
        // The least of what is remembered goes when another comes, as in a sorted list of `count`; what
        // is less than all of a full list may have gone that way.
        let mut seen: BTreeMap<i64, BTreeSet<(i64, i64)>> = BTreeMap::new();
        let (mut kept, mut late) = (Vec::new(), Vec::new());
        for (index, event) in events.iter().enumerate() {
            let ids = seen.entry(event.pair).or_default();
            if ids.iter().any(|(_, price)| *price == event.price) {
                continue;
            }
            let new = (event.time, event.price);
            if ids.len() == count && ids.first().is_some_and(|oldest| new < *oldest) {
                late.push(index as u32);
                continue;
            }
            kept.push(index as u32);
            ids.insert(new);
            if ids.len() > count {
                ids.pop_first();
            }
        }
        let forever = Duration::from_secs(3_600);
        let mut dedupe = Dedupe::new(vec![PRICE], forever, count, table(DEDUPE_CODEC));
        let (out, dead) = run(&mut dedupe, &batches(&input(), &events, &cuts), usize::MAX);
        prop_assert_eq!(numbers(out.get(&0)), kept);
        prop_assert_eq!(dead, late);
    }

    #[test]
    fn a_merge_gives_what_is_in_time_sorted_and_what_is_late_at_once(
        (events, cuts) in events(), most in most(),
    ) {
        let mut held: BTreeMap<(i64, usize), u32> = BTreeMap::new();
        let mut expected = Vec::new();
        for (index, event) in events.iter().enumerate() {
            let later = held.split_off(&(event.watermark, 0));
            expected.extend(std::mem::replace(&mut held, later).into_keys().map(|(_, index)| index));
            if event.time < event.watermark {
                expected.push(index);
            } else {
                held.insert((event.time, index), index as u32);
            }
        }
        expected.extend(held.into_keys().map(|(_, index)| index));
        let schema = input();
        let mut merge = Merge::new(schema.clone(), table(MERGE_CODEC));
        let (out, dead) = run(&mut merge, &batches(&schema, &events, &cuts), most);
        let expected: Vec<_> = expected
            .into_iter()
            .map(|index| (events[index].pair, events[index].price, events[index].time))
            .collect();
        let rows = out.values().flatten();
        let found: Vec<_> = rows
            .flat_map(|rows| {
                (0..rows.len()).map(|row| {
                    let slots = rows.slots(row);
                    (slots[PAIR], slots[PRICE], rows.head(row).time)
                })
            })
            .collect();
        prop_assert_eq!(found, expected);
        prop_assert!(dead.is_empty());
    }

    #[test]
    fn a_route_gives_each_port_its_events_in_order((events, cuts) in events()) {
        let cases = vec![(RouteValue::Number(0), 1), (RouteValue::Number(2), 0)];
        let mut route = Route::new(PAIR, cases, Unplaced::DeadLetter);
        let (out, dead) = run(&mut route, &batches(&input(), &events, &cuts), usize::MAX);
        let of = |pair: i64| -> Vec<u32> {
            let events = events.iter().enumerate();
            events.filter(|(_, event)| event.pair == pair).map(|(index, _)| index as u32).collect()
        };
        prop_assert_eq!(numbers(out.get(&1)), of(0));
        prop_assert_eq!(numbers(out.get(&0)), of(2));
        prop_assert_eq!(dead, of(1));
    }
}
