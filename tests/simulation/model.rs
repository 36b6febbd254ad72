//! What must come out, computed a second way: naive, in one pass, without the engine.

use std::collections::BTreeMap;

use crate::draw::Draw;
use crate::event::{Move, write_time};
use crate::shape::{LARGE, LEDGER, REMEMBERED, SMALL, Shape};

/// A record of the input: where it lies, and what it says unless it is poison.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) place: String,
    pub(crate) event: Option<Move>,
}

/// What a run must have written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    /// By topic and key, in order.
    pub(crate) outputs: BTreeMap<(String, String), Vec<String>>,
    /// Place of the record and stage that set it aside.
    pub(crate) dead: Vec<(String, String)>,
    /// Records that left no trace, on purpose.
    pub(crate) dropped: u64,
}

impl Expected {
    fn out(&mut self, topic: &str, key: &str, value: String) {
        let place = (topic.to_owned(), key.to_owned());
        self.outputs.entry(place).or_default().push(value);
    }
}

/// Within what an output topic is in order: one key, which under a new key is that of the input too,
/// because tasks know nothing of each other.
pub(crate) fn ordered_by(topic: &str, key: &str, value: &str) -> String {
    match topic {
        // Of two inputs, which meet in any order.
        "met" => format!("{key}: {value}"),
        "keyed" => {
            let event: Move = serde_json::from_str(value).unwrap();
            format!("{key} from {}", event.account)
        }
        _ => key.to_owned(),
    }
}

/// One aggregate window of the naive kind.
#[derive(Debug, Clone)]
struct Sums {
    events: Vec<Move>,
    fired: bool,
}

struct Windows<'a> {
    name: &'a str,
    size: i64,
    lateness: i64,
    ledger: Option<fn(&Move) -> i64>,
    open: BTreeMap<(i64, String), Sums>,
}

impl<'a> Windows<'a> {
    fn new(name: &'a str, size: std::time::Duration, lateness: std::time::Duration) -> Self {
        Self {
            name,
            size: size.as_micros() as i64,
            lateness: lateness.as_micros() as i64,
            ledger: None,
            open: BTreeMap::new(),
        }
    }

    fn of_ledger(name: &'a str, field: fn(&Move) -> i64) -> Self {
        Self {
            ledger: Some(field),
            ..Self::new(name, LEDGER, std::time::Duration::ZERO)
        }
    }

    /// Event time moves on: windows fire, and old ones go.
    fn move_to(&mut self, watermark: i64, expected: &mut Expected) {
        let due: Vec<_> = self
            .open
            .iter()
            .filter(|((end, _), sums)| *end <= watermark && !sums.fired)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.fire(&key, expected);
        }
        let lateness = self.lateness;
        self.open
            .retain(|(end, _), sums| !sums.fired || end + lateness > watermark);
    }

    fn fire(&mut self, key: &(i64, String), expected: &mut Expected) {
        let sums = self.open.get_mut(key).unwrap();
        sums.fired = true;
        let head = format!(
            "{{\"eventType\":\"{}\",\"account\":\"{}\",\"windowStart\":\"{}\",\"windowEnd\":\"{}\",",
            self.name,
            key.1,
            write_time(key.0 - self.size),
            write_time(key.0)
        );
        let sum: i64 = sums
            .events
            .iter()
            .map(self.ledger.unwrap_or(|event| event.amount))
            .sum();
        if self.ledger.is_some() {
            expected.out(self.name, &key.1, format!("{head}\"sum\":{sum}}}"));
            return;
        }
        let events = &sums.events;
        let amounts = || events.iter().map(|event| event.amount);
        let first = events.iter().min_by_key(|event| event.at).unwrap().id;
        let last = events.iter().max_by_key(|event| event.at).unwrap().id;
        let value = format!(
            "{head}\"count\":{},\"first\":{first},\"high\":{},\"last\":{last},\"low\":{},\"sum\":{sum}}}",
            events.len(),
            amounts().max().unwrap(),
            amounts().min().unwrap(),
        );
        expected.out(self.name, &key.1, value);
    }

    /// Whether the event was taken.
    fn take(&mut self, event: &Move, watermark: i64, expected: &mut Expected) -> bool {
        let end = event.at - event.at.rem_euclid(self.size) + self.size;
        if end + self.lateness <= watermark {
            return false;
        }
        let key = (end, event.account.clone());
        let new = Sums {
            events: Vec::new(),
            fired: false,
        };
        self.open
            .entry(key.clone())
            .or_insert(new)
            .events
            .push(event.clone());
        if end <= watermark {
            self.fire(&key, expected);
        }
        true
    }
}

