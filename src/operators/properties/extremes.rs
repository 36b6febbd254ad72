//! Times and values at the edge of what 64 bits hold: no operator panics, and none loses an event.

use super::*;
use crate::events::{TIME_MAX, TIME_MIN};

/// Numbers of which sums, differences and products leave 64 bits.
fn number() -> impl Strategy<Value = i64> {
    prop_oneof![
        Just(i64::MIN),
        Just(i64::MAX),
        (0i64..20).prop_map(|less| i64::MAX - less),
        (0i64..20).prop_map(|more| i64::MIN + more),
        -20i64..20,
        any::<i64>(),
        // The ends of what can be written as an instant.
        (-20i64..20).prop_map(|off| TIME_MAX + off),
        (-20i64..20).prop_map(|off| TIME_MIN + off),
    ]
}

/// As long as a time may be, and longer.
fn span() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (0u64..20).prop_map(Duration::from_micros),
        number().prop_map(|micros| Duration::from_micros(micros.unsigned_abs())),
        Just(Duration::MAX),
    ]
}

prop_compose! {
    fn extreme_events()(
        raw in prop::collection::vec((0i64..3, number(), prop::option::weighted(0.9, number()), number(), number()), 1..20),
        cuts in prop::collection::vec(any::<bool>(), 20),
    ) -> (Vec<Event>, Vec<bool>) {
        let mut reached = i64::MIN;
        let events = raw.into_iter().map(|(pair, price, quantity, time, watermark)| {
            reached = reached.max(watermark);
            Event { pair, price, quantity, time, watermark: reached }
        });
        (events.collect(), cuts)
    }
}

fn count(out: &BTreeMap<usize, Vec<Rows>>) -> usize {
    out.values().flatten().map(Rows::len).sum()
}

/// Of each window: the events that it counted as it fired last, among bars and those set aside.
fn counted(made: &Made) -> usize {
    let mut windows: BTreeMap<(Option<i64>, Option<i64>), usize> = BTreeMap::new();
    let bars = made.out.values().flatten();
    let bars = bars.flat_map(|rows| (0..rows.len()).map(move |row| (rows, row)));
    let aside = made.dead.iter().filter(|dead| is_bar(dead));
    for (rows, row) in bars.chain(aside.map(|dead| (&*dead.rows, dead.row))) {
        let [pair, end, count] = [PAIR, 2, 4].map(|slot| rows.number(row, slot));
        let most = windows.entry((pair, end)).or_default();
        *most = (*most).max(count.unwrap_or_default() as usize);
    }
    windows.values().sum()
}

fn is_bar(dead: &Dead) -> bool {
    &*dead.rows.schema().name == "Bar"
}

/// It went out with the next event, or never, for the end of time is no time that an event is earlier than.
#[test]
fn an_event_at_the_end_of_time_leaves_a_merge() {
    let event = Event {
        pair: 0,
        price: i64::MIN,
        quantity: None,
        time: i64::MAX,
        watermark: i64::MIN,
    };
    let schema = input();
    let mut merge = Merge::new(schema.clone(), table(MERGE_CODEC));
    let (out, dead) = run(
        &mut merge,
        &batches(&schema, &[event], &[false]),
        usize::MAX,
    );
    assert_eq!((count(&out), dead.len()), (1, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_window_takes_or_sets_aside_each_event_whatever_its_time_and_values(
        (events, cuts) in extreme_events(), size in span(), lateness in span(), most in most(),
    ) {
        let size = size.max(Duration::from_micros(1));
        let mut window = window_of(size, lateness);
        let made = make(&mut window, &batches(&input(), &events, &cuts), most);
        // An event is in a bar, in one whose results are out of range, or set aside itself.
        let aside = made.dead.iter().filter(|dead| !is_bar(dead)).count();
        prop_assert_eq!(counted(&made) + aside, events.len());
        prop_assert!(!window.has_backlog());
    }

    #[test]
    fn a_dedupe_passes_drops_or_sets_aside_each_event_whatever_its_time(
        (events, cuts) in extreme_events(), window in span(), count_max in 1usize..4, most in most(),
    ) {
        let mut dedupe = Dedupe::new(vec![PRICE], window, count_max, table(DEDUPE_CODEC));
        let made = make(&mut dedupe, &batches(&input(), &events, &cuts), most);
        let dropped = made.dropped as usize;
        prop_assert_eq!(count(&made.out) + made.dead.len() + dropped, events.len());
        prop_assert!(!dedupe.has_backlog());
    }

    #[test]
    fn a_merge_hands_on_each_event_whatever_its_time(
        (events, cuts) in extreme_events(), most in most(),
    ) {
        let schema = input();
        let mut merge = Merge::new(schema.clone(), table(MERGE_CODEC));
        let (out, dead) = run(&mut merge, &batches(&schema, &events, &cuts), most);
        prop_assert_eq!(count(&out) + dead.len(), events.len());
    }
}
