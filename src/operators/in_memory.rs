//! Operators that remember in memory alone, for streams of a program's own: no store is opened, nothing is
//! read back, and what they hold goes with them.

use std::sync::Arc;
use std::time::Duration;

use tidemill_state::Table;

use super::{Dedupe, Merge, TumblingWindow, TumblingWindowOptions};
use crate::config::plan::{Aggregate, AggregateFunction, Unplaced, window_fields};
use crate::events::{Schema, Type};

impl TumblingWindow {
    /// An operator that keeps its windows in memory.
    pub fn in_memory(options: TumblingWindowOptions) -> Self {
        Self::new(options, Table::in_memory())
    }
}

impl Merge {
    /// An operator that holds its rows in memory.
    pub fn in_memory(schema: Arc<Schema>) -> Self {
        Self::new(schema, Table::in_memory())
    }
}

impl Dedupe {
    /// An operator that remembers ids in memory, as [`new`](Self::new) says.
    pub fn in_memory(id: Vec<usize>, window: Duration, count_max: usize) -> Self {
        Self::new(id, window, count_max, Table::in_memory())
    }
}

impl TumblingWindowOptions {
    /// Windows of `size` over the events of `input`, for each key of the slots `key` apart; late events
    /// are set aside. What they make is called `name`, and has the key's fields, `windowStart` and
    /// `windowEnd`, its event time.
    ///
    /// # Panics
    ///
    /// If `input` has no such slot.
    pub fn new(name: &str, input: Arc<Schema>, key: &[usize], size: Duration) -> Self {
        let fields = window_fields(&input, key);
        let output = Schema {
            name: name.into(),
            time: Some(fields.len() - 1),
            fields,
        };
        Self {
            name: name.into(),
            key: key.to_vec(),
            size,
            lateness: Duration::ZERO,
            late: Unplaced::DeadLetter,
            aggregates: Vec::new(),
            input,
            output: output.into(),
        }
    }

    /// The same, with one more field in what they make. Functions read numbers, truths and times.
    ///
    /// # Panics
    ///
    /// If the input has no slot that the function reads, or it is text.
    #[must_use]
    pub fn aggregate(mut self, name: &str, function: AggregateFunction) -> Self {
        let field = function.field(name, &self.input);
        assert!(field.ty != Type::Text, "`{name}` would be text");
        let output = Arc::make_mut(&mut self.output);
        self.aggregates.push(Aggregate {
            output: output.fields.len(),
            function,
        });
        output.fields.push(field);
        self
    }
}

#[cfg(test)]
mod tests {
    use tidemill_broker::Timestamp;

    use super::*;
    use crate::events::{RowHead, Rows};
    use crate::operators::{Context, Operator};

    #[test]
    fn a_window_in_memory_keeps_what_is_open_and_nothing_of_what_has_fired() {
        let fields = [("size", Type::Int), ("at", Type::Time)];
        let trade = Arc::new(Schema::new("Trade", fields, Some("at")));
        let options =
            TumblingWindowOptions::new("V", trade.clone(), &[], Duration::from_micros(10))
                .aggregate("sum", AggregateFunction::Sum(0))
                .aggregate("count", AggregateFunction::Count);
        let mut window = TumblingWindow::in_memory(options);
        for at in 0..1_000 {
            let mut rows = Rows::new(trade.clone());
            rows.push(RowHead::at(Timestamp(at)), &[2, at]);
            let mut context = Context::default();
            window.process(0, rows.into(), &mut context);
            let made = context.take_emitted();
            assert_eq!(made.len(), usize::from(at > 0 && at % 10 == 0), "at {at}");
            for (_, bar) in made {
                assert_eq!(bar.slots(0), [at - 10, at, 20, 10]);
            }
        }
        assert_eq!(window.windows_open(), 1);
        let table = window.tables().remove(0);
        assert!(table.bytes() < 1_000, "{} bytes", table.bytes());
    }
}