fn in_order<'a>(mut rows: Vec<(&'a Taken, &'a Move)>) -> Vec<(&'a Taken, &'a Move)> {
    rows.sort_by_key(|(_, event)| event.at);
    rows
}

/// What a task must make of its input partitions, each in offset order, read to their ends.
pub(crate) fn expect(draw: &Draw, inputs: &[Vec<Taken>], expected: &mut Expected) {
    let disorder = draw.out_of_order.as_micros() as i64;
    for taken in inputs
        .iter()
        .flatten()
        .filter(|taken| taken.event.is_none())
    {
        expected
            .dead
            .push((taken.place.clone(), "decode".to_owned()));
    }
    let mut small = Windows::new("small", SMALL, draw.lateness);
    let mut large = Windows::new("large", LARGE, draw.lateness);
    let mut debit = Windows::of_ledger("debit", |event| event.amount);
    let mut credit = Windows::of_ledger("credit", |event| event.contra);
    let mut seen: BTreeMap<(String, i64), i64> = BTreeMap::new();
    let mut watermark = i64::MIN;
    let events = |input: usize| {
        let taken = inputs[input].iter();
        taken.filter_map(|taken| Some((taken, taken.event.as_ref()?)))
    };
    match draw.shape {
        Shape::Joined => {
            // Never late, so the interleaving does not matter: all in order of event time, ties by
            // input, then offset (the sort is stable).
            let rows = in_order(events(0).chain(events(1)).collect());
            for (_, event) in rows {
                expected.out("both", &event.account, event.json("Move"));
                small.take(event, i64::MIN, expected);
            }
        }
        Shape::Routed => {
            let (mut buys, mut sells) = (Vec::new(), Vec::new());
            for (taken, event) in events(0) {
                let value = event.json("Move");
                let key = ordered_by("keyed", &event.other, &value);
                expected.out("keyed", &key, value);
                match event.side.as_str() {
                    "buy" => buys.push((taken, event)),
                    "sell" => sells.push((taken, event)),
                    _ => {
                        expected
                            .dead
                            .push((taken.place.clone(), "op:split".to_owned()));
                        continue;
                    }
                }
                expected.out(&event.side, &event.account, event.json("Move"));
            }
            buys.append(&mut sells);
            for (_, event) in in_order(buys) {
                expected.out("both", &event.account, event.json("Move"));
            }
        }
        Shape::Apart => {
            for (input, window) in [&mut small, &mut large].into_iter().enumerate() {
                let mut watermark = i64::MIN;
                for (taken, event) in events(input) {
                    let value = event.json("Move");
                    let key = ordered_by("met", &event.other, &value);
                    expected.out("met", &key, value);
                    watermark = watermark.max(event.at - disorder);
                    window.move_to(watermark, expected);
                    if !window.take(event, watermark, expected) {
                        expected
                            .dead
                            .push((taken.place.clone(), format!("op:{}", window.name)));
                    }
                }
            }
        }
        Shape::Bars | Shape::Deduped | Shape::Ledger => {
            for (taken, event) in events(0) {
                watermark = watermark.max(event.at - disorder);
                let mut set_aside = |stage: &str| {
                    expected
                        .dead
                        .push((taken.place.clone(), format!("op:{stage}")))
                };
                if draw.shape == Shape::Deduped {
                    let remembered = REMEMBERED.as_micros() as i64;
                    seen.retain(|_, at| *at + remembered > watermark);
                    let id = (event.account.clone(), event.id);
                    if event.at + remembered <= watermark {
                        set_aside("once");
                    } else if let Some(_first) = seen.get(&id) {
                        expected.dropped += 1;
                    } else {
                        seen.insert(id, event.at);
                        expected.out("once", &event.account, event.json("Move"));
                        small.move_to(watermark, expected);
                        if !small.take(event, watermark, expected) {
                            let place = taken.place.clone();
                            expected.dead.push((place, "op:small".to_owned()));
                        }
                    }
                    small.move_to(watermark, expected);
                    continue;
                }
                let windows = match draw.shape {
                    Shape::Bars => [&mut small, &mut large],
                    _ => [&mut debit, &mut credit],
                };
                for window in windows {
                    window.move_to(watermark, expected);
                    if !window.take(event, watermark, expected) {
                        expected
                            .dead
                            .push((taken.place.clone(), format!("op:{}", window.name)));
                    }
                }
            }
        }
    }
    for mut window in [small, large, debit, credit] {
        window.move_to(i64::MAX / 2, expected);
    }
}
