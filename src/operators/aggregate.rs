//! Aggregates over the events of a window: exact, in 128 bits, updated one event at a time.

use serde::{Deserialize, Serialize};

use crate::config::plan::{Aggregate, AggregateFunction};
use crate::events::{Rows, Schema};
use crate::market::decimal::{self, ArithmeticError, Rounding};

/// What one aggregate has seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accumulator {
    /// How many events.
    Count(i64),
    /// A sum, and whether anything was added.
    Sum(i128, bool),
    /// The least value.
    Min(Option<i64>),
    /// The greatest value.
    Max(Option<i64>),
    /// Event time and value of the earliest event.
    First(Option<(i64, i64)>),
    /// Event time and value of the latest event.
    Last(Option<(i64, i64)>),
    /// Σ price·quantity and Σ quantity.
    Vwap(i128, i128),
}

/// A result is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow {
    /// The aggregate, as an index into the window's aggregates.
    pub aggregate: usize,
}

/// The accumulators of a window that has seen nothing.
pub fn empty(aggregates: &[Aggregate]) -> Box<[Accumulator]> {
    aggregates
        .iter()
        .map(|aggregate| match aggregate.function {
            AggregateFunction::Count => Accumulator::Count(0),
            AggregateFunction::Sum(_) => Accumulator::Sum(0, false),
            AggregateFunction::Min(_) => Accumulator::Min(None),
            AggregateFunction::Max(_) => Accumulator::Max(None),
            AggregateFunction::First(_) => Accumulator::First(None),
            AggregateFunction::Last(_) => Accumulator::Last(None),
            AggregateFunction::Vwap { .. } => Accumulator::Vwap(0, 0),
        })
        .collect()
}

/// Adds an event to all aggregates of a window, or to none.
///
/// # Errors
///
/// If a sum would leave 128 bits, as only products of the largest prices and quantities can: the event
/// has changed nothing.
pub fn add(
    aggregates: &[Aggregate],
    accumulators: &mut [Accumulator],
    rows: &Rows,
    row: usize,
) -> Result<(), Overflow> {
    // Only sums can fail; they are tried before anything is changed.
    for (index, (aggregate, accumulator)) in aggregates.iter().zip(&*accumulators).enumerate() {
        let fits = match (aggregate.function, accumulator) {
            (AggregateFunction::Sum(slot), Accumulator::Sum(sum, _)) => rows
                .number(row, slot)
                .is_none_or(|value| sum.checked_add(i128::from(value)).is_some()),
            (AggregateFunction::Vwap { price, quantity }, Accumulator::Vwap(value, volume)) => {
                match (rows.number(row, price), rows.number(row, quantity)) {
                    (Some(price), Some(quantity)) => {
                        let product = i128::from(price) * i128::from(quantity);
                        value.checked_add(product).is_some()
                            && volume.checked_add(i128::from(quantity)).is_some()
                    }
                    _ => true,
                }
            }
            _ => true,
        };
        if !fits {
            return Err(Overflow { aggregate: index });
        }
    }
    let time = rows.head(row).time;
    for (aggregate, accumulator) in aggregates.iter().zip(accumulators) {
        update(aggregate.function, accumulator, rows, row, time);
    }
    Ok(())
}

#[inline]
fn update(
    function: AggregateFunction,
    accumulator: &mut Accumulator,
    rows: &Rows,
    row: usize,
    time: i64,
) {
    match (function, accumulator) {
        (AggregateFunction::Count, Accumulator::Count(count)) => *count += 1,
        (AggregateFunction::Sum(slot), Accumulator::Sum(sum, any)) => {
            if let Some(value) = rows.number(row, slot) {
                *sum += i128::from(value);
                *any = true;
            }
        }
        (AggregateFunction::Min(slot), Accumulator::Min(least)) => {
            if let Some(value) = rows.number(row, slot) {
                *least = Some(least.map_or(value, |least| least.min(value)));
            }
        }
        (AggregateFunction::Max(slot), Accumulator::Max(greatest)) => {
            if let Some(value) = rows.number(row, slot) {
                *greatest = Some(greatest.map_or(value, |greatest| greatest.max(value)));
            }
        }
        (AggregateFunction::First(slot), Accumulator::First(first)) => {
            if let Some(value) = rows.number(row, slot)
                && first.is_none_or(|(earliest, _)| time < earliest)
            {
                *first = Some((time, value));
            }
        }
        (AggregateFunction::Last(slot), Accumulator::Last(last)) => {
            if let Some(value) = rows.number(row, slot)
                && last.is_none_or(|(latest, _)| time >= latest)
            {
                *last = Some((time, value));
            }
        }
        (AggregateFunction::Vwap { price, quantity }, Accumulator::Vwap(value, volume)) => {
            if let (Some(price), Some(quantity)) =
                (rows.number(row, price), rows.number(row, quantity))
            {
                *value += i128::from(price) * i128::from(quantity);
                *volume += i128::from(quantity);
            }
        }
        // Accumulators are made from their aggregates, and state of another file is refused.
        _ => {}
    }
}

/// Writes the results into the slots of an output row.
///
/// Returns the mask of fields that have a value, and the first that is left absent because its value
/// does not fit 64 bits. Whether one does is seen here and not as events come, as what comes later may
/// bring a sum back. A volume-weighted price without volume is absent.
pub fn finish(
    aggregates: &[Aggregate],
    accumulators: &[Accumulator],
    input: &Schema,
    output: &Schema,
    slots: &mut [i64],
) -> (u64, Option<Overflow>) {
    let mut present = 0;
    let mut overflow = None;
    for (index, (aggregate, accumulator)) in aggregates.iter().zip(accumulators).enumerate() {
        let wide = |value: i64| Some(i128::from(value));
        let value = match *accumulator {
            Accumulator::Count(count) => wide(count),
            Accumulator::Sum(sum, any) => any.then_some(sum),
            Accumulator::Min(value) | Accumulator::Max(value) => value.and_then(wide),
            Accumulator::First(value) | Accumulator::Last(value) => {
                value.and_then(|(_, value)| wide(value))
            }
            Accumulator::Vwap(value, volume) => vwap(
                aggregate,
                value,
                volume,
                input,
                output.fields[aggregate.output].ty.scale(),
            ),
        };
        match value.map(i64::try_from) {
            None => {}
            Some(Ok(value)) => {
                slots[aggregate.output] = value;
                present |= 1 << aggregate.output;
            }
            Some(Err(_)) => {
                overflow.get_or_insert(Overflow { aggregate: index });
            }
        }
    }
    (present, overflow)
}

fn vwap(
    aggregate: &Aggregate,
    value: i128,
    volume: i128,
    input: &Schema,
    scale: u8,
) -> Option<i128> {
    let AggregateFunction::Vwap { price, quantity } = aggregate.function else {
        return None;
    };
    let price = input.fields[price].ty.scale();
    let quantity = input.fields[quantity].ty.scale();
    let quotient = decimal::div(
        value,
        price + quantity,
        volume,
        quantity,
        scale,
        Rounding::HalfEven,
    );
    match quotient {
        Ok(quotient) => Some(quotient),
        Err(ArithmeticError::DivisionByZero) => None,
        // Nor does this fit 64 bits.
        Err(ArithmeticError::Overflow) => Some(i128::MAX),
    }
}
